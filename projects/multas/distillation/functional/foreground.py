"""Foreground cells of a feature pyramid.

Shapes: N images of H x W pixels, G padded boxes, M = sum over levels of Hi * Wi cells.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def cell_centers(
    grid_sizes: Sequence[tuple[int, int]],
    padded_size: tuple[float, float],
    *,
    device: torch.device | str | None = None,
) -> Tensor:
    """Centres of the cells of all levels, in the order level, y, x.

    Args:
        grid_sizes: (Hi, Wi) of each level.
        padded_size: (height, width) of the batch tensor, pixels.
        device: where the result is wanted.

    Returns:
        (M, 2) float32: x, y in pixels, the centres of the anchors with an offset of 0.5.
    """
    levels = []
    for height, width in grid_sizes:
        y = (torch.arange(height, device=device) + 0.5) * (padded_size[0] / height)
        x = (torch.arange(width, device=device) + 0.5) * (padded_size[1] / width)
        levels.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1))
    return torch.cat(levels)


def foreground_mask(boxes: Tensor, valid: Tensor, centers: Tensor) -> Tensor:
    """Cells, (N, M) bool, whose centre lies in or on the border of a box of their image.

    Every box is foreground on all levels.

    Args:
        boxes: (N, G, 4) XYXY, pixels: ground truth or detections of the teacher.
        valid: (N, G) bool; False for padding.
        centers: (M, 2); see :func:`cell_centers`.
    """
    x, y = centers.unbind(-1)
    x0, y0, x1, y1 = boxes[..., None].unbind(-2)
    inside = (x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1)
    return (inside & valid[..., None]).any(1)


def mask_foreground(masks: Tensor, centers: Tensor) -> Tensor:
    """Cells, (N, M) bool, whose centre lies on a pixel of an object.

    Args:
        masks: (N, H, W) bool pixels of objects, padded to the batch size.
        centers: (M, 2); see :func:`cell_centers`.
    """
    x, y = centers.long().unbind(-1)
    return masks[:, y, x]
