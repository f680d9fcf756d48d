"""Adapters: make a student's feature map comparable with a teacher's."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

RESIZE_RULES = ("student", "teacher", "none")


class Adapter(nn.Module):
    """A 1x1 convolution (and BatchNorm) from the student's width to the teacher's.

    The projection of FitNets and of both papers. Kaiming-normal with fan-out, no activation.

    Args:
        student: shape (N, C, H, W) of the student's map in the probing pass.
        teacher: the same of the teacher.
        norm: BatchNorm after the convolution (the authors' code of "Adaptive Distillation");
            without it the convolution has a bias.
        always: project also when the widths agree; else equal widths pass unchanged.
    """

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        *,
        norm: bool = True,
        always: bool = False,
    ) -> None:
        super().__init__()
        self.project: nn.Module = nn.Identity()
        self.note = "-"
        if student[1] != teacher[1] or always:
            conv = nn.Conv2d(student[1], teacher[1], kernel_size=1, bias=not norm)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            self.project = nn.Sequential(conv, nn.BatchNorm2d(teacher[1])) if norm else conv
            self.note = f"1x1 {student[1]}→{teacher[1]}" + (" + BN" if norm else "")

    def forward(self, student: Tensor) -> Tensor:
        """(N, Cs, H, W) -> (N, Ct, H, W)."""
        return self.project(student)


def match_size(student: Tensor, teacher: Tensor, rule: str) -> tuple[Tensor, Tensor]:
    """Bring two maps to one spatial size.

    Args:
        student: (N, Cs, Hs, Ws).
        teacher: (N, Ct, Ht, Wt).
        rule: which one is resized (bilinearly) to the other's size: "student" or "teacher".
            Maps of equal size are never touched.
    """
    if student.shape[-2:] == teacher.shape[-2:]:
        return student, teacher
    if rule == "student":
        size = teacher.shape[-2:]
        return F.interpolate(student, size=size, mode="bilinear", align_corners=False), teacher
    size = student.shape[-2:]
    return student, F.interpolate(teacher, size=size, mode="bilinear", align_corners=False)
