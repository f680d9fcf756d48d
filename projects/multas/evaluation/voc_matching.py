"""Matching detections of one class to its objects by the rules of the PASCAL VOC devkit.

Shape shorthand: D detections in descending score, G objects, T IoU thresholds. Boxes are
XYXY in pixels with inclusive borders: a box from x1 to x2 is x2 - x1 + 1 pixels wide.
"""

import numpy as np

# Pairs of detection and object handled at a time; bounds the memory to some hundred megabytes on
# crowded data sets.
MAX_PAIRS = 1_000_000


def paired_overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of corresponding boxes with the inclusive-pixel convention.

    Args:
        boxes, others: (P, 4) float64.

    Returns:
        (P,) float64; NaN where both boxes have no area.
    """
    low = np.maximum(boxes[:, :2], others[:, :2])
    high = np.minimum(boxes[:, 2:], others[:, 2:])
    intersection = np.maximum(high - low + 1.0, 0.0).prod(axis=1)
    area = (boxes[:, 2:] - boxes[:, :2] + 1.0).prod(axis=1)
    other_area = (others[:, 2:] - others[:, :2] + 1.0).prod(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return intersection / (area + other_area - intersection)


def best_overlaps(
    det_image: np.ndarray, det_boxes: np.ndarray, gt_image: np.ndarray, gt_boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each detection the object of the same image that it overlaps most.

    Which object this is does not depend on the threshold or on other detections, so one pass
    serves all thresholds. Of equal overlaps the object listed first wins.

    Args:
        det_image: (D,) int64 image numbers. gt_image: (G,) int64.
        det_boxes: (D, 4) float64. gt_boxes: (G, 4) float64.

    Returns:
        overlap (D,) float64, -inf for a detection in an image without objects;
        index (D,) int64 into the objects, -1 for those.
    """
    by_image = np.argsort(gt_image, kind="stable")
    sorted_image = gt_image[by_image]
    first = np.searchsorted(sorted_image, det_image, side="left")
    count = np.searchsorted(sorted_image, det_image, side="right") - first

    overlap = np.full(len(det_image), -np.inf)
    index = np.full(len(det_image), -1, dtype=np.int64)
    candidates = np.flatnonzero(count)
    if not len(candidates):
        return overlap, index
    pairs_before = np.cumsum(count[candidates])
    chunks = np.flatnonzero(np.diff(pairs_before // MAX_PAIRS)) + 1
    for rows in np.split(candidates, chunks):
        sizes = count[rows]
        starts = np.cumsum(sizes) - sizes
        within = np.arange(sizes.sum()) - np.repeat(starts, sizes)
        objects = by_image[np.repeat(first[rows], sizes) + within]
        values = paired_overlap(np.repeat(det_boxes[rows], sizes, axis=0), gt_boxes[objects])
        best = np.maximum.reduceat(values, starts)
        position = np.where(values == np.repeat(best, sizes), within, sizes.max())
        # The clip only concerns overlaps that are NaN, which exceed no threshold anyway.
        position = np.minimum(np.minimum.reduceat(position, starts), sizes - 1)
        overlap[rows] = best
        index[rows] = objects[starts + position]
    return overlap, index


def classify_detections(
    overlap: np.ndarray, index: np.ndarray, difficult: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort detections into true positives, duplicates and false positives at each threshold.

    A detection is judged by its best-overlapping object alone (VOC devkit): IoU strictly above
    the threshold is a true positive the first time, a duplicate afterwards, and neither if the
    object is difficult. Everything else is a false positive.

    Args:
        overlap, index: (D,) as given by :func:`best_overlaps`, in descending score.
        difficult: (G,) bool.
        thresholds: (T,) float64.

    Returns:
        true_positive, duplicate, unmatched: (T, D) bool. A detection on a difficult object is
        False in all three.
    """
    above = overlap > np.asarray(thresholds, dtype=np.float64)[:, None]
    true_positive = np.zeros_like(above)
    duplicate = np.zeros_like(above)
    counted = np.flatnonzero(index >= 0)
    counted = counted[~difficult[index[counted]]]
    if len(counted):
        by_object = counted[np.argsort(index[counted], kind="stable")]
        _, starts, sizes = np.unique(index[by_object], return_index=True, return_counts=True)
        hit = above[:, by_object]
        first = np.minimum.reduceat(np.where(hit, by_object, len(overlap)), starts, axis=1)
        is_first = by_object == np.repeat(first, sizes, axis=1)
        true_positive[:, by_object] = hit & is_first
        duplicate[:, by_object] = hit & ~is_first
    return true_positive, duplicate, ~above


def precision_recall(
    true_positive: np.ndarray, false_positive: np.ndarray, num_objects: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative precision and recall along the ranking.

    Args:
        true_positive, false_positive: (..., D) bool, in descending score.
        num_objects: objects that are not difficult. With none of them recall is 0.

    Returns:
        recall, precision: (..., D) float64, finite.
    """
    positives = np.cumsum(true_positive, axis=-1, dtype=np.float64)
    negatives = np.cumsum(false_positive, axis=-1, dtype=np.float64)
    # Detections on difficult objects at the top of the ranking leave both counts at 0.
    precision = positives / np.maximum(positives + negatives, np.finfo(np.float64).eps)
    return positives / max(num_objects, 1), precision
