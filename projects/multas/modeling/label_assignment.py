"""Dense targets: what each anchor of a batch has to predict, by IoU, ATSS or mutual guidance.

Shapes: N images, A anchors of an image, G padded objects, K classes. Boxes are XYXY in pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.structures import Instances
from torch import Tensor

from multas.modeling.box_coding import BOX_WEIGHTS
from multas.modeling.generalized_focal import atss_match
from multas.modeling.matcher import (
    PaddedObjects,
    by_images,
    match_iou,
    match_mutual_guidance,
    pad_objects,
)

__all__ = [
    "DenseTargets",
    "PaddedObjects",
    "assign_atss",
    "assign_iou",
    "assign_mutual_guidance",
    "object_scores",
    "pad_objects",
    "scores_at",
]


class DenseTargets(NamedTuple):
    """What a dense head has to predict at each anchor."""

    classes: Tensor  # (N, A, K) float: 1 or a quality in (0, 1] for the class of a positive, else 0
    class_mask: Tensor  # (N, A, K) bool: False for entries without classification loss
    class_index: Tensor  # (N, A) int64: object behind a positive for classification, -1 for none
    boxes: Tensor  # (N, A, 4) XYXY, pixels: box of the matched object, the anchor itself for none
    box_weights: Tensor  # (N, A) float: 0 without localisation loss; not normalised over the batch
    box_index: Tensor  # (N, A) int64: object behind a positive for localisation, -1 for none


def assign_iou(
    objects: PaddedObjects,
    anchors: Tensor,
    num_classes: int,
    *,
    positive_overlap: float = 0.5,
    negative_overlap: float = 0.4,
) -> DenseTargets:
    """Dense targets by IoU: positive, background, or ignored between the two thresholds.

    An ignored anchor is ignored only in the entry of the class it was matched with; for the other
    classes it is background. The best anchor of each object is positive whatever its overlap.

    Args:
        objects: padded objects of N images, with classes in [0, num_classes).
        anchors: (A, 4) XYXY.
        num_classes: K.
        positive_overlap: IoU from which on an anchor is positive.
        negative_overlap: IoU below which an anchor is background.

    Returns:
        DenseTargets with targets and weights of 0 or 1.
    """
    match = match_iou(objects, anchors)
    positive = match.quality >= positive_overlap
    ignored = (match.quality >= negative_overlap) & ~positive
    quality = positive.to(match.quality.dtype)
    classes = _spread(objects.classes, match.object_index, quality, num_classes)
    mask = _spread(objects.classes, match.object_index, ignored, num_classes).logical_not_()
    index = torch.where(positive, match.object_index, -1)
    boxes = _matched_boxes(objects, anchors, index)
    return DenseTargets(classes, mask, index, boxes, quality, index)


def assign_atss(
    objects: PaddedObjects, level_anchors: Sequence[Tensor], num_classes: int, *, topk: int = 9
) -> DenseTargets:
    """Dense targets by :func:`multas.modeling.generalized_focal.atss_match`; nothing is ignored.

    Args:
        objects: padded objects of N images, with classes in [0, num_classes).
        level_anchors: (Ai, 4) XYXY for each level.
        num_classes: K.
        topk: candidates of an object on each level.

    Returns:
        DenseTargets with targets and weights of 0 or 1.
    """
    anchors = torch.cat(list(level_anchors))
    index, _ = by_images(
        lambda group: atss_match(level_anchors, group.boxes.to(anchors.dtype), topk=topk),
        len(anchors),
        objects,
    )
    positive = (index >= 0).to(anchors.dtype)
    classes = _spread(objects.classes, index.clamp(min=0), positive, num_classes)
    mask = torch.ones_like(classes, dtype=torch.bool)
    boxes = _matched_boxes(objects, anchors, index)
    return DenseTargets(classes, mask, index, boxes, positive, index)


def assign_mutual_guidance(
    objects: PaddedObjects,
    anchors: Tensor,
    logits: Tensor,
    deltas: Tensor,
    *,
    topk: int = 15,
    sigma: float = 2.0,
    soft: bool = True,
    box_weights: tuple[float, float, float, float] = BOX_WEIGHTS,
) -> DenseTargets:
    """Dense targets by :func:`match_mutual_guidance`; all that is not positive is background.

    Args:
        objects: padded objects of N images, with classes in [0, K).
        anchors: (A, 4) XYXY.
        logits: (N, A, K) class logits; no gradient is passed.
        deltas: (N, A, 4) box deltas; no gradient is passed.
        topk: see :func:`match_mutual_guidance`.
        sigma: see :func:`match_mutual_guidance`.
        soft: class targets are the IoU of the predicted box (for the quality focal loss), not 1.
        box_weights: factors of the box coding.

    Returns:
        DenseTargets; ``box_weights`` are the amplified overlaps of the positives.
    """
    by_box, by_score = match_mutual_guidance(
        objects, anchors, logits, deltas, topk=topk, sigma=sigma, box_weights=box_weights
    )
    quality = by_box.positive * (by_box.quality if soft else torch.ones_like(by_box.quality))
    classes = _spread(objects.classes, by_box.object_index, quality, logits.shape[-1])
    box_index = torch.where(by_score.positive, by_score.object_index, -1)
    return DenseTargets(
        classes,
        torch.ones_like(classes, dtype=torch.bool),
        torch.where(by_box.positive, by_box.object_index, -1),
        _matched_boxes(objects, anchors, box_index),
        by_score.positive * by_score.quality,
        box_index,
    )


def object_scores(objects: PaddedObjects, instances: Sequence[Instances]) -> Tensor:
    """(N, G) scores of pseudo-labels (field ``gt_scores``), 1 where an image has no such field."""
    scores = objects.boxes.new_ones(objects.boxes.shape[:2])
    for row, image in zip(scores, instances, strict=True):
        if image.has("gt_scores"):
            row[: len(image)] = image.gt_scores
    return scores


def scores_at(index: Tensor, scores: Tensor) -> Tensor:
    """(N, A) score of the object behind each anchor, 1 for anchors without (index -1)."""
    return torch.where(index >= 0, scores.gather(1, index.clamp(min=0)), 1.0)


def _spread(classes: Tensor, index: Tensor, values: Tensor, num_classes: int) -> Tensor:
    """Write values (N, A) into zeros (N, A, K) at the class of each anchor's object."""
    dense = values.new_zeros(*values.shape, num_classes)
    return dense.scatter_(2, classes.gather(1, index)[..., None], values[..., None])


def _matched_boxes(objects: PaddedObjects, anchors: Tensor, index: Tensor) -> Tensor:
    """Boxes (N, A, 4) of the objects; where index is -1 the anchors, whose deltas are finite."""
    index = index[..., None]
    boxes = objects.boxes.to(anchors.dtype).gather(1, index.clamp(min=0).expand(-1, -1, 4))
    return torch.where(index >= 0, boxes, anchors)
