"""Detections as tensors of fixed shapes, which graphs of other runtimes can compute.

N images, T candidates of each, K classes. What is no detection has the score 0.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torchvision.ops import nms

_NO_LIMIT = 2**31 - 1


class _NonMaxSuppression(torch.autograd.Function):
    """ONNX's operator of this name, which has one NMS for each image and class.

    Boxes (N, T, 4) and scores (N, K, T) -> rows (image, class, candidate) of those that stay.
    """

    @staticmethod
    def forward(
        ctx: Any, boxes: Tensor, scores: Tensor, iou_thresh: float, score_thresh: float, limit: int
    ) -> Tensor:
        return _suppress(boxes, scores, iou_thresh, score_thresh)

    @staticmethod
    def symbolic(
        g: Any, boxes: Any, scores: Any, iou_thresh: float, score_thresh: float, limit: int
    ) -> Any:
        values = (torch.tensor([limit]), torch.tensor([iou_thresh]), torch.tensor([score_thresh]))
        constants = [g.op("Constant", value_t=value) for value in values]
        kept = g.op("NonMaxSuppression", boxes, scores, *constants)
        return kept.setType(boxes.type().with_dtype(torch.int64).with_sizes([None, 3]))


def best_candidates(logits: Tensor, topk: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ``topk`` (0: all) highest of the logits (N, R, K) of R places.

    Returns:
        Their scores from 0 to 1, places and classes, (N, T) each, best first.
    """
    num_classes = logits.shape[-1]
    flat = logits.flatten(1)
    values, index = flat.topk(_at_most(topk, flat))
    return values.sigmoid(), index // num_classes, index % num_classes


def clip_boxes(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """Boxes (N, T, 4) XYXY inside of their images, whose heights and widths are (N, 2), pixels."""
    return torch.minimum(boxes.clamp(min=0), image_sizes.flip(1).repeat(1, 2).unsqueeze(1))


def suppress(
    boxes: Tensor, scores: Tensor, iou_thresh: float, score_thresh: float, limit: int
) -> Tensor:
    """Non-maximum suppression: which candidates stay, bool (N, K, T).

    Args:
        boxes: (N, T, 4) XYXY.
        scores: (N, K, T); a candidate of one class alone has the score 0 for the others.
        iou_thresh: IoU above which the weaker of two boxes of a class is dropped.
        score_thresh: score that is exceeded.
        limit: the number of candidates of a class that stay; 0: all.
    """
    limit = limit or _NO_LIMIT
    options = (boxes.float(), scores.float(), iou_thresh, score_thresh)
    if torch.compiler.is_exporting():
        return _suppress_all(*options)
    if torch.onnx.is_in_onnx_export():
        kept = cast(Any, _NonMaxSuppression.apply)(*options, limit)
    else:
        kept = _suppress(*options)
    stay = torch.zeros_like(scores, dtype=torch.bool)
    stay[kept[:, 0], kept[:, 1], kept[:, 2]] = True
    return stay


def by_class(scores: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """The scores (N, T) of candidates in the row of their class, (N, K, T); elsewhere 0."""
    rows = torch.arange(num_classes, device=scores.device).view(1, -1, 1)
    return torch.where(rows == classes.unsqueeze(1), scores.unsqueeze(1), 0.0)


def best_detections(boxes: Tensor, scores: Tensor, limit: int) -> dict[str, Tensor]:
    """The ``limit`` (0: all) pairs of a box and a class with the highest scores, best first.

    Args:
        boxes: (N, T, 4).
        scores: (N, K, T); 0 is no detection.

    Returns:
        "boxes" (N, M, 4), "scores" (N, M) and "classes" (N, M), int64.
    """
    flat = scores.flatten(1)
    values, index = flat.topk(_at_most(limit, flat))
    num_classes, candidates = scores.shape[1:]
    # A division would end in a cast, which NNCF cannot remove from an output.
    classes = torch.arange(num_classes, device=scores.device).view(-1, 1).expand(-1, candidates)
    rows = (index % candidates).unsqueeze(-1).expand(-1, -1, 4)
    return {
        "boxes": boxes.gather(1, rows), "scores": values, "classes": classes.reshape(-1)[index]
    }  # fmt: skip


def _suppress(boxes: Tensor, scores: Tensor, iou_thresh: float, score_thresh: float) -> Tensor:
    """The rows (image, class, candidate) that stay, as ONNX's NonMaxSuppression gives them."""
    images, classes, candidates = torch.nonzero(scores > score_thresh, as_tuple=True)
    # Boxes of different images and classes are moved apart.
    group = images * scores.shape[1] + classes
    extent = boxes.abs().max() * 2 + 1
    apart = boxes[images, candidates] + (group * extent).unsqueeze(1)
    best = nms(apart, scores[images, classes, candidates], iou_thresh)
    return torch.stack([images[best], classes[best], candidates[best]], dim=1)


def _suppress_all(boxes: Tensor, scores: Tensor, iou_thresh: float, score_thresh: float) -> Tensor:
    """:func:`suppress` of all candidates, without shapes that depend on scores.

    ``torch.export`` takes such shapes for 2 or more, whatever they are. Candidates below the
    threshold come last, where they suppress none of the others.
    """
    above = scores > score_thresh
    extent = boxes.abs().max() * 2 + 1
    group = torch.arange(scores.shape[0] * scores.shape[1], device=boxes.device)
    every = boxes.unsqueeze(1).expand(-1, scores.shape[1], -1, -1)
    apart = every + (group.view(*scores.shape[:2], 1, 1) * extent)
    ranked = torch.where(above, scores, -1.0)
    best = nms(apart.reshape(-1, 4), ranked.reshape(-1), iou_thresh)
    stay = torch.zeros(scores.numel(), dtype=torch.bool, device=boxes.device)
    stay = stay.index_fill(0, best, True)
    return stay.view_as(above) & above


def _at_most(count: int, values: Tensor) -> Any:
    """The smaller one of a number (0: none) and the number of columns of ``values``.

    While a graph is traced, it is a tensor there.
    """
    columns = values.shape[1]
    if not count:
        return columns
    if not torch.jit.is_tracing():
        return min(count, columns)
    return torch.minimum(torch.tensor(count), torch.as_tensor(columns))
