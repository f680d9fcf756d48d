"""What there is in the splits of data cards, and all that is wrong with them.

Loading a data set stops at its faults. Here they are collected, of all splits, and the rest is
counted and measured. One split after the other is in memory.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from tqdm import tqdm

from multas.data.card import Card, read_card
from multas.data.cards import read_split, register_card, require_images
from multas.data.class_colours import name_of
from multas.data.dataset_dicts import TrainingSet
from multas.data.formats import DataFormat
from multas.data.formats.masks import MASK_VALUES, read_mask
from multas.data.image_checks import find_broken, num_threads
from multas.data.issues import DatasetIssues
from multas.data.looking.roles import role_of
from multas.data.measures import Measures, measure, spread
from multas.data.pseudo_labels import PseudoLabels
from multas.data.statistics import Statistics, count
from multas.data.suggestions import Suggestion, suggest
from multas.util.annotation import BOXES, LABELS, MASKS, Annotation
from multas.util.errors import UserError

_FEW_MASKS = 500  # of a split, which are read in haste
_LOOKED_AT = 100  # images of a class, of which the one with the most other classes is chosen


@dataclass(frozen=True)
class MaskCounts:
    """How often masks show each class: in how many images, and in how many pixels."""

    masks: int
    images: Mapping[str, int]
    pixels: Mapping[str, int]


@dataclass(frozen=True)
class Split:
    """What there is in one split.

    Attributes:
        name: under which it is registered.
        folder: of its images, below which other files may lie; "" if it is not known.
        root: of the data, which all messages about it name; "" if there is none.
        numbers: images, and objects by class.
        sizes: of images and objects.
        empty: the number of images that are annotated with boxes and have none.
        masks: what masks show.
        issues: faults, and what is odd but used.
        images: dicts of the images without annotations.
        shown: dicts of images that have every class, or as many as are to be shown.
        unseen: the number of classes that none of these has, but others.
        suggestions: settings for who trains on it, by config key.
    """

    name: str
    folder: str
    root: str
    numbers: Statistics
    sizes: Measures
    empty: int
    masks: MaskCounts
    issues: DatasetIssues
    images: Sequence[dict] = field(repr=False)
    shown: Sequence[dict] = field(repr=False)
    unseen: int
    suggestions: Mapping[str, Suggestion] = field(default_factory=dict)


def inspect_cards(cards: Sequence[str | os.PathLike | dict], *, fast: bool = False) -> list[Split]:
    """Read all splits of data cards; see :func:`inspect_split`.

    Settings are suggested for the first split whose name says that it is to train on, or else for
    the first one.

    Args:
        cards: YAML files, or their contents.
        fast: whether images are not decoded, and a few masks stand for all.

    Raises:
        DatasetError: a card is wrong, or another data set has its names.
    """
    for source in cards:
        register_card(source)
    pairs = [(card, split) for card in map(read_card, cards) for split in card.splits]
    names = [split.name for _, split in pairs]
    favourite = next((name for name in names if role_of(name) == "train"), names[0])
    found: list[Split] = []
    for card, split in pairs:
        wanted = split.name == favourite and not any(done.suggestions for done in found)
        found.append(inspect_split(card, split, fast=fast, suggests=wanted))
    return found


def inspect_split(card: Card, split: DataFormat, *, fast: bool, suggests: bool) -> Split:
    """Read a registered split, whatever is wrong with it, and count what is right.

    Args:
        card: of the split.
        split: the split.
        fast: see :func:`inspect_cards`.
        suggests: whether settings are suggested.
    """
    name = f"{card.name}_{split.name}"
    metadata = MetadataCatalog.get(name)
    issues = DatasetIssues(name)
    records, root = [], ""
    try:
        root = str(card.find_root())
        records = read_split(name, card, split, issues)
        if not issues.faults:
            require_images(records, name, card, split, issues)
    except (OSError, UserError) as error:
        issues.add(name, str(error))
    if not fast:
        records = _without_broken(records, issues)
    sizes = measure(records)
    suggestions = {}
    if suggests and records:
        classes = metadata.get(BOXES.classes_key) or ()
        try:
            suggestions = suggest(records, num_classes=len(classes), found=sizes)
        except UserError as error:
            issues.add(name, str(error))
    values = _read_masks(records, _FEW_MASKS if fast else len(records))
    shows = [classes_of(r) | _classes_in(values.get(r.get(MASKS.dataset_key, ""))) for r in records]
    shown, unseen = choose_images(records, shows)
    own = [r[BOXES.dataset_key] for r in records if BOXES.dataset_key in r]
    return Split(
        name=name,
        root=root,
        folder=split.images,
        numbers=count(TrainingSet(name, records, 0), metadata, PseudoLabels()),
        sizes=sizes,
        empty=sum(all(a.get("iscrowd", 0) for a in annotations) for annotations in own),
        masks=_count_masks(list(values.values()), metadata),
        issues=issues,
        images=[{k: r[k] for k in ("file_name", "pixels") if k in r} for r in records],
        shown=shown,
        unseen=unseen,
        suggestions=suggestions,
    )


def choose_images(
    records: Sequence[dict], classes: Sequence[set[Any]], least: int = 6, most: int = 24
) -> tuple[list[dict], int]:
    """Images that show every class, rare ones first, and others until there are ``least``.

    Args:
        records: the dicts of the images.
        classes: what each of them shows.
        least, most: numbers of images.

    Returns:
        The dicts in their order, and the number of classes for which there was no room.
    """
    images: dict[Any, list[int]] = defaultdict(list)
    for number, own in enumerate(classes):
        for name in own:
            images[name].append(number)
    missing = dict.fromkeys(sorted(images, key=lambda name: len(images[name])))
    chosen: set[int] = set()
    while missing and len(chosen) < most:
        rarest = next(iter(missing))
        few = spread(images[rarest], _LOOKED_AT)
        best = max(few, key=lambda number: len(classes[number] & missing.keys()))
        chosen.add(best)
        for name in classes[best]:
            missing.pop(name, None)
    for number in spread(range(len(records)), least):
        if len(chosen) < least:
            chosen.add(number)
    return [records[number] for number in sorted(chosen)], len(missing)


def classes_of(record: Mapping[str, Any]) -> set[tuple[Annotation, int]]:
    """The classes of the boxes and the label of a dataset dict."""
    found = {(BOXES, a["category_id"]) for a in record.get(BOXES.dataset_key, ())}
    if isinstance(label := record.get(LABELS.dataset_key), int):
        found.add((LABELS, label))
    return found


def _without_broken(records: list[dict], issues: DatasetIssues) -> list[dict]:
    """The records whose image files can be decoded; of the others, the faults are noted."""
    broken = find_broken({r["file_name"] for r in records if "pixels" not in r})
    for file, fault in broken.items():
        issues.add(file, fault)
    return [record for record in records if record["file_name"] not in broken]


def _read_masks(records: Sequence[dict], at_most: int) -> dict[str, np.ndarray]:
    """The pixels of each value, (256,) int64, in the mask files of so many images."""
    few = spread([r for r in records if MASKS.dataset_key in r], at_most)
    with ThreadPool(num_threads()) as pool:
        found = tqdm(
            pool.imap(_values_of, few, chunksize=16),
            total=len(few), desc="masks", unit="mask", delay=2,
        )  # fmt: skip
        return dict(zip((r[MASKS.dataset_key] for r in few), found, strict=True))


def _values_of(record: Mapping) -> np.ndarray:
    mask = read_mask(record[MASKS.dataset_key], record.get(MASK_VALUES))
    return np.bincount(mask.reshape(-1), minlength=256)


def _classes_in(pixels: np.ndarray | None) -> set[tuple[Annotation, int]]:
    values = () if pixels is None else np.flatnonzero(pixels).tolist()
    return {(MASKS, value) for value in values}


def _count_masks(values: Sequence[np.ndarray], metadata: Metadata) -> MaskCounts:
    names = metadata.get(MASKS.classes_key) or ()
    if not values:
        return MaskCounts(0, {}, {})
    table = np.stack(values)
    ignored = metadata.get("ignore_label", 255)
    images, pixels = (table > 0).sum(0), table.sum(0)
    numbers = [n for n in range(256) if n < len(names) or (pixels[n] and n != ignored)]
    named = {n: name_of(n, names) for n in numbers}
    return MaskCounts(
        len(values),
        {name: int(images[n]) for n, name in named.items()},
        {name: int(pixels[n]) for n, name in named.items()},
    )
