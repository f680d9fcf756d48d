"""Paths that compare tensors layer by layer: adapters, sizes, and their base class."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from multas.distillation.paths.base import (
    Outputs,
    Path,
    TappedLayers,
    Targets,
    flatten,
    paired_shapes,
)
from multas.util.names import check_choice

RESIZE_RULES = ("student", "teacher", "none")
ADAPTERS = ("none", "conv", "conv_bn", "conv_always", "conv_bn_always")


class Adapter(nn.Module):
    """A 1x1 convolution from the student's width to the teacher's (Romero et al., ICLR 2015).

    Kaiming-normal initialisation with fan-out, no activation.

    Args:
        student: channels of the student's map.
        teacher: channels of the teacher's map.
        norm: add a BatchNorm (the code of Chennupati et al., BMVC 2021); otherwise the convolution
            has a bias.
        always: project even if the widths are equal; otherwise such maps pass unchanged.
    """

    def __init__(self, student: int, teacher: int, *, norm: bool, always: bool) -> None:
        super().__init__()
        self.project: nn.Module = nn.Identity()
        self.note = "-"
        if student != teacher or always:
            conv = nn.Conv2d(student, teacher, kernel_size=1, bias=not norm)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            self.project = nn.Sequential(conv, nn.BatchNorm2d(teacher)) if norm else conv
            self.note = f"1x1 {student}→{teacher}" + (" + BN" if norm else "")

    def forward(self, student: Tensor) -> Tensor:
        """(N, Cs, H, W) -> (N, Ct, H, W)."""
        return self.project(student)


def match_size(student: Tensor, teacher: Tensor, rule: str) -> tuple[Tensor, Tensor]:
    """Resize one of two maps (N, C, H, W) to the size of the other, bilinearly.

    Args:
        student, teacher: maps; of equal size they pass unchanged.
        rule: the map to resize: "student", "teacher" or "none".
    """
    sizes = student.shape[-2:], teacher.shape[-2:]
    if sizes[0] == sizes[1] or rule == "none":
        return student, teacher
    if rule == "student":
        return F.interpolate(student, size=sizes[1], mode="bilinear", align_corners=False), teacher
    return student, F.interpolate(teacher, size=sizes[0], mode="bilinear", align_corners=False)


class LayerPath(Path):
    """The sum of one loss per pair of feature maps (N, C, H, W), or of logits.

    Subclasses set ``layer_loss`` in their constructor, or define it as a method. The maps of all
    tapped layers (all levels of a pyramid) are paired in order.

    Args:
        resize: the map to resize if the sizes differ: "student", "teacher", or "none" (an error).
        adapter: "none", "conv" (1x1 convolution where widths differ), "conv_bn" (with BatchNorm),
            "conv_always" and "conv_bn_always" (even between equal widths).

    Raises:
        UserError: a map is not 4-d, the numbers of maps differ, the sizes differ with
            ``resize="none"``, or the widths differ with ``adapter="none"``.
    """

    # The loss of one pair of maps of equal size, a scalar.
    layer_loss: Callable[[Tensor, Tensor], Tensor]
    # What helps if the widths differ and there is no adapter; "" if they may.
    width_cure: ClassVar[str] = "Set ADAPTER: conv."
    # Whether the loss takes two maps of different sizes, which are then never resized.
    any_size: ClassVar[bool] = False
    # What the tensors are called, how many dimensions they may have, and where they are found.
    tensors: ClassVar[tuple[str, tuple[int, ...], str]] = (
        "feature maps (N, C, H, W)",
        (4,),
        "Tap the same number of stages of the backbone or levels of the pyramid.",
    )

    def __init__(
        self, layers: TappedLayers, *, resize: str = "student", adapter: str = "conv"
    ) -> None:
        super().__init__()
        check_choice("RESIZE", resize, RESIZE_RULES)
        check_choice("ADAPTER", adapter, ADAPTERS)
        self.resize = "none" if self.any_size else resize
        self.adapters = nn.ModuleList()
        for s, t in paired_shapes(self, layers, *self.tensors):
            if resize == "none" and s[2:] != t[2:]:
                cure = "Set RESIZE: student, or tap layers of one stride."
                raise self.mismatch("sizes", s[2:], t[2:], cure)
            if adapter != "none":
                norm, always = "bn" in adapter, "always" in adapter
                self.adapters.append(Adapter(s[1], t[1], norm=norm, always=always))
            elif self.width_cure and s[1] != t[1]:
                raise self.mismatch("channels", s[1], t[1], self.width_cure)
            else:
                self.adapters.append(nn.Identity())
        self.labels = [str(i) for i in range(len(self.adapters))]
        notes = [a.note for a in self.adapters if isinstance(a, Adapter) and a.note != "-"]
        self.adapter_note = ", ".join(dict.fromkeys(notes)) or "-"

    def pairs(
        self, student: Sequence[Any], teacher: Sequence[Any]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The student's maps behind the adapters, and the teacher's, in pairs of equal size.

        Args:
            student, teacher: what the layers returned: maps, possibly nested.
        """
        for adapter, s, t in zip(self.adapters, flatten(student), flatten(teacher), strict=True):
            yield match_size(adapter(s), t, self.resize)

    def forward(self, student: Outputs, teacher: Outputs, targets: Targets) -> dict[str, Tensor]:
        pairs = zip(self.labels, self.pairs(student, teacher), strict=True)
        return {label: self.layer_loss(s, t) for label, (s, t) in pairs}
