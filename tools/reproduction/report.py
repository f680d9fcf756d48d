"""The report on a table: the paper's numbers beside ours, what failed, what it cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from multas.config.tables import Table
from multas.util.document import Block, Cell, Grid, Heading, Link, Paragraph, to_html, to_markdown
from multas.util.files import write_text
from reproduction.cells import NOTHING, measured, number
from reproduction.comparison import certain_numbers, certain_pairs, certain_summary
from reproduction.execution import State, States, duration
from reproduction.plots import labels_picture, path_pictures
from reproduction.results import (
    Result,
    cost_of,
    differences,
    log_of,
    metrics_of,
    order_of,
)
from reproduction.run import Run
from reproduction.runs import in_order
from reproduction.tables import METRICS

# What the rows of a scale are, and what can be said of them beside the paper's.
_SCALES = {
    "tiny": "small networks and short schedules",
    "small": "small networks that start from a source set and train for longer",
    "full": "the paper's schedule",
}
_COMPARED = (
    "what can be compared is the order of rows and the sign of differences, not the numbers."
)
_CLAIMS = {
    "tiny": "the rows show that each method runs. They end long before the networks have learned "
    "what they can, so that no order is claimed.",
    "small": _COMPARED,
    "full": _COMPARED,
}


@dataclass(frozen=True)
class Setting:
    """How the rows were run: scale, number of seeds, user's card and KEY VALUE pairs."""

    scale: str
    seeds: int
    card: str = ""
    opts: tuple[str, ...] = ()


