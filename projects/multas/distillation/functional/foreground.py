"""Which cells of a feature pyramid lie inside objects.

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
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Centres of the cells of all levels, level after level, row after row.

    Args:
        grid_sizes: (Hi, Wi) of each level.
        padded_size: (height, width), pixels, of the batch tensor that the levels were made of.
        device: of the result.
        dtype: of the result.

    Returns:
        (M, 2): x, y in pixels; those of the anchors of the cells.
    """
    levels = []
    for height, width in grid_sizes:
        y = (torch.arange(height, device=device, dtype=dtype) + 0.5) * (padded_size[0] / height)
        x = (torch.arange(width, device=device, dtype=dtype) + 0.5) * (padded_size[1] / width)
        levels.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1))
    return torch.cat(levels)


def foreground_mask(boxes: Tensor, valid: Tensor, centers: Tensor) -> Tensor:
    """Cells whose centre lies in any box of their image, borders included.

    The same boxes are tested on all levels: an object is foreground on each of them.

    Args:
        boxes: (N, G, 4) XYXY, pixels: ground truth, or what the teacher detected.
        valid: (N, G) bool; False for padding.
        centers: (M, 2) x, y, pixels, e.g. from :func:`cell_centers`.

    Returns:
        (N, M) bool.
    """
    x, y = centers.unbind(-1)
    x0, y0, x1, y1 = boxes[..., None].unbind(-2)
    inside = (x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1)
    return (inside & valid[..., None]).any(1)


def mask_foreground(masks: Tensor, centers: Tensor) -> Tensor:
    """Cells whose centre lies on an object's pixel.

    Args:
        masks: (N, H, W) bool: pixels of objects, of the padded batch.
        centers: as in :func:`foreground_mask`.

    Returns:
        (N, M) bool.
    """
    x, y = centers.long().unbind(-1)
    return masks[:, y, x]
