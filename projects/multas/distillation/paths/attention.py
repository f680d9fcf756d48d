"""Attention transfer (AT) as a path."""

from collections.abc import Sequence

from torch import Tensor

from multas.distillation.functional.attention import AT_REDUCTIONS, attention_transfer
from multas.distillation.paths.base import PATH_REGISTRY, Shapes
from multas.distillation.paths.layers import LayerPath


@PATH_REGISTRY.register()
class AttentionTransfer(LayerPath):
    """Distance of the attention maps of each pair of layers, a plain sum over the layers.

    Raw student features; their width does not matter. "Adaptive Distillation" taps the four
    stages of the backbone.

    Args:
        student_shapes, teacher_shapes, resize: see :class:`LayerPath`.
        p: exponent of the activations.
        reduction: of the squared differences over the positions: "sum", as the text of "Adaptive
            Distillation" says, "mean", as its code does and to which the hand-tuned weight 1000
            belongs, or "norm" (not squared), as the attention transfer paper writes.
        eps: added to the norm of a map.
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
        if reduction not in AT_REDUCTIONS:
            choices = ", ".join(AT_REDUCTIONS)
            raise ValueError(f"REDUCTION is '{reduction}'; choose from {choices}.")
        self.p = p
        self.reduction = reduction
        self.eps = eps

    def layer_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        return attention_transfer(
            student, teacher, p=self.p, reduction=self.reduction, eps=self.eps
        )
