"""Average precision from recall and precision curves, in both flavours of PASCAL VOC.

Shape shorthand: ``...`` any leading dimensions (for instance IoU thresholds), D detections in
descending score.
"""

import numpy as np

# The comparison points are those of a float64 range with step 0.1, so the fourth one is
# 0.30000000000000004 and a recall of exactly 0.3 does not reach it. Published VOC07 figures were
# made with these points, rounder ones would change them.
RECALL_POINTS = np.arange(0.0, 1.1, 0.1)


def precision_envelope(precision: np.ndarray) -> np.ndarray:
    """Running maximum from the right: the best precision at this recall or a higher one.

    Args:
        precision: (..., D) float64.

    Returns:
        (..., D) float64, never increasing along the last dimension.
    """
    return np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]


def average_precision_11point(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Mean of the precision envelope at the recalls 0, 0.1, ..., 1 (VOC 2007).

    Everingham et al., "The PASCAL VOC Challenge", IJCV 2010, eq. 1 and 2: a recall that is never
    reached counts with precision 0.

    Args:
        recall: (..., D) float64 in [0, 1], finite, not decreasing along the last dimension.
        precision: (..., D) float64 in [0, 1].

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

    Everingham et al., "The PASCAL VOC Challenge: A Retrospective", IJCV 2015, section 3.1.

    Args:
        recall: (..., D) float64 in [0, 1], finite, not decreasing along the last dimension.
        precision: (..., D) float64 in [0, 1].

    Returns:
        (...) float64 in [0, 1]; 0 where D is 0.
    """
    steps = np.diff(recall, axis=-1, prepend=0.0)
    return (steps * precision_envelope(precision)).sum(-1)
