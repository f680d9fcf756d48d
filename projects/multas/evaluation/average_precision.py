"""Recall, precision, and average precision with both metrics of PASCAL VOC.

Shapes: ``...`` stands for any leading dimensions (e.g. IoU thresholds), D for detections by
descending score. Recall and precision are (..., D) float64 in [0, 1], finite; recall does not
decrease along the last dimension.
"""

import numpy as np

# The fourth point is 0.30000000000000004, which a recall of 0.3 does not reach. Published VOC 2007
# results were computed with these points.
RECALL_POINTS = np.arange(0.0, 1.1, 0.1)


def precision_recall(
    true_positive: np.ndarray, false_positive: np.ndarray, num_objects: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative recall and precision, both (..., D).

    Args:
        true_positive, false_positive: (..., D) bool, by descending score.
        num_objects: number of objects that are not difficult; recall is 0 if it is 0.
    """
    positives = np.cumsum(true_positive, axis=-1, dtype=np.float64)
    negatives = np.cumsum(false_positive, axis=-1, dtype=np.float64)
    # Both counts are 0 while all detections are of difficult objects.
    precision = positives / np.maximum(positives + negatives, np.finfo(np.float64).eps)
    return positives / max(num_objects, 1), precision


def precision_envelope(precision: np.ndarray) -> np.ndarray:
    """Best precision (..., D) at each recall or a higher one."""
    return np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]


def average_precision_11point(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Mean of the precision envelope at the recalls 0, 0.1, ..., 1 (VOC 2007).

    Everingham et al., IJCV 2010, eq. 1 and 2. The precision at a recall that is not reached is 0.

    Returns:
        (...) float64 in [0, 1]; 0 where D is 0.
    """
    unreached = np.zeros((*precision.shape[:-1], 1))
    envelope = np.concatenate([precision_envelope(precision), unreached], axis=-1)
    total = np.zeros(recall.shape[:-1])
    for point in RECALL_POINTS:
        first = np.count_nonzero(recall < point, axis=-1)
        total = total + np.take_along_axis(envelope, np.expand_dims(first, -1), -1)[..., 0]
    return total / len(RECALL_POINTS)


def average_precision_area(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Area under the precision envelope over recall (VOC 2010 and later).

    Everingham et al., IJCV 2015, section 3.1.

    Returns:
        (...) float64 in [0, 1]; 0 where D is 0.
    """
    return (np.diff(recall, axis=-1, prepend=0.0) * precision_envelope(precision)).sum(-1)
