"""Generalized Focal Loss (Li et al., NeurIPS 2020): each box side is a distribution over bins.

Distances are in units of the level's stride; the sides are left, top, right, bottom. A side has
``bins = reg_max + 1`` logits; the last axis of a head's output is ordered by side, then bin.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from multas.modeling.box_coding import pairwise_overlaps
from multas.modeling.losses import full_precision


def integral(logits: Tensor) -> Tensor:
    """Expected bin ``sum_j j softmax(logits)_j``: (..., bins) -> (...)."""
    logits = full_precision(logits)
    bins = torch.arange(logits.shape[-1], dtype=logits.dtype, device=logits.device)
    return (logits.softmax(dim=-1) * bins).sum(dim=-1)


def decode_distances(points: Tensor, distances: Tensor) -> Tensor:
    """Boxes (..., 4) XYXY from points (..., 2) and distances (..., 4) to their sides."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


def encode_distances(points: Tensor, boxes: Tensor, reg_max: int) -> Tensor:
    """Distances (..., 4) from points (..., 2) to the sides of boxes (..., 4) XYXY.

    Clamped to [0, reg_max - 0.1], so that there is always a bin to the right of a target.
    """
    distances = torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)
    return distances.clamp(min=0.0, max=reg_max - 0.1)


def decode_logits(points: Tensor, logits: Tensor, reg_max: int) -> Tensor:
    """Boxes (..., 4) XYXY from points (..., 2) and logits (..., 4 (reg_max + 1))."""
    return decode_distances(points, integral(logits.unflatten(-1, (4, reg_max + 1))))


def distribution_focal_elements(logits: Tensor, targets: Tensor) -> Tensor:
    """Distribution focal loss (N,) of every side (Li et al., NeurIPS 2020, eq. 6).

    ``-((i + 1 - y) log p_i + (y - i) log p_{i+1})`` with ``i = floor(y)``, ``p = softmax(logits)``.

    Args:
        logits: (N, bins).
        targets: y, (N,) in [0, bins - 1); see :func:`encode_distances`.
    """
    log_p = full_precision(logits).log_softmax(dim=1)
    left = targets.floor().long()
    right_share = targets.to(log_p.dtype) - left
    near = log_p.gather(1, torch.stack([left, left + 1], dim=1))
    return -((1.0 - right_share) * near[:, 0] + right_share * near[:, 1])


def iou_and_giou(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (Rezatofighi et al., CVPR 2019) of pairs of boxes.

    ``GIoU = IoU - (C - union) / C`` with the area C of the enclosing box. fvcore's function has
    checks for which the host waits for the device.

    Args:
        boxes, targets: (..., 4) XYXY, both in the same unit.

    Returns:
        (...) in [0, 1) and (...) in (-1, 1).
    """
    eps = 1e-7  # boxes without area have GIoU 0 with each other
    boxes, targets = full_precision(boxes), full_precision(targets)
    low, high = torch.maximum(boxes, targets), torch.minimum(boxes, targets)
    width, height = (high[..., 2:] - low[..., :2]).clamp(min=0).unbind(-1)
    intersection = width * height
    areas = [(b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1]) for b in (boxes, targets)]
    union = areas[0] + areas[1] - intersection
    width, height = (low[..., 2:] - high[..., :2]).unbind(-1)
    enclosing = width * height
    iou = intersection / (union + eps)
    return iou, iou - (enclosing - union) / (enclosing + eps)


@torch.no_grad()
def atss_match(
    level_anchors: Sequence[Tensor], boxes: Tensor, *, topk: int = 9
) -> tuple[Tensor, Tensor]:
    """Adaptive training sample selection (ATSS; Zhang et al., CVPR 2020, algorithm 1).

    The candidates of a box are the ``topk`` anchors of each level with the nearest centres (all
    anchors of a level that has fewer). Candidates are positive if their IoU is at least the mean +
    standard deviation of the candidates' IoUs and their centre is in the box. An anchor that is
    positive for several boxes gets the one with the largest IoU; of equal ones, the first.

    Args:
        level_anchors: (Ai, 4) XYXY per level, pixels.
        boxes: (..., G, 4) XYXY, pixels, ground truth of one or several images. Boxes without area,
            e.g. padding, match no anchor.
        topk: candidates per level.

    Returns:
        (..., A) index of the matched box, -1 for background; (..., G) IoU threshold of each box.
    """
    anchors = torch.cat(list(level_anchors))
    if boxes.shape[-2] == 0:
        index = anchors.new_full((*boxes.shape[:-2], len(anchors)), -1, dtype=torch.long)
        return index, anchors.new_zeros(boxes.shape[:-1])
    ious = pairwise_overlaps(boxes, anchors)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2.0
    # Matrix products would lose the difference of near centres far from the origin.
    distances = torch.cdist(
        (boxes[..., :2] + boxes[..., 2:]) / 2.0,
        centres,
        compute_mode="donot_use_mm_for_euclid_dist",
    )
    nearest, start = [], 0
    for part in distances.split([len(level) for level in level_anchors], dim=-1):
        count = part.shape[-1]
        nearest.append(part.topk(min(topk, count), largest=False).indices + start)
        start += count
    candidates = torch.cat(nearest, dim=-1)
    candidate_ious = ious.gather(-1, candidates)
    spread = candidate_ious.std(dim=-1, correction=min(1, candidate_ious.shape[-1] - 1))
    thresholds = candidate_ious.mean(dim=-1) + spread
    is_candidate = torch.zeros_like(ious, dtype=torch.bool).scatter_(-1, candidates, True)
    positive = is_candidate & (ious >= thresholds[..., None]) & _inside(boxes, centres)
    best, index = torch.where(positive, ious, -1.0).max(dim=-2)
    return torch.where(best >= 0, index, -1), thresholds


def _inside(boxes: Tensor, points: Tensor) -> Tensor:
    """Whether points (A, 2) are inside boxes (..., G, 4), more than 0.01 pixels from each side."""
    x, y = points.unbind(-1)
    left, top, right, bottom = boxes.unsqueeze(-2).unbind(-1)
    horizontal = torch.minimum(x - left, right - x)
    vertical = torch.minimum(y - top, bottom - y)
    return torch.minimum(horizontal, vertical) > 0.01
