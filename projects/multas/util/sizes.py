"""Sizes of padded batches."""


def round_up(length: int, divisor: int) -> int:
    """The smallest multiple of ``divisor`` (0 and 1: any number) that is at least ``length``."""
    return -(-length // divisor) * divisor if divisor > 1 else length
