"""Sizes of padded batches, and of boxes."""

from collections.abc import Iterable, Sequence


def round_up(length: int, divisor: int) -> int:
    """The smallest multiple of ``divisor`` (0 and 1: any number) that is at least ``length``."""
    return -(-length // divisor) * divisor if divisor > 1 else length


def are_fractions(boxes: Iterable[Sequence[float]]) -> bool:
    """Whether all boxes (x, y, width, height) lie in the first pixel, as fractions of a size do."""
    ends = [max(x + width, y + height) for x, y, width, height in boxes if min(width, height) > 0]
    return bool(ends) and 0 < max(ends) <= 1
