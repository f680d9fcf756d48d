"""The pseudo-labels that a run learned from: how good they are, and the worst of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode

from multas.data.card import UNLABELED
from multas.data.pseudo_label_files import read_pseudo_labels
from multas.data.pseudo_labels import load_pseudo_labels
from multas.engine.comparison.data import Data
from multas.engine.comparison.detection import DetectionResult, box_panels, detection_result
from multas.engine.comparison.figures import NOTHING, Judged
from multas.engine.comparison.matching import (
    best_thresholds,
    match,
    precision_recall_f1,
)
from multas.engine.comparison.pictures import BOX_LEGEND
from multas.engine.comparison.predictions import Predictions, predictions_of
from multas.engine.comparison.runs import Run
from multas.util.annotation import BOXES
from multas.util.document import Block, Gallery, Grid, Heading, Paragraph
from multas.util.errors import UserError

IMAGES = 6
MAX_IMAGES = 500  # of which a student is asked, where the truth is not known
NAME = "pseudo-labels"


def pseudo_label_blocks(runs: Sequence[Run], folder: Path) -> list[Block]:
    """What the files of DATASETS.PSEUDO_LABELS of all runs are worth, each file once.

    Raises:
        UserError: A file is missing or damaged, or its images are.
    """
    users: dict[str, Run] = {}
    for run in runs:
        for file in run.cfg.DATASETS.PSEUDO_LABELS.FILES:
            users.setdefault(file, run)
    blocks: list[Block] = []
    for number, (file, run) in enumerate(users.items()):
        own = folder / str(number)
        own.mkdir()
        title = "Pseudo-labels" if len(users) == 1 else f"Pseudo-labels of {Path(file).name}"
        blocks += [Heading(title), *_of_file(file, run, own)]
    return blocks


def _of_file(file: str, run: Run, folder: Path) -> list[Block]:
    header, _ = read_pseudo_labels(file)
    options = run.cfg.DATASETS.PSEUDO_LABELS
    boxes = load_pseudo_labels(
        [file],
        header.classes,
        score_thresh=options.SCORE_THRESH,
        class_score_thresh=options.CLASS_SCORE_THRESH,
        topk=options.TOPK,
    ).boxes
    count = sum(len(boxes[image_id]) for image_id in header.image_ids)
    intro = Paragraph(
        f"{run.name} learned from {count} boxes in {len(header.image_ids)} images of "
        f"{header.dataset}, as {header.teacher_weights or 'a teacher'} sees them."
    )
    truth = _known_truth(header.dataset, set(header.image_ids))
    if truth is not None:
        return [intro, *_against_truth(truth, boxes, header.classes, folder)]
    if header.dataset not in DatasetCatalog.list():
        return [
            intro,
            Paragraph(f"{header.dataset} is not registered here, so they are not shown."),
        ]
    if run.weights is None:
        return [intro]
    records = [r for r in DatasetCatalog.get(header.dataset) if r["image_id"] in boxes]
    return [intro, *_against_student(run, header.dataset, records, boxes, folder)]


def _known_truth(dataset: str, image_ids: set) -> Data | None:
    """The labelled images with the annotations that were withheld, if there are any."""
    name = dataset.removesuffix(UNLABELED)
    if name not in DatasetCatalog.list():
        return None
    try:
        records = [r for r in DatasetCatalog.get(name) if r["image_id"] in image_ids]
    except (UserError, OSError):  # a set without annotations has no files of them
        return None
    known = [r for r in records if BOXES.dataset_key in r]
    return Data(name, known) if any(r[BOXES.dataset_key] for r in known) else None


def _against_truth(
    truth: Data, boxes: Mapping[Any, list[dict]], classes: Sequence[str], folder: Path
) -> list[Block]:
    found = _as_predictions([boxes[r["image_id"]] for r in truth.records])
    matches = match(truth, found, len(classes))
    every = np.zeros(len(classes) + 1)
    judged = Judged(BOXES, truth, [NAME], {NAME: detection_result(truth, matches, every, {})})
    rows = []
    for k, name in enumerate([*classes, "all"]):
        shares = 100 * precision_recall_f1(matches, every, k)[:2]
        cells = [NOTHING if np.isnan(share) else f"{share:.1f}" for share in shares]
        rows.append([name, str(int(matches.of(k).sum())), str(matches.objects_of(k)), *cells])
    header = ["class", "boxes", "objects", "precision", "recall"]
    note = "Their annotations are known, though they were withheld from training. The worst images:"
    return [Grid(header, rows), Paragraph(note), BOX_LEGEND, *_worst(judged, folder)]


def _against_student(
    run: Run,
    dataset: str,
    records: Sequence[dict],
    boxes: Mapping[Any, list[dict]],
    folder: Path,
) -> list[Block]:
    step = -(-len(records) // MAX_IMAGES) or 1
    asked = list(records[::step])
    found = predictions_of(run, dataset, asked)
    labelled = Data(dataset, [{**r, BOXES.dataset_key: boxes[r["image_id"]]} for r in asked])
    matches = match(labelled, found, len(labelled.classes(BOXES)))
    thresholds = best_thresholds(matches)
    result = detection_result(labelled, matches, thresholds, {})
    judged = Judged(BOXES, labelled, [run.name], {run.name: result}, truth=NAME)
    part = f" in {len(asked)} of the images" if step > 1 else ""
    note = (
        f"The truth is not known. {run.name} and the pseudo-labels disagree most here{part}; one "
        "of them is wrong:"
    )
    legend = replace(
        BOX_LEGEND,
        entries=[
            (name, colour)
            for name, (_, colour) in zip(
                (NAME, "both", f"{run.name} alone", f"{NAME} alone (dashed)"),
                BOX_LEGEND.entries,
                strict=True,
            )
        ],
    )
    return [Paragraph(note), legend, *_worst(judged, folder)]


def _worst(judged: Judged[DetectionResult], folder: Path) -> list[Block]:
    ((_, name, result),) = judged.entries()
    wrong = np.flatnonzero(result.image_scores < 0)
    order = wrong[np.argsort(result.image_scores[wrong], kind="stable")][:IMAGES]
    if not len(order):
        return [Paragraph("There is none that is wrong.")]
    return [Gallery(box_panels(judged, [name], int(number), folder), width=260) for number in order]


def _as_predictions(boxes: Sequence[Sequence[dict]]) -> Predictions:
    """Pseudo-labels of images, as if a model had found them."""
    flat = [box for own in boxes for box in own]
    corners = [BoxMode.convert(box["bbox"], box["bbox_mode"], BoxMode.XYXY_ABS) for box in flat]
    return Predictions(
        tasks=("instances",),
        parameters=0,
        image=np.repeat(np.arange(len(boxes)), [len(own) for own in boxes]),
        category=np.array([box["category_id"] for box in flat], np.int64),
        score=np.array([box["score"] for box in flat], np.float32),
        boxes=np.array(corners, np.float32).reshape(-1, 4),
        masks=(),
        classes=np.zeros((0, 0), np.int64),
        probabilities=np.zeros((0, 0), np.float32),
    )
