"""Match the anchors of a batch with objects by IoU or by mutual guidance, without gradient.

Shapes: N images, A anchors per image, G padded objects per image, K classes. Boxes are XYXY in
pixels or normalised coordinates.

Ties are resolved equally on every device: the lowest index wins, but an anchor that is the best one
of several objects goes to the object with the highest index.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from multas.modeling.box_coding import BOX_WEIGHTS, decode_boxes, pairwise_overlaps
from multas.modeling.losses import full_precision

# Largest N * G * A of a matrix (16 MiB in float32, about six at a time). A larger batch is matched
# in groups of images, which bounds the memory and, thanks to the cache, halves the time on a CPU.
# A single image is never split.
MAX_PAIRS = 2**22


class PaddedObjects(NamedTuple):
    """Ground truth (or pseudo-labels) of N images, padded to the same number of objects."""

    boxes: Tensor  # (N, G, 4) XYXY, pixels; 0 for padding
    classes: Tensor  # (N, G) int64 in [0, K); 0 for padding
    valid: Tensor  # (N, G) bool; False for padding


class Match(NamedTuple):
    """The object that each anchor is matched with; all (N, A)."""

    quality: Tensor  # float in [0, 1]: IoU (or amplified IoU) with the object
    object_index: Tensor  # int64 in [0, G); undefined where quality is 0
    positive: Tensor  # bool: selected by its object


def pad_objects(instances: Sequence[Instances]) -> PaddedObjects:
    """Pad the ground truth of several images to the same number of objects.

    Args:
        instances: one Detectron2 ``Instances`` per image with ``gt_boxes`` and ``gt_classes``.

    Returns:
        PaddedObjects on the device of the instances.

    Raises:
        ValueError: ``instances`` is empty.
    """
    if not instances:
        raise ValueError("pad_objects got no image; a batch without annotations has no targets.")
    boxes, valid = pad_boxes([image.gt_boxes.tensor for image in instances])
    classes = pad_sequence([image.gt_classes.long() for image in instances], batch_first=True)
    return PaddedObjects(boxes, _at_least_one(classes), valid)


def pad_boxes(boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad the finite boxes (Gi, 4) of each of N images, N at least 1, to the same number.

    Returns:
        Boxes (N, G, 4), zeros for padding, and bool (N, G), False for padding; G is the largest
        Gi, at least 1.
    """
    # NaN marks the padding: the counts of boxes would have to be copied to the device.
    padded = pad_sequence(list(boxes), batch_first=True, padding_value=torch.nan)
    valid = ~padded.isnan().any(-1)
    return _at_least_one(padded.masked_fill(~valid[..., None], 0.0)), _at_least_one(valid)


@torch.no_grad()
def match_iou(objects: PaddedObjects, anchors: Tensor) -> Match:
    """Match each anchor with the object of the highest IoU, and each object with its best anchor.

    Objects that overlap no anchor match nothing.

    Returns:
        Match without IoU thresholds. ``positive`` marks the best anchor of an object, whose
        ``quality`` is 1; elsewhere it is the IoU.
    """
    anchors = full_precision(anchors)
    return Match(*by_images(lambda group: _match_iou(group, anchors), len(anchors), objects))


