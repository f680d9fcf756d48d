"""The report on a rehearsal: how far each row came, and how many epochs it has in earnest."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from multas.engine.report import final_values
from multas.util.document import Block, Cell, Grid, Heading, Link, Paragraph, to_html, to_markdown
from multas.util.files import write_text
from reproduction.cells import NOTHING, number
from reproduction.execution import State, States
from reproduction.hours import IMAGES
from reproduction.rehearsal_record import INTERRUPT_AFTER, ITERATIONS, read_record
from reproduction.rows import Row
from reproduction.run import Run
from reproduction.runs import merged

_ERROR_LENGTH = 160  # characters


def epochs_of(address: str) -> float:
    """The epochs of a row at its paper's scale; NaN where the number of its images is not known."""
    cfg = merged(address, [])
    if cfg.SOLVER.EPOCHS:
        return float(cfg.SOLVER.EPOCHS)
    images = IMAGES.get(address.partition("#")[2].partition("/")[0])
    if not isinstance(images, int):
        return math.nan
    return float(cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH / images)


def write_rehearsal(
    plans: Mapping[str, Sequence[tuple[Row, tuple[Run, ...]]]],
    asked: Sequence[Run],
    states: States,
    data: str,
    folder: Path,
) -> Path:
    """Write report.md and report.html.

    Args:
        plans: the rows of each table with their runs.
        asked: the runs that were to be rehearsed; other rows are left out.
        states: the states of all runs.
        data: the folder of real data; "" = the miniatures.
        folder: the folder to write to.

    Returns:
        The Markdown file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    good = sum(states[run.digest].is_good for run in asked)
    where = f"on the data in {Path(data).name}" if data else "on drawn images in the real layouts"
    header = ["row", "built", "trained", "resumed", "evaluated", "epochs", "images/s", "log"]
    blocks: list[Block] = [
        Heading("Rehearsal at full scale", 1),
        Paragraph(
            f"{good} of {len(asked)} trainings came to their end, {where}: {ITERATIONS} "
            f"iterations, interrupted after {INTERRUPT_AFTER} and resumed, with the networks, "
            "classes, teachers and losses of the papers, and with fewer and smaller images in a "
            "batch. Epochs are those of the recipe; images/s are of the last iteration of the "
            "rehearsal on this machine. It says nothing of how good a row is."
        ),
    ]
    digests = {run.digest for run in asked}
    for name, plan in plans.items():
        shown = [(row, runs) for row, runs in plan if runs[0].digest in digests]
        blocks += [Heading(name)] if shown else []
        for column, group in groupby(shown, key=lambda pair: pair[0].column):
            rows = [_cells(row, own, states) for row, own in group]
            blocks += [Heading(column, 3), Grid(header, rows)]
    if faults := [run for run in asked if not states[run.digest].is_good]:
        rows = [[run.title, _fault(run, states)] for run in faults]
        blocks += [Heading("What failed"), Grid(["run", "why"], rows)]
    write_text(folder / "report.html", to_html(blocks, folder))
    report = folder / "report.md"
    write_text(report, to_markdown(blocks, folder))
    return report


def _cells(row: Row, runs: Sequence[Run], states: States) -> list[Cell]:
    run = runs[0]
    record, is_good = read_record(run.folder), states[run.digest].is_good
    seconds = record.get("seconds", 0)
    steps = [
        bool(record.get("built")),
        record.get("trained", 0) >= ITERATIONS,
        record.get("resumed", 0) > 0,
        is_good and bool(final_values(str(run.folder))),
    ]
    log: Cell = Link("log", run.console) if run.console.is_file() else NOTHING
    if not is_good and states[run.digest] is not State.FAILED:
        log = states[run.digest].value
    return [
        row.label,
        *("yes" if done else "no" for done in steps),
        number(epochs_of(row.address), ".1f"),
        number(record["images"] / seconds, ".2g") if seconds else NOTHING,
        log,
    ]


def _fault(run: Run, states: States) -> str:
    """One line that says why a run is not finished."""
    if states[run.digest] is not State.FAILED:
        return states[run.digest].value
    line = read_record(run.folder).get("error", "")
    return f"{line[:_ERROR_LENGTH]} …" if len(line) > _ERROR_LENGTH else line
