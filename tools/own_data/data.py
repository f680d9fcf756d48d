"""What a job learns from: cards and lists of images in its own folder, by task."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from multas.data import register_card
from multas.data.card import Card, read_card
from multas.data.looking.roles import roles
from multas.data.splits.make import write_splits
from multas.util.errors import UserError
from multas.util.files import write_text
from own_data.cards import annotation_of, with_parts
from own_data.division import Known, count, divide, file_of, new_names
from own_data.parts import ENOUGH_TO_CHOOSE, Parts, shared_images
from own_data.task_data import TaskData, task_data

logger = logging.getLogger(__name__)

Records = Mapping[str, list[dict]]  # the dataset dicts of each split


def prepare(
    cards: Sequence[Mapping[str, Any]], folder: Path, labels: Fraction = Fraction(1), seed: int = 0
) -> list[TaskData]:
    """Register cards as the data of a job, with the splits that they lack.

    All splits to train on are used, except those that have images of another one. Where there is no
    split to test on, the largest of them gives images for that: as many as a fifth of all that are
    annotated, but no more than half of its own. Where no card has a split to choose on beside it,
    the largest also gives images for that, if it has enough (own_data/parts.py).
    Parts are balanced by class. An image is in the same part for all cards, so that none is learned
    from for one task and tested on for another.

    Args:
        cards: contents of cards, one for each task.
        folder: receives the cards that are registered, and the lists of images.
        labels: the share of the annotated images that counts as annotated; the annotations of the
            others are withheld.
        seed: of the random draw of parts.

    Raises:
        UserError: a card is wrong, or has no or too few annotated images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    use = [roles(content) for content in cards]
    read = [_read(content, own) for content, own in zip(cards, use, strict=True)]
    choosing = not any(own["val"] and own["test"] for own in use)  # val alone is tested on
    known = {k: v for own, images in zip(use, read, strict=True) for k, v in _held_out(own, images)}
    tasks: dict[int, TaskData] = {}

    def size(i: int) -> int:
        return sum(len(read[i][split]) for split in use[i]["train"])

    # The others draw what they lack beside what is drawn of the images that fewest tasks have.
    for i in sorted(range(len(cards)), key=size):
        content = dict(cards[i])
        tasks[i] = _prepare(content, use[i], read[i], folder, labels, choosing, seed, known)
        known |= _parts_of(tasks[i])
    return [tasks[i] for i in range(len(cards))]


def _read(content: Mapping[str, Any], use: Mapping[str, Sequence[str]]) -> Records:
    """The splits of a card to train, to choose and to test on.

    Raises:
        UserError: There is none to train on.
    """
    card = read_card(dict(content))
    if not use["train"]:
        have = ", ".join(split.name for split in card.splits)
        raise UserError(
            f"{card.name}: none of its splits ({have}) is one to train on. Call one of them train "
            "in a data card, and give the card instead."
        )
    register_card({**content, "name": _whole(card)})
    splits = [split for part in ("train", "val", "test") for split in use[part]]
    return {split: DatasetCatalog.get(f"{_whole(card)}_{split}") for split in splits}


def _whole(card: Card) -> str:
    """The name of a card whose splits are as they were."""
    return f"{card.name}_whole"


def _held_out(use: Mapping[str, Sequence[str]], read: Records) -> Iterator[tuple[str, str]]:
    """The images of a card to choose and to test on, with their parts."""
    for part in ("val", "test"):
        is_tested = part == "test" or not use["test"]
        for split in use[part]:
            yield from ((file_of(r), "test" if is_tested else "val") for r in read[split])


def _parts_of(task: TaskData) -> Known:
    """The part of each image of a task, except those that nobody has annotated."""
    known: Known = {}
    parts = ("labeled", task.labeled), ("rest", task.withheld), ("val", (task.val,))
    for part, names in (*parts, ("test", (task.test,))):
        for name in filter(None, names):
            known |= {file_of(record): part for record in task.records[name]}
    return known


def _prepare(
    content: dict[str, Any],
    use: Mapping[str, Sequence[str]],
    read: Records,
    folder: Path,
    labels: Fraction,
    choosing: bool,
    seed: int,
    known: Known,
) -> TaskData:
    """The data of one card.

    ``known`` is the part of each image that a card has to test or to choose on, or that a card
    before this one has.
    """
    card = read_card(content)
    name, annotation = card.name, annotation_of(card)
    content["root"] = str(card.find_root().absolute())
    held_out = not (use["test"] or use["val"])
    bases = _apart(read, use["train"], [*use["val"], *use["test"]])
    elsewhere = [known.get(file_of(record)) for base in bases for record in read[base]]
    has_own = {"test": not held_out, "val": bool(use["val"] and use["test"])}
    if unused := sum(has_own.get(str(part), False) for part in elsewhere):
        logger.warning("%s: %d images are not learned from, but tested or chosen on.", name, unused)
    is_divided = labels < 1 or held_out or bool(set(elsewhere) - {None, "labeled"})
    parts: dict[str, Parts] = {}
    if is_divided or (choosing and max(len(read[base]) for base in bases) >= ENOUGH_TO_CHOOSE):
        counts = {
            base: count(read[base], MetadataCatalog.get(f"{_whole(card)}_{base}"), annotation)
            for base in bases
        }
        try:
            parts = divide(read, counts, known, labels, held_out, choosing, seed)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
    names = new_names(parts, len(bases) == 1, list(map(str, content["splits"])))
    for base, new in names.items():
        write_splits({split: parts[base][part] for part, split in new.items()}, folder, name)
    content["splits"] = with_parts(card, content["splits"], names, folder)
    file = folder / f"{name}.yaml"
    write_text(file, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    register_card(file)
    # The faults of what was read as a whole, or is a part of it, have been told.
    told = {*read, *(split for new in names.values() for split in new.values())}
    return task_data(file, annotation, use, bases, names, told)


def _apart(records: Records, bases: Sequence[str], others: Sequence[str]) -> Sequence[str]:
    """Those of several splits to train on that have no image in common; the others are told."""
    if len(bases) == 1:
        return bases
    images = {split: {record["file_name"] for record in own} for split, own in records.items()}
    shared = shared_images(images, bases, others)
    for base, image in shared.items():
        logger.warning("Split %s is not learned from: %s is in another one, too.", base, image)
    return [base for base in bases if base not in shared]
