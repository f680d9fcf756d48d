"""Looks for classification: a folder of images for each class."""

import os
from collections import Counter
from collections.abc import Collection, Mapping
from itertools import combinations
from pathlib import PurePath

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
    told = {folder: _list_of(found, folder, classes) for folder in loose if folder not in tops}
    lists = {folder: own for folder, own in told.items() if own[0]}
    for top, name in split_names([*tops, *lists]).items():
        if role_of(top) == "unlabeled":
            continue
        splits[name] = {"images": top}
        if top in lists:
            splits[name]["labels"], images[name] = lists[top]
            notes.append(
                f"{lists[top][0]} has the classes of {len(images[name])} images in {top}: split "
                f"{name}"
            )
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
    below = Counter(str(path) for folder in found.images for path in PurePath(folder).parents)
    for folder in found.images:
        parts = folder.split("/")
        if is_inner := parts[-1].lower() in _NO_CLASS:
            # Alone in its folder, and of several images, unlike <image>/images and <image>/masks.
            if below[parent(folder)] > 1 or parent(folder) == "." or len(found.images[folder]) < 2:
                return {}, []
            parts.pop()  # <class>/images, or val/images
        told = [i for i, part in enumerate(parts) if role_of(part)]
        if told and told[-1] == len(parts) - 1 and _is_class(found, "/".join(parts)):
            told.pop()
        depth = told[-1] + 1 if told else above
        if len(parts) > depth and folder != ".":
            is_guessed = is_inner or (above and not told)
            if is_guessed and any(found.texts[suffix] for suffix in (".json", ".xml", ".csv")):
                # Unknown annotations: folders may be those of days or cameras as well.
                return {}, []
            top = "/".join(parts[:depth]) or "."
            tops.setdefault(top, {})[parts[depth]] = None
        elif role_of(folder) in ("val", "test", "unlabeled"):
            loose.append(folder)
        else:
            return {}, []
    return tops, loose


def _list_of(found: Inventory, folder: str, classes: Collection[str]) -> tuple[str, set[str]]:
    """The text file that tells the classes of the images of a folder, and the images that it tells.

    ("", set()) if there is none.
    """
    images = set(found.images[folder])
    places = (folder, parent(folder))
    files = [join(place, name) for place in places for name in found.texts[".txt"].get(place, ())]
    for file in files:
        name = file.rpartition("/")[2].lower()
        is_other = role_of(name) not in ("", role_of(folder))
        if is_other or any(word in name for word in ("submission", "pred", "result")):
            continue
        try:
            rows = [line.split()[:2] for line in read_text(found.root / file).split("\n")]
        except (OSError, UserError):
            continue
        told = {row[0] for row in rows if len(row) == 2 and row[1] in classes} & images
        if 2 * len(told) > len(images):
            return file, {join(folder, name) for name in told}
    return "", set()


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
