"""Base class of paths that compare feature maps layer by layer."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from multas.distillation.paths.adapter import RESIZE_RULES, Adapter, match_size
from multas.distillation.paths.base import Path, Shapes, Targets, flatten, flatten_shapes
from multas.util.names import check_choice


class LayerPath(Path):
    """The sum of one loss per pair of feature maps (N, C, H, W).

    Subclasses define :meth:`layer_loss`. The maps of all tapped layers (all levels of a pyramid)
    are paired in order.

    Args:
        student_shapes, teacher_shapes: see :class:`Path`.
        resize: the map to resize if the sizes differ: "student", "teacher", or "none" (an error).
        adapter: "none", "conv" (1x1 convolution where widths differ), "conv_bn" (with BatchNorm),
            "conv_always" and "conv_bn_always" (even between equal widths).

    Raises:
        ValueError: a map is not 4-d, the numbers of maps differ, the sizes differ with
            ``resize="none"``, or the widths differ with ``adapter="none"`` and ``equal_width``.
    """

    # Whether the two maps must have the same width.
    equal_width = True

    def __init__(
        self,
        *,
        student_shapes: Sequence[Shapes],
        teacher_shapes: Sequence[Shapes],
        resize: str = "student",
        adapter: str = "conv",
    ) -> None:
        super().__init__()
        pairs = self._check(student_shapes, teacher_shapes, resize, adapter)
        self.resize = resize
        self.adapters = nn.ModuleList(
            [
                Adapter(s, t, norm="bn" in adapter.split("_"), always=adapter.endswith("always"))
                if adapter != "none"
                else nn.Identity()
                for s, t in pairs
            ]
        )
        notes = [a.note for a in self.adapters if isinstance(a, Adapter) and a.note != "-"]
        self.adapter_note = ", ".join(dict.fromkeys(notes)) or "-"

    def _check(
        self, student: Sequence[Shapes], teacher: Sequence[Shapes], resize: str, adapter: str
    ) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        s_shapes, t_shapes = flatten_shapes(student), flatten_shapes(teacher)
        adapters = ("none", "conv", "conv_bn", "conv_always", "conv_bn_always")
        check_choice("RESIZE", resize, RESIZE_RULES)
        check_choice("ADAPTER", adapter, adapters)
        if len(s_shapes) != len(t_shapes):
            raise self.mismatch(
                "the numbers of feature maps", len(s_shapes), len(t_shapes), "Tap as many."
            )
        for s, t in zip(s_shapes, t_shapes, strict=True):
            if len(s) != 4 or len(t) != 4:
                raise self.mismatch(
                    "maps (N, C, H, W) are needed; the shapes", s, t, "Tap a feature."
                )
            if resize == "none" and s[2:] != t[2:]:
                raise self.mismatch(
                    "sizes", s[2:], t[2:], "Set RESIZE: student, or tap layers of one stride."
                )
            if self.equal_width and adapter == "none" and s[1] != t[1]:
                raise self.mismatch("channels", s[1], t[1], "Set ADAPTER: conv.")
        return list(zip(s_shapes, t_shapes, strict=True))

    def labels(self) -> list[str]:
        return [str(i) for i in range(len(self.adapters))]

    def forward(
        self, student: tuple[Any, ...], teacher: tuple[Any, ...], targets: Targets
    ) -> dict[str, Tensor]:
        pairs = zip(self.adapters, flatten(student), flatten(teacher), strict=True)
        losses = {}
        for i, (adapter, s, t) in enumerate(pairs):
            s, t = match_size(adapter(s), t, self.resize)
            losses[str(i)] = self.layer_loss(s, t)
        return losses

    def layer_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of one pair of maps of equal size, a scalar."""
        raise NotImplementedError
