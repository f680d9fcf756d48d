"""Decoupled features (DeFeat) as a path."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from multas.distillation.functional.feature_imitation import defeat_imitation
from multas.distillation.functional.foreground import (
    cell_centers,
    foreground_mask,
    mask_foreground,
)
from multas.distillation.paths.base import PATH_REGISTRY, Shapes, Targets
from multas.distillation.paths.feature_mse import adapted_maps
from multas.distillation.paths.layers import LayerPath
from multas.modeling.matcher import pad_boxes


@PATH_REGISTRY.register()
class DeFeat(LayerPath):
    """Features imitated apart inside and outside of the objects.

    The same boxes count on all levels. They come from the annotation or the teacher, as
    MODEL.DISTILLATION.BOXES says; an image without boxes is background. Where an image is
    annotated with a mask alone, the objects are its pixels.

    Args:
        student_shapes, teacher_shapes, resize: see :class:`LayerPath`.
        adapter: see :class:`LayerPath`.
        foreground_weight: factor of the foreground term.
        background_weight: factor of the background term.
        divisor: of both terms, which sum over the channels: 1, or 256 (the usual width); both
            occur in the reference implementation.
        object_classes: labels that are objects in masks; empty = all but 0, the background, and
            that of pixels without annotation.

    Raises:
        ValueError: DIVISOR is not positive, or see :class:`LayerPath`.
    """

    default_name = "defeat"
    default_student = ("backbone",)
    needs_boxes = True
    object_classes: Tensor

    def __init__(
        self,
        *,
        student_shapes: Sequence[Shapes],
        teacher_shapes: Sequence[Shapes],
        resize: str = "student",
        adapter: str = "conv_always",
        foreground_weight: float = 1.0,
        background_weight: float = 1.0,
        divisor: float = 1.0,
        object_classes: Sequence[int] = (),
    ) -> None:
        super().__init__(
            student_shapes=student_shapes,
            teacher_shapes=teacher_shapes,
            resize=resize,
            adapter=adapter,
        )
        if divisor <= 0:
            raise ValueError(f"DIVISOR is {divisor}; it must be positive.")
        self.foreground_weight = foreground_weight
        self.background_weight = background_weight
        self.divisor = divisor
        # On the device of the masks, so that no step has to copy it.
        self.register_buffer("object_classes", torch.tensor(list(object_classes)), False)

    def labels(self) -> list[str]:
        return ["foreground", "background"]

    def forward(
        self, student: tuple[Any, ...], teacher: tuple[Any, ...], targets: Targets
    ) -> dict[str, Tensor]:
        if targets.boxes is None:
            raise ValueError("DeFeat needs the boxes of every image in Targets.boxes.")
        ours, theirs = adapted_maps(self, student, teacher)
        centers = cell_centers(
            [(level.shape[2], level.shape[3]) for level in ours],
            targets.padded_size,
            device=ours[0].device,
        )
        foreground = foreground_mask(*pad_boxes([boxes.tensor for boxes in targets.boxes]), centers)
        if targets.from_masks:
            foreground = foreground | mask_foreground(self._object_masks(targets), centers)
        return defeat_imitation(
            ours,
            theirs,
            foreground,
            foreground_weight=self.foreground_weight,
            background_weight=self.background_weight,
            divisor=self.divisor,
        )

    def _object_masks(self, targets: Targets) -> Tensor:
        """(N, H, W) bool of the padded batch; False where the objects come from boxes."""
        height, width = targets.padded_size
        masks: dict[int, Tensor] = {}
        for i in targets.from_masks:
            labels = cast(Tensor, targets.sem_seg[i])
            if len(self.object_classes):
                objects = torch.isin(labels, self.object_classes)
            else:
                objects = (labels > 0) & (labels != targets.ignore_value)
            masks[i] = F.pad(objects, (0, width - labels.shape[1], 0, height - labels.shape[0]))
        nothing = torch.zeros_like(next(iter(masks.values())))
        return torch.stack([masks.get(i, nothing) for i in range(len(targets.sem_seg))])
