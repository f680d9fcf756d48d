"""Paths between adapted features: NST, FM and SR."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from multas.distillation.functional.features import (
    feature_map_loss,
    nst_channel_gram,
    nst_polynomial,
    softmax_regression,
)
from multas.distillation.paths.adapter import Adapter, match_size
from multas.distillation.paths.base import (
    PATH_REGISTRY,
    Path,
    Shapes,
    Targets,
    flatten,
    flatten_shapes,
)
from multas.distillation.paths.layers import LayerPath
from multas.util.names import check_choice, did_you_mean

NST_KERNELS = ("polynomial", "channel_gram")


class _AnySizePath(LayerPath):
    """A path whose loss sums over the positions, so that maps are never resized."""

    def __init__(
        self,
        *,
        student_shapes: Sequence[Shapes],
        teacher_shapes: Sequence[Shapes],
        adapter: str = "conv_bn",
    ) -> None:
        super().__init__(
            student_shapes=student_shapes, teacher_shapes=teacher_shapes, adapter=adapter
        )

    def forward(
        self, student: tuple[Any, ...], teacher: tuple[Any, ...], targets: Targets
    ) -> dict[str, Tensor]:
        maps = zip(self.adapters, flatten(student), flatten(teacher), strict=True)
        return {str(i): self.layer_loss(adapter(s), t) for i, (adapter, s, t) in enumerate(maps)}


@PATH_REGISTRY.register()
class NeuronSelectivity(_AnySizePath):
    """Neuron selectivity transfer: the positions that each channel selects.

    Args:
        student_shapes, teacher_shapes, adapter: see :class:`LayerPath`.
        kernel: "polynomial": squared MMD (Huang and Wang, arXiv 2017), for which the student's map
            is resized to the teacher's; "channel_gram": the code of Chennupati et al. (BMVC 2021),
            which the default weight 10 belongs to.
    """

    default_name = "nst"
    default_weight = 10.0

    def __init__(
        self,
        *,
        student_shapes: Sequence[Shapes],
        teacher_shapes: Sequence[Shapes],
        adapter: str = "conv_bn",
        kernel: str = "polynomial",
    ) -> None:
        super().__init__(
            student_shapes=student_shapes, teacher_shapes=teacher_shapes, adapter=adapter
        )
        check_choice("KERNEL", kernel, NST_KERNELS)
        self.kernel = kernel

    def layer_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.kernel == "channel_gram":
            return nst_channel_gram(student, teacher)
        return nst_polynomial(*match_size(student, teacher, self.resize))


@PATH_REGISTRY.register()
class FeatureMap(_AnySizePath):
    """Squared difference of the global averages of adapted features (Yang et al., ICLR 2021).

    Args:
        student_shapes, teacher_shapes, adapter: see :class:`LayerPath`.
    """

    default_name = "fm"

    def layer_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        return feature_map_loss(student, teacher)


@PATH_REGISTRY.register()
class SoftmaxRegression(Path):
    """The teacher's classifier on the student's features, against the teacher's logits.

    Yang et al., ICLR 2021. STUDENT is the student's last feature map, TEACHER the teacher's logits
    (N, K).

    Args:
        student_shapes, teacher_shapes: see :class:`Path`.
        teacher_model: the teacher, which has the classifier.
        classifier: dotted name of the ``nn.Linear`` in the teacher that computes the logits.
        norm: add a BatchNorm to the adapter.
        always: adapt even if the student has the width of the classifier's input.
    """

    default_name = "sr"

    def __init__(
        self,
        *,
        student_shapes: Sequence[Shapes],
        teacher_shapes: Sequence[Shapes],
        teacher_model: nn.Module,
        classifier: str,
        norm: bool = True,
        always: bool = False,
    ) -> None:
        super().__init__()
        layers = {n: m for n, m in teacher_model.named_modules() if isinstance(m, nn.Linear)}
        if classifier not in layers:
            hint = did_you_mean(classifier, layers) if layers else " It has none."
            raise ValueError(f"CLASSIFIER '{classifier}' is no Linear layer of the teacher.{hint}")
        features, logits = flatten_shapes(student_shapes), flatten_shapes(teacher_shapes)
        if len(features) != 1 or len(features[0]) != 4 or len(logits) != 1:
            raise self.mismatch(
                "one feature map (N, C, H, W) and logits (N, K) are needed; the shapes",
                features,
                logits,
                "STUDENT is the last feature map, TEACHER the classifier.",
            )
        # In a tuple, so that the teacher's layer does not become a submodule of this path.
        self._classifier = (layers[classifier],)
        width = layers[classifier].in_features
        if logits[0] != (logits[0][0], layers[classifier].out_features):
            raise ValueError(
                f"TEACHER has the shape {logits[0]}, but CLASSIFIER '{classifier}' makes "
                f"{layers[classifier].out_features} logits; tap the output of the classifier."
            )
        self.adapter = Adapter(features[0], (0, width, 0, 0), norm=norm, always=always)
        self.adapter_note = self.adapter.note

    def forward(
        self, student: tuple[Any, ...], teacher: tuple[Any, ...], targets: Targets
    ) -> dict[str, Tensor]:
        (features,), (logits,), (layer,) = flatten(student), flatten(teacher), self._classifier
        return {"": softmax_regression(self.adapter(features), logits, layer.weight, layer.bias)}
