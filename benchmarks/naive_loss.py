"""Assignment and losses in loops over images and objects, the baseline of ``assignment.py``.

The rules, including ties, are those of :mod:`multas.modeling.label_assignment`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.structures import Instances
from torch import Tensor

from multas.modeling.box_coding import decode_boxes, encode_boxes
from multas.modeling.losses import balanced_l1_elements, quality_focal_elements

TOPK, SIGMA = 15, 2.0
LOW, HIGH = 0.4, 0.5


class Targets(NamedTuple):
    """Targets of the anchors of one image."""

    classes: Tensor  # (A, K)
    counted: Tensor  # (A, K) bool: False where the classification loss is ignored
    boxes: Tensor  # (A, 4)
    weights: Tensor  # (A,) weights of the localisation loss


def overlaps(box: Tensor, others: Tensor) -> Tensor:
    """IoU of one box with A others."""
    low, high = torch.maximum(box[:2], others[:, :2]), torch.minimum(box[2:], others[:, 2:])
    inside = (high - low).clamp(min=0).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1)
    return inside / ((box[2:] - box[:2]).prod() + areas - inside)


def assign_by_iou(objects: Instances, anchors: Tensor, classes: int) -> Targets:
    """Positive: IoU from HIGH, or best anchor of an object; ignored: IoU from LOW."""
    best = torch.zeros(len(anchors))
    owner = torch.full((len(anchors),), -1)
    favourites = []
    for number, box in enumerate(objects.gt_boxes.tensor):
        values = overlaps(box, anchors)
        better = values > best
        best[better], owner[better] = values[better], number
        favourites.append((float(values.max()), int(values.argmax())))
    for number, (value, anchor) in enumerate(favourites):
        if value > 0:
            best[anchor], owner[anchor] = 1.0, number
    targets = _empty(anchors, classes)
    for number, box in enumerate(objects.gt_boxes.tensor):
        label = int(objects.gt_classes[number])
        own = owner == number
        positive = own & (best >= HIGH)
        targets.classes[positive, label] = 1.0
        targets.counted[own & (best >= LOW) & ~positive, label] = False
        targets.boxes[positive], targets.weights[positive] = box, 1.0
    return targets


def assign_mutually(objects: Instances, anchors: Tensor, logits: Tensor, deltas: Tensor) -> Targets:
    """Mutual guidance (Zhang et al., ACCV 2020)."""
    predicted = decode_boxes(deltas, anchors)
    by_box, by_score = [], []
    for box, label in zip(objects.gt_boxes.tensor, objects.gt_classes, strict=True):
        by_box.append(overlaps(box, predicted))
        gain = (logits[:, label].sigmoid() / SIGMA).exp()
        by_score.append((overlaps(box, anchors) * gain).clamp(max=1))
    targets = _empty(anchors, logits.shape[1])
    for number, (anchor, value) in _choose(by_box):
        targets.classes[anchor, int(objects.gt_classes[number])] = value
    for number, (anchor, value) in _choose(by_score):
        targets.boxes[anchor] = objects.gt_boxes.tensor[number]
        targets.weights[anchor] = value
    return targets


def _choose(values: Sequence[Tensor]) -> list[tuple[int, tuple[Tensor, Tensor]]]:
    """The anchors that each object selects, and their values."""
    best = torch.zeros_like(values[0])
    owner = torch.full_like(best, -1)
    for number, row in enumerate(values):
        better = row > best
        best[better], owner[better] = row[better], number
    chosen = []
    for number, row in enumerate(values):
        own = torch.where(owner == number, row, 0.0)
        ranked = own.argsort(descending=True, stable=True)
        wanted = max(1, int(own[ranked[:TOPK]].sum(dtype=torch.float64)))
        taken = ranked[:wanted]
        taken = taken[own[taken] > 0]
        chosen.append((number, (taken, own[taken])))
    return chosen


def _empty(anchors: Tensor, classes: int) -> Targets:
    zeros = torch.zeros(len(anchors), classes)
    counted = torch.ones_like(zeros, dtype=torch.bool)
    return Targets(zeros, counted, anchors.clone(), torch.zeros(len(anchors)))


def naive_losses(
    logits: Tensor, deltas: Tensor, anchors: Tensor, instances: list[Instances], assignment: str
) -> dict[str, Tensor]:
    """The losses of :class:`multas.modeling.heads.dense_loss.DenseLoss` with its defaults.

    Args:
        logits: (N, A, K).
        deltas: (N, A, 4).
        anchors: (A, 4).
        instances: N images, each with at least one object.
        assignment: "iou" or "mutual_guidance".
    """
    classification = localisation = logits.new_zeros(())
    positives = weights = 0.0
    for scores, moves, objects in zip(logits, deltas, instances, strict=True):
        with torch.no_grad():
            if assignment == "iou":
                targets = assign_by_iou(objects, anchors, scores.shape[1])
            else:
                targets = assign_mutually(objects, anchors, scores, moves)
        elements = quality_focal_elements(scores, targets.classes)
        classification = classification + elements[targets.counted].sum()
        positives += float((targets.classes[targets.counted] > 0).sum())
        wanted = encode_boxes(targets.boxes, anchors)
        elements = balanced_l1_elements(moves, wanted) * targets.weights[:, None]
        localisation = localisation + elements.sum()
        weights += 4 * float(targets.weights.sum())
    return {
        "loss_cls": 2 * classification / max(positives, 1.0),
        "loss_box_reg": localisation / max(weights, 1e-12),
    }
