"""Divides the images of a data set: those to test on, to choose on, and a share of the labels."""

import random
from collections.abc import Mapping, Sequence
from fractions import Fraction

from multas.data.splits.make import make_splits
from multas.util.errors import UserError

HELD_OUT = Fraction(1, 5)  # of the images, where a data set comes without a split to test on
MOST = Fraction(1, 2)  # of a split that are held out, if it is one of several
# Of the images to learn from, where a data set comes without a split to choose on. From few images
# none are taken: they are worth more to learn from than so small a part is to choose on.
CHOSEN_ON = Fraction(1, 10)
ENOUGH_TO_CHOOSE = 200  # annotated images to learn from, of which some are taken to choose on
POOL = 3000  # images of which they are a tenth, if there are more

Counts = Mapping[str, Mapping[str, int]]  # of each image, by its id, the objects of each class
PARTS = ("labeled", "rest", "val", "test")
# The ids of the images of each part.
Parts = Mapping[str, Sequence[str]]


def draw(
    counts: Mapping[str, Counts], labels: Fraction, held_out: Fraction, choosing: bool, seed: int
) -> dict[str, Parts]:
    """The parts of each split; one that stays whole has none.

    Args:
        counts: of each split.
        labels, seed: see :func:`own_data.data.prepare`.
        held_out: how many images to test on the largest of the splits gives.
        choosing: whether that split also gives images to choose on, if it has enough.
    """
    largest = max(counts, key=lambda split: len(counts[split]))
    parts: dict[str, Parts] = {}
    for split, own in counts.items():
        gives = split == largest
        share = min(held_out / len(own), MOST) if gives and held_out else Fraction(0)
        parts[split] = _divide(own, labels, share, gives and choosing, seed)
    return parts


def _divide(
    counts: Counts, labels: Fraction, held_out: Fraction, choosing: bool, seed: int
) -> dict[str, list[str]]:
    """Ids of the images to test on, to choose on, to learn from, and whose labels are withheld."""
    parts: dict[str, list[str]] = {}
    left = sorted(counts)
    if held_out:
        parts["test"], left = make_splits(counts, [held_out], seed).values()
    if labels < 1:
        left, parts["rest"] = make_splits(_of(counts, left), [labels], seed).values()
    if choosing and len(left) >= ENOUGH_TO_CHOOSE:
        pool = sorted(random.Random(seed).sample(left, min(len(left), POOL)))
        parts["val"], _ = make_splits(_of(counts, pool), [CHOSEN_ON], seed).values()
        left = sorted(set(left) - set(parts["val"]))
    return {**parts, "labeled": left} if parts else {}


def _of(counts: Counts, ids: Sequence[str]) -> Counts:
    return {image_id: counts[image_id] for image_id in ids}


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
