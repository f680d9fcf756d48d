"""What a job learns from: cards and lists of images in its own folder, by task."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from multas.data import register_card
from multas.data.card import UNLABELED, Card, read_card
from multas.data.looking.roles import roles
from multas.data.splits.make import class_counts, mask_counts, write_splits
from multas.util.annotation import MASKS, Annotation
from multas.util.errors import UserError
from multas.util.files import write_text
from multas.util.screen import shown_from
from own_data.cards import annotation_of, table_of
from own_data.parts import ENOUGH, Parts, draw, shared_images

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskData:
    """The registered data sets of one task.

    Attributes:
        annotation: what its images are annotated with.
        card: the file of the card.
        labeled: data sets to learn from.
        unlabeled: data sets without annotations, ending in ``_unlabeled``.
        val, test: data sets to choose on ("" if there is none) and to report on.
        records: the dataset dicts of all of these, by the name of the data set.
    """

    annotation: Annotation
    card: Path
    labeled: tuple[str, ...]
    unlabeled: tuple[str, ...]
    val: str
    test: str
    records: Mapping[str, list[dict]] = field(repr=False)

    @property
    def task(self) -> str:
        return self.annotation.task

    @property
    def classes(self) -> list[str]:
        return list(MetadataCatalog.get(self.labeled[0]).get(self.annotation.classes_key))

    @property
    def ignore_label(self) -> int:
        """The value of pixels without annotation, if it has masks."""
        return MetadataCatalog.get(self.labeled[0]).get("ignore_label")

    @property
    def annotated(self) -> list[dict]:
        """The dataset dicts to learn from that are annotated."""
        return [record for name in self.labeled for record in self.records[name]]


def prepare(
    cards: Sequence[Mapping[str, Any]], folder: Path, labels: Fraction = Fraction(1), seed: int = 0
) -> list[TaskData]:
    """Register cards as the data of a job, with the splits that they lack.

    All splits to train on are used, except those that have images of another one. Where there is no
    split to test on, the largest of them gives images for that: as many as a fifth of all that are
    annotated, but no more than half of its own. Where no card has a split to choose on beside it,
    the largest also gives images for that, if it has enough (own_data/parts.py).
    Parts are balanced by class, and the same for all cards.

    Args:
        cards: contents of cards, one for each task, of the same images.
        folder: receives the cards that are registered, and the lists of images.
        labels: the share of the annotated images that counts as annotated; the annotations of the
            others are withheld.
        seed: of the random draw of parts.

    Raises:
        UserError: a card is wrong, or has no or too few annotated images.
    """
    parts: Parts = {}
    folder.mkdir(parents=True, exist_ok=True)
    use = [roles(content) for content in cards]
    choosing = not any(own["val"] and own["test"] for own in use)  # val alone is tested on
    return [_prepare(dict(content), folder, labels, choosing, seed, parts) for content in cards]


def _prepare(
    content: dict[str, Any],
    folder: Path,
    labels: Fraction,
    choosing: bool,
    seed: int,
    parts: Parts,
) -> TaskData:
    """The data of one card. ``parts`` is what was drawn for a card before it, and is added to."""
    card = read_card(content)
    name, annotation = card.name, annotation_of(card)
    content["root"] = str(card.find_root().absolute())
    use = roles(content)
    if not use["train"]:
        have = ", ".join(split.name for split in card.splits)
        raise UserError(
            f"{name}: none of its splits ({have}) is one to train on. Call one of them train in a "
            "data card, and give the card instead."
        )
    held_out = not (use["test"] or use["val"])
    bases, read = use["train"], {}
    must_divide = labels < 1 or held_out
    if len(bases) > 1 or must_divide or choosing:
        register_card(content | {"name": f"{name}_whole"})
        others = [*use["val"], *use["test"]] if len(bases) > 1 else []
        read = {split: DatasetCatalog.get(f"{name}_whole_{split}") for split in (*bases, *others)}
        bases = _apart(read, bases, others)
    divided: dict[str, dict[str, str]] = {}  # of each base the new splits by part
    if must_divide or (choosing and max(len(read[base]) for base in bases) >= ENOUGH):
        counts = {
            base: _counts(read[base], MetadataCatalog.get(f"{name}_whole_{base}"), annotation)
            for base in bases
        }
        if must_divide and max(map(len, counts.values())) < 2:
            raise UserError(
                f"{name}: none of its splits to train on ({len(bases)}) has two images, so that "
                "none can be divided; put the images of all into one folder, or give a data card."
            )
        parts |= draw(counts, labels, held_out, choosing, seed, parts)
        for base in bases:
            tail = "" if len(bases) == 1 else f"_{base}"
            divided[base] = {part: part + tail for part in parts[base]}
            if "val" in parts[base]:  # where names end in it, it is found as one to choose on
                divided[base]["val"] = f"{base}_val" if tail or use["val"] else "val"
            for part, split in divided[base].items():
                own = [image_id for image_id in parts[base][part] if image_id in counts[base]]
                write_splits({split: own}, folder, name)
        content["splits"] = _divided(card, content["splits"], divided, folder)
    file = folder / f"{name}.yaml"
    write_text(file, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    register_card(file)
    new = {
        part: [own[part] for own in divided.values() if part in own]
        for part in ("rest", "val", "test")
    }
    tests = new["test"] or use["test"] or use["val"]
    if not tests:
        giving = ", ".join(base for base, own in parts.items() if "test" in own)
        raise UserError(
            f"{name}: it has no images of {giving}, from which those to test on are taken. Give "
            "cards with a split test."
        )
    vals = new["val"] or (use["val"] if tests != use["val"] else [])
    labeled = [divided.get(base, {}).get("labeled", base) for base in bases]
    unlabeled = [*use["unlabeled"], *new["rest"]]
    names: dict[str, Any] = {
        "labeled": tuple(f"{name}_{split}" for split in labeled),
        "unlabeled": tuple(f"{name}_{split}{UNLABELED}" for split in unlabeled),
        "val": f"{name}_{vals[0]}" if vals else "",
        "test": f"{name}_{tests[0]}",
    }
    every = [*names["labeled"], *names["unlabeled"], names["val"], names["test"]]
    # The faults of what was read as a whole, or is a part of it, have been told.
    splits = [*read, *(split for own in divided.values() for split in own.values())]
    told = {f"{name}_{split}" for split in splits}
    records = {}
    for own in filter(None, every):
        is_told = own.removesuffix(UNLABELED) in told
        with shown_from(logging.ERROR) if is_told else nullcontext():
            records[own] = DatasetCatalog.get(own)
    return TaskData(annotation=annotation, card=file, records=records, **names)


def _apart(
    records: Mapping[str, Sequence[dict]], bases: Sequence[str], others: Sequence[str]
) -> list[str]:
    """Those of some splits to train on that have no image in common; the others are told."""
    images = {split: {record["file_name"] for record in own} for split, own in records.items()}
    shared = shared_images(images, bases, others)
    for base, image in shared.items():
        logger.warning("Split %s is not learned from: %s is in another one, too.", base, image)
    return [base for base in bases if base not in shared]


def _divided(
    card: Card, splits: Mapping[str, Any], divided: Mapping[str, Mapping[str, str]], folder: Path
) -> dict[str, Any]:
    """The splits of a card, and those that ``divided`` made of some, by their lists in a folder."""
    found = dict(splits)
    for split in card.splits:
        # What a split is without, it is also without in parts.
        if more := [name for base in split.without for name in divided.get(base, {}).values()]:
            table = table_of(card, splits[split.name])
            found[split.name] = table | {"without": [*split.without, *more]}
    for base, names in divided.items():
        for name in names.values():
            ids = str((folder / name / card.name).absolute())
            found[name] = table_of(card, splits[base]) | {"ids": ids}
    return found


def _counts(
    records: Sequence[dict], metadata: Any, annotation: Annotation
) -> dict[str, dict[str, int]]:
    """The objects of each class of each image of a data set, by the image's id."""
    classes, root = metadata.get(annotation.classes_key), metadata.get("image_root")
    if annotation is MASKS:
        return mask_counts(records, classes, root, metadata.get("ignore_label"))
    return class_counts(records, classes, root)
