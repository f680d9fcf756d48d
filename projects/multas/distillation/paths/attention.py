"""Attention transfer (AT) as a path."""

from collections.abc import Sequence

from torch import Tensor

from multas.distillation.functional.attention import AT_REDUCTIONS, attention_transfer
from multas.distillation.paths.base import PATH_REGISTRY, Shapes
from multas.distillation.paths.layers import LayerPath
from multas.util.names import check_choice


@PATH_REGISTRY.register()
class AttentionTransfer(LayerPath):
    """Distance between the attention maps of each pair of layers, summed over the layers.

    The widths may differ, so there is no adapter. Chennupati et al. (BMVC 2021) tap the four stages
    of the backbone.

    Args:
        student_shapes, teacher_shapes, resize: see :class:`LayerPath`.
        p, reduction, eps: see
            :func:`multas.distillation.functional.attention.attention_transfer`. The default weight
            1000 belongs to "mean".
    """

    default_name = "at"
    default_weight = 1000.0
    equal_width = False

    def __init__(
        self,
        *,
        student_shapes: Sequence[Shapes],
        teacher_shapes: Sequence[Shapes],
        resize: str = "student",
        p: float = 2.0,
        reduction: str = "sum",
        eps: float = 1e-6,
    ) -> None:
        super().__init__(
            student_shapes=student_shapes,
            teacher_shapes=teacher_shapes,
            resize=resize,
            adapter="none",
        )
        check_choice("REDUCTION", reduction, AT_REDUCTIONS)
        self.p = p
        self.reduction = reduction
        self.eps = eps

    def layer_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        return attention_transfer(
            student, teacher, p=self.p, reduction=self.reduction, eps=self.eps
        )
