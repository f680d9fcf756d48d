"""Matching of anchors with objects for a whole batch at once: by IoU, and by mutual guidance.

Shapes: N images, A anchors of an image, G objects of the fullest image (the others are padded), K
classes. Boxes are XYXY in absolute pixels; overlaps do not depend on the unit, so relative
coordinates work as well.

Ties, the same on every device: of equal overlaps an anchor takes the object of the lowest index, an
object the anchor of the lowest index; an anchor that is the best one of several objects goes to the
object of the highest index. (``Tensor.max(dim)`` and stable sorts promise the first of equals.)
No gradient flows through anything here.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from multas.modeling.box_coding import BOX_WEIGHTS, decode_boxes, pairwise_overlaps
from multas.modeling.losses import full_precision

# Largest N * G * A held at once per matrix (2^22 float32 numbers: 16 MiB; about six such matrices
# live together). A fuller batch is worked through in groups of images, which bounds the memory
# (8 images x 200 objects x 32k anchors would need 210 MB a matrix) and, as the matrices stay near
# the cache, halves the time on a CPU. One image alone is never split.
MAX_PAIRS = 2**22


class PaddedObjects(NamedTuple):
    """Objects of N images in tensors of one shape."""

    boxes: Tensor  # (N, G, 4) XYXY, pixels; zeros where not valid
    classes: Tensor  # (N, G) int64 in [0, K); 0 where not valid
    valid: Tensor  # (N, G) bool


class Match(NamedTuple):
    """The object that each anchor belongs to, (N, A) each."""

    quality: Tensor  # float in [0, 1]: overlap (or amplified overlap) with the object
    object_index: Tensor  # int64 in [0, G); undefined where quality is 0
    positive: Tensor  # bool: chosen by its object


def pad_objects(instances: Sequence[Instances]) -> PaddedObjects:
    """Pad the ground truth of several images to one shape.

    Args:
        instances: one Detectron2 ``Instances`` per image with ``gt_boxes`` and ``gt_classes``.

    Returns:
        PaddedObjects with G of at least 1, on the device of the instances.

    Raises:
        ValueError: ``instances`` is empty.
    """
    if not instances:
        raise ValueError("pad_objects got no image; a batch without annotations needs no targets.")
    boxes, valid = pad_boxes([image.gt_boxes.tensor for image in instances])
    classes = pad_sequence([image.gt_classes.long() for image in instances], batch_first=True)
    return PaddedObjects(boxes, _at_least_one(classes), valid)


def pad_boxes(boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad the boxes of several images to one shape.

    Args:
        boxes: (Gi, 4) finite boxes of each of N images, N at least 1.

    Returns:
        Boxes (N, G, 4), zeros for padding, and bool (N, G), False for padding; G is the largest
        Gi, at least 1.
    """
    # NaN marks the padding: the counts of boxes would have to be copied to the device.
    padded = pad_sequence(list(boxes), batch_first=True, padding_value=torch.nan)
    valid = _at_least_one(~padded.isnan().any(-1))
    return _at_least_one(padded).nan_to_num(0.0), valid


@torch.no_grad()
def match_iou(objects: PaddedObjects, anchors: Tensor) -> Match:
    """Match each anchor with the object it overlaps most; an object keeps its best anchor anyway.

    Args:
        objects: padded objects of N images. Those without area, or beyond the reach of all anchors,
            match nothing.
        anchors: (A, 4) XYXY.

    Returns:
        Match with ``quality`` = IoU, and exactly 1 where ``positive`` (the best anchor of some
        object). Thresholds are not applied.
    """
    anchors = full_precision(anchors)
    return Match(*by_images(lambda group: _match_iou(group, anchors), len(anchors), objects))


def _match_iou(objects: PaddedObjects, anchors: Tensor) -> Match:
    overlaps = _mask_padding(
        pairwise_overlaps(full_precision(objects.boxes), anchors), objects.valid
    )
    quality, index = overlaps.max(1)
    reached, best_anchor = overlaps.max(2)
    places = torch.arange(reached.shape[1], device=anchors.device).expand_as(best_anchor)
    # The reduction lets the last object win a contested anchor without a dependence on the order of
    # writing.
    owner = torch.full_like(index, -1)
    owner.scatter_reduce_(1, best_anchor, torch.where(reached > 0, places, -1), "amax")
    positive = owner >= 0
    quality = torch.where(positive, 1.0, quality)
    return Match(quality, torch.where(positive, owner, index), positive)


