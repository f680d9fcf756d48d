"""The comparison of rows in a report where it may be decided: with intervals."""

import math
from collections.abc import Sequence
from itertools import groupby

from multas.config.tables import Table
from multas.util.document import Block, Cell, Grid, Heading, Paragraph
from reproduction.cells import NOTHING, measured, number
from reproduction.certainty import (
    MIN_SEEDS,
    UNDECIDED,
    Difference,
    agreement,
    difference,
    is_by_image,
)
from reproduction.results import Result, differences, metrics_of, order_of
from reproduction.tables import METRICS


def certain_summary(table: Table, results: Sequence[Result]) -> list[Block]:
    """Kendall's tau of each column and metric with its interval, and what it says."""
    rows: list[list[Cell]] = []
    alone: list[str] = []
    for column, group in groupby(results, key=lambda r: r.row.column):
        members = list(group)
        for metric in metrics_of(table, members):
            order, sure = order_of(members, metric), agreement(members, metric)
            rows.append(
                [
                    column,
                    METRICS[metric].title,
                    str(order.rows),
                    number(order.tau),
                    _interval(sure.low, sure.high, ".2f") if sure else NOTHING,
                    sure.verdict if sure else NOTHING,
                ]
            )
            if any(r.values(metric) and not is_by_image(r, metric) for r in members):
                alone.append(METRICS[metric].name)
    header = ["column", "metric", "rows compared", "Kendall's tau", "95 % interval", "order"]
    note = (
        "Teachers are shown but do not compete. An interval is a bootstrap over seeds and test "
        "images in pairs: the same ones are drawn for all rows. A row is called better or worse, "
        "and an order the paper's or another, only where the interval excludes 0, and never with "
        f"fewer than {MIN_SEEDS} seeds."
    )
    blocks: list[Block] = [Heading("Which order do the rows have?"), Grid(header, rows)]
    blocks.append(Paragraph(note))
    if alone:
        names = ", ".join(dict.fromkeys(alone))
        blocks.append(Paragraph(f"{names}: the evaluation does not tell what each image adds; "
                                "the bootstrap is over seeds alone."))  # fmt: skip
    return blocks


def certain_numbers(results: Sequence[Result], metric: str) -> Grid:
    """The rows of a column: the paper's number, ours, and the difference to the baseline."""
    by_name = {result.row.name: result for result in results}
    rows: list[list[Cell]] = []
    for result, known in zip(results, differences(results, metric), strict=True):
        base = by_name.get(result.row.baseline)
        found = difference(result, base, metric) if base and base is not result else None
        cells: list[Cell] = [
            result.row.label,
            number(result.row.paper.get(metric, math.nan)),
            measured(result, metric),
            number(known[0] if known else math.nan, "+.2f"),
        ]
        if found is None:
            rows.append([*cells, NOTHING, NOTHING, NOTHING, NOTHING])
            continue
        sign = -1 if METRICS[metric].lower_is_better else 1
        ends = sorted((sign * found.low, sign * found.high))
        cells += [number(sign * found.mean, "+.2f"), _interval(ends[0], ends[1], "+.2f")]
        rows.append([*cells, f"{found.probability:.2f}", found.verdict])
    bases = {r.row.baseline for r in results if r.row.baseline not in ("", r.row.name)}
    base_name = bases.pop() if len(bases) == 1 else "baseline"
    header = ["row", "paper", "ours", f"paper − {base_name}", f"ours − {base_name}",
              "95 % interval", "probability to be better", "verdict"]  # fmt: skip
    return Grid(header, rows)


def certain_pairs(results: Sequence[Result], metric: str) -> list[Block]:
    """Each finished row against each other one; nothing for fewer than three that compete."""
    known = [r for r in results if r.values(metric) and not r.row.is_reference]
    if len(known) < 3:
        return []
    rows: list[list[Cell]] = []
    for i, result in enumerate(known):
        found = [difference(result, other, metric) for other in known]
        cells = [_decided(x) if j != i else "" for j, x in enumerate(found)]
        rows.append([f"{i + 1}. {result.row.label}", *cells])
    header = ["row", *(f"{i + 1}." for i in range(len(known)))]
    note = (
        "By how much the row of a line is better than that of a column, where the interval of the "
        "pair excludes 0; of twenty pairs of equal rows, one is expected to look so by chance."
    )
    return [Grid(header, rows), Paragraph(note)]


def _decided(found: Difference | None) -> str:
    if found is None:
        return NOTHING
    return "·" if found.verdict == UNDECIDED else f"{found.mean:+.2f}"


def _interval(low: float, high: float, form: str) -> str:
    return f"{low:{form}} … {high:{form}}"
