"""Decoupled features (DeFeat) as a path."""

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from multas.distillation.functional.feature_imitation import defeat_imitation
from multas.distillation.functional.foreground import cell_centers, foreground_mask, mask_foreground
from multas.distillation.paths.base import PATH_REGISTRY, Outputs, TappedLayers, Targets
from multas.distillation.paths.layers import LayerPath
from multas.modeling.matcher import pad_boxes
from multas.util.errors import UserError


@PATH_REGISTRY.register()
class DeFeat(LayerPath):
    """Separate feature imitation inside and outside of the objects (Guo et al., CVPR 2021).

    Objects are the boxes that MODEL.DISTILLATION.BOXES selects, the same on all levels. An image
    without boxes is background. In an image with a mask only, objects are pixels of the mask.

    Args:
        resize, adapter: see :class:`LayerPath`.
        foreground_weight, background_weight, divisor: see
            :func:`multas.distillation.functional.feature_imitation.defeat_imitation`. The code of
            Lê and Pham (ICCVW 2023) has the divisors 1 and 256.
        object_classes: mask labels that are objects; empty: all but 0 (background) and the ignored
            label.
    """

    default_name = "defeat"
    default_student = ("backbone",)
    needs_boxes = True
    object_classes: Tensor

    def __init__(
        self,
        layers: TappedLayers,
        *,
        resize: str = "student",
        adapter: str = "conv_always",
        foreground_weight: float = 1.0,
        background_weight: float = 1.0,
        divisor: float = 1.0,
        object_classes: Sequence[int] = (),
    ) -> None:
        super().__init__(layers, resize=resize, adapter=adapter)
        if divisor <= 0:
            raise UserError(f"DIVISOR is {divisor}; it must be positive.")
        self.labels = ("foreground", "background")
        self._loss = partial(
            defeat_imitation,
            foreground_weight=foreground_weight,
            background_weight=background_weight,
            divisor=divisor,
        )
        # A buffer is on the device of the masks already.
        self.register_buffer("object_classes", torch.tensor(list(object_classes)), False)

    def forward(self, student: Outputs, teacher: Outputs, targets: Targets) -> dict[str, Tensor]:
        if targets.boxes is None:
            raise UserError("DeFeat needs boxes for every image (Targets.boxes).")
        ours, theirs = zip(*self.pairs(student, teacher), strict=True)
        grid = [(level.shape[2], level.shape[3]) for level in ours]
        centers = cell_centers(grid, targets.padded_size, device=ours[0].device)
        foreground = foreground_mask(*pad_boxes([boxes.tensor for boxes in targets.boxes]), centers)
        if targets.from_masks:
            foreground = foreground | mask_foreground(self._object_masks(targets), centers)
        return self._loss(ours, theirs, foreground)

    def _object_masks(self, targets: Targets) -> Tensor:
        """Object pixels (N, H, W) of the padded batch; False for images whose objects are boxes."""
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
