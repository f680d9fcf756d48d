"""Finds out what data set a folder has, and writes its card; see datasets/README.md for cards."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from multas.data.card import read_card
from multas.data.formats import DATA_FORMAT_REGISTRY
from multas.data.looking.class_folders import look_for_class_folders
from multas.data.looking.coco import look_for_coco, unread_files
from multas.data.looking.csv import look_for_csv, look_for_csv_labels
from multas.data.looking.csv_tables import find_tables
from multas.data.looking.folders import add_unlabeled, look_for_images
from multas.data.looking.instances import boxes_of_masks
from multas.data.looking.inventory import Inventory, Reading, read_tables, take_inventory
from multas.data.looking.kitti import look_for_kitti
from multas.data.looking.labelme import look_for_labelme
from multas.data.looking.masks import look_for_masks
from multas.data.looking.masks_beside import look_for_masks_beside
from multas.data.looking.roles import role_of
from multas.data.looking.voc import look_for_voc
from multas.data.looking.yolo import look_for_yolo
from multas.data.yolo_yaml import is_yolo_yaml, plain_name
from multas.util.errors import UserError

_OF_TABLES = ("annotations", "annotation", "labels", "csv", "data", "meta", "metadata")
_LAYOUTS = """\
What is found by looking:
  VOC: JPEGImages/*.jpg, Annotations/*.xml, ImageSets/Main/*.txt; or images and XML files together
  COCO: annotations/*.json and folders of images, or _annotations.coco.json beside the images
  YOLO: data.yaml, or images/ and labels/, or images and .txt files together
  LabelMe: images and JSON files together, or in images/ and annotations/
  KITTI: images in image_2/, text files in label_2/
  CSV: a row for each box (filename, xmin, ymin, xmax, ymax, class) or image (filename, class)
  masks: PNG files with the numbers or colours of classes, named like the images of another folder,
  or beside them with an ending such as _mask
  classification: a folder for each class, below train/ and val/ or not
Anything else is described by a card, a few lines of YAML (datasets/README.md):
  name: cells
  format: voc            # voc, coco, yolo, labelme, kitti, csv, masks, folders, images
  root: /data/cells
  splits: {train: Main/train, val: Main/val}"""


class Found(NamedTuple):
    """The cards of a data set, one for each task, and a line for each reason why it is read so."""

    cards: list[dict[str, Any]]
    notes: list[str]


def find_cards(place: str | os.PathLike) -> Found:
    """The cards that describe what lies in a folder.

    Boxes and masks of the same images take two cards, the first for boxes; their splits have the
    same names. Nothing is written, and no image is decoded but some masks.

    Args:
        place: a folder; or a file: a card, a data.yaml of YOLO, or an annotation file of COCO.

    Returns:
        The content of each card: an absolute root, the classes, and splits as far as there are
        some. Images without annotations are the split ``unlabeled``. :func:`roles.roles` tells
        what the splits are for.

    Raises:
        UserError: if nothing or several things fit; the message has what was seen.
    """
    path = Path(os.path.abspath(os.path.expanduser(place)))
    if path.is_dir():
        return _of_folder(path, path.name)
    if not path.is_file():
        raise UserError(f"{path} does not exist; name a folder of data, or a card")
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        table = read_tables([path]).get(path, {})
        if not is_yolo_yaml(table):
            read_card(path)  # says what is wrong with it
            return Found([_with_root(table, path)], [f"{path.name} is a data card"])
        found = take_inventory(path.parent)
        name = path.parent.name if path.stem == "data" else path.stem
        return _finish(found, look_for_yolo(found, path), set(), name)
    if suffix == ".json":
        folder = path.parent.parent if path.parent.name == "annotations" else path.parent
        found = _with_one_file(folder, path)
        return _finish(found, look_for_coco(found), set(), folder.name)
    if suffix == ".csv":
        return _of_csv(path)
    raise UserError(
        f"{path} is no card (.yaml), data.yaml of YOLO, annotation file of COCO (.json) or table "
        "of boxes or classes (.csv); name a folder of data, or one of these"
    )


def find_card(place: str | os.PathLike) -> dict[str, Any]:
    """The only card of a folder, see :func:`find_cards`.

    Raises:
        UserError: if there are several.
    """
    cards, _ = find_cards(place)
    if len(cards) > 1:
        names = ", ".join(f"{card['name']} ({card['format']})" for card in cards)
        raise UserError(f"{place} has boxes and masks, which take a card each: {names}")
    return cards[0]


def _of_folder(folder: Path, name: str) -> Found:
    found = take_inventory(folder)
    cards = {
        f: t for f, t in read_tables(found.yaml_files()).items() if {"format", "root"} <= t.keys()
    }
    if len(cards) == 1:
        ((file, table),) = cards.items()
        read_card(file)
        return Found([_with_root(table, file)], [f"{file.name} is a data card"])
    if cards:
        names = ", ".join(file.name for file in cards)
        raise UserError(f"{folder} has several cards: {names}; name one of them")
    if (inner := _only_folder(found)) is not None:
        return _of_folder(inner, name)
    looks: Sequence[Callable[[Inventory], Reading | None]] = (
        look_for_voc, look_for_coco, look_for_yolo, look_for_labelme, look_for_kitti,
    )  # fmt: skip
    readings = [reading for look in looks if (reading := look(found)) is not None]
    if len(readings) > 1:
        seen = "\n".join(f"  {r.what}: {note}" for r in readings for note in r.notes)
        raise UserError(
            f"{folder} can be read as {' and as '.join(r.what for r in readings)}:\n{seen}\nName "
            "one file that tells, such as data.yaml or annotations/train.json, take the others "
            "away, or write a card."
        )
    csv, folders = find_tables(found), look_for_class_folders(found)
    boxes = readings[0] if readings else look_for_csv(csv.tables, folders)
    seg, masks, unused = look_for_masks(found, boxes)
    if boxes is None and seg is None:
        seg, masks = look_for_masks_beside(found)
    if boxes is None and seg is not None:
        boxes = boxes_of_masks(seg)
    first = boxes or seg or look_for_csv_labels(found, csv.tables, folders) or folders
    first = first or look_for_images(found)
    if first is not None and first.card["format"] in ("folders", "images"):
        unread = unread_files(found) if first.card["format"] == "folders" else []
        first = replace(first, notes=[*first.notes, *unread, *csv.notes])
    done = _finish(found, first, masks, name, seg if boxes else None)
    return Found(done.cards, [*done.notes, *unused])


def _with_one_file(folder: Path, file: Path) -> Inventory:
    """What lies in a folder, of all files like one of them this one alone."""
    whole = take_inventory(folder)
    only = {file.parent.relative_to(folder).as_posix(): [file.name]}
    return Inventory(folder, whole.images, {**whole.texts, file.suffix.lower(): only})


def _of_csv(file: Path) -> Found:
    """The card of one CSV file, whose images lie below its folder.

    Or below the one above, if its folder is called as those of annotations are.
    """
    above = [file.parent.parent] if file.parent.name.lower() in _OF_TABLES else []
    for folder in (file.parent, *above):
        found = _with_one_file(folder, file)
        tables, notes = find_tables(found)
        reading = look_for_csv(tables) or look_for_csv_labels(found, tables)
        if reading is not None:
            return _finish(found, reading, set(), folder.name)
    raise UserError("; ".join(notes) or f"{file} has neither boxes nor classes of images")


def _finish(
    found: Inventory,
    first: Reading | None,
    masks: set[str],
    name: str,
    second: Reading | None = None,
) -> Found:
    """The cards of what was read, with their names, roots and unlabelled images."""
    if first is None:
        raise UserError(f"{found.root} has no data set: {_seen(found)}.\n{_LAYOUTS}")
    notes = [*first.notes, *(second.notes if second else ())]
    if first.images:
        notes += add_unlabeled(found, first, masks)
    cards = []
    for reading, tail in ((first, ""), (second, "_masks")):
        if reading is not None:
            head = {"name": plain_name(name) + tail, "root": str(found.root)}
            cards.append(_tidy({**head, **reading.card, "name": head["name"]}))
    return Found(cards, notes)


def _tidy(card: dict[str, Any]) -> dict[str, Any]:
    """A card that says what all its splits have in common once, and no defaults."""
    cls = next(c for _, c in DATA_FORMAT_REGISTRY if c.format_name() == card["format"])
    splits = card["splits"]
    defaults = {key: getattr(cls, key, None) for key in ("images", "annotations")}
    for key in ("images", "annotations", "masks", "mask_suffix"):
        values = [split.get(key) for split in splits.values() if key in split]
        if values and all(value == values[0] for value in values):
            for split in splits.values():
                split.pop(key, None)
            if values[0] != defaults.get(key):
                card[key] = values[0]
    order = ["train", "val", "test", "", "unlabeled"]
    splits = {name: splits[name] for name in sorted(splits, key=lambda n: order.index(role_of(n)))}
    for name, split in splits.items():
        if split.keys() == {cls.main_key}:
            splits[name] = split[cls.main_key]
    return {**{key: value for key, value in card.items() if key != "splits"}, "splits": splits}


def _with_root(card: dict[str, Any], file: Path) -> dict[str, Any]:
    """The content of a card with an absolute root, where it is there already."""
    return {**card, "root": str(read_card(file).find_root())}


def _only_folder(found: Inventory) -> Path | None:
    """The folder in a folder that has nothing else, as archives are unpacked."""
    inside = {f.split("/")[0] for files in (found.images, *found.texts.values()) for f in files}
    (name,) = inside if len(inside) == 1 else (".",)
    # A folder called images or train says something about what is in it.
    return None if name == "." or role_of(name) or "images" in name.lower() else found.root / name


def _seen(found: Inventory) -> str:
    """The files of a folder in a few words."""
    kinds = [(found.images, "images"), *((files, suffix) for suffix, files in found.texts.items())]
    parts = [
        f"{sum(map(len, files.values()))} {what} in {', '.join(list(files)[:4])}"
        + (" …" if len(files) > 4 else "")
        for files, what in kinds if files
    ]  # fmt: skip
    parts = parts if found.images else ["it has no images", *parts]
    if links := sorted(p.name for p in found.root.iterdir() if p.is_symlink() and p.is_dir()):
        parts.append(f"links to folders, which are not followed: {', '.join(links)}")
    return "; ".join(parts)
