"""The page that compares runs, from their folders to report.html."""

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from multas.engine.checks.images import checked_images
from multas.engine.comparison import costs
from multas.engine.comparison.classification import judge_labels, label_blocks, label_panels
from multas.engine.comparison.data import Data, Figures, load_data, noted_figures, validation_set
from multas.engine.comparison.detection import box_blocks, box_panels, judge_boxes
from multas.engine.comparison.differences import Panels, difference_blocks
from multas.engine.comparison.figures import METRICS, Judged, figures_grid
from multas.engine.comparison.history import history_blocks, path_blocks
from multas.engine.comparison.pictures import BOX_LEGEND
from multas.engine.comparison.predictions import Predictions, predictions_of
from multas.engine.comparison.pseudo_labels import pseudo_label_blocks
from multas.engine.comparison.runs import Run, read_runs
from multas.engine.comparison.segmentation import judge_masks, mask_blocks, mask_panels
from multas.engine.export_table import Row
from multas.util.annotation import BOXES, LABELS, MASKS, Annotation
from multas.util.document import Block, Heading, Paragraph, to_html
from multas.util.errors import UserError
from multas.util.files import write_text

logger = logging.getLogger(__name__)


class _Task(NamedTuple):
    """How a task is judged and shown."""

    title: str
    output: str  # of a model
    judge: Callable[..., Any]
    blocks: Callable[[Judged, Path], list[Block]]
    panels: Panels
    measure: str  # of an image
    legend: Sequence[Block] = ()


_TASKS = {
    BOXES: _Task("Detection", "instances", judge_boxes, box_blocks, box_panels,
                 "wrong and missed boxes", (BOX_LEGEND,)),
    MASKS: _Task("Segmentation", "sem_seg", judge_masks, mask_blocks, mask_panels, "mIoU"),
    LABELS: _Task("Classification", "scores", judge_labels, label_blocks, label_panels,
                  "the probability of the true class"),
}  # fmt: skip


@dataclass
class _Comparison:
    """What is found out about runs, the baseline first."""

    runs: Sequence[Run]
    notes: list[str] = field(default_factory=list)  # what is missing or odd
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
        task, results, cfg = _TASKS[kind], {}, self.runs[0].cfg
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


def write_report(
    folders: Sequence[str | Path],
    output: str | Path,
    *,
    baseline: str | Path = "",
    datasets: Sequence[str] = (),
) -> Path:
    """Compare runs on one page that holds its pictures and needs no network.

    Predictions are computed once and kept in the folders of the runs.

    Args:
        folders: OUTPUT_DIRs of trainings.
        output: the HTML file to write.
        baseline: one of the folders; "" = the first.
        datasets: registered data sets to judge on; none = DATASETS.TEST of the baseline.

    Returns:
        The file.

    Raises:
        UserError: A folder is not that of a run, or the baseline is none of them.
    """
    first = [folder for folder in folders if Path(folder).resolve() == Path(baseline).resolve()]
    if baseline and not first:
        given = ", ".join(map(str, folders))
        raise UserError(f"The baseline {baseline} is none of the runs that are compared: {given}.")
    runs = read_runs([*first, *folders] if baseline else folders)
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as pictures, ExitStack() as stack:
        blocks = _blocks(runs, datasets, Path(pictures), stack)
        write_text(output, to_html(blocks, output.parent))
    return output


