"""Looks for Pascal VOC: an XML file beside each image, or in a folder of its own, and lists."""

from pathlib import PurePath
from typing import Any

from multas.data.looking.inventory import (
    Inventory,
    Reading,
    find_lists,
    is_named_mask,
    join,
    parent,
    split_names,
)
from multas.util.errors import UserError
from multas.util.voc_xml import read_voc_xml


def look_for_voc(found: Inventory) -> Reading | None:
    """The card of the VOC files of a folder, or None if there are none.

    Raises:
        UserError: if there are several devkits, or the images of the XML files are nowhere.
    """
    classes: dict[str, None] = {}
    pairs: dict[str, str] = {}  # folders of XML files, and of their images
    for folder in found.texts[".xml"]:
        names = _class_names(found, folder)
        if names is None:
            continue
        beside = _image_folder(found, folder)
        if beside is None:
            place = found.root / folder
            raise UserError(
                f"{place} has VOC's XML files, but no folder has images of these names; put them "
                f"into {PurePath(folder).parent / 'JPEGImages'}"
            )
        classes |= dict.fromkeys(names)
        pairs[folder] = beside
    if not pairs:
        return None
    if not classes:
        raise UserError(f"the XML files in {found.root / next(iter(pairs))} have no object")
    devkits = sorted(parent(f) for f in pairs if PurePath(f).name == "Annotations")
    if len(devkits) > 1:
        raise UserError(
            f"there are several VOC devkits: {', '.join(devkits)}; name the folder of one, or "
            "write a card for each"
        )
    notes = [f"{f} has VOC's XML files of images in {pairs[f]}" for f in pairs]
    splits: dict[str, dict[str, Any]] = {}
    images: dict[str, set[str]] = {}
    for folder, name in split_names(pairs).items():
        own = {"images": pairs[folder], "annotations": folder}
        labeled = found.stems(folder, ".xml")
        paths = {PurePath(n).stem: join(pairs[folder], n) for n in found.images[pairs[folder]]}
        lists = find_lists(found, parent(folder), set(paths), classes) if len(pairs) == 1 else {}
        for split, (key, ids) in (lists or {name: ("", list(paths))}).items():
            annotated = {paths[i] for i in ids if i in labeled and i in paths}
            splits[split] = own | ({"ids": key} if key else {})
            if key:
                notes.append(f"list {key} has {len(ids)} images: split {split}")
            if not annotated:
                splits[split] = {"ids": key, "images": pairs[folder], "annotates": []}
                notes.append(f"no image of {split} has an XML file: it is unlabelled")
                continue
            images[split] = annotated
            if lacking := [i for i in ids if i not in labeled]:
                splits[split]["only_complete"] = True
                notes.append(f"{len(lacking)} of {len(ids)} images of {split} lack an XML file")
    return Reading(
        "VOC", {"format": "voc", "classes": sorted(classes), "splits": splits}, notes, images
    )


def _class_names(found: Inventory, folder: str) -> set[str] | None:
    """The classes of the XML files of a folder; None if none of them is VOC's."""
    names: set[str] = set()
    is_voc = False
    for name in found.texts[".xml"][folder]:
        try:
            names.update(entry.name for entry in read_voc_xml(found.root / folder / name).objects)
            is_voc = True
        except (OSError, UserError):  # reported when the data are loaded
            continue
    return names if is_voc else None


def _image_folder(found: Inventory, folder: str) -> str | None:
    """The folder with most images that are named like the XML files of a folder."""
    stems = found.stems(folder, ".xml")

    def rank(images: str) -> tuple[int, bool, bool, bool]:
        beside = images == folder, not is_named_mask(images), parent(images) == parent(folder)
        return len(stems & found.stems(images)), *beside

    best = max(found.images, key=rank, default=None)
    return best if best is not None and rank(best)[0] else None
