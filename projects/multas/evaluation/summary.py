"""One table of the results of an evaluation: all tasks, data sets and models."""

import numbers
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from multas.evaluation.voc import METRICS
from multas.util.messages import Message
from multas.util.screen import as_text

_MANY = 20  # classes; of more only the best and the worst are shown
_SHOWN = 5

Figures = Mapping[str, float]


def results_message(results: Mapping[str, Mapping[str, Any]], final: str, title: str) -> Message:
    """The results of models as a message for the log: see :func:`results_table`."""
    table = Group(title, results_table(results, final))
    return Message(as_text(table), table)


def results_table(results: Mapping[str, Mapping[str, Any]], final: str) -> Group:
    """For each data set and task a line per model and a column per figure, and its classes.

    Figures that say the same in another metric (AP_area beside AP) are left out.

    Args:
        results: model name -> result of Detectron2's ``DefaultTrainer.test``: task -> figure ->
            value, or data set -> task -> figure -> value for several data sets.
        final: the model whose classes are shown.
    """
    found = {name: dict(figures_by_place(own)) for name, own in results.items()}
    places = list(dict.fromkeys(place for own in found.values() for place in own))
    width = max((len(name) for name in [*found, *map(" ".join, places)]), default=0)
    parts: list[Table | Text] = []
    for place in places:
        rows = {name: own[place] for name, own in found.items() if place in own}
        parts.append(_table(" ".join(place), rows, width))
        if final in rows and (classes := _in_words(rows[final])):
            parts.append(Text(classes))
    return Group(*parts)


def figures_by_place(
    results: Mapping[str, Any], where: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Figures]]:
    """The figures of each task at (task,), or at (data set, task) where there are several sets."""
    own = {name: float(x) for name, x in results.items() if isinstance(x, numbers.Real)}
    if own:
        yield where, own
    for name, value in results.items():
        if isinstance(value, Mapping):
            yield from figures_by_place(value, (*where, name))


def _table(title: str, rows: Mapping[str, Figures], width: int) -> Table:
    names = dict.fromkeys(name for figures in rows.values() for name in figures)
    shown = [n for n in names if "-" not in n and not n.endswith(tuple(f"_{m}" for m in METRICS))]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title, min_width=width)
    for name in shown:
        table.add_column(name, justify="right")
    for model, figures in rows.items():
        cells = (f"{figures[name]:.2f}" if name in figures else "-" for name in shown)
        table.add_row(model, *cells)
    return table


def _in_words(figures: Figures) -> str:
    """The first figure that each class has (AP-dog, IoU-sky), of all classes or of the extremes."""
    kind = next((name.partition("-")[0] for name in figures if "-" in name), "")
    start = f"{kind}-"
    classes = {n.removeprefix(start): x for n, x in figures.items() if kind and n.startswith(start)}
    if len(classes) < 2:
        return ""
    words = [f"{name} {value:.1f}" for name, value in classes.items()]
    if len(words) > _MANY:
        order = sorted(classes, key=lambda name: -classes[name])
        words = [f"{name} {classes[name]:.1f}" for name in order]
        words = [*words[:_SHOWN], "…", *words[-_SHOWN:]]
    return f"{kind} of classes: {', '.join(words)}"
