"""One table of the results of all tasks, data sets and models."""

import numbers
from collections.abc import Iterator, Mapping
from typing import Any

from tabulate import tabulate


def results_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A table with a column per model and a row per metric, without metrics of single classes.

    Further columns name the task and, if there are several, the data set.

    Args:
        results: model name -> result of Detectron2's ``DefaultTrainer.test``: task -> metric ->
            value, or data set -> task -> metric -> value for several data sets.
    """
    columns = {name: dict(_figures(own)) for name, own in results.items()}
    rows = []
    for where in dict.fromkeys(where for figures in columns.values() for where in figures):
        values = [figures.get(where) for figures in columns.values()]
        rows.append([*where, *("-" if x is None else f"{x:.2f}" for x in values)])
    depth = max((len(row) for row in rows), default=0) - len(columns)
    padded = [[""] * (depth + len(columns) - len(row)) + row for row in rows]
    header = [*["data set", "task", "metric"][3 - depth :], *columns]
    return tabulate(padded, header, tablefmt="simple_outline", disable_numparse=True)


def _figures(
    results: Mapping[str, Any], where: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], float]]:
    for name, value in results.items():
        if isinstance(value, Mapping):
            yield from _figures(value, (*where, name))
        elif isinstance(value, numbers.Real) and "-" not in name:  # AP-dog, IoU-sky
            yield (*where, name), float(value)
