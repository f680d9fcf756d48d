"""The page that compares runs, from their folders to report.html."""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from multas.engine.checks.images import checked_images
from multas.engine.comparison import costs
from multas.engine.comparison.data import Figures, load_data
from multas.engine.comparison.differences import difference_blocks
from multas.engine.comparison.figures import METRICS, figures_grid
from multas.engine.comparison.history import history_blocks, path_blocks
from multas.engine.comparison.judging import TASKS, Comparison
from multas.engine.comparison.pseudo_labels import pseudo_label_blocks
from multas.engine.comparison.runs import Run, read_runs
from multas.engine.export_table import Row
from multas.util.annotation import BOXES, Annotation
from multas.util.document import Block, Heading, Paragraph, to_html
from multas.util.errors import UserError
from multas.util.files import write_text


def write_report(
    folders: Sequence[str | Path],
    output: str | Path,
    *,
    baseline: str | Path = "",
    datasets: Sequence[str] = (),
    chosen: str | Path = "",
    why: str = "",
) -> Path:
    """Compare runs on one page that holds its pictures and needs no network.

    Predictions are computed once and kept in the folders of the runs.

    Args:
        folders: OUTPUT_DIRs of trainings.
        output: the HTML file to write.
        baseline: one of the folders; "" = the first.
        datasets: registered data sets to judge on; none = DATASETS.TEST of the baseline.
        chosen: one of the folders, whose model the commands at the end use; "" = that of the run
            which is best where they are judged first.
        why: a sentence on that choice, for the top.

    Returns:
        The file.

    Raises:
        UserError: A folder is not that of a run, or the baseline is none of them.
    """
    runs = read_runs(folders)
    if baseline:
        first = _run_in(baseline, "baseline", runs)
        runs = [first, *(run for run in runs if run is not first)]
    used = _run_in(chosen, "choice", runs) if chosen else None
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as pictures, ExitStack() as stack:
        found = Comparison(runs, chosen=used, notes=[why] if why else [])
        blocks = _blocks(found, datasets, Path(pictures), stack)
        write_text(output, to_html(blocks, output.parent))
    return output


def _run_in(folder: str | Path, role: str, runs: Sequence[Run]) -> Run:
    for run in runs:
        if run.folder.resolve() == Path(folder).resolve():
            return run
    given = ", ".join(str(run.folder) for run in runs)
    raise UserError(f"The {role} {folder} is none of the runs that are compared: {given}.")


def _blocks(
    found: Comparison, datasets: Sequence[str], folder: Path, stack: ExitStack
) -> list[Block]:
    runs = found.runs
    found.notes += [fault for run in runs for fault in run.faults()]
    tests = list(datasets) or list(runs[0].cfg.DATASETS.TEST)
    if not tests:
        found.notes.append("The baseline has no DATASETS.TEST: name data sets to judge on.")
    for name in tests:
        try:
            stack.enter_context(checked_images(runs[0].cfg, [name]))
            data = load_data(name)
            for kind in (kind for kind in TASKS if kind in data.tasks):
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


def _verdicts(found: Comparison) -> list[Block]:
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


def _figures(found: Comparison) -> list[Block]:
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
    title = f"{TASKS[kind].title} on {data}, in percent"
    return [Heading(title), figures_grid(names, figures, kind)]


def _tasks(found: Comparison, folder: Path) -> list[Block]:
    blocks: list[Block] = []
    for number, judged in enumerate(found.judged):
        task, own = TASKS[judged.kind], _made(folder / f"task{number}")
        blocks.append(Heading(f"{task.title} on {judged.data.name} in detail"))
        blocks += task.blocks(judged, own)
        blocks += difference_blocks(judged, task.panels, task.measure, own, task.legend)
    return blocks


def _usage(found: Comparison) -> list[Block]:
    """Exported networks, and the commands that use the runs."""
    networks: dict[str, dict[str, list[Row]]] = {}
    for run in found.runs:
        try:
            networks[run.name] = costs.exported_networks(run)
        except UserError as error:
            found.notes.append(str(error))
    blocks = costs.deploy_blocks([own for own in networks.values() if own])
    used = found.chosen or found.best()
    if used is None:
        return blocks
    boxes = next((judged for judged in found.judged if judged.kind is BOXES), None)
    result = None if boxes is None else boxes.results.get(used.name)
    threshold = np.nan if result is None else float(result.thresholds[-1])
    return [*blocks, *costs.command_blocks(used, networks.get(used.name, {}), threshold)]