def _blocks(
    runs: Sequence[Run], datasets: Sequence[str], folder: Path, stack: ExitStack
) -> list[Block]:
    found = _Comparison(runs)
    found.notes += [fault for run in runs for fault in run.faults()]
    tests = list(datasets) or list(runs[0].cfg.DATASETS.TEST)
    if not tests:
        found.notes.append("The baseline has no DATASETS.TEST: name data sets to judge on.")
    for name in tests:
        try:
            stack.enter_context(checked_images(runs[0].cfg, [name]))
            data = load_data(name)
            for kind in (kind for kind in _TASKS if kind in data.tasks):
                found.judge(data, kind)
            if not data.tasks:
                found.notes.append(f"{name} is not annotated, so that nothing is judged there.")
        except (UserError, OSError) as error:
            found.notes.append(f"Nothing is judged on {name}: {error}")
        if not any(judged.data.name == name for judged in found.judged):
            found.take_noted(name)
    body = [*_figures(found), *_tasks(found, folder)]
    for part, make in (("history", history_blocks), ("paths", path_blocks)):
        body += make(runs, _made(folder / part))
    try:
        body += pseudo_label_blocks(runs, _made(folder / "pseudo_labels"))
    except (UserError, OSError) as error:
        found.notes.append(f"Pseudo-labels are not shown: {error}")
    body += costs.cost_blocks(runs, found.parameters)
    body += _usage(found)
    return [Heading(_title(runs), 1), *_verdicts(found), *map(Paragraph, found.notes), *body]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _title(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return f"The run {runs[0].name}"
    others = runs[1].name if len(runs) == 2 else f"{len(runs) - 1} runs"
    return f"{others} compared with {runs[0].name}"


def _verdicts(found: _Comparison) -> list[Block]:
    """What each run gains, in a sentence."""
    blocks: list[Block] = []
    for judged in found.judged:
        metric = METRICS[judged.kind][0]
        (_, first, base), *others = judged.entries()
        if first != found.names[0]:
            continue
        for _, name, result in others:
            value = metric.of(result.figures)
            gain = value - metric.of(base.figures)
            than = f"{abs(gain):.2f} {'more' if gain >= 0 else 'less'} than {first}"
            text = f"{name} has {metric.title} {value:.2f} on {judged.data.name}, {than}."
            blocks.append(Paragraph(text))
    return blocks


def _figures(found: _Comparison) -> list[Block]:
    blocks: list[Block] = []
    for judged in found.judged:
        figures = {name: result.figures for _, name, result in judged.entries()}
        blocks += _figures_of(judged.data.name, judged.kind, figures, found.names)
    for data, figures in found.noted.items():
        for kind, metrics in METRICS.items():
            if any(metric.key in own for metric in metrics for own in figures.values()):
                blocks += _figures_of(data, kind, figures, found.names)
        blocks.append(Paragraph("These are the figures that the runs noted at their end."))
    return blocks


def _figures_of(
    data: str, kind: Annotation, figures: Mapping[str, Figures], names: Sequence[str]
) -> list[Block]:
    title = f"{_TASKS[kind].title} on {data}, in percent"
    return [Heading(title), figures_grid(names, figures, kind)]


def _tasks(found: _Comparison, folder: Path) -> list[Block]:
    blocks: list[Block] = []
    for number, judged in enumerate(found.judged):
        task, own = _TASKS[judged.kind], _made(folder / f"task{number}")
        blocks.append(Heading(f"{task.title} on {judged.data.name} in detail"))
        blocks += task.blocks(judged, own)
        blocks += difference_blocks(judged, task.panels, task.measure, own, task.legend)
    return blocks


def _usage(found: _Comparison) -> list[Block]:
    """Exported networks, and the commands that use the runs."""
    networks: dict[str, dict[str, list[Row]]] = {}
    for run in found.runs:
        try:
            networks[run.name] = costs.exported_networks(run)
        except UserError as error:
            found.notes.append(str(error))
    blocks = costs.deploy_blocks([own for own in networks.values() if own])
    best = _best(found)
    if best is None:
        return blocks
    boxes = next((judged for judged in found.judged if judged.kind is BOXES), None)
    result = None if boxes is None else boxes.results.get(best.name)
    threshold = np.nan if result is None else float(result.thresholds[-1])
    return [*blocks, *costs.command_blocks(best, networks.get(best.name, {}), threshold)]


def _best(found: _Comparison) -> Run | None:
    """The run with weights that is best where it was judged first, or else the last one."""
    judged = [run for run in found.runs if run.weights is not None]
    if not found.judged:
        return judged[-1] if judged else None
    first = found.judged[0]
    figures = {name: METRICS[first.kind][0].of(r.figures) for _, name, r in first.entries()}
    return max(judged, key=lambda run: np.nan_to_num(figures.get(run.name, -1.0), nan=-1.0))
