"""Detections matched with objects at one IoU: precision, recall, thresholds and confusion.

The rules are those of the VOC devkit (``multas/evaluation/voc_matching.py``), for each class. K is
the number of classes, D of detections, G of objects, N of images.
"""

from dataclasses import dataclass

import numpy as np

from multas.engine.comparison.data import Data
from multas.engine.comparison.predictions import Predictions
from multas.evaluation.average_precision import precision_envelope, precision_recall
from multas.evaluation.voc_ground_truth import GroundTruth
from multas.evaluation.voc_matching import best_overlaps, classify_detections

IOU = 0.5
FROM_ZERO = np.array([1.0, 1.0, 0.0, 0.0])  # VOC counts pixels from 1
RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Matches:
    """Detections by descending score, in annotated images.

    Attributes:
        truth: the objects.
        source: (D,) int64, the number of each detection among the predictions.
        image: (D,) int64, the number of its image in ``truth``.
        category, score, boxes: (D,) int64, (D,) float64, (D, 4) float64 as in ``truth``. Scores are
            rounded down to 3 digits, so that a threshold that is printed keeps what it should.
        object: (D,) int64, the object that it is the first to hit; -1 = none.
        counts: (D,) bool; not so for detections of difficult objects.
        num_classes: K.
    """

    truth: GroundTruth
    source: np.ndarray
    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    boxes: np.ndarray
    object: np.ndarray
    counts: np.ndarray
    num_classes: int

    @property
    def hits(self) -> np.ndarray:
        """(D,) bool, whether it is right."""
        return self.object >= 0

    @property
    def objects(self) -> np.ndarray:
        """(K,) int64, the number of objects of each class that are not difficult."""
        easy = self.truth.category[~self.truth.difficult]
        return np.bincount(easy, minlength=self.num_classes)[: self.num_classes]

    def of(self, category: int) -> np.ndarray:
        """(D,) bool: the detections that count of a class; K = of all classes."""
        return self.counts & ((self.category == category) | (category == self.num_classes))

    def objects_of(self, category: int) -> int:
        """The number of objects of a class; K = of all classes."""
        objects = self.objects
        return int(objects.sum() if category == self.num_classes else objects[category])


def match(data: Data, found: Predictions, num_classes: int) -> Matches:
    """Match the detections of each class with its objects."""
    truth, number = data.truth, data.numbers[found.image]
    # Many scores are equal when they are rounded, so that they are not what sorts.
    source = np.flatnonzero(number >= 0)
    source = source[np.argsort(-found.score[source], kind="stable")]
    image, category = number[source], found.category[source]
    boxes = found.boxes[source] + FROM_ZERO
    target = np.full(len(source), -1, dtype=np.int64)
    counts = np.ones(len(source), dtype=bool)
    for k in range(num_classes):
        rows, objects = np.flatnonzero(category == k), np.flatnonzero(truth.category == k)
        target[rows], counts[rows] = _first_hits(image, boxes, truth, rows, objects)
    score = np.floor(found.score[source].astype(np.float64) * 1000 + 1e-6) / 1000
    return Matches(truth, source, image, category, score, boxes, target, counts, num_classes)


