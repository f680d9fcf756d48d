"""Paths between logits: soft target (ST) and l2-logits."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from multas.distillation.functional.logits import L2_REDUCTIONS, l2_logits, soft_target
from multas.distillation.paths.adapter import RESIZE_RULES, match_size
from multas.distillation.paths.base import (
    PATH_REGISTRY,
    Path,
    Shapes,
    Targets,
    flatten,
    flatten_shapes,
)
from multas.util.names import check_choice


class LogitPath(Path):
    """The sum of one loss per pair of logits (N, C) or (N, C, H, W).

    Subclasses define :meth:`logit_loss`.

    Args:
        student_shapes, teacher_shapes: see :class:`Path`.
        resize: the segmentation logits to resize bilinearly if the sizes differ: "student",
            "teacher", or "none" (an error).

    Raises:
        ValueError: the numbers of tensors, the classes, or with ``resize="none"`` the sizes differ.
    """

    def __init__(
        self,
        *,
        student_shapes: Sequence[Shapes],
        teacher_shapes: Sequence[Shapes],
        resize: str = "student",
    ) -> None:
        super().__init__()
        check_choice("RESIZE", resize, RESIZE_RULES)
        s_shapes, t_shapes = flatten_shapes(student_shapes), flatten_shapes(teacher_shapes)
        if len(s_shapes) != len(t_shapes):
            raise self.mismatch(
                "the numbers of logit tensors", len(s_shapes), len(t_shapes), "Tap as many."
            )
        for s, t in zip(s_shapes, t_shapes, strict=True):
            if len(s) != len(t) or len(s) not in (2, 4):
                raise self.mismatch(
                    "logits (N, C) or (N, C, H, W) are needed; the shapes", s, t, "Tap logits."
                )
            if s[1] != t[1]:
                raise self.mismatch("classes", s[1], t[1], "Both networks need the same classes.")
            if resize == "none" and s[2:] != t[2:]:
                raise self.mismatch("sizes", s[2:], t[2:], "Set RESIZE: student.")
        self.resize = resize
        self._count = len(s_shapes)

    def labels(self) -> list[str]:
        return [str(i) for i in range(self._count)]

    def forward(
        self, student: tuple[Any, ...], teacher: tuple[Any, ...], targets: Targets
    ) -> dict[str, Tensor]:
        losses = {}
        pairs = zip(flatten(student), flatten(teacher), strict=True)
        for label, (s, t) in zip(self.labels(), pairs, strict=True):
            if s.dim() == 4:
                s, t = match_size(s, t, self.resize)
            losses[label] = self.logit_loss(s, t)
        return losses

    def logit_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of one pair of logits of equal shape, a scalar."""
        raise NotImplementedError


@PATH_REGISTRY.register()
class SoftTarget(LogitPath):
    """KL divergence of softened class probabilities (Hinton et al., arXiv 2015).

    Args:
        student_shapes, teacher_shapes, resize: see :class:`LogitPath`.
        temperature, scale_by_t2: see :func:`multas.distillation.functional.logits.soft_target`.
    """

    default_name = "st"
    default_weight = 0.1

    def __init__(
        self,
        *,
        student_shapes: Sequence[Shapes],
        teacher_shapes: Sequence[Shapes],
        resize: str = "student",
        temperature: float = 4.0,
        scale_by_t2: bool = True,
    ) -> None:
        super().__init__(
            student_shapes=student_shapes, teacher_shapes=teacher_shapes, resize=resize
        )
        if temperature <= 0:
            raise ValueError(f"TEMPERATURE is {temperature}; it must be positive.")
        self.temperature = temperature
        self.scale_by_t2 = scale_by_t2

    def logit_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        return soft_target(
            student, teacher, temperature=self.temperature, scale_by_t2=self.scale_by_t2
        )


@PATH_REGISTRY.register()
class L2Logits(LogitPath):
    """Squared difference of raw logits (Ba and Caruana, NeurIPS 2014).

    Args:
        student_shapes, teacher_shapes, resize: see :class:`LogitPath`.
        reduction: see :func:`multas.distillation.functional.logits.l2_logits`. The default weight
            0.1 belongs to "mean".
    """

    default_name = "l2"
    default_weight = 0.1

    def __init__(
        self,
        *,
        student_shapes: Sequence[Shapes],
        teacher_shapes: Sequence[Shapes],
        resize: str = "student",
        reduction: str = "mean",
    ) -> None:
        super().__init__(
            student_shapes=student_shapes, teacher_shapes=teacher_shapes, resize=resize
        )
        check_choice("REDUCTION", reduction, L2_REDUCTIONS)
        self.reduction = reduction

    def logit_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        return l2_logits(student, teacher, reduction=self.reduction)
