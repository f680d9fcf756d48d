"""What an exported network costs and gains, in one table and in a file beside it."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from multas.data.json_files import read_json
from multas.evaluation.metric_names import lower_is_better
from multas.evaluation.summary import figures_by_place
from multas.util.errors import UserError
from multas.util.files import write_text

FILE = "export.json"  # in the folder of the exported files

# The figure of each task that may not drop; errors count as their negative.
_FIGURES = {"bbox": "AP", "sem_seg": "mIoU", "classification": "top1_error"}


@dataclass
class Row:
    """A network in one format.

    Attributes:
        name: of the format.
        size: of the file, in bytes.
        times: for an image, in milliseconds, of several calls.
        figures: see :func:`figures_of`; errors count as their negative.
        file: name of the file; "" if there is none.
    """

    name: str
    size: int
    times: list[float]
    figures: Mapping[str, float] = field(default_factory=dict)
    file: str = ""


def figures_of(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The figure of each task that was evaluated, higher is better.

    Args:
        results: of Detectron2's ``DefaultTrainer.test``: task -> figure -> value, or, of several
            data sets, data set -> task -> figure -> value.

    Returns:
        task -> figure, or, of several data sets, data set/task -> figure.
    """
    found = {}
    for place, figures in figures_by_place(results):
        name = _FIGURES.get("".join(place[-1:]), "")
        if name in figures:
            found["/".join(place)] = -figures[name] if lower_is_better(name) else figures[name]
    return found


def figure_name(task: str) -> str:
    """The whole name of the figure of a task, or of one of several data sets."""
    return f"{task}/{_FIGURES[task.rpartition('/')[2]]}"


def table(rows: Sequence[Row]) -> str:
    """File size, time and figures of all formats, and what they have lost."""
    header, lines = cells(rows)
    return tabulate(lines, header, tablefmt="simple_outline", disable_numparse=True)


def cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The header and the lines of that table."""
    tasks = list(rows[0].figures)
    header = ["format", "MB", "ms/image min", "median", "images/s"]
    for task in tasks:
        header += [figure_name(task), "difference"]
    lines = []
    for row in rows:
        middle = statistics.median(row.times)
        line = [row.name, f"{row.size / 1e6:.2f}", f"{min(row.times):.2f}", f"{middle:.2f}",
                f"{1000 / middle:.1f}"]  # fmt: skip
        for task in tasks:
            value, whole = row.figures.get(task), rows[0].figures[task]
            line += ["-", "-"] if value is None else [f"{abs(value):.2f}", f"{value - whole:+.2f}"]
        lines.append(line)
    return header, lines


def write_rows(folder: Path, network: str, rows: Sequence[Row]) -> None:
    """Note the rows of a network in FILE, beside those of other networks in this folder."""
    try:
        known: dict[str, Any] = _networks(folder)
    except UserError:  # a file of something else, or a damaged one
        known = {}
    known[network] = [asdict(row) for row in rows]
    write_text(folder / FILE, json.dumps(known, indent=1) + "\n")


def read_rows(folder: Path) -> dict[str, list[Row]]:
    """The rows of each network in a folder; nothing if there is no FILE.

    Raises:
        UserError: The file is damaged.
    """
    try:
        return {name: [Row(**row) for row in rows] for name, rows in _networks(folder).items()}
    except (TypeError, AttributeError):
        raise UserError(
            f"{folder / FILE} is not what tools/export.py writes; delete it, and export again."
        ) from None


def _networks(folder: Path) -> Any:
    file = folder / FILE
    return read_json(str(file)) if file.is_file() else {}


def listed(drops: Mapping[str, float]) -> str:
    """What was lost, in words."""
    return ", ".join(f"{drop:.2f} of {figure_name(task)}" for task, drop in drops.items())
