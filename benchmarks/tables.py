"""Tables of minima, medians, and ratios.

The ratio of the minima compares undisturbed runs. The ratios within a round, where both sides ran a
moment apart, show how reliable it is.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence

from tabulate import tabulate

from timing import Seconds


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Minimum, median and maximum."""
    values = list(values)
    three = min(values), statistics.median(values), max(values)
    return " / ".join(f"{x:.{digits}f}" for x in three)


def round_ratios(seconds: Seconds, base: Seconds) -> list[float]:
    """Time in each round as a multiple of the base's."""
    return [x / y for x, y in zip(seconds, base, strict=True)]


def ratio_table(
    seconds: Mapping[str, Seconds],
    first_column: str,
    *,
    bars: Mapping[str, str] | None = None,
    missing: Mapping[str, str] | None = None,
    unit: str = "s",
    digits: int = 3,
) -> str:
    """Times, and ratios to the first alternative (above 1: slower).

    Args:
        seconds: seconds (or another ``unit``) of each alternative in each round.
        first_column: title of the first column.
        bars: wanted ratios by name, for a last column.
        missing: error messages of alternatives that were not measured.
        unit, digits: unit and decimals of the quantity.
    """
    base = next(iter(seconds.values()))
    rows: list[list] = []
    for name, times in seconds.items():
        ratio = f"{min(times) / min(base):.2f}"
        row = [name, spread(times, digits), ratio, spread(round_ratios(times, base))]
        rows.append([*row, (bars or {}).get(name, "")])
    rows += [[name, reason, "-", "-", ""] for name, reason in (missing or {}).items()]
    header = [first_column, f"{unit}: min / median / max", "ratio of minima"]
    return _table([*header, "ratio in a round: min / median / max", "bar"], rows, drop=not bars)


def rate_table(
    seconds: Mapping[str, Seconds],
    first_column: str,
    items: int,
    *,
    missing: Mapping[str, str] | None = None,
) -> str:
    """Items per second, and speed against the first alternative (above 1: faster).

    Args:
        seconds: seconds of each alternative in each round.
        first_column: title of the first column.
        items: images per call.
        missing: error messages of alternatives that were not measured.
    """
    base = next(iter(seconds.values()))
    rows: list[list] = []
    for name, times in seconds.items():
        speed = spread(round_ratios(base, times))
        rate = spread((items / t for t in times), 1)
        rows.append([name, rate, f"{min(base) / min(times):.2f}", speed])
    rows += [[name, reason, "-", "-"] for name, reason in (missing or {}).items()]
    header = [first_column, "images/s: min / median / max", "speed of minima"]
    return _table([*header, "speed in a round: min / median / max"], rows)


def _table(header: Sequence[str], rows: list[list], *, drop: bool = False) -> str:
    """Markdown table; ``drop`` omits the last column."""
    end = len(header) - drop
    cells = [row[:end] for row in rows]
    return tabulate(cells, header[:end], tablefmt="github", disable_numparse=True)
