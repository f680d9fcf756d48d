"""Types of command line arguments for :mod:`argparse`."""

import math
from argparse import ArgumentTypeError
from collections.abc import Callable


def number(
    low: float, high: float = math.inf, *, above: bool = False, kind: type = float
) -> Callable[[str], float]:
    """The type of an argument that is a finite number from ``low`` to ``high``.

    Args:
        low, high: the range.
        above: whether ``low`` itself is too low.
        kind: int for whole numbers.
    """
    start = f"above {low:g}" if above else f"of {low:g} or more" if high == math.inf else ""
    bounds = start if high == math.inf else f"{start or f'from {low:g}'} to {high:g}"
    wanted = f"must be a {'whole ' if kind is int else ''}number {bounds}"

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise ArgumentTypeError(f"{wanted}, but is '{text}'") from None
        if not (math.isfinite(value) and low <= value <= high) or (above and value == low):
            raise ArgumentTypeError(f"{wanted}, but is {text}")
        return value

    return parse
