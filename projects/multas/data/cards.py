"""Registers data cards (see card.py) with Detectron2's catalogs and loads what they describe."""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from multas.data.card import Card, read_card
from multas.data.card_metadata import set_classes, set_places
from multas.data.card_split import UNLABELED, Split
from multas.data.formats.classification import (
    CIFAR,
    find_label_classes,
    load_cifar,
    load_class_folders,
    load_labels,
)
from multas.data.formats.coco import load_coco, match_classes, read_json
from multas.data.formats.folder import load_images, read_ids
from multas.data.formats.masks import MaskFolders, load_masks
from multas.data.formats.vedai import load_vedai, select_classes
from multas.data.formats.voc import find_classes, load_voc
from multas.data.issues import DatasetError, DatasetIssues


def register_card(card: str | os.PathLike | dict) -> list[str]:
    """Register every split of a card, as `<name>_<split>` and `<name>_<split>_unlabeled`.

    Nothing is loaded before `DatasetCatalog.get`, which also makes the checks. Registering the same
    card again changes nothing.

    Args:
        card: a YAML file, or its content as a dict.

    Returns:
        The registered names.

    Raises:
        DatasetError: the card is wrong, or another data set has one of the names.
    """
    parsed = read_card(card)
    names = []
    for split in parsed.splits:
        for name, unlabeled in (
            (f"{parsed.name}_{split.name}", False),
            (f"{parsed.name}_{split.name}{UNLABELED}", True),
        ):
            _register(name, parsed, split, unlabeled)
            names.append(name)
    return names


def register_cards(cards: Sequence[str | os.PathLike | dict]) -> list[str]:
    """Register several cards, see `register_card`; returns all names."""
    return [name for card in cards for name in register_card(card)]


def _register(name: str, card: Card, split: Split, unlabeled: bool) -> None:
    if name in DatasetCatalog.list():
        if MetadataCatalog.get(name).get("card") == _fingerprint(card):
            return
        raise DatasetError(
            f"card {card.source}: another data set {name!r} is registered already; give the card "
            "another `name`"
        )
    metadata = MetadataCatalog.get(name)
    metadata.set(
        card=_fingerprint(card),
        annotates=() if unlabeled else split.annotates,
        ignore_label=card.ignore_label,
    )
    if card.classes is not None:
        set_classes(metadata, card, card.classes)
    set_places(metadata, card, split, unlabeled)
    DatasetCatalog.register(name, partial(_load, name, card, split, unlabeled))


def _fingerprint(card: Card) -> str:
    return repr(replace(card, source=""))


def _load(name: str, card: Card, split: Split, unlabeled: bool) -> list[dict]:
    issues = DatasetIssues(f"{name!r} (card {card.source})", card.strictness)
    root = card.find_root()
    metadata = MetadataCatalog.get(name)
    set_places(metadata, card, split, unlabeled)
    file = card.find_ids(split, root)
    ids = None if file is None else read_ids(file, issues)
    if ids is not None and split.suffix:
        # Lists that were made from the names of the files have the suffix.
        ids = [image_id.removesuffix(split.suffix) for image_id in ids]
    images = root / split.images
    if not images.is_dir():
        raise DatasetError(
            f"card {card.source}: split {split.name!r}: no image folder {images}; correct `root` "
            "or `images`"
        )
    load = _load_unlabeled if unlabeled else _LOADERS[card.format]
    records = load(card, split, root, ids, metadata, issues)
    issues.close()
    if not records:
        raise DatasetError(f"data set {name!r} (card {card.source}) has no images in {images}")
    return records


# A format is one function here: it returns the dicts of a split's images `ids` (None for all) and
# sets the classes in the metadata where the card does not have them.


def _load_voc(
    card: Card, split: Split, root: Path, ids: list[str] | None, metadata, issues: DatasetIssues
) -> list[dict]:
    classes = card.classes or _found_classes(card, root)
    set_classes(metadata, card, classes)
    masks = None
    if "seg" in split.annotates:
        masks = _mask_folders(card, split, root, 1 + len(classes))
    return load_voc(
        root / split.images,
        ids,
        classes,
        issues,
        annotation_dir=root / split.annotations if "det" in split.annotates else None,
        masks=masks,
        only_complete=split.only_complete,
    )


