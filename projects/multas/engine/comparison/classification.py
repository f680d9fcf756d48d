"""Classification: the classes that runs take images for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode

from multas.engine.comparison.data import Data, Figures
from multas.engine.comparison.figures import Judged, class_blocks
from multas.engine.comparison.matrices import matrix_blocks
from multas.engine.comparison.pictures import open_canvas, save_picture
from multas.engine.comparison.predictions import Predictions
from multas.evaluation import ClassificationEvaluator
from multas.util.annotation import LABELS
from multas.util.document import Block, Heading, Paragraph, Picture


@dataclass(frozen=True)
class ClassificationResult:
    """A run judged by the classes of images.

    Attributes:
        figures: "classification/top1_error" and the like.
        image_scores: (N,) the probability of the true class of each image, as far as it is among
            the best; NaN without a label.
        counts: (K, K) int64, images by true (rows) and predicted class.
        found: the predictions.
    """

    figures: Figures
    image_scores: np.ndarray
    counts: np.ndarray
    found: Predictions


def judge_labels(
    cfg: CfgNode,
    data: Data,
    found: Predictions,
    validation: tuple[Data, Predictions] | None,
) -> ClassificationResult:
    """Judge the best classes of images; there is nothing to choose on the validation set."""
    names, best = data.classes(LABELS), found.classes
    size = max(len(names), int(best.max(initial=-1)) + 1)
    evaluator = ClassificationEvaluator(data.name)
    for number, record in enumerate(data.records):
        scores = torch.full((size,), -torch.inf)
        scores[torch.from_numpy(best[number])] = torch.from_numpy(found.probabilities[number])
        evaluator.process([dict(record)], [{"scores": scores}])
    judged: Mapping[str, Any] = evaluator.evaluate() or {}
    results = judged.get("classification", {})
    figures = {f"classification/{name}": float(value) for name, value in results.items()}
    labels = np.array([int(r.get(LABELS.dataset_key, -1)) for r in data.records])
    of_truth = (found.probabilities * (best == labels[:, None])).sum(axis=1, dtype=np.float64)
    known = labels >= 0
    counts = np.zeros((size, size), dtype=np.int64)
    np.add.at(counts, (labels[known], best[known, 0]), 1)
    totals = counts.sum(axis=1)
    for k in np.flatnonzero(totals[: len(names)]):
        figures[f"classification/accuracy-{names[k]}"] = float(100 * counts[k, k] / totals[k])
    return ClassificationResult(figures, np.where(known, of_truth, np.nan), counts, found)


def label_blocks(judged: Judged[ClassificationResult], folder: Path) -> list[Block]:
    """Classes and their confusion; plots are written to ``folder``."""
    counts = {name: result.counts for _, name, result in judged.entries()}
    images = next(iter(counts.values())).sum(axis=1).tolist()
    return [
        *class_blocks(judged, images, "images"),
        Heading("What images are taken for", 3),
        Paragraph("In percent, what the images of a class are taken for."),
        *matrix_blocks(judged, counts, judged.classes, folder),
    ]


def label_panels(
    judged: Judged[ClassificationResult], names: Sequence[str], number: int, folder: Path
) -> list[Picture]:
    """An image, with its true class and those that some runs see below it."""
    record, classes = judged.data.records[number], judged.classes
    said = [f"{record['image_id']}: {classes[int(record[LABELS.dataset_key])]}"]
    for _, name, result in judged.entries():
        if name in names:
            best = classes[result.found.classes[number, 0]]
            said.append(f"{name}: {best} {100 * result.found.probabilities[number, 0]:.0f}%")
    file = folder / f"image_{number}.jpg"
    return [save_picture(open_canvas(record).pixels, file, "; ".join(said))]
