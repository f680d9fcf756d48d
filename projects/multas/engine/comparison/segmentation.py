"""Segmentation: the classes that runs take pixels for. Masks are compared at the image's size."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode

from multas.engine.comparison.data import Data, Figures
from multas.engine.comparison.figures import Judged, class_blocks
from multas.engine.comparison.matrices import matrix_blocks
from multas.engine.comparison.pictures import draw_mask, open_canvas
from multas.engine.comparison.predictions import Predictions
from multas.evaluation.sem_seg import confusion_matrix, segmentation_metrics
from multas.util.annotation import MASKS
from multas.util.document import Block, Heading, Paragraph, Picture
from multas.util.errors import UserError


@dataclass(frozen=True)
class SegmentationResult:
    """A run judged by masks.

    Attributes:
        figures: "sem_seg/mIoU" and the like.
        image_scores: (N,) the mIoU of each image.
        counts: (K, K) int64, pixels by true (rows) and predicted class.
        found: the predictions.
    """

    figures: Figures
    image_scores: np.ndarray
    counts: np.ndarray
    found: Predictions


def judge_masks(
    cfg: CfgNode,
    data: Data,
    found: Predictions,
    validation: tuple[Data, Predictions] | None,
) -> SegmentationResult:
    """Judge masks; there is nothing to choose on the validation set.

    Raises:
        UserError: A mask has another size than its image, or unknown classes.
    """
    names, ignored = data.classes(MASKS), data.metadata.get("ignore_label", 255)
    total = np.zeros((len(names) + 1,) * 2, dtype=np.int64)
    scores = np.full(len(data.records), np.nan)
    for number, record in enumerate(data.records):
        truth = data.true_mask(number)
        if truth is None:
            continue
        mask = found.mask(number)
        if mask.shape != truth.shape:
            raise UserError(
                f"{record[MASKS.dataset_key]} is {truth.shape} but the image of {mask.shape}."
            )
        own = confusion_matrix(mask, truth, len(names), ignored)
        total += own
        if own[:, :-1].any():
            scores[number] = segmentation_metrics(own)[0]["mIoU"] / 100
    figures: Figures = {}
    if total[:, :-1].any():
        means, per_class = segmentation_metrics(total)
        figures = {f"sem_seg/{name}": value for name, value in means.items()}
        for name, value in zip(names, per_class["IoU"], strict=True):
            figures[f"sem_seg/IoU-{name}"] = float(value)
    return SegmentationResult(figures, scores, total[:-1, :-1].T, found)


def mask_blocks(judged: Judged[SegmentationResult], folder: Path) -> list[Block]:
    """Classes and their confusion; plots are written to ``folder``."""
    counts = {name: result.counts for _, name, result in judged.entries()}
    pixels = next(iter(counts.values())).sum(axis=1).tolist()
    note = "In percent, what the pixels of a class are taken for."
    return [
        *class_blocks(judged, pixels, "pixels"),
        Heading("Which pixels are taken for what", 3),
        Paragraph(note),
        *matrix_blocks(judged, counts, judged.classes, folder),
    ]


def mask_panels(
    judged: Judged[SegmentationResult], names: Sequence[str], number: int, folder: Path
) -> list[Picture]:
    """An image with its true classes, and with those that some runs see."""
    data, canvas = judged.data, open_canvas(judged.data.records[number])
    stem = f"image_{number}"
    truth = data.true_mask(number)
    panels = []
    if truth is not None:
        text = f"{data.records[number]['image_id']}: {judged.truth}"
        panels.append(draw_mask(canvas, truth, judged.classes, folder / f"{stem}.jpg", text))
    for i, name, result in judged.entries():
        if name in names:
            text = f"{name}: mIoU {100 * result.image_scores[number]:.0f}"
            file = folder / f"{stem}_{i}.jpg"
            panels.append(draw_mask(canvas, result.found.mask(number), judged.classes, file, text))
    return panels
