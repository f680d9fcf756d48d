"""Divides the images of a data set: those to test on, and a share of the labels."""

from collections.abc import Mapping, Sequence
from fractions import Fraction

from multas.data.splits.make import make_splits
from multas.util.errors import UserError

HELD_OUT = Fraction(1, 5)  # of the images, where a data set comes without a split to test on
MOST = Fraction(1, 2)  # of a split that are held out, if it is one of several

Counts = Mapping[str, Mapping[str, int]]  # of each image, by its id, the objects of each class
# The ids of the images of each part, "labeled", "rest" and "test", by the split that is divided.
# One that stays whole has no parts.
Parts = dict[str, dict[str, list[str]]]


def draw(
    counts: Mapping[str, Counts], labels: Fraction, held_out: bool, seed: int, known: Parts
) -> Parts:
    """The parts of each split, as far as they are not known.

    Args:
        counts: of each split.
        labels, seed: see :func:`own_data.data.prepare`.
        held_out: whether one of the splits, the largest, gives images to test on. It does so once:
            not if a known one has.
        known: parts of splits that were drawn before.
    """
    giving = ""
    if held_out and not any("test" in own for own in known.values()):
        giving = max(counts, key=lambda split: len(counts[split]))
    number = sum(map(len, counts.values()))
    parts = {}
    for split, own in counts.items():
        if split not in known:
            share = min(HELD_OUT * number / len(own), MOST) if split == giving else Fraction(0)
            parts[split] = _divide(own, labels, share, seed)
    return parts


def _divide(
    counts: Counts, labels: Fraction, held_out: Fraction, seed: int
) -> dict[str, list[str]]:
    """Ids of the images to test on, to learn from, and whose annotations are withheld."""
    parts: dict[str, list[str]] = {}
    if held_out:
        parts["test"], rest = make_splits(counts, [held_out], seed).values()
        counts = {image_id: counts[image_id] for image_id in rest}
    if labels < 1:
        parts["labeled"], parts["rest"] = make_splits(counts, [labels], seed).values()
    elif held_out:
        parts["labeled"] = sorted(counts)
    return parts


def shared_images(
    images: Mapping[str, set[str]], bases: Sequence[str], others: Sequence[str]
) -> dict[str, str]:
    """The splits to train on that have an image of another split, and one such image of each.

    Of two splits to train on that is the smaller one.

    Args:
        images: of each split.
        bases: splits to train on.
        others: splits to choose and to test on.

    Raises:
        UserError: all of them have images of ``others``.
    """
    used: set[str] = set().union(*(images[split] for split in others))
    shared: dict[str, str] = {}
    for base in sorted(bases, key=lambda base: len(images[base]), reverse=True):
        if common := images[base] & used:
            shared[base] = min(common)
        else:
            used |= images[base]
    if len(shared) == len(bases):
        raise UserError(
            f"Every split to train on ({', '.join(bases)}) has images of the splits to test on "
            f"({', '.join(others)}): give a data card whose splits have no image in common."
        )
    return shared