def _found_classes(card: Card, root: Path) -> list[str]:
    """All splits count, so that each of them gets the same order."""
    quiet = DatasetIssues(card.name)
    names: set[str] = set()
    for split in card.splits:
        file = card.find_ids(split, root)
        if file is not None:
            names.update(find_classes(root / split.annotations, read_ids(file, quiet)))
    return sorted(names)


def _load_masks(
    card: Card, split: Split, root: Path, ids: list[str] | None, metadata, issues: DatasetIssues
) -> list[dict]:
    masks = _mask_folders(card, split, root, len(card.classes or ()))
    images = root / split.images
    return load_masks(images, ids, masks, issues, split.suffix, split.only_complete)


def _mask_folders(card: Card, split: Split, root: Path, num_values: int) -> MaskFolders:
    # By name alone: where root is a link, "../SBD" lies beside the link and not beside its target.
    folders = [Path(os.path.normpath(root / folder)) for folder in split.masks]
    for folder in folders:
        if not folder.is_dir():
            raise DatasetError(
                f"card {card.source}: split {split.name!r}: no mask folder {folder}; put the masks "
                "there, or correct `masks`"
            )
    return MaskFolders(folders, num_values, card.ignore_label, split.mask_suffix)


def _load_vedai(
    card: Card, split: Split, root: Path, ids: list[str] | None, metadata, issues: DatasetIssues
) -> list[dict]:
    classes = select_classes(card.classes, card.source)
    set_classes(metadata, card, classes)
    annotations = root / split.annotations
    return load_vedai(root / split.images, ids, classes, issues, annotations, split.suffix)


def _load_folders(
    card: Card, split: Split, root: Path, ids: list[str] | None, metadata, issues: DatasetIssues
) -> list[dict]:
    classes = card.classes or find_label_classes(card, root)
    set_classes(metadata, card, classes)
    if split.labels:
        return load_labels(root / split.images, ids, classes, issues, root / split.labels)
    return load_class_folders(root / split.images, ids, classes, issues)


def _load_cifar(
    card: Card, split: Split, root: Path, ids: list[str] | None, metadata, issues: DatasetIssues
) -> list[dict]:
    records, classes = load_cifar(card.format, root, split.part, ids, issues)
    set_classes(metadata, card, classes)
    return records


def _load_unlabeled(
    card: Card, split: Split, root: Path, ids: list[str] | None, metadata, issues: DatasetIssues
) -> list[dict]:
    if card.format in ("folders", *CIFAR) and not split.labels:
        # The labels are the names of the folders, or lie in the files of the images.
        records = _LOADERS[card.format](card, split, root, ids, metadata, issues)
        return [{k: v for k, v in record.items() if k != "label"} for record in records]
    images = root / split.images
    if ids is None and card.format == "coco":
        shared = [
            other.name
            for other in card.splits
            if other.images == split.images and other.json != split.json
        ]
        if shared:
            # The whole folder would mix in their images, perhaps those of a test split.
            raise DatasetError(
                f"card {card.source}: split {split.name!r} shares the folder {images} with "
                f"{', '.join(shared)}; to use it unlabelled, name its images by a list: "
                f"{split.name}: {{json: {split.json}, ids: …}}"
            )
    records = load_images(images, ids, issues, split.suffix)
    if card.format == "coco":
        # COCO's file names are its image ids with leading zeros; pseudo-labels are joined by ids.
        for record in records:
            stem = Path(record["file_name"]).stem
            record["image_id"] = int(stem) if stem.isdecimal() else stem
    return records


def _load_coco(
    card: Card, split: Split, root: Path, ids: list[str] | None, metadata, issues: DatasetIssues
) -> list[dict]:
    file = root / split.json
    content = read_json(file)
    classes = match_classes(content["categories"], card.classes, str(file), issues)
    set_classes(metadata, card, classes.names)
    records = load_coco(content, str(file), root / split.images, ids, classes, issues)
    # Without a file of its own the evaluator writes one from the records: needed where those are
    # fewer than, or classed differently from, what the file has.
    if classes.in_file_order and len(records) == len(content["images"]):
        metadata.set(json_file=str(file), thing_dataset_id_to_contiguous_id=classes.class_ids)
    return records


_LOADERS = {
    "voc": _load_voc,
    "coco": _load_coco,
    "masks": _load_masks,
    "images": _load_unlabeled,
    "vedai": _load_vedai,
    "folders": _load_folders,
    **dict.fromkeys(CIFAR, _load_cifar),
}
