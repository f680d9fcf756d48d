"""Looks for classification: a folder of images for each class."""

import os
from collections.abc import Collection, Mapping
from itertools import combinations

from multas.data.looking.inventory import (
    Inventory,
    Reading,
    annotation_stems,
    inside,
    is_named_mask,
    join,
    parent,
    split_names,
)
from multas.data.looking.roles import is_plain_role, role_of
from multas.util.errors import UserError
from multas.util.files import read_text

_NO_CLASS = (
    "images", "image", "img", "imgs", "jpegimages", "photos", "pictures", "data",
    "mask", "masks", "label", "labels", "annotation", "annotations", "ann", "gt",
)  # fmt: skip


def look_for_class_folders(found: Inventory) -> Reading | None:
    """The card of folders named by classes, or None: train/<class>/…, or <class>/… alone.

    Splits to choose or to test on may be folders of images of all classes, beside a text file that
    has an image and its class on each line, as in Tiny ImageNet.
    """
    tops, loose = _tops(found)
    classes = sorted({name for own in tops.values() for name in own})
    if len(classes) < 2 or _are_annotated(found) or not _are_classes(tops):
        return None
    splits, images, notes = {}, {}, []
    lists = {folder: file for folder in loose if (file := _list_of(found, folder, classes))}
    for top, name in split_names([*tops, *lists]).items():
        if role_of(top) == "unlabeled":
            continue
        splits[name] = {"images": top}
        if top in lists:
            splits[name]["labels"] = lists[top]
            images[name] = {join(top, image) for image in found.images[top]}
            notes.append(f"{lists[top]} has the classes of images in {top}: split {name}")
        else:
            images[name] = {path for c in tops[top] for path in found.below(join(top, c))}
            notes.append(f"{top} has a folder for each of {len(tops[top])} classes: split {name}")
    card = {"format": "folders", "classes": classes, "splits": splits}
    return Reading("class folders", card, notes, images)


def _tops(found: Inventory) -> tuple[dict[str, dict[str, None]], list[str]]:
    """The folders of folders of classes with these classes, and folders of images of all classes.

    Nothing if there are images that lie in no folder of a class, and in none to test on either.
    """
    tops: dict[str, dict[str, None]] = {}
    loose: list[str] = []
    shared = os.path.commonpath(found.images) if len(found.images) > 1 else ""
    above = len(shared.split("/")) if shared else 0  # such as that of images/<class>
    for folder in found.images:
        parts = folder.split("/")
        if parts[-1].lower() in _NO_CLASS:
            if not _is_alone(found, folder):
                return {}, []  # such as <image>/images and <image>/masks
            parts.pop()  # <class>/images, or val/images
        told = [i for i, part in enumerate(parts) if role_of(part)]
        if told and told[-1] == len(parts) - 1 and _is_class(found, "/".join(parts)):
            told.pop()
        depth = told[-1] + 1 if told else above
        if len(parts) > depth and folder != ".":
            top = "/".join(parts[:depth]) or "."
            tops.setdefault(top, {})[parts[depth]] = None
        elif role_of(folder) in ("val", "test", "unlabeled"):
            loose.append(folder)
        else:
            return {}, []
    return tops, loose


def _is_alone(found: Inventory, folder: str) -> bool:
    """Whether a folder has several images, and none beside it, or below the one above it, has."""
    above = parent(folder)
    below = [own for own in found.images if inside(own, above)]
    return above != "." and below == [folder] and len(found.images[folder]) > 1


def _list_of(found: Inventory, folder: str, classes: Collection[str]) -> str:
    """The text file that tells the classes of the images of a folder, "" if there is none."""
    for place in (folder, parent(folder)):
        for name in found.texts[".txt"].get(place, ()):
            try:
                rows = [
                    line.split()[:2] for line in read_text(found.root / place / name).split("\n")
                ]
            except (OSError, UserError):
                continue
            told = {row[0] for row in rows if len(row) == 2 and row[1] in classes}
            if 2 * len(told & set(found.images[folder])) > len(found.images[folder]):
                return join(place, name)
    return ""


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