def write_report(
    table: Table, results: Sequence[Result], states: States, setting: Setting, folder: Path
) -> Path:
    """Write report.md, report.html and their pictures.

    Args:
        table: the table of the paper.
        results: the results of its rows.
        states: the states of all runs.
        setting: the setting of the call.
        folder: the folder to write to.

    Returns:
        The Markdown file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The other scales have neither the seeds nor the schedules for it.
    is_certain = setting.scale == "small"
    summary, numbers = (certain_summary, certain_numbers) if is_certain else (_summary, _numbers)
    blocks = [*_introduction(table, results, setting), *summary(table, results)]
    columns = {name: list(g) for name, g in groupby(results, key=lambda r: r.row.column)}
    for column, members in columns.items():
        for metric in metrics_of(table, members):
            title = f"{column}: {METRICS[metric].title}"
            blocks += [Heading(title), numbers(members, metric)]
            blocks += certain_pairs(members, metric) if is_certain else []
    pictures = labels_picture(results, table.metrics[0], folder)
    if pictures:
        blocks += [Heading("Amount of labels"), *pictures]
    for title, picture in path_pictures(results, folder):
        blocks += [Heading(f"Path weights, {title}", 3), picture]
    blocks += _runs(results, states)
    write_text(folder / "report.html", to_html(blocks, folder))
    report = folder / "report.md"
    write_text(report, to_markdown(blocks, folder))
    return report


def _introduction(table: Table, results: Sequence[Result], setting: Setting) -> list[Block]:
    blocks: list[Block] = [Heading(f"{table.name}: {table.title}", 1)]
    data = f", on the data of {Path(setting.card).name}" if setting.card else ""
    seeds = (
        "one seed" if setting.seeds == 1 else f"{setting.seeds} seeds, mean ± standard deviation"
    )
    blocks.append(
        Paragraph(
            f'{table.place} of "{table.paper}", --scale {setting.scale} '
            f"({_SCALES[setting.scale]}){data}; {seeds}."
        )
    )
    others = sorted({result.row.data for result in results} - {""})
    if others or setting.card:
        source = f" are of {', '.join(others)}" if others else " are of its own data"
        blocks.append(
            Paragraph(f"The paper's numbers{source} and its networks: {_CLAIMS[setting.scale]}")
        )
    if setting.opts:
        blocks.append(Paragraph(f"Every run was changed by: {' '.join(setting.opts)}"))
    if setting.seeds == 1:
        blocks.append(Paragraph("One seed says nothing of the spread between seeds: see --seeds."))
    runs = [run for result in results for run in result.runs]
    if selecting := sum(run.selects_on_test for run in runs):
        blocks.append(
            Paragraph(
                f"In {selecting} of {len(runs)} trainings of rows the weights that are tested are "
                "chosen by the test set, as in the paper: their numbers are too good."
            )
        )
    bad = [state for r in results for state in r.states if not state.is_good]
    if bad:
        counts = ", ".join(f"{bad.count(s)} {s.value}" for s in State if s in bad)
        total = sum(len(r.states) for r in results)
        blocks.append(
            Paragraph(
                f"Not complete: of {total} trainings of rows, {counts}. The last table says which."
            )
        )
    return blocks


def _students(results: Sequence[Result]) -> list[Result]:
    return [result for result in results if not result.row.is_reference]


def _summary(table: Table, results: Sequence[Result]) -> list[Block]:
    rows: list[list[Cell]] = []
    for column, group in groupby(results, key=lambda r: r.row.column):
        members = list(group)
        for metric in metrics_of(table, members):
            order = order_of(members, metric)
            pairs = zip(members, differences(members, metric), strict=True)
            known = [d for r, d in pairs if d and _are_known(d) and not r.row.is_reference]
            same = sum(paper * ours > 0 for paper, ours in known)
            rows.append(
                [
                    column,
                    METRICS[metric].title,
                    f"{order.rows} of {sum(metric in r.row.paper for r in _students(members))}",
                    "yes" if order.holds else "no" if order.pairs else NOTHING,
                    f"{order.held} of {order.pairs}" if order.pairs else NOTHING,
                    number(order.tau),
                    f"{same} of {len(known)}" if known else NOTHING,
                ]
            )
    header = [
        "column",
        "metric",
        "rows compared",
        "paper's order holds",
        "pairs in its order",
        "Kendall's tau",
        "differences of the same sign",
    ]
    note = (
        "Teachers are shown but do not compete. Pairs that are equal in the paper do not count. A "
        "difference is that of a row to its baseline, named in the tables below."
    )
    return [Heading("Does the paper's order hold?"), Grid(header, rows), Paragraph(note)]


def _numbers(results: Sequence[Result], metric: str) -> Grid:
    # Where the paper has numbers, those without are rows of another metric.
    wanted = any(metric in r.row.paper for r in results)
    pairs = [
        (result, difference)
        for result, difference in zip(results, differences(results, metric), strict=True)
        if not wanted or metric in result.row.paper or result.values(metric)
    ]
    bases = {r.row.baseline for r, difference in pairs if difference}
    base = bases.pop() if len(bases) == 1 else "baseline"
    rows: list[list[Cell]] = []
    for result, difference in pairs:
        paper, ours = difference or (math.nan, math.nan)
        known = difference is not None and _are_known(difference)
        rows.append(
            [
                result.row.label,
                number(result.row.paper.get(metric, math.nan)),
                measured(result, metric),
                number(paper, "+.2f"),
                number(ours, "+.2f"),
                ("yes" if paper * ours > 0 else "no") if known else NOTHING,
            ]
        )
    header = ["row", "paper", "ours", f"paper − {base}", f"ours − {base}", "same sign"]
    return Grid(header, rows)


def _runs(results: Sequence[Result], states: Mapping[str, State]) -> list[Block]:
    runs = in_order(run for result in results for run in result.runs)
    rows: list[list[Cell]] = [
        [
            run.title,
            states[run.digest].value,
            duration(run.seconds),
            _hours([run]),
            Link("config", Path(run.config_file.partition("#")[0])),
            Link("log", log_of(run)) if log_of(run).is_file() else NOTHING,
        ]
        for run in runs
    ]
    header = ["run", "state", "training time", "cost", "config", "log"]
    total = Paragraph(
        f"{len(runs)} trainings, teachers that several rows share counted once: {_hours(runs)}. "
        "Times are of training iterations, without start, evaluation and what an interruption "
        "lost."
    )
    return [Heading("Runs and their cost"), Grid(header, rows), total]


def _hours(runs: Sequence[Run]) -> str:
    cost = cost_of(runs)
    return ", ".join(f"{hours:.3g} {kind} h" for kind, hours in cost.items()) or NOTHING


def _are_known(difference: tuple[float, float]) -> bool:
    return not any(map(math.isnan, difference))