def _match_iou(objects: PaddedObjects, anchors: Tensor) -> Match:
    overlaps = pairwise_overlaps(full_precision(objects.boxes), anchors)
    overlaps.masked_fill_(~objects.valid[..., None], 0.0)
    quality, index = overlaps.max(1)
    reached, best_anchor = overlaps.max(2)
    places = torch.arange(reached.shape[1], device=anchors.device).expand_as(best_anchor)
    # With "amax" the last object wins a contested anchor, whatever the order of writing is.
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
    """Mutual guidance (Zhang et al., ACCV 2020): each branch selects the positives of the other.

    - Localise to classify: the value R of a pair is the IoU of object and predicted box.
    - Classify to localise: the value is ``Q = min(1, IoU * exp(s / sigma))`` with the IoU of object
      and anchor and the score s of the object's class.
    - In both cases an anchor is matched with its best object, and an object selects its best
      ``max(1, floor(sum of its topk highest values))`` anchors with a value above 0.

    ``box_weights`` are the factors of dx, dy, dw, dh in the ``deltas``.

    Args:
        objects, anchors, logits, deltas: of N images, (A, 4), (N, A, K), (N, A, 4).
        topk: number of values that are summed.
        sigma: damping of the amplification by the score.

    Returns:
        Match for classification (quality = R) and Match for localisation (quality = Q).
    """
    anchors = full_precision(anchors)
    predicted = decode_boxes(full_precision(deltas), anchors, box_weights)
    gain = (full_precision(logits).sigmoid() / sigma).exp()
    match = partial(_match_mutual, anchors=anchors, topk=topk)
    matches = by_images(match, len(anchors), objects, predicted, gain.transpose(1, 2))
    return Match(*matches[:3]), Match(*matches[3:])


def _match_mutual(
    objects: PaddedObjects, predicted: Tensor, gain: Tensor, *, anchors: Tensor, topk: int
) -> tuple[Tensor, ...]:
    """Both matches from predicted boxes (N, A, 4) and amplification factors (N, K, A)."""
    boxes, padding = full_precision(objects.boxes), ~objects.valid[..., None]
    by_box = _choose(pairwise_overlaps(boxes, predicted).masked_fill_(padding, 0.0), topk)
    image = torch.arange(len(boxes), device=boxes.device)[:, None]
    amplified = pairwise_overlaps(boxes, anchors).mul_(gain[image, objects.classes]).clamp_(max=1)
    return (*by_box, *_choose(amplified.masked_fill_(padding, 0.0), topk))


def _choose(values: Tensor, topk: int) -> Match:
    """Match anchors with their best objects by ``values`` (N, G, A), and select positives.

    As each anchor then has one object, two stable sorts of (N, A) rank the anchors by object, then
    by falling value, then by index.
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
    # The sums pass through floor(), so they must be the same on every device: gathered values in
    # float64 are, scattered sums are not.
    place = start[:, :-1, None] + torch.arange(topk, device=values.device)
    inside = place < start[:, 1:, None]
    best = quality_sorted.gather(1, place.clamp(max=num_anchors - 1).flatten(1)).view_as(place)
    wanted = (best * inside).sum(2, dtype=torch.float64).floor().clamp(min=1)
    wanted = F.pad(wanted, (0, 1))  # anchors without an object are not selected
    chosen = rank < wanted.gather(1, owner_sorted)
    return Match(quality, index, torch.zeros_like(chosen).scatter_(1, order, chosen))


def by_images(
    match: Callable[..., tuple[Tensor, ...]],
    num_anchors: int,
    objects: PaddedObjects,
    *dense: Tensor,
) -> tuple[Tensor, ...]:
    """Call ``match`` on groups of images with at most MAX_PAIRS pairs, and join the results.

    ``match`` takes padded objects and the tensors ``dense``, (N, ...), and returns tensors of the
    same kind; ``num_anchors`` is A.
    """
    num_images, num_objects = objects.valid.shape
    group = max(1, MAX_PAIRS // max(1, num_objects * num_anchors))
    if num_images <= group:
        return match(objects, *dense)
    split = zip(*(x.split(group) for x in (*objects, *dense)), strict=True)
    parts = [match(PaddedObjects(*x[:3]), *x[3:]) for x in split]
    return tuple(torch.cat(fields) for fields in zip(*parts, strict=True))


def _at_least_one(padded: Tensor) -> Tensor:
    """(N, 0, ...) -> zeros (N, 1, ...), so that maxima over the objects exist."""
    return padded if padded.shape[1] else padded.new_zeros(padded.shape[0], 1, *padded.shape[2:])
