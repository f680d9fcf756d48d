"""Registers data cards (see card.py) with Detectron2's catalogs, and loads what they describe."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from multas.data.card import UNLABELED, Card, read_card
from multas.data.chosen_classes import choose_names, choose_records
from multas.data.formats import DataFormat, Source
from multas.data.image_files import read_ids, remark_dark
from multas.data.image_names import IMAGE_SUFFIXES
from multas.data.issues import DatasetError, DatasetIssues
from multas.data.same_images import find_copies, opened_files
from multas.util.annotation import MASKS


def register_card(card: str | os.PathLike | dict) -> list[str]:
    """Register every split of a card, as ``<name>_<split>`` and ``<name>_<split>_unlabeled``.

    Nothing is loaded before ``DatasetCatalog.get``, which also makes the checks. Registering the
    same card again changes nothing, nor does another one with the same data: those of two jobs of
    tools/distill.py lie in different folders, as their lists do.

    Args:
        card: a YAML file, or its content as a dict.

    Returns:
        The registered names.

    Raises:
        DatasetError: if the card is wrong, or another data set has one of the names.
    """
    parsed = read_card(card)
    names = []
    for split in parsed.splits:
        for suffix in ("", UNLABELED):
            names.append(f"{parsed.name}_{split.name}{suffix}")
            _register(names[-1], parsed, split, unlabeled=bool(suffix))
    return names


def register_cards(cards: Sequence[str | os.PathLike | dict]) -> list[str]:
    """Register several cards, see :func:`register_card`; returns all names."""
    return [name for card in cards for name in register_card(card)]


def _register(name: str, card: Card, split: DataFormat, unlabeled: bool) -> None:
    metadata = MetadataCatalog.get(name)
    if name in DatasetCatalog.list():
        if (known := metadata.get("card")) is not None and _has_same_data(known, card, split.name):
            return
        raise DatasetError(
            f"card {card.source}: another data set {name!r} is registered already; give the card "
            "another `name`"
        )
    kinds = [kind for kind in split.can_annotate if kind.task in split.annotates]
    metadata.set(
        card=card,
        annotates=() if unlabeled else split.annotates,
        annotation_keys=() if unlabeled else tuple(kind.dataset_key for kind in kinds),
        ignore_label=card.ignore_label,
        strictness=card.strictness,
        left_out={},
    )
    metadata.set(**_declared_classes(card, split))
    _set_places(metadata, card, split, unlabeled)
    DatasetCatalog.register(name, partial(_load, name, card, split, unlabeled))


def _has_same_data(first: Card, second: Card, split: str) -> bool:
    """Whether two cards of one name have the same images and annotations in a split."""
    return first == second or _content(first, split) == _content(second, split)


def _content(card: Card, name: str) -> list[Any]:
    """What the data of a split are, wherever its card and its list lie.

    Other splits matter where classes are found in them, or images that they annotate are left out.
    """
    own = next((split for split in card.splits if split.name == name), None)
    if own is None:  # split b_c of a, and c of a_b
        return [card]
    others = [s for s in card.splits if card.classes is None or s.name in own.without]
    whole = [card.format, card.classes, card.only, card.ignore_label, card.strictness]
    try:
        root = card.find_root()
        lists = [card.find_ids(split, root) for split in (own, *others)]
        texts = [file and file.read_bytes() for file in lists]
    except (DatasetError, OSError):  # they may appear later
        return [card]
    plain = [{**asdict(split), "ids": None} for split in (own, *others)]
    return [*whole, root, plain, texts]


def _declared_classes(card: Card, split: DataFormat) -> dict[str, Any]:
    """The metadata of the classes, as far as the card knows them."""
    if card.classes is None:
        names = split.class_metadata(card.only or ()) if card.only else {}
        names.pop(MASKS.classes_key, None)  # among them is the background, see choose_names
        return names
    names = split.class_metadata(card.classes)
    if card.only is None:
        return names
    known = {**names, "read_sem_seg": split.mask_values()}
    return choose_names(known, card.only, card.ignore_label, f"card {card.source}")


def _set_places(metadata, card: Card, split: DataFormat, unlabeled: bool) -> None:
    """Tell the evaluators where the ground truth lies, if the data are there already.

    They may appear later (a generated set, lists yet to be made): loading calls this again.
    """
    if metadata.get("image_root") is not None:
        return
    try:
        root = card.find_root()
        id_file = card.find_ids(split, root)
    except DatasetError:
        return
    metadata.set(image_root=str(root / split.images))
    if not unlabeled:
        found = split.evaluation_metadata(root, id_file)
        types = found.pop("evaluator_type", [])
        if types:
            found["evaluator_type"] = types[0] if len(types) == 1 else types
        if card.only is not None:
            found.pop("read_sem_seg", None)  # chosen classes have a reader of their own
        metadata.set(**found)


def _source(card: Card, split: DataFormat, root: Path, issues: DatasetIssues) -> Source:
    def ids_of(other: DataFormat, issues: DatasetIssues) -> list[str] | None:
        file = card.find_ids(other, root)
        return None if file is None else read_ids(file, issues)

    return Source(
        where=f"card {card.source}: split {split.name!r}",
        root=root,
        ids=ids_of(split, issues),
        classes=card.classes,
        ignore_label=card.ignore_label,
        issues=issues,
        splits=card.splits,
        # The faults of other lists are reported when their splits are loaded.
        ids_of=partial(ids_of, issues=DatasetIssues(card.name)),
        only=card.only,
    )


def _without_annotated(
    records: Sequence[dict], card: Card, split: DataFormat, root: Path
) -> list[dict]:
    """The records without images that the splits of ``without`` annotate."""
    taken = {
        os.path.realpath(record["file_name"])
        for other in card.splits
        if other.name in split.without
        # The faults of other splits are reported when they are loaded.
        for record in other.load(_source(card, other, root, DatasetIssues(card.name)))[0]
    }
    return [r for r in records if os.path.realpath(r["file_name"]) not in taken]


def _load(name: str, card: Card, split: DataFormat, unlabeled: bool) -> list[dict]:
    issues = DatasetIssues(f"{name!r} (card {card.source})", card.strictness)
    records = read_split(name, card, split, issues, unlabeled)
    issues.close()
    require_images(records, name, card, split, issues)
    return records


def read_split(
    name: str, card: Card, split: DataFormat, issues: DatasetIssues, unlabeled: bool = False
) -> list[dict]:
    """Read a split whose ``name`` is registered, and tell Detectron2's metadata what was found.

    Args:
        name: of the split, registered.
        card: that it belongs to.
        split: the split.
        issues: receives what is wrong with it; whether that ends a run, others decide.
        unlabeled: whether its annotations are not to be read.

    Returns:
        The dataset dicts of what has no fault.

    Raises:
        DatasetError: there is no such folder or file, or nothing can be made of it.
    """
    metadata = MetadataCatalog.get(name)
    where = f"card {card.source}: split {split.name!r}"
    root = card.find_root()
    _set_places(metadata, card, split, unlabeled)

    source = _source(card, split, root, issues)
    images = root / split.images
    if not images.is_dir():
        raise DatasetError(f"{where}: no image folder {images}; correct `root` or `images`")
    reads = split.load if split.annotates and not unlabeled else split.load_unlabeled
    records, found = reads(source)
    if card.only is not None:
        before = {**split.class_metadata(card.classes or ()), "read_sem_seg": split.mask_values()}
        before |= found
        found = choose_names(before, card.only, card.ignore_label, where)
        records = choose_records(records, before, found, issues)
    metadata.set(**found)
    if split.without:
        records = _without_annotated(records, card, split, root)
    files = opened_files(records)
    remark_dark(files, issues)
    for group in find_copies(files):
        issues.remark(" = ".join(group), "one picture under several names")
    if issues.faults:
        # Evaluators would take what is left out from the files of a devkit; now they ask for dicts.
        for key in ("dirname", "split"):
            vars(metadata).pop(key, None)
    metadata.left_out.clear()
    metadata.left_out.update(issues.counts())
    return records


def require_images(
    records: list[dict], name: str, card: Card, split: DataFormat, issues: DatasetIssues
) -> None:
    """Make sure that :func:`read_split` has found an image.

    Raises:
        DatasetError: it has not; the message says where it has looked.
    """
    if not records and issues.faults:
        raise DatasetError(f"{issues.report()}\nAll images have faults, so that none is left.")
    if records:
        return
    root = card.find_root()
    file = card.find_ids(split, root)
    if file is not None and not read_ids(file, DatasetIssues(card.name)):
        where = f"card {card.source}: split {split.name!r}"
        raise DatasetError(f"{where}: the list {file} has no id; write one on each line")
    kinds = ", ".join(IMAGE_SUFFIXES)
    raise DatasetError(
        f"data set {name!r} (card {card.source}) has no images in {root / split.images}; correct "
        f"`images` or the list of the split, or save the images as {kinds}"
    )
