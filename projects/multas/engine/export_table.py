"""What an exported network costs and gains, in one table."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tabulate import tabulate

# The figure of each task that may not drop; errors count as their negative.
_FIGURES = {"bbox": "AP", "sem_seg": "mIoU", "classification": "top1_error"}


@dataclass
class Row:
    """A network in one format: its file, time for an image in ms, and figures by task."""

    name: str
    size: int
    times: list[float]
    figures: Mapping[str, float] = field(default_factory=dict)


def figures_of(results: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The figure of each task that was evaluated, higher is better."""
    found = {}
    for task, name in _FIGURES.items():
        if name in results.get(task, {}):
            value = float(results[task][name])
            found[task] = -value if name.endswith("_error") else value
    return found


def table(rows: Sequence[Row]) -> str:
    """File size, time and figures of all formats, and what they have lost."""
    tasks = list(rows[0].figures)
    header = ["format", "MB", "ms/image min", "median", "images/s"]
    for task in tasks:
        header += [f"{task}/{_FIGURES[task]}", "difference"]
    lines = []
    for row in rows:
        middle = statistics.median(row.times)
        line = [row.name, f"{row.size / 1e6:.2f}", f"{min(row.times):.2f}", f"{middle:.2f}",
                f"{1000 / middle:.1f}"]  # fmt: skip
        for task in tasks:
            value, whole = row.figures.get(task), rows[0].figures[task]
            line += ["-", "-"] if value is None else [f"{abs(value):.2f}", f"{value - whole:+.2f}"]
        lines.append(line)
    return tabulate(lines, header, tablefmt="simple_outline", disable_numparse=True)


def listed(drops: Mapping[str, float]) -> str:
    """What was lost, in words."""
    return ", ".join(f"{drop:.2f} of {task}/{_FIGURES[task]}" for task, drop in drops.items())
