"""How the results of rounds become tables: minima, medians, and ratios with their spread.

A ratio is given twice. That of the minima is what the alternatives cost when nothing disturbs
them. Those within a round (both sides ran a moment apart) say how far it can be trusted.
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
    """What an alternative took in each round as a multiple of the base."""
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
    """Times, and ratios to the first alternative (above 1 = slower).

    Args:
        seconds: of each alternative in each round, or any other quantity in ``unit``.
        first_column: what the alternatives are.
        bars: what a ratio should be, by name; gives a column of its own.
        missing: why an alternative was not measured, by name.
        unit, digits: of the quantity.
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
    """Items per second, and speed against the first alternative (above 1 = faster).

    Args:
        seconds: of each alternative in each round.
        first_column: what the alternatives are.
        items: images that each call handles.
        missing: why an alternative was not measured, by name.
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
    """Markdown; ``drop`` leaves the last column out."""
    end = len(header) - drop
    cells = [row[:end] for row in rows]
    return tabulate(cells, header[:end], tablefmt="github", disable_numparse=True)
