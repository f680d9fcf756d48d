"""Model inputs of one size made into one: side by side, one pasted onto the other, or blended.

All of them have the same annotations. They are changed in place; the first one is the result.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from multas.data.transforms.place import MIN_SIDE, pixels_of
from multas.util.annotation import LABELS


def paste(first: dict, second: dict, region: np.ndarray, min_visible: float) -> None:
    """Show the pixels of ``region``, (H, W) bool, as they are in the second.

    Objects of both are cut to what remains of them, or dropped if that is too little.
    """
    for key in {"image", "sem_seg"} & first.keys():
        np.copyto(first[key].numpy(), second[key].numpy(), where=region)
    if "instances" in first:
        remaining = [
            visible(first["instances"], ~region, min_visible),
            visible(second["instances"], region, min_visible),
        ]
        first["instances"] = joined(remaining)


def put_beside(samples: Sequence[dict], windows: Sequence[Sequence[float]]) -> dict:
    """The first sample, which shows in the window of each of the others what that has there.

    Windows are x0, y0, x1, y1 in shares of the canvas; the objects lie inside of them.
    """
    first, *others = samples
    for other, window in zip(others, windows[1:], strict=True):
        x0, y0, x1, y1 = pixels_of(window, first["image"].shape[1:])
        for key in {"image", "sem_seg"} & first.keys():
            first[key][..., y0:y1, x0:x1] = other[key][..., y0:y1, x0:x1]
    if "instances" in first:
        objects = joined([sample["instances"] for sample in samples])
        first["instances"] = fit_to_masks(objects) if objects.has("gt_masks") else objects
    return first


def blend(first: dict, second: dict, share: float) -> None:
    """Show both at once, the first with this share of the light.

    The objects of both count in full. A label becomes the shares of both labels.
    """
    rows = [x["image"].numpy().reshape(-1, x["image"].shape[-1]) for x in (first, second)]
    cv2.addWeighted(rows[0], share, rows[1], 1 - share, 0.0, dst=rows[0])
    if "instances" in first:
        first["instances"] = joined([x["instances"] for x in (first, second)])
    if (key := LABELS.dataset_key) in first:
        shares = {first[key]: share}
        shares[second[key]] = shares.get(second[key], 0.0) + 1 - share
        first[key] = shares


def joined(parts: Sequence[Instances]) -> Instances:
    """The objects of all, with the fields that all of them have."""
    some = [part for part in parts if len(part)] or list(parts[:1])
    common = set.intersection(*(set(part.get_fields()) for part in some))
    for part in some:
        for name in part.get_fields().keys() - common:
            part.remove(name)
    return Instances.cat(some)


def visible(instances: Instances, shown: np.ndarray, min_visible: float) -> Instances:
    """The objects of which enough is left, their boxes and masks cut to what is.

    An object is its mask, if there are masks (BitMasks), and otherwise its whole box.

    Args:
        instances: N objects.
        shown: (H, W) bool, the pixels that are left.
        min_visible: share of the object.
    """
    boxes = instances.gt_boxes.tensor.numpy().copy()
    masks: list[Any] = [None] * len(boxes)
    if instances.has("gt_masks"):
        masks = list(instances.gt_masks.tensor.numpy())
        instances.gt_masks = BitMasks(instances.gt_masks.tensor & torch.from_numpy(shown))
    pairs = zip(boxes, masks, strict=True)
    kept = [_cut(box, mask, shown, min_visible) for box, mask in pairs]
    instances.gt_boxes = Boxes(torch.from_numpy(boxes))
    return instances[torch.tensor(kept, dtype=torch.bool)]


def _cut(box: np.ndarray, mask: np.ndarray | None, shown: np.ndarray, min_visible: float) -> bool:
    """Cut the box of an object, in place, to what is left of it; tells whether that is enough."""
    # A mask may fill a pixel of which the box has a part.
    low, high = (np.rint, np.rint) if mask is None else (np.floor, np.ceil)
    x0, y0, x1, y1 = (int(v) for v in (*low(box[:2]), *high(box[2:])))
    left = shown[y0:y1, x0:x1]
    whole = np.ones_like(left) if mask is None else mask[y0:y1, x0:x1]
    left = left & whole
    count, area = np.count_nonzero(left), np.count_nonzero(whole)
    if count == area > 0:
        return True
    # A line at the edge of what was pasted is no part of an object, unless its mask says so.
    thinnest = MIN_SIDE if mask is None else 1
    columns, rows = (np.flatnonzero(left.sum(axis=axis) >= thinnest) for axis in (0, 1))
    if count < min_visible * area or not (len(columns) and len(rows)):
        return False
    box[:2] = np.maximum(box[:2], [x0 + columns[0], y0 + rows[0]])
    box[2:] = np.minimum(box[2:], [x0 + columns[-1] + 1, y0 + rows[-1] + 1])
    return bool((box[2:] - box[:2] >= MIN_SIDE).all())


def fit_to_masks(instances: Instances) -> Instances:
    """The objects with boxes that are no larger than their masks; those without pixels go."""
    boxes, outer = instances.gt_boxes.tensor, instances.gt_masks.get_bounding_boxes().tensor
    low, high = boxes[:, :2].maximum(outer[:, :2]), boxes[:, 2:].minimum(outer[:, 2:])
    instances.gt_boxes = Boxes(torch.cat([low, high], dim=1))
    return instances[(high - low >= MIN_SIDE).all(dim=1)]


def windows_around(boxes: np.ndarray, size: tuple[int, int], margin: float = 0.5) -> np.ndarray:
    """The pixels of windows around boxes, (H, W) bool.

    Each side of a window is up to ``margin`` of the box away from it, so that the edge which shows
    where something was pasted does not tell the box.
    """
    region = np.zeros(size, dtype=bool)
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2) * [-1, -1, 1, 1]
    grown = boxes + np.random.uniform(0, margin, size=boxes.shape) * sides
    for x0, y0, x1, y1 in np.rint(grown.clip(0, size[::-1] * 2)).astype(int):
        region[y0:y1, x0:x1] = True
    return region


def half_of_classes(sem_seg: np.ndarray, ignore_value: int) -> np.ndarray:
    """The pixels of one half of the classes in a mask, drawn at random, (H, W) bool."""
    classes = np.setdiff1d(np.unique(sem_seg), [ignore_value])
    return np.isin(sem_seg, np.random.permutation(classes)[: len(classes) // 2])
