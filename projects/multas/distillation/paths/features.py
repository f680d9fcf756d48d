"""Paths between feature maps: AT, MSE, NST, FM and SR."""

from functools import partial

from torch import Tensor, nn

from multas.distillation.functional.attention import AT_REDUCTIONS, attention_transfer
from multas.distillation.functional.feature_imitation import FEATURE_WEIGHT, mse_imitation
from multas.distillation.functional.features import (
    feature_map_loss,
    nst_channel_gram,
    nst_polynomial,
    softmax_regression,
)
from multas.distillation.paths.base import (
    PATH_REGISTRY,
    Outputs,
    Path,
    TappedLayers,
    Targets,
    flatten,
    flatten_shapes,
)
from multas.distillation.paths.layers import Adapter, LayerPath, match_size
from multas.util.errors import UserError
from multas.util.names import check_choice, did_you_mean

NST_KERNELS = ("polynomial", "channel_gram")


@PATH_REGISTRY.register()
class AttentionTransfer(LayerPath):
    """Distance between the attention maps of each pair of layers, summed over the layers.

    The widths may differ, so there is no adapter. Chennupati et al. (BMVC 2021) tap the four stages
    of the backbone.

    Args:
        resize: see :class:`LayerPath`.
        p, reduction, eps: see
            :func:`multas.distillation.functional.attention.attention_transfer`. The default weight
            1000 belongs to "mean".
    """

    default_name = "at"
    default_weight = 1000.0
    width_cure = ""

    def __init__(
        self,
        layers: TappedLayers,
        *,
        resize: str = "student",
        p: float = 2.0,
        reduction: str = "sum",
        eps: float = 1e-6,
    ) -> None:
        super().__init__(layers, resize=resize, adapter="none")
        check_choice("REDUCTION", reduction, AT_REDUCTIONS)
        self.layer_loss = partial(attention_transfer, p=p, reduction=reduction, eps=eps)


@PATH_REGISTRY.register()
class FeatureMSE(LayerPath):
    """Mean of (adapted student - teacher)^2 over the entries of all tapped maps together.

    Each label is the share of one map. The factor 5 in the code of Lê and Pham (ICCVW 2023), who
    project even between equal widths, is the default WEIGHT of the path.
    """

    default_name = "mse"
    default_student = ("backbone",)
    default_weight = FEATURE_WEIGHT

    def __init__(
        self, layers: TappedLayers, *, resize: str = "student", adapter: str = "conv_always"
    ) -> None:
        super().__init__(layers, resize=resize, adapter=adapter)

    def forward(self, student: Outputs, teacher: Outputs, targets: Targets) -> dict[str, Tensor]:
        pairs = list(self.pairs(student, teacher))
        entries = max(sum(s.numel() for s, _ in pairs), 1)
        return {
            str(i): mse_imitation([s], [t], weight=s.numel() / entries)
            for i, (s, t) in enumerate(pairs)
        }


@PATH_REGISTRY.register()
class NeuronSelectivity(LayerPath):
    """Neuron selectivity transfer: the positions that each channel selects.

    Args:
        adapter: see :class:`LayerPath`.
        kernel: "polynomial": squared MMD (Huang and Wang, arXiv 2017), for which the student's map
            is resized to the teacher's; "channel_gram": the code of Chennupati et al. (BMVC 2021),
            which the default weight 10 belongs to.
    """

    default_name = "nst"
    default_weight = 10.0
    any_size = True

    def __init__(
        self, layers: TappedLayers, *, adapter: str = "conv_bn", kernel: str = "polynomial"
    ) -> None:
        super().__init__(layers, adapter=adapter)
        check_choice("KERNEL", kernel, NST_KERNELS)
        self.layer_loss = nst_channel_gram if kernel == "channel_gram" else _resized_polynomial


def _resized_polynomial(student: Tensor, teacher: Tensor) -> Tensor:
    return nst_polynomial(*match_size(student, teacher, "student"))


@PATH_REGISTRY.register()
class FeatureMap(LayerPath):
    """Squared difference of the global averages of adapted features (Yang et al., ICLR 2021)."""

    default_name = "fm"
    any_size = True

    def __init__(self, layers: TappedLayers, *, adapter: str = "conv_bn") -> None:
        super().__init__(layers, adapter=adapter)
        self.layer_loss = feature_map_loss


@PATH_REGISTRY.register()
class SoftmaxRegression(Path):
    """The teacher's classifier on the student's features, against the teacher's logits.

    Yang et al., ICLR 2021. STUDENT is the student's last feature map, TEACHER the teacher's logits
    (N, K).

    Args:
        classifier: dotted name of the ``nn.Linear`` in the teacher that computes the logits.
        norm: add a BatchNorm to the adapter.
        always: adapt even if the student has the width of the classifier's input.
    """

    default_name = "sr"

    def __init__(
        self, layers: TappedLayers, *, classifier: str, norm: bool = True, always: bool = False
    ) -> None:
        super().__init__()
        modules = layers.teacher_model.named_modules()
        linear = {name: module for name, module in modules if isinstance(module, nn.Linear)}
        if classifier not in linear:
            hint = did_you_mean(classifier, linear) if linear else " It has none."
            raise UserError(f"CLASSIFIER '{classifier}' is no Linear layer of the teacher.{hint}")
        features, logits = flatten_shapes(layers.student), flatten_shapes(layers.teacher)
        if len(features) != 1 or len(features[0]) != 4 or len(logits) != 1:
            what = "one feature map (N, C, H, W) and logits (N, K) are needed; the shapes"
            cure = "STUDENT is the last feature map, TEACHER the classifier."
            raise self.mismatch(what, features, logits, cure)
        # In a tuple, so that the teacher's layer does not become a submodule of this path.
        self._classifier = (linear[classifier],)
        inner, outer = linear[classifier].in_features, linear[classifier].out_features
        if logits[0][1:] != (outer,):
            raise UserError(
                f"TEACHER has the shape {logits[0]}, but CLASSIFIER '{classifier}' makes {outer} "
                "logits; tap the output of the classifier."
            )
        self.adapter = Adapter(features[0][1], inner, norm=norm, always=always)
        self.adapter_note = self.adapter.note

    def forward(self, student: Outputs, teacher: Outputs, targets: Targets) -> dict[str, Tensor]:
        (features,), (logits,), (layer,) = flatten(student), flatten(teacher), self._classifier
        return {"": softmax_regression(self.adapter(features), logits, layer.weight, layer.bias)}
