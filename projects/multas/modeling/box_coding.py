"""Box deltas and IoU with any number of leading (image) dimensions.

The same as Detectron2's ``Box2BoxTransform(weights=(10, 10, 5, 5))``, without its checks, for which
the host waits for the device. The "variances" 0.1 (centre) and 0.2 (size) of SSD (Liu et al., ECCV
2016) are the reciprocals of the weights. Normalised coordinates give the same deltas and IoUs as
pixels.

Boxes and anchors are (..., 4) XYXY in pixels, anchors broadcastable to boxes or deltas (..., 4);
``weights`` are the factors of dx, dy, dw, dh.
"""

import math

import torch
from torch import Tensor

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
# Largest log of a ratio of sizes, so that exp does not overflow.
SCALE_CLAMP = math.log(1000.0 / 16.0)


def encode_boxes(
    boxes: Tensor, anchors: Tensor, weights: tuple[float, float, float, float] = BOX_WEIGHTS
) -> Tensor:
    """Box deltas that turn ``anchors`` into ``boxes``, which have positive width and height.

    Returns:
        (..., 4): ``(wx * dx / w_a, wy * dy / h_a, ww * ln(w / w_a), wh * ln(h / h_a))``.
    """
    anchor_size = anchors[..., 2:] - anchors[..., :2]
    box_size = boxes[..., 2:] - boxes[..., :2]
    # Twice the shift of the centre; sums of corners save one rounding.
    shift = (boxes[..., :2] + boxes[..., 2:]) - (anchors[..., :2] + anchors[..., 2:])
    deltas = torch.cat([0.5 * shift / anchor_size, (box_size / anchor_size).log()], dim=-1)
    return deltas * _row(weights, deltas)


def decode_boxes(
    deltas: Tensor, anchors: Tensor, weights: tuple[float, float, float, float] = BOX_WEIGHTS
) -> Tensor:
    """Apply box deltas to anchors; the boxes are not clipped to the image."""
    anchor_size = anchors[..., 2:] - anchors[..., :2]
    center = 0.5 * (anchors[..., :2] + anchors[..., 2:])
    deltas = deltas / _row(weights, deltas)
    center = center + deltas[..., :2] * anchor_size
    half = 0.5 * anchor_size * deltas[..., 2:].clamp(max=SCALE_CLAMP).exp()
    return torch.cat([center - half, center + half], dim=-1)


@torch.no_grad()
def pairwise_overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU of all pairs of boxes (..., G, 4) and others (..., A, 4), without gradient.

    Returns:
        (..., G, A) in [0, 1]; 0 (not NaN) for boxes without area and for non-finite boxes.
    """
    # Separate coordinates need half the memory of (..., G, A, 2) tensors and are contiguous.
    x0, y0, x1, y1 = boxes.unsqueeze(-2).unbind(-1)
    u0, v0, u1, v1 = others.unsqueeze(-3).unbind(-1)
    width = torch.minimum(x1, u1).sub_(torch.maximum(x0, u0)).clamp_(min=0)
    height = torch.minimum(y1, v1).sub_(torch.maximum(y0, v0)).clamp_(min=0)
    inter = width.mul_(height)
    union = ((x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0)).sub_(inter)
    return torch.where(inter > 0, inter / union, inter.new_zeros(()))


def _row(numbers: tuple[float, ...], like: Tensor) -> Tensor:
    """A tensor of ``numbers``. It is filled, as the host would wait for the copy to the device."""
    return torch.cat([like.new_full((1,), number) for number in numbers])
