"""Divides the splits to train on of a card: as others have their images, and else by chance."""

import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from multas.data.splits.make import class_counts, mask_counts
from multas.util.annotation import MASKS, Annotation
from multas.util.errors import UserError
from own_data.parts import HELD_OUT, Counts, Parts, draw

Known = dict[str, str]  # the part of each image, by its file, as other splits or cards have it


def divide(
    records: Mapping[str, Sequence[dict]],
    counts: Mapping[str, Counts],
    known: Known,
    labels: Fraction,
    held_out: bool,
    choosing: bool,
    seed: int,
) -> dict[str, Parts]:
    """The parts of splits to train on that are not learned from as a whole.

    An image whose part is known stays in it. So none is both learned from and tested on, not even
    for two tasks. The parts of all other images are drawn.

    Args:
        records: of each split.
        counts: of each split, in the order of its records.
        known: the parts of images, see above.
        labels: the share of images that count as annotated.
        held_out: whether a fifth of the images, known ones included, is to test on.
        choosing: whether some are drawn to choose on.
        seed: of the draw.

    Raises:
        UserError: There are too few images.
    """
    files = {
        split: dict(zip(own, map(file_of, records[split]), strict=True))
        for split, own in counts.items()
    }
    new = {
        split: {image_id: own[image_id] for image_id in own if files[split][image_id] not in known}
        for split, own in counts.items()
    }
    told = [known[file] for own in files.values() for file in own.values() if file in known]
    drawn: Mapping[str, Parts] = {split: {} for split in counts}
    if max(map(len, new.values())) >= 2:
        lacking = HELD_OUT * (len(told) + sum(map(len, new.values()))) - told.count("test")
        if not held_out or ("test" in told and lacking < Fraction(1, 2)):
            lacking = Fraction(0)
        drawn = draw(new, labels, lacking, choosing, seed)
    elif (labels < 1 or held_out) and not told:
        raise UserError(
            f"none of its splits to train on ({len(new)}) has two images, so that none can be "
            "divided; put the images of all into one folder, or give a data card."
        )
    found: dict[str, Parts] = {}
    for split, parts in drawn.items():
        part_of = dict.fromkeys(counts[split], "labeled")
        part_of |= {image_id: part for part, ids in parts.items() for image_id in ids}
        part_of |= {i: known[file] for i, file in files[split].items() if file in known}
        names = dict.fromkeys(part_of.values())
        if names.keys() - {"labeled"}:
            found[split] = {
                name: sorted(i for i in part_of if part_of[i] == name) for name in names
            }
    return found


def file_of(record: Mapping[str, Any]) -> str:
    """The file of an image, by which cards know it in common."""
    return os.path.realpath(record["file_name"])


def count(records: Sequence[dict], metadata: Any, annotation: Annotation) -> Counts:
    """The objects of each class of each image of a data set, by the image's id."""
    classes, root = metadata.get(annotation.classes_key), metadata.get("image_root")
    if annotation is MASKS:
        return mask_counts(records, classes, root, metadata.get("ignore_label"))
    return class_counts(records, classes, root)


def new_names(
    parts: Mapping[str, Parts], is_alone: bool, taken: list[str]
) -> dict[str, dict[str, str]]:
    """Of each divided split the names of its parts, which the card has not; they end in the part.

    So a data set whose name ends in val is found as one to choose on.
    """
    names: dict[str, dict[str, str]] = {}
    for base, own in parts.items():
        for part in own:
            name = part if is_alone else f"{base}_{part}"
            while name in taken:
                name = f"own_{name}"
            names.setdefault(base, {})[part] = name
            taken.append(name)
    return names
