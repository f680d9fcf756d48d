"""Self-training on a dense detector's raw outputs (paper A, section 3)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from multas.distillation.paths.base import PATH_REGISTRY, Path, Shapes, Targets
from multas.modeling.losses import balanced_l1_elements, focal_elements


@PATH_REGISTRY.register()
class SoftDetection(Path):
    """Soft detection loss: balanced L1 on box deltas + focal loss towards the teacher's scores.

    Tap the dense head of both networks (``head`` of a RetinaNet, ``heads.det`` of a
    MultiTaskNetwork): a pair (logits, deltas) with one map (N, A*K, Hi, Wi) and (N, A*4, Hi, Wi)
    per level. Both networks need the same anchors and classes. All anchors count, background
    included, and each term is a plain mean over all entries of the batch.

    Args:
        student_shapes, teacher_shapes: see :class:`Path`.
        soft_weight: factor of the classification term (paper A: 5e3, "to be in the similar range
            with localization").
        alpha, gamma: of the focal loss; the reference implementation has gamma 1.
    """

    default_name = "soft"
    default_student = ("heads.det",)

    def __init__(
        self,
        *,
        student_shapes: Sequence[Shapes],
        teacher_shapes: Sequence[Shapes],
        soft_weight: float = 5e3,
        alpha: float = 0.25,
        gamma: float = 1.0,
    ) -> None:
        super().__init__()
        if list(student_shapes) != list(teacher_shapes):
            raise self.mismatch(
                "the shapes of the heads' outputs",
                _widths(student_shapes),
                _widths(teacher_shapes),
                "Teacher and student need the same levels, strides, anchors and classes.",
            )
        if len(student_shapes) != 1 or len(student_shapes[0]) % 2:
            raise ValueError(
                "SoftDetection taps one layer: a dense head that returns (logits, deltas) with one "
                "map per level each."
            )
        self.soft_weight = soft_weight
        self.alpha = alpha
        self.gamma = gamma

    def labels(self) -> list[str]:
        return ["cls", "loc"]

    def forward(
        self, student: tuple[Any, ...], teacher: tuple[Any, ...], targets: Targets
    ) -> dict[str, Tensor]:
        (logits_s, deltas_s), (logits_t, deltas_t) = student[0], teacher[0]
        focal = [
            focal_elements(s, t.sigmoid(), alpha=self.alpha, gamma=self.gamma)
            for s, t in zip(logits_s, logits_t, strict=True)
        ]
        l1 = [balanced_l1_elements(s, t) for s, t in zip(deltas_s, deltas_t, strict=True)]
        return {"cls": self.soft_weight * _mean(focal), "loc": _mean(l1)}


def _mean(maps: Sequence[Tensor]) -> Tensor:
    """Mean over all entries of all levels together."""
    return torch.stack([m.sum() for m in maps]).sum() / sum(m.numel() for m in maps)


def _widths(shapes: Sequence[Shapes]) -> list[tuple[int, ...]]:
    return [shape[1:] for layer in shapes for shape in layer]
