"""What a job learns from: cards and lists of images in its own folder, by task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from multas.data import register_card
from multas.data.card import UNLABELED, Card, read_card
from multas.data.looking.roles import roles
from multas.data.splits.make import class_counts, make_splits, mask_counts, write_splits
from multas.util.annotation import MASKS, STANDARD, Annotation
from multas.util.errors import UserError
from multas.util.files import write_text

HELD_OUT = Fraction(1, 5)  # of the images, where a data set comes without a split to test on


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

    A card without a split to test on gives a fifth of its annotated images for that. Parts are
    balanced by class, and the same for all cards.

    Args:
        cards: contents of cards, one for each task, of the same images.
        folder: receives the cards that are registered, and the lists of images.
        labels: the share of the annotated images that counts as annotated; the annotations of the
            others are withheld.
        seed: of the random draw of parts.

    Raises:
        UserError: a card is wrong, or has no or too few annotated images.
    """
    parts: dict[str, list[str]] = {}
    folder.mkdir(parents=True, exist_ok=True)
    return [_prepare(dict(content), folder, labels, seed, parts) for content in cards]


def by_task(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A card as one card for each task ("det", "seg", "cls") that its images are annotated for.

    Raises:
        UserError: the card is wrong, or has no annotated images.
    """
    card = read_card(dict(content))
    tasks = [kind.task for kind in STANDARD if any(kind.task in s.annotates for s in card.splits)]
    if not tasks:
        raise UserError(f"{card.name}: none of its images are annotated; name some that are.")
    if len(tasks) == 1:
        return {tasks[0]: dict(content)}
    given = {split.name: split.annotates for split in card.splits}
    found = {}
    for task in tasks:
        splits = {
            name: _table(card, value) | {"annotates": [task] if given[str(name)] else []}
            for name, value in content["splits"].items()
            if task in given[str(name)] or not given[str(name)]
        }
        found[task] = {**content, "name": f"{card.name}_{task}", "splits": splits}
    return found


def _prepare(
    content: dict[str, Any],
    folder: Path,
    labels: Fraction,
    seed: int,
    parts: dict[str, list[str]],
) -> TaskData:
    """The data of one card. ``parts`` has the ids of each new split, once they are drawn."""
    card = read_card(content)
    name, annotation = card.name, _annotation(card)
    content["root"] = str(card.find_root().absolute())
    use = roles(content)
    if not use["train"]:
        have = ", ".join(split.name for split in card.splits)
        raise UserError(
            f"{name}: none of its splits ({have}) is one to train on. Call one of them train in a "
            "data card, and give the card instead."
        )
    base = use["train"][0]
    if labels < 1 or not (use["test"] or use["val"]):
        register_card(content | {"name": f"{name}_whole"})
        counts = _counts(f"{name}_whole_{base}", annotation)
        if not parts:
            parts.update(
                _divide(counts, labels, held_out=not (use["test"] or use["val"]), seed=seed)
            )
        splits = dict(content["splits"])
        table = _table(card, splits[base])
        for part, ids in parts.items():
            own = [image_id for image_id in ids if image_id in counts]
            write_splits({part: own}, folder, name)
            splits[part] = table | {"ids": str((folder / part / name).absolute())}
        content["splits"] = splits
    file = folder / f"{name}.yaml"
    write_text(file, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    register_card(file)
    tests = ["test"] if "test" in parts else use["test"] or use["val"]
    vals = use["val"] if tests != use["val"] else []
    unlabeled = [*use["unlabeled"], *(["rest"] if "rest" in parts else [])]
    names: dict[str, Any] = {
        "labeled": (f"{name}_{'labeled' if parts else base}",),
        "unlabeled": tuple(f"{name}_{split}{UNLABELED}" for split in unlabeled),
        "val": f"{name}_{vals[0]}" if vals else "",
        "test": f"{name}_{tests[0]}",
    }
    every = [*names["labeled"], *names["unlabeled"], names["val"], names["test"]]
    records = {own: DatasetCatalog.get(own) for own in every if own}
    return TaskData(annotation=annotation, card=file, records=records, **names)


def _table(card: Card, split: Any) -> dict[str, Any]:
    """A split of a card as a table of keys; one value alone is that of the main key."""
    return dict(split) if isinstance(split, Mapping) else {type(card.splits[0]).main_key: split}


def _annotation(card: Card) -> Annotation:
    """What the images of a card are annotated with.

    Raises:
        UserError: with nothing, or with more than one thing.
    """
    kinds = {kind.task: kind for split in card.splits for kind in split.can_annotate}
    tasks = {task for split in card.splits for task in split.annotates}
    if len(tasks) != 1:
        raise UserError(
            f"{card.name} is annotated with {', '.join(sorted(tasks)) or 'nothing'}: give one card "
            "for each task (`annotates` in datasets/README.md)."
        )
    return kinds[tasks.pop()]


def _counts(name: str, annotation: Annotation) -> dict[str, dict[str, int]]:
    """The objects of each class of each image of a data set, by the image's id."""
    records, metadata = DatasetCatalog.get(name), MetadataCatalog.get(name)
    classes = metadata.get(annotation.classes_key)
    root = metadata.get("image_root")
    if annotation is MASKS:
        return mask_counts(records, classes, root, metadata.get("ignore_label"))
    return class_counts(records, classes, root)


def _divide(
    counts: Mapping[str, Mapping[str, int]], labels: Fraction, held_out: bool, seed: int
) -> dict[str, list[str]]:
    """Ids of the images to test on, to learn from, and whose annotations are withheld."""
    parts = {}
    if held_out:
        parts["test"], rest = make_splits(counts, [HELD_OUT], seed).values()
        counts = {image_id: counts[image_id] for image_id in rest}
    if labels < 1:
        parts["labeled"], parts["rest"] = make_splits(counts, [labels], seed).values()
    else:
        parts["labeled"] = sorted(counts)
    return parts