def _first_hits(
    image: np.ndarray, boxes: np.ndarray, truth: GroundTruth, rows: np.ndarray, objects: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For some detections and objects: which object each hits first (-1: none), and which count."""
    overlap, index = best_overlaps(
        image[rows], boxes[rows], truth.image[objects], truth.boxes[objects]
    )
    hit, duplicate, unmatched = classify_detections(
        overlap, index, truth.difficult[objects], np.array([IOU])
    )
    target = np.full(len(rows), -1, dtype=np.int64)
    target[hit[0]] = objects[index[hit[0]]]
    return target, (hit | duplicate | unmatched)[0]


def precision_curve(matches: Matches, category: int) -> tuple[np.ndarray, np.ndarray]:
    """Recall and the best precision at it or a higher one; of a class, or the mean of all (K).

    The mean is that of the classes with an object, at 101 recalls, where the precision at a recall
    that is not reached is 0.
    """
    if category == matches.num_classes:
        present = np.flatnonzero(matches.objects).tolist()
        curves = [_sampled(*precision_curve(matches, k)) for k in present]
        return RECALLS, np.mean(curves, axis=0) if curves else np.zeros_like(RECALLS)
    hits = matches.hits[matches.of(category)]
    recall, precision = precision_recall(hits, ~hits, matches.objects_of(category))
    best = precision_envelope(precision)
    return np.append(recall[:1] * 0, recall), np.append(best[:1], best)


def _sampled(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """The precision at RECALLS."""
    index = np.searchsorted(recall, RECALLS)
    return np.append(precision, 0.0)[index]


def best_thresholds(matches: Matches) -> np.ndarray:
    """(K+1,) the lowest score that gives the highest F1, of each class and of all; NaN = none does.

    F1 is the harmonic mean of precision and recall.
    """
    best = np.full(matches.num_classes + 1, np.nan)
    for k in range(matches.num_classes + 1):
        own = matches.of(k)
        hits, score = matches.hits[own], matches.score[own]
        if not hits.any():
            continue
        # A threshold keeps all detections of its score.
        last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
        f1 = 2 * np.cumsum(hits)[last] / (last + 1 + matches.objects_of(k))
        best[k] = score[last[np.argmax(f1)]]
    return best


def kept(matches: Matches, thresholds: np.ndarray) -> np.ndarray:
    """(D,) bool: detections that count and reach the threshold of their class.

    Where a class has none, that of all classes serves; without any, nothing is kept.
    """
    own = np.where(np.isnan(thresholds), thresholds[-1], thresholds)
    return matches.counts & (matches.score >= np.nan_to_num(own, nan=np.inf)[matches.category])


def precision_recall_f1(matches: Matches, thresholds: np.ndarray, category: int) -> np.ndarray:
    """(3,) at a threshold, of a class or of all (K); NaN where nothing is to be divided."""
    own = matches.of(category) & (matches.score >= thresholds[category])
    right, shown = np.count_nonzero(matches.hits & own), np.count_nonzero(own)
    objects = matches.objects_of(category)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.array([right, right, 2 * right]) / np.array([shown, objects, shown + objects])


def confusion(matches: Matches, thresholds: np.ndarray) -> np.ndarray:
    """(K+1, K+1) int64: objects by true (rows) and predicted class; the last ones are background.

    Detections that hit no object of their class are compared with the objects that nothing has hit,
    whatever their class.
    """
    truth, size = matches.truth, matches.num_classes + 1
    shown = kept(matches, thresholds)
    right = shown & matches.hits
    counts = np.zeros((size, size), dtype=np.int64)
    np.add.at(counts, (matches.category[right], matches.category[right]), 1)
    free = ~truth.difficult
    free[matches.object[right]] = False
    rows, objects = np.flatnonzero(shown & ~right), np.flatnonzero(free)
    target, _ = _first_hits(matches.image, matches.boxes, truth, rows, objects)
    other = (target >= 0) & (truth.category[target] != matches.category[rows])
    np.add.at(counts, (truth.category[target[other]], matches.category[rows[other]]), 1)
    free[target[other]] = False
    np.add.at(counts, (size - 1, matches.category[rows[~other]]), 1)
    np.add.at(counts, (truth.category[free], size - 1), 1)
    return counts


def mistakes(matches: Matches, thresholds: np.ndarray) -> np.ndarray:
    """Wrong boxes and missed objects of each annotated image, int64 in the order of ``truth``."""
    size = len(matches.truth.image_index)
    shown = kept(matches, thresholds)
    right = np.bincount(matches.image[shown & matches.hits], minlength=size)
    boxes = np.bincount(matches.image[shown], minlength=size)
    objects = np.bincount(matches.truth.image[~matches.truth.difficult], minlength=size)
    return boxes + objects - 2 * right
