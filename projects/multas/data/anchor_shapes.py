"""Anchors that fit the boxes of a data set, by k-means."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from multas.data.measures import spread

STRIDES = (8, 16, 32)  # of the levels that a detector predicts on, in pixels

_LIMITS = 2.0, 8.0  # of anchors on a level, as multiples of its stride
_DEFAULT = 4.0  # the smallest of RetinaNet's anchors on each level, as a multiple of its stride
_MAX_BOXES = 10_000  # that k-means and mean IoUs take
_MAX_ROUNDS = 100  # of k-means
_GAIN = 0.05  # of the mean IoU that three ratios must bring


@dataclass(frozen=True)
class Anchors:
    """MODEL.ANCHOR_GENERATOR: anchors of each size of a level in each ratio of height and width.

    ``mean_iou`` is the mean over objects of the IoU with the best anchor around the same centre.
    """

    sizes: list[list[float]]
    aspect_ratios: list[list[float]]
    mean_iou: float


def default_anchors(
    boxes: np.ndarray, strides: Sequence[int] = STRIDES, num_sizes: int = 2, num_ratios: int = 1
) -> Anchors:
    """Anchors like RetinaNet's: from four strides to just below the four of the next level."""
    steps = 2 ** (np.arange(num_sizes) / num_sizes)
    ratios = [1.0] if num_ratios == 1 else (2 ** np.linspace(-1, 1, num_ratios)).tolist()
    return _anchors(boxes, np.outer(_DEFAULT * np.array(strides), steps), np.array(ratios))


def suggest_anchors(
    boxes: np.ndarray,
    strides: Sequence[int] = STRIDES,
    num_sizes: int = 2,
    ratios: Sequence[int] = (1, 3),
) -> Anchors:
    """The anchors that fit boxes best, with more ratios where they gain 0.05 of mean IoU.

    If RetinaNet's fit better, it is them.

    Args:
        boxes: (M, 2) width and height in pixels of the input, at least one.
        strides: of the levels that a detector predicts on, in pixels, finest first.
        num_sizes: of anchors on each level.
        ratios: the numbers of ratios to choose from, the fewest first.
    """
    best: list[Anchors] = []
    for num_ratios in ratios:
        usual = default_anchors(boxes, strides, num_sizes, num_ratios)
        fitted = fit_anchors(boxes, strides, num_sizes, num_ratios)
        better = max(fitted, usual, key=lambda anchors: anchors.mean_iou)
        if not best or better.mean_iou > best[-1].mean_iou + _GAIN:
            best.append(better)
    return best[-1]


def fit_anchors(
    boxes: np.ndarray, strides: Sequence[int] = STRIDES, num_sizes: int = 2, num_ratios: int = 1
) -> Anchors:
    """K-means of boxes with the distance 1 - IoU (Redmon and Farhadi, CVPR 2017).

    Each centre is a size in a ratio that all levels share, as Detectron2's anchors are, and starts
    at quantiles of the boxes, so that nothing is drawn. Sizes stay within two and eight strides of
    their level, apart from the smallest of the finest and the largest of the coarsest: anchors on a
    grid that is wider than themselves miss most objects, and a place sees no more than so far.
    """
    ordered = _sample(boxes)
    sides, ratios_of_boxes = np.sqrt(ordered.prod(1)), ordered[:, 1] / ordered[:, 0]
    steps = 2 ** (np.arange(num_sizes) / num_sizes)
    low, high = (np.outer(np.multiply(x, strides), steps) for x in _LIMITS)
    high /= steps[-1]
    low[0], high[-1] = 0, math.inf
    bounds = low.reshape(-1), high.reshape(-1)
    sizes = np.quantile(sides, _middles(low.size)).clip(*bounds)
    ratios = np.quantile(ratios_of_boxes, _middles(num_ratios))
    best, before = (-1.0, sizes, ratios), np.empty(0)
    for _ in range(_MAX_ROUNDS):
        ious = shape_ious(ordered, _shapes(sizes, ratios))
        best = max(best, (float(ious.max(1).mean()), sizes, ratios), key=lambda entry: entry[0])
        nearest = ious.argmax(1)
        if np.array_equal(nearest, before):
            break
        before, (size, ratio) = nearest, np.divmod(nearest, num_ratios)
        sizes = np.sort(_means(sides, size, sizes).clip(*bounds))
        ratios = np.sort(np.exp(_means(np.log(ratios_of_boxes), ratio, np.log(ratios))))
    _, sizes, ratios = best
    return _anchors(boxes, sizes.reshape(len(strides), num_sizes), ratios)


def _sample(boxes: np.ndarray) -> np.ndarray:
    """At most 10,000 of the boxes, from the smallest to the largest."""
    ordered = boxes[np.lexsort((boxes[:, 1], boxes[:, 0], boxes.prod(1)))]
    return ordered[spread(range(len(ordered)), _MAX_BOXES)]


def _middles(count: int) -> np.ndarray:
    """The middles of so many equal parts of 0 … 1."""
    return (np.arange(count) + 0.5) / count


def _means(values: np.ndarray, group: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The mean of each group, or what it was before where the group is empty."""
    count = np.bincount(group, minlength=len(before))
    total = np.bincount(group, values, minlength=len(before))
    return np.where(count, total / np.maximum(count, 1), before)


def _shapes(sizes: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """Width and height of anchors, (K * R, 2), of K sizes with R ratios, which come fastest."""
    root = np.sqrt(ratios)
    return np.stack([np.outer(sizes, 1 / root), np.outer(sizes, root)], -1).reshape(-1, 2)


def shape_ious(boxes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """(N, K) IoUs of boxes (N, 2) and anchors (K, 2), width and height, around one centre."""
    shared = np.minimum(boxes[:, None], anchors).prod(2)
    return shared / (boxes.prod(1)[:, None] + anchors.prod(1) - shared)


def _anchors(boxes: np.ndarray, sizes: np.ndarray, ratios: np.ndarray) -> Anchors:
    """Anchors of sizes (levels, sizes) with ratios (R,), rounded to three digits."""
    levels = [[_rounded(size) for size in level] for level in sizes]
    shared = [_rounded(ratio) for ratio in ratios]
    ious = shape_ious(_sample(boxes), _shapes(np.reshape(levels, -1), np.array(shared)))
    return Anchors(levels, [shared], float(ious.max(1).mean()))


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
