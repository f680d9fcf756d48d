"""Divides the images of a data set: those to test on, and a share of the labels."""

from collections.abc import Mapping
from fractions import Fraction

from multas.data.splits.make import make_splits

HELD_OUT = Fraction(1, 5)  # of the images, where a data set comes without a split to test on

# The ids of the images of each part, "labeled", "rest" and "test", by the split that was divided.
Parts = dict[str, dict[str, list[str]]]


def draw(
    counts: Mapping[str, Mapping[str, Mapping[str, int]]],
    labels: Fraction,
    held_out: bool,
    seed: int,
    parts: Parts,
) -> None:
    """Divide the images of each split, as far as ``parts`` does not have it yet.

    Args:
        counts: of each split, by the id of an image, its objects of each class.
        labels, seed: see :func:`own_data.data.prepare`.
        held_out: whether one of the splits gives images to test on.
        parts: receives what is drawn.
    """
    sizes = {base: len(own) for base, own in counts.items()}
    giving = ""
    if held_out and not any("test" in own for own in parts.values()):
        giving = max(sizes, key=lambda base: sizes[base])
    for base, own in counts.items():
        if base not in parts:
            share = HELD_OUT * sum(sizes.values()) / sizes[base] if base == giving else Fraction(0)
            parts[base] = _divide(own, labels, min(share, Fraction(1, 2)), seed)


def _divide(
    counts: Mapping[str, Mapping[str, int]], labels: Fraction, held_out: Fraction, seed: int
) -> dict[str, list[str]]:
    """Ids of the images to test on, to learn from, and whose annotations are withheld."""
    parts = {}
    if held_out:
        parts["test"], rest = make_splits(counts, [held_out], seed).values()
        counts = {image_id: counts[image_id] for image_id in rest}
    if labels < 1:
        parts["labeled"], parts["rest"] = make_splits(counts, [labels], seed).values()
    else:
        parts["labeled"] = sorted(counts)
    return parts