@torch.no_grad()
def match_mutual_guidance(
    objects: PaddedObjects,
    anchors: Tensor,
    logits: Tensor,
    deltas: Tensor,
    *,
    topk: int = 15,
    sigma: float = 2.0,
    box_weights: tuple[float, float, float, float] = BOX_WEIGHTS,
) -> tuple[Match, Match]:
    """Match for both branches by mutual guidance: each branch selects the other one's positives.

    Zhang et al., ACCV 2020, https://arxiv.org/abs/2009.14085.

    - Localise to classify: objects and anchors are compared by R, the IoU of the predicted boxes.
    - Classify to localise: by ``Q = min(1, IoU * exp(s / sigma))``, with the IoU of the anchors and
      the score s of the object's class.
    - In both an anchor stays with its best object, and an object takes its best
      ``max(1, floor(sum of its topk highest values))`` anchors, as far as their value is above 0.

    Args:
        objects: padded objects of N images.
        anchors: (A, 4) XYXY.
        logits: (N, A, K) class logits.
        deltas: (N, A, 4) box deltas.
        topk: how many values an object sums up to find its number of positives.
        sigma: damping of the amplification by the score.
        box_weights: factors of the box coding.

    Returns:
        Match for classification (quality = R) and Match for localisation (quality = Q).
    """
    anchors = full_precision(anchors)
    predicted = decode_boxes(full_precision(deltas), anchors, box_weights)
    gain = (full_precision(logits).sigmoid() / sigma).exp()
    matches = by_images(
        lambda group, *dense: _match_mutual(group, anchors, dense[0], dense[1], topk),
        len(anchors),
        objects,
        predicted,
        gain.transpose(1, 2),
    )
    return Match(*matches[:3]), Match(*matches[3:])


def _match_mutual(
    objects: PaddedObjects, anchors: Tensor, predicted: Tensor, gain: Tensor, topk: int
) -> tuple[Tensor, ...]:
    """Match for both branches; ``predicted`` (N, A, 4) boxes, ``gain`` (N, K, A) factors."""
    boxes = full_precision(objects.boxes)
    by_box = _choose(_mask_padding(pairwise_overlaps(boxes, predicted), objects.valid), topk)
    image = torch.arange(len(boxes), device=boxes.device)[:, None]
    amplified = pairwise_overlaps(boxes, anchors).mul_(gain[image, objects.classes]).clamp_(max=1)
    by_score = _choose(_mask_padding(amplified, objects.valid), topk)
    return (*by_box, *by_score)


def _choose(values: Tensor, topk: int) -> Match:
    """Give each anchor to its best object and mark those that rank high enough there.

    After the first step an anchor has one object only, so the ranking sorts (N, A) numbers instead
    of (N, G, A): two stable sorts put the anchors in order of object, then of falling value, then
    of index.
    """
    num_images, num_objects, num_anchors = values.shape
    quality, index = values.max(1)
    owner = torch.where(quality > 0, index, num_objects)
    by_value = quality.argsort(dim=1, descending=True, stable=True)
    order = by_value.gather(1, owner.gather(1, by_value).argsort(dim=1, stable=True))
    owner_sorted, quality_sorted = owner.gather(1, order), quality.gather(1, order)

    owners = torch.arange(num_objects + 1, device=values.device).repeat(num_images, 1)
    start = torch.searchsorted(owner_sorted, owners)
    rank = torch.arange(num_anchors, device=values.device) - start.gather(1, owner_sorted)
    # The best values are read by place, not added up by scattering: the sums, which decide through
    # floor(), must not depend on the order of a device; nor does a float64 sum of float32 values.
    place = start[:, :-1, None] + torch.arange(topk, device=values.device)
    inside = place < start[:, 1:, None]
    best = quality_sorted.gather(1, place.clamp(max=num_anchors - 1).flatten(1)).view_as(place)
    wanted = (best * inside).sum(2, dtype=torch.float64).floor().clamp(min=1)
    wanted = F.pad(wanted, (0, 1))  # anchors of nobody are not chosen
    chosen = rank < wanted.gather(1, owner_sorted)
    return Match(quality, index, torch.zeros_like(chosen).scatter_(1, order, chosen))


def by_images(
    match: Callable[..., tuple[Tensor, ...]],
    num_anchors: int,
    objects: PaddedObjects,
    *dense: Tensor,
) -> tuple[Tensor, ...]:
    """Call ``match`` on groups of images, of at most MAX_PAIRS pairs or one image, and join.

    Args:
        match: from objects of some images and their rows of ``dense`` to tensors (images, ...).
        num_anchors: A.
        objects: padded objects of N images.
        dense: further tensors (N, ...).
    """
    num_images, num_objects = objects.valid.shape
    group = max(1, MAX_PAIRS // max(1, num_objects * num_anchors))
    if num_images <= group:
        return match(objects, *dense)
    parts = [
        match(
            PaddedObjects(*(field[i : i + group] for field in objects)),
            *(x[i : i + group] for x in dense),
        )
        for i in range(0, num_images, group)
    ]
    return tuple(torch.cat(fields) for fields in zip(*parts, strict=True))


def _mask_padding(values: Tensor, valid: Tensor) -> Tensor:
    """Let padding overlap nothing: zeros in its rows of (N, G, A)."""
    return values.masked_fill_(~valid[..., None], 0.0)


def _at_least_one(padded: Tensor) -> Tensor:
    """Append zeros to (N, 0, ...) so that maxima over the objects exist."""
    return padded if padded.shape[1] else padded.new_zeros(padded.shape[0], 1, *padded.shape[2:])
