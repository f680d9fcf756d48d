"""Looks for classification: a folder of images for each class."""

from collections.abc import Mapping
from itertools import combinations

from multas.data.looking.inventory import (
    Inventory,
    Reading,
    annotation_stems,
    is_named_mask,
    join,
    parent,
    split_names,
)
from multas.data.looking.roles import is_plain_role, role_of

_NO_CLASS = (
    "images", "image", "img", "imgs", "jpegimages", "photos", "pictures", "data",
    "mask", "masks", "label", "labels", "annotation", "annotations", "ann", "gt",
)  # fmt: skip


def look_for_class_folders(found: Inventory) -> Reading | None:
    """The card of folders named by classes, or None: train/<class>/…, or <class>/… alone."""
    tops: dict[str, dict[str, None]] = {}  # the folders of classes, and the classes
    for folder in found.images:
        parts = folder.split("/")
        if parts[-1].lower() in _NO_CLASS:
            return None  # such as <image>/images and <image>/masks
        told = [i for i, part in enumerate(parts) if role_of(part)]
        if told and told[-1] == len(parts) - 1 and _is_class(found, folder):
            told.pop()
        depth = told[-1] + 1 if told else 0
        if len(parts) > depth and folder != ".":
            top = "/".join(parts[:depth]) or "."
            tops.setdefault(top, {})[parts[depth]] = None
        elif role_of(folder) not in ("val", "test", "unlabeled"):
            return None  # images that lie in no folder of a class
    classes = sorted({name for own in tops.values() for name in own})
    if len(classes) < 2 or _are_annotated(found) or not _are_classes(tops):
        return None
    splits, images, notes = {}, {}, []
    for top, name in split_names(tops).items():
        if role_of(top) == "unlabeled":
            continue
        splits[name] = {"images": top}
        images[name] = {path for c in tops[top] for path in found.below(join(top, c))}
        notes.append(f"{top} has a folder for each of {len(tops[top])} classes: split {name}")
    card = {"format": "folders", "classes": classes, "splits": splits}
    return Reading("class folders", card, notes, images)


def _is_class(found: Inventory, folder: str) -> bool:
    """Whether a folder whose name tells a role is that of a class, as train beside car and bus."""
    name = folder.rpartition("/")[2]
    beside = [f for f in found.images if parent(f) == parent(folder) and "." not in (f, folder)]
    others = [f for f in beside if not role_of(f.rpartition("/")[2])]
    is_meant = role_of(name) == "train" or not is_plain_role(name)
    return bool(others) and is_meant and role_of(name) != "unlabeled"


def _are_annotated(found: Inventory) -> bool:
    """Whether other files tell about the images of a folder, so that its name is no class."""
    tables = [join(folder, name) for folder, own in found.texts[".csv"].items() for name in own]
    if any("annot" in table.lower() or parent(table) in found.images for table in tables):
        return True
    named = annotation_stems(found)
    stems = map(found.stems, found.images)
    return any(2 * len(own & named) >= len(own) for own in stems if own)


def _are_classes(tops: Mapping[str, Mapping[str, None]]) -> bool:
    """Whether folders are those of photographs, and splits have classes in common.

    Other data sets have a folder for each city, day or camera, which are in one split alone.
    """
    used = [top for top in tops if role_of(top) != "unlabeled"]
    pairs = combinations(used, 2)
    return not any(map(is_named_mask, used)) and all(
        tops[a].keys() & tops[b].keys() for a, b in pairs
    )
