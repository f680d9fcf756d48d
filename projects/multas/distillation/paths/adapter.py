"""Make a student's feature map comparable with a teacher's."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

RESIZE_RULES = ("student", "teacher", "none")


class Adapter(nn.Module):
    """A 1x1 convolution from the student's width to the teacher's (Romero et al., ICLR 2015).

    Kaiming-normal initialisation with fan-out, no activation.

    Args:
        student: shape (N, C, H, W) of the student's map.
        teacher: shape of the teacher's map.
        norm: add a BatchNorm (the code of Chennupati et al., BMVC 2021); otherwise the convolution
            has a bias.
        always: project even if the widths are equal; otherwise such maps pass unchanged.
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
    """Resize one of two maps to the size of the other, bilinearly; equal sizes pass unchanged.

    Args:
        student: (N, Cs, Hs, Ws).
        teacher: (N, Ct, Ht, Wt).
        rule: the map to resize: "student" or "teacher".
    """
    if student.shape[-2:] == teacher.shape[-2:]:
        return student, teacher
    if rule == "student":
        size = teacher.shape[-2:]
        return F.interpolate(student, size=size, mode="bilinear", align_corners=False), teacher
    size = student.shape[-2:]
    return student, F.interpolate(teacher, size=size, mode="bilinear", align_corners=False)
