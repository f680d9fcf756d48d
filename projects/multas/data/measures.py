"""The sizes of the images and objects of a data set, in pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from multas.data.image_files import image_record
from multas.data.issues import DatasetIssues
from multas.data.mapper import boxes_of
from multas.util.annotation import BOXES

PERCENTILES = (5, 25, 50, 75, 95)

_MAX_OPENED = 500  # images whose size is in no dict


@dataclass(frozen=True)
class Measures:
    """What there is in images, in pixels.

    Attributes:
        images: (N, 2) float64, width and height of images.
        objects: (M, 4) float64, width and height of each box, and those of its image.
        counts: (K,) int64, the objects of each image that is annotated with boxes.
        classes: (M,) int64, the class of each box.
    """

    images: np.ndarray
    objects: np.ndarray
    counts: np.ndarray
    classes: np.ndarray

    @property
    def sides(self) -> np.ndarray:
        """(M,) the square root of each object's area, in pixels."""
        return np.sqrt(self.objects[:, :2].prod(1))

    @property
    def relative_sides(self) -> np.ndarray:
        """(M,) the square root of the share of its image's area that each object has, 0 … 1."""
        return np.sqrt(self.objects[:, :2].prod(1) / self.objects[:, 2:].prod(1))

    @property
    def class_weights(self) -> np.ndarray:
        """(M,) the share of each object, where all classes have the same; they add up to 1."""
        _, numbers, counts = np.unique(self.classes, return_inverse=True, return_counts=True)
        return 1 / (counts[numbers] * max(len(counts), 1))


def measure(dicts: Sequence[Mapping]) -> Measures:
    """The sizes of images and objects; crowds and boxes without area do not count.

    Of images whose dicts have no size, as in class folders, at most 500 are opened.
    """
    images, unsized, objects, counts = [], [], [np.empty((0, 4))], []
    classes: list[int] = []
    for record in dicts:
        if "width" not in record:
            unsized.append(record)
            continue
        images.append((record["width"], record["height"]))
        if (annotations := record.get(BOXES.dataset_key)) is None:
            continue
        single = [a for a in annotations if not a.get("iscrowd", 0)]
        boxes = boxes_of(single)
        sides = boxes[:, 2:] - boxes[:, :2]
        there = (sides > 0).all(1)
        sides = sides[there]
        classes += [a["category_id"] for a, is_box in zip(single, there, strict=True) if is_box]
        counts.append(len(sides))
        objects.append(np.hstack([sides, np.broadcast_to(images[-1], sides.shape)]))
    for record in spread(unsized, _MAX_OPENED):
        if opened := image_record("", record["file_name"], DatasetIssues("sizes")):
            images.append((opened["width"], opened["height"]))
    sizes = np.array(images, np.float64).reshape(-1, 2)
    numbers = np.array(counts, np.int64), np.array(classes, np.int64)
    return Measures(sizes, np.concatenate(objects), *numbers)


def spread(items: Sequence, at_most: int) -> list:
    """At most so many of the items, evenly spread, the first and the last among them."""
    if len(items) <= at_most:
        return list(items)
    return [items[round(i)] for i in np.linspace(0, len(items) - 1, at_most)]
