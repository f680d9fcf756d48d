"""The rules of the PASCAL VOC devkit that match detections of one class with its ground truth.

Shapes: D detections by descending score, G objects, T IoU thresholds. Boxes are XYXY in pixels with
inclusive borders: a box from x1 to x2 is x2 - x1 + 1 pixels wide.
"""

import numpy as np

# Pairs of detections and objects per chunk, which bounds the memory to a few hundred megabytes.
MAX_PAIRS = 1_000_000


def round_as_printed(values: np.ndarray, decimals: int) -> np.ndarray:
    """Round as printing with ``decimals`` digits to a VOC result file and reading back does.

    Scaling and rounding gives the same number if scaling is exact, as for every value that fits a
    float32. Of the other values the few close to a half are really printed.

    Args:
        values: float64, any shape; NaN and infinities pass unchanged.
        decimals: digits after the point.

    Returns:
        float64 of the same shape.
    """
    scaled = values * 10.0**decimals
    rounded = np.rint(scaled)
    result = rounded / 10.0**decimals
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(np.abs(scaled - rounded) - 0.5)
        doubtful = distance <= 4 * np.spacing(np.abs(scaled))
        # From 2**52 on the scaled value is an integer already, and scaling would lose digits.
        doubtful |= np.isfinite(values) & (np.abs(scaled) >= 2.0**52)
        doubtful &= values != values.astype(np.float32)
    result[doubtful] = [float(f"{value:.{decimals}f}") for value in values[doubtful]]
    return result


def _paired_overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU (P,) of corresponding boxes (P, 4), float64; NaN if both boxes have no area."""
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
    """For each detection, the object in the same image with the highest IoU.

    This object does not depend on the IoU threshold. Of equal IoUs the first object wins.

    Args:
        det_image, det_boxes: (D,) int64 image numbers and (D, 4) float64.
        gt_image, gt_boxes: (G,) and (G, 4), likewise.

    Returns:
        overlap: (D,) float64 IoU, -inf for detections in images without objects.
        index: (D,) int64 number of the object, -1 for these detections.
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
        values = _paired_overlap(np.repeat(det_boxes[rows], sizes, axis=0), gt_boxes[objects])
        best = np.maximum.reduceat(values, starts)
        position = np.where(values == np.repeat(best, sizes), within, sizes.max())
        # Only NaN overlaps, which exceed no threshold, need the minimum with sizes - 1.
        position = np.minimum(np.minimum.reduceat(position, starts), sizes - 1)
        overlap[rows] = best
        index[rows] = objects[starts + position]
    return overlap, index


def classify_detections(
    overlap: np.ndarray, index: np.ndarray, difficult: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find true positives, duplicates and unmatched detections at each threshold.

    If the IoU with its best object is above the threshold, the first detection of an object is a
    true positive and later ones are duplicates; if the object is difficult, they are neither. All
    other detections are unmatched.

    Args:
        overlap, index: (D,) from :func:`best_overlaps`.
        difficult, thresholds: (G,) bool and (T,) float64.

    Returns:
        true_positive, duplicate, unmatched: (T, D) bool.
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
