"""How sure a difference is: average precision on resampled test images, intervals over seeds.

The bootstrap of Efron (1979) in pairs: the images of a test set are drawn with replacement, the
same ones for all models, so that what images have in common drops out of a difference. Seeds are
drawn as well. Drawn from a few, they spread too little: where there is no difference, three seeds
would find one in a quarter of all cases. What the drawing of seeds adds is therefore widened, as
Student's t is against the normal distribution (after the expanded interval of Hesterberg, "What
Teachers Should Know About the Bootstrap", The American Statistician, 2015).
"""

import contextlib
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.stats import norm, t

SAMPLES = 200
LEVEL = 0.95
_RECALLS = np.linspace(0, 1, 101)


def read_evaluation(
    folder: Path, dataset: str, detections: int, thresholds: Sequence[float] | None = None
) -> COCOeval:
    """Match the detections that an evaluation by COCO has written with the objects again.

    Args:
        folder: the evaluator's own, such as OUTPUT_DIR/inference/toy_test.
        dataset: the registered data set.
        detections: how many of an image count.
        thresholds: of IoU; None: COCO's ten.

    Returns:
        What :func:`resampled_ap` takes, after ``evaluate()``.
    """
    written = folder / f"{dataset}_coco_format.json"
    truth = MetadataCatalog.get(dataset).get("json_file", str(written))
    with contextlib.redirect_stdout(io.StringIO()):
        objects = COCO(truth)
        detected = json.loads((folder / "coco_instances_results.json").read_text())
        found = objects.loadRes(detected) if detected else _without_objects(objects)
        evaluation = COCOeval(objects, found, "bbox")
        evaluation.params.maxDets = [detections]
        if thresholds is not None:
            evaluation.params.iouThrs = np.array(thresholds)
        evaluation.evaluate()
    return evaluation


def _without_objects(coco: COCO) -> COCO:
    """The same images and classes; COCO itself refuses a list of results that is empty."""
    empty = COCO()
    empty.dataset = {**coco.dataset, "annotations": []}
    empty.createIndex()
    return empty


def image_counts(images: int, samples: int = SAMPLES) -> np.ndarray:
    """(samples, images) int64: how often each image is drawn; the same for the same arguments."""
    drawn = np.random.default_rng(images).integers(images, size=(samples, images))
    return np.stack([np.bincount(row, minlength=images) for row in drawn])


def resampled_ap(evaluated: COCOeval, counts: np.ndarray) -> np.ndarray:
    """COCO's AP of boxes on resampled images.

    Args:
        evaluated: after ``evaluate()``. Its images are those of ``evaluated.params.imgIds``.
        counts: (B, N), how often each of them counts.

    Returns:
        (B,) AP in percent; classes without an object in a sample are left out, as COCO does. NaN
        where no class has one.
    """
    classes, images = len(evaluated.params.catIds), len(evaluated.params.imgIds)
    areas = len(evaluated.params.areaRng)
    found = np.full((classes, len(counts)), np.nan)
    for k in range(classes):
        # The first of the areas is "all".
        start = k * areas * images
        entries = evaluated.evalImgs[start : start + images]
        own = [(i, entry) for i, entry in enumerate(entries) if entry is not None]
        objects = np.zeros(images, dtype=np.int64)
        for i, entry in own:
            objects[i] = np.count_nonzero(np.logical_not(entry["gtIgnore"]))
        if objects.any():
            found[k] = _of_class(own, objects, counts)
    with np.errstate(invalid="ignore"):
        known = np.isfinite(found).sum(0)
        return 100 * np.where(known, np.nansum(found, axis=0) / np.maximum(known, 1), np.nan)


def _of_class(
    own: Sequence[tuple[int, dict]], objects: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """(B,) AP of a class, NaN where a sample has no object of it."""
    scores = np.concatenate([entry["dtScores"] for _, entry in own])
    order = np.argsort(-scores, kind="mergesort")
    matched = np.concatenate([entry["dtMatches"] for _, entry in own], axis=1)[:, order] > 0
    ignored = np.concatenate([entry["dtIgnore"] for _, entry in own], axis=1)[:, order] > 0
    image = np.repeat([i for i, _ in own], [len(entry["dtScores"]) for _, entry in own])[order]
    hits, faults = matched & ~ignored, ~matched & ~ignored
    values = np.full(len(counts), np.nan)
    for b, times in enumerate(counts):
        total = int(times @ objects)
        if total:
            values[b] = _average_precision(hits, faults, times[image], total)
    return values


def _average_precision(
    hits: np.ndarray, faults: np.ndarray, times: np.ndarray, total: int
) -> float:
    """The mean over the T thresholds of IoU of the precision at 101 recalls; inputs are (T, D)."""
    if not len(times):
        return 0.0
    positives = np.cumsum(hits * times, axis=1, dtype=np.float64)
    negatives = np.cumsum(faults * times, axis=1, dtype=np.float64)
    precision = positives / np.maximum(positives + negatives, np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    envelope = np.concatenate([envelope, np.zeros((len(envelope), 1))], axis=1)
    rows = [
        curve[np.searchsorted(recall, _RECALLS, side="left")]
        for curve, recall in zip(envelope, positives / total, strict=True)
    ]
    return float(np.mean(rows))


def resampled_means(samples: np.ndarray) -> np.ndarray:
    """Means over seeds, which are drawn as well: the same ones for everything that is compared.

    Args:
        samples: (..., S, B), for each of S seeds a figure on B resampled test sets; all seeds are
            tested on the same ones.

    Returns:
        (..., B) means. Of a single seed they are its figures, which tell nothing of other seeds.
    """
    seeds, count = samples.shape[-2:]
    drawn = np.random.default_rng(0).integers(seeds, size=(count, seeds))
    means = samples.mean(-2)
    spread = samples[..., drawn, np.arange(count)[:, None]].mean(-1) - means
    return means + _expansion(seeds) * spread


def _expansion(seeds: int) -> float:
    """By how much the spread of means of drawn seeds is too small."""
    if seeds < 2:
        return 1.0
    tail = (1 + LEVEL) / 2
    return math.sqrt(seeds / (seeds - 1)) * float(t.ppf(tail, seeds - 1) / norm.ppf(tail))


def bounds(samples: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The lower and upper bound of a bootstrap interval, by percentiles; NaN does not count.

    Args:
        samples: (B,) figures on resampled data.
        level: how often such intervals should hold what they are of.
    """
    low, high = np.nanpercentile(samples, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def interval(differences: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """A bootstrap interval of a mean difference: (S, B) as in :func:`resampled_means`."""
    return bounds(resampled_means(differences), level)


def share_above(samples: np.ndarray) -> float:
    """The share of (B,) samples above 0, where an exact 0 counts half: the probability of more."""
    return float(np.mean(samples > 0) + np.mean(samples == 0) / 2)
