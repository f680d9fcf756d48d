"""Detection: what runs find and miss, class by class and image by image."""

import contextlib
import io
import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode

from multas.engine.comparison.data import Data, Figures
from multas.engine.comparison.figures import NOTHING, Judged, class_blocks, most
from multas.engine.comparison.matching import (
    FROM_ZERO,
    Matches,
    best_thresholds,
    confusion,
    kept,
    match,
    mistakes,
    precision_curve,
    precision_recall_f1,
)
from multas.engine.comparison.matrices import matrix_blocks
from multas.engine.comparison.pictures import (
    MISSED,
    RIGHT,
    WRONG,
    Box,
    draw_boxes,
    open_canvas,
    true_boxes,
)
from multas.engine.comparison.plots import colour_of, plot_curves
from multas.engine.comparison.predictions import Predictions, figures_of
from multas.evaluation.build import BOX_TYPES, EVALUATOR_REGISTRY, chosen_types
from multas.util.annotation import BOXES
from multas.util.document import Block, Gallery, Grid, Heading, Legend, Paragraph, Picture

MAX_CURVES = 20  # classes with plots of their own
BACKGROUND = "background"


@dataclass(frozen=True)
class DetectionResult:
    """A run judged by boxes.

    Attributes:
        figures: "bbox/AP" and the like.
        matches: its detections with what they hit.
        thresholds: (K+1,) the best score threshold of each class and of all; NaN = unknown.
        image_scores: (N,) the wrong boxes and missed objects of each image, negative.
    """

    figures: Figures
    matches: Matches
    thresholds: np.ndarray
    image_scores: np.ndarray


def judge_boxes(
    cfg: CfgNode,
    data: Data,
    found: Predictions,
    validation: tuple[Data, Predictions] | None,
) -> DetectionResult:
    """Judge detections by the evaluator that ``cfg`` chooses, and at the best thresholds.

    ``validation`` is the data set that thresholds are chosen on; None = ``data`` itself.
    """
    classes = len(data.classes(BOXES))
    matches = match(data, found, classes)
    chosen = matches if validation is None else match(*validation, classes)
    thresholds = best_thresholds(chosen)
    types = sorted(set(BOX_TYPES) & set(chosen_types(cfg, data.name)))
    truth = [
        array.tobytes() for array in vars(data.truth).values() if isinstance(array, np.ndarray)
    ]
    facts: list[bytes | str] = [*types, str(cfg.TEST), data.name, *truth]
    figures = figures_of(found, facts, lambda: _figures(cfg, data, found, types))
    return detection_result(data, matches, thresholds, figures)


def detection_result(
    data: Data, matches: Matches, thresholds: np.ndarray, figures: Figures
) -> DetectionResult:
    """The result of matches, with what is wrong in each image at the thresholds."""
    scores = np.append(-1.0 * mistakes(matches, thresholds), np.nan)[data.numbers]
    return DetectionResult(figures, matches, thresholds, scores)


def _figures(cfg: CfgNode, data: Data, found: Predictions, types: Iterable[str]) -> Figures:
    figures: Figures = {}
    for kind in types:
        # pycocotools prints its table.
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            evaluator = EVALUATOR_REGISTRY.get(kind)(cfg, data.name, folder)
            evaluator.reset()
            for number, record in enumerate(data.records):
                size = record.get("height", 0), record.get("width", 0)
                evaluator.process([record], [{"instances": found.instances(number, size)}])
            results = (evaluator.evaluate() or {}).get("bbox", {})
        figures |= {f"bbox/{name}": float(value) for name, value in results.items()}
    if len(names := data.classes(BOXES)) == 1 and "bbox/AP" in figures:
        figures.setdefault(f"bbox/AP-{names[0]}", figures["bbox/AP"])  # COCO leaves it out
    return figures


def box_blocks(judged: Judged[DetectionResult], folder: Path) -> list[Block]:
    """Classes, precision and recall, thresholds and confusion; plots are written to ``folder``."""
    objects = judged.entries()[0][2].matches.objects.tolist()
    return [
        *class_blocks(judged, objects, "objects"),
        *_curves(judged, folder),
        *_thresholds(judged),
        *_confusions(judged, folder),
    ]


