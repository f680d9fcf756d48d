"""Judging runs on the tasks of data sets, and what stands in the way of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from multas.engine.comparison.classification import judge_labels, label_blocks, label_panels
from multas.engine.comparison.data import Data, Figures, load_data, noted_figures, validation_set
from multas.engine.comparison.detection import box_blocks, box_panels, judge_boxes
from multas.engine.comparison.differences import Panels
from multas.engine.comparison.figures import METRICS, Judged
from multas.engine.comparison.pictures import BOX_LEGEND
from multas.engine.comparison.predictions import Predictions, predictions_of
from multas.engine.comparison.runs import Run
from multas.engine.comparison.segmentation import judge_masks, mask_blocks, mask_panels
from multas.util.annotation import BOXES, LABELS, MASKS, Annotation
from multas.util.document import Block
from multas.util.errors import UserError


class Task(NamedTuple):
    """How a task is judged and shown."""

    title: str
    output: str  # of a model
    judge: Callable[..., Any]
    blocks: Callable[[Judged, Path], list[Block]]
    panels: Panels
    measure: str  # of an image
    legend: Sequence[Block] = ()


TASKS = {
    BOXES: Task("Detection", "instances", judge_boxes, box_blocks, box_panels,
                 "wrong and missed boxes", (BOX_LEGEND,)),
    MASKS: Task("Segmentation", "sem_seg", judge_masks, mask_blocks, mask_panels, "mIoU"),
    LABELS: Task("Classification", "scores", judge_labels, label_blocks, label_panels,
                  "the probability of the true class"),
}  # fmt: skip


@dataclass
class Comparison:
    """What is found out about runs, the baseline first."""

    runs: Sequence[Run]
    chosen: Run | None = None  # the one to be used; None = the best one
    notes: list[str] = field(default_factory=list)  # why that one; what is missing or odd
    judged: list[Judged] = field(default_factory=list)
    noted: dict[str, dict[str, Figures]] = field(default_factory=dict)  # data set, run
    parameters: dict[str, int] = field(default_factory=dict)
    _known: dict[tuple[str, str], Predictions | None] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [run.name for run in self.runs]

    def predict(self, run: Run, data: Data) -> Predictions | None:
        """The predictions of a run; None, and a note, if there are none."""
        key = run.name, data.name
        if key not in self._known:
            self._known[key] = None
            try:
                found = predictions_of(run, data.name, list(data.records))
                self.parameters[run.name] = found.parameters
                self._known[key] = found
            except (UserError, OSError) as error:
                self.notes.append(f"{run.name} is not judged on {data.name}: {error}")
        return self._known[key]

    def judge(self, data: Data, kind: Annotation) -> None:
        """Judge all runs that can do it on one task of a data set."""
        task, results, cfg = TASKS[kind], {}, self.runs[0].cfg
        validation = self._validation(data) if kind is BOXES else None
        for run in self.runs:
            found = None if run.weights is None else self.predict(run, data)
            if found is None or task.output not in found.tasks:
                continue
            chosen = None if validation is None else self.predict(run, validation)
            pair = None if validation is None or chosen is None else (validation, chosen)
            results[run.name] = task.judge(cfg, data, found, pair)
            self._check_noted(run, data, kind, results[run.name].figures)
        if results:
            name = "" if validation is None else validation.name
            self.judged.append(Judged(kind, data, self.names, results, name))

    def _validation(self, data: Data) -> Data | None:
        """What thresholds are chosen on; None = ``data`` itself."""
        try:
            name = validation_set(self.runs[0].cfg, data, BOXES)
            return load_data(name) if name else None
        except (UserError, OSError) as error:
            self.notes.append(f"There is no validation set that can be read: {error}")
            return None

    def _check_noted(self, run: Run, data: Data, kind: Annotation, figures: Figures) -> None:
        """Say so if a run noted another figure than that of its predictions."""
        tests = run.cfg.DATASETS.TEST
        if data.name not in tests or run.cfg.TEST.EVALUATOR != self.runs[0].cfg.TEST.EVALUATOR:
            return
        metric = METRICS[kind][0]
        before = metric.of(noted_figures(str(run.folder), data.name, len(tests) > 1))
        now = metric.of(figures)
        if abs(before - now) > 0.1:
            self.notes.append(
                f"{run.name} noted {metric.title} {before:.2f} on {data.name} at its end, here it "
                f"is {now:.2f}: weights, annotations, SEM_SEG_RESOLUTION or the machine differ."
            )

    def take_noted(self, data: str) -> None:
        """Take the figures that the runs noted, where they cannot be judged."""
        for run in self.runs:
            tests = run.cfg.DATASETS.TEST
            if data in tests and (own := noted_figures(str(run.folder), data, len(tests) > 1)):
                self.noted.setdefault(data, {})[run.name] = own

    def best(self) -> Run | None:
        """The run with weights that is best where runs were judged first, or else the last one."""
        known = [run for run in self.runs if run.weights is not None]
        if not self.judged:
            return known[-1] if known else None
        first = self.judged[0]
        figures = {name: METRICS[first.kind][0].of(r.figures) for _, name, r in first.entries()}
        return max(known, key=lambda run: np.nan_to_num(figures.get(run.name, -1.0), nan=-1.0))
