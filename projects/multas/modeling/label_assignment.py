"""Assign dense targets to the anchors of a batch by IoU, ATSS or mutual guidance.

Shapes: N images, A anchors per image, G padded objects, K classes. Boxes are XYXY in pixels.
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
)


class DenseTargets(NamedTuple):
    """Training targets of each anchor."""

    classes: Tensor  # (N, A, K) float: 1 or a quality in (0, 1] for a positive's class, else 0
    class_mask: Tensor  # (N, A, K) bool: False where the classification loss is ignored
    class_index: Tensor  # (N, A) int64: matched object for classification, -1 if not positive
    boxes: Tensor  # (N, A, 4) XYXY, pixels: box of the matched object, else the anchor itself
    box_weights: Tensor  # (N, A) float: weight in the localisation loss, not normalised
    box_index: Tensor  # (N, A) int64: matched object for localisation, -1 if not positive


def assign_iou(
    objects: PaddedObjects,
    anchors: Tensor,
    num_classes: int,
    thresholds: tuple[float, float] = (0.4, 0.5),
) -> DenseTargets:
    """Assign by IoU thresholds, with ignored anchors in between.

    Anchors are background below the first threshold and positive from the second one on. An ignored
    anchor is ignored only for the class it was matched with; it is background for the other
    classes. The best anchor of each object is always positive.

    Returns:
        DenseTargets with targets and weights of 0 or 1.
    """
    match = match_iou(objects, anchors)
    positive = match.quality >= thresholds[1]
    ignored = (match.quality >= thresholds[0]) & ~positive
    quality = positive.to(match.quality.dtype)
    classes = _spread(objects.classes, match.object_index, quality, num_classes)
    mask = _spread(objects.classes, match.object_index, ignored, num_classes).logical_not_()
    index = torch.where(positive, match.object_index, -1)
    boxes = _matched_boxes(objects, anchors, index)
    return DenseTargets(classes, mask, index, boxes, quality, index)


def assign_atss(
    objects: PaddedObjects, level_anchors: Sequence[Tensor], num_classes: int, *, topk: int = 9
) -> DenseTargets:
    """Assign by ATSS, see :func:`multas.modeling.generalized_focal.atss_match`.

    Returns:
        DenseTargets with targets and weights of 0 or 1; no anchor is ignored.
    """
    anchors = torch.cat(list(level_anchors))

    def match(group: PaddedObjects) -> tuple[Tensor, ...]:
        return atss_match(level_anchors, group.boxes.to(anchors.dtype), topk=topk)

    index, _ = by_images(match, len(anchors), objects)
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
    """Assign by mutual guidance, see :func:`multas.modeling.matcher.match_mutual_guidance`.

    If ``soft``, class targets are the IoU of the predicted box (for the quality focal loss), not 1.

    Returns:
        DenseTargets; ``box_weights`` are the amplified overlaps of the positives. No anchor is
        ignored.
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


def score_weights(
    targets: DenseTargets, objects: PaddedObjects, instances: Sequence[Instances]
) -> tuple[Tensor, Tensor]:
    """Weights (N, A, 1) for classes and (N, A) for boxes: the scores of matched pseudo-labels.

    The score of an object is in the field ``gt_scores``. Images without the field and anchors
    without an object have weight 1.
    """
    scores = objects.boxes.new_ones(objects.boxes.shape[:2])
    for row, image in zip(scores, instances, strict=True):
        if image.has("gt_scores"):
            row[: len(image)] = image.gt_scores
    of_classes, of_boxes = (
        torch.where(index >= 0, scores.gather(1, index.clamp(min=0)), 1.0)
        for index in (targets.class_index, targets.box_index)
    )
    return of_classes[..., None], of_boxes


def _spread(classes: Tensor, index: Tensor, values: Tensor, num_classes: int) -> Tensor:
    """Dense (N, A, K) with ``values`` (N, A) at the class of each anchor's object, else 0."""
    dense = values.new_zeros(*values.shape, num_classes)
    return dense.scatter_(2, classes.gather(1, index)[..., None], values[..., None])


def _matched_boxes(objects: PaddedObjects, anchors: Tensor, index: Tensor) -> Tensor:
    """Boxes (N, A, 4) of the matched objects; the anchor, which has finite deltas, for -1."""
    index = index[..., None]
    boxes = objects.boxes.to(anchors.dtype).gather(1, index.clamp(min=0).expand(-1, -1, 4))
    return torch.where(index >= 0, boxes, anchors)