def _curves(judged: Judged[DetectionResult], folder: Path) -> list[Block]:
    entries, names = judged.entries(), judged.classes
    objects = entries[0][2].matches.objects
    present = np.flatnonzero(objects).tolist()
    mean = [len(names)] if len(present) != 1 else []
    shown = [*mean, *most(present, objects[present].tolist(), MAX_CURVES)]
    pictures = []
    for k in shown:
        title = names[k] if k < len(names) else "mean of the classes"
        curves = {i: precision_curve(result.matches, k) for i, _, result in entries}
        at = {i: precision_recall_f1(r.matches, r.thresholds, k) for i, _, r in entries}
        points = {
            i: (p[1:2], p[:1]) for i, p in at.items() if k < len(names) and np.isfinite(p).all()
        }
        file = folder / f"precision_{k}.svg"
        axes = ("recall", "precision")
        plot_curves(file, title, axes, curves, points=points, unit=True)
        pictures.append(Picture(file, f"precision and recall, {title}"))
    note = (
        "At IoU 0.5. A curve has the best precision at a recall or at a higher one; a dot is where "
        "the best threshold of the class lies."
    )
    if len(present) > MAX_CURVES:
        note += f" Of {len(present)} classes the {MAX_CURVES} most frequent have a plot."
    legend = Legend([(name, colour_of(i)) for i, name, _ in entries])
    return [Heading("Precision and recall", 3), Paragraph(note), legend, Gallery(pictures)]


def _thresholds(judged: Judged[DetectionResult]) -> list[Block]:
    entries, names = judged.entries(), judged.classes
    objects = entries[0][2].matches.objects
    present = np.flatnonzero(objects).tolist()
    header = ["class"]
    for _, name, _ in entries:
        header += [name, "F1"]
    rows = []
    together = [len(names)] if len(names) > 1 else []
    for k in [*most(present, objects[present].tolist()), *together]:
        row = [names[k] if k < len(names) else "all, with one threshold"]
        for _, _, result in entries:
            f1 = precision_recall_f1(result.matches, result.thresholds, k)[2]
            known = not math.isnan(result.thresholds[k])
            row += [f"{result.thresholds[k]:.3f}", f"{100 * f1:.1f}"] if known else [NOTHING] * 2
        rows.append(row)
    source = (
        f"Chosen on {judged.validation} and judged on {judged.data.name}."
        if judged.validation
        else f"Chosen on {judged.data.name} itself, since the config has no validation set: the F1 "
        "is optimistic."
    )
    note = Paragraph(f"The score from which on detections are shown, with the best F1. {source}")
    return [Heading("Best score thresholds", 3), note, Grid(header, rows)]


def _confusions(judged: Judged[DetectionResult], folder: Path) -> list[Block]:
    entries = judged.entries()
    counts = {name: confusion(r.matches, r.thresholds) for _, name, r in entries}
    note = (
        "At IoU 0.5 and the best threshold of each class: in percent, what the objects of a class "
        "are taken for (background: missed), and in the last row the classes of boxes where there "
        "is no object."
    )
    names = [*judged.classes, BACKGROUND]
    return [
        Heading("What is taken for what", 3),
        Paragraph(note),
        *matrix_blocks(judged, counts, names, folder, always=len(names) - 1),
    ]


def box_panels(
    judged: Judged[DetectionResult], names: Sequence[str], number: int, folder: Path
) -> list[Picture]:
    """An image with its objects, and with what each of some runs finds at its best thresholds."""
    record, classes = judged.data.records[number], judged.classes
    stem, canvas = f"image_{number}", open_canvas(record)
    objects = true_boxes(record.get(BOXES.dataset_key, ()), classes)
    caption = f"{record['image_id']}: {judged.truth}"
    panels = [draw_boxes(canvas, objects, folder / f"{stem}.jpg", caption)]
    for i, name, result in judged.entries():
        if name in names:
            boxes = _drawn(result, int(judged.data.numbers[number]), classes)
            counts = (sum(b.colour == c for b in boxes) for c in (RIGHT, WRONG, MISSED))
            text = f"{name}: {{}} right, {{}} wrong, {{}} missed".format(*counts)
            panels.append(draw_boxes(canvas, boxes, folder / f"{stem}_{i}.jpg", text))
    return panels


def _drawn(result: DetectionResult, image: int, classes: Sequence[str]) -> list[Box]:
    """What is shown of an image: what was found, right or wrong, and what was missed."""
    matches, truth = result.matches, result.matches.truth
    rows = np.flatnonzero((matches.image == image) & kept(matches, result.thresholds))
    found = [
        Box(
            matches.boxes[row] - FROM_ZERO,
            f"{classes[matches.category[row]]} {100 * matches.score[row]:.0f}%",
            RIGHT if matches.hits[row] else WRONG,
        )
        for row in rows
    ]
    free = (truth.image == image) & ~truth.difficult
    free[matches.object[rows][matches.hits[rows]]] = False
    missed = np.flatnonzero(free)
    return [Box(truth.boxes[j] - FROM_ZERO, "", MISSED) for j in missed] + found
