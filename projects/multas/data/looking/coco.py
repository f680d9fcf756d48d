"""Looks for COCO: annotation files with boxes, and the folders of their images."""

import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import PurePath

from multas.data.json_files import BOX, ID, Kind, entry_fault, read_json, with_slashes
from multas.data.looking.inventory import Inventory, Reading, join, parent, split_names
from multas.util.errors import UserError

_TEXT = Kind("a text", lambda value: isinstance(value, str) and bool(value))
_NEEDED: dict[str, dict[str, Kind]] = {
    "images": {"file_name": _TEXT},
    "annotations": {"category_id": ID, "bbox": BOX},
    "categories": {"id": ID, "name": _TEXT},
}
_TRIED = 50  # images of a file whose folder is looked for


def look_for_coco(found: Inventory) -> Reading | None:
    """The card of the COCO files of a folder, or None if there are none.

    Raises:
        UserError: if several files have the same images, or none has an image that is there.
    """
    files, notes = _read_files(found)
    folders = {place: _find_images(found, place, content) for place, content in files.items()}
    for place in [p for p in files if folders[p] is None]:
        first = files.pop(place)["images"][0]["file_name"]
        notes.append(f"{place} is passed over: its images ({first}) are nowhere in the folder")
        if not files:
            raise UserError(
                f"{found.root / place} is COCO's, but its images, such as {first}, are nowhere in "
                f"{found.root}; put them there, or correct `file_name`"
            )
    if not files:
        return None
    own = {
        place: {os.path.normpath(join(folders[place] or ".", e["file_name"])) for e in c["images"]}
        for place, c in files.items()
    }
    chosen = _choose(own, notes)
    splits: dict[str, dict] = {}
    names = split_names(chosen)
    for place, name in names.items():
        folder, number = folders[place], len(own[place])
        if "annotations" in files[place]:
            splits[name] = {"json": place, "images": folder}
            if list(folders.values()).count(folder) > 1:
                splits[name]["ids"] = place  # so that its images can be used without labels, too
            notes.append(f"{place} is COCO's, its {number} images are in {folder}: split {name}")
        else:
            splits[name] = {"ids": place, "images": folder, "annotates": []}
            notes.append(f"{place} lists {number} images without annotations: split {name}")
    annotated = [place for place in chosen if "annotations" in files[place]]
    if not annotated:
        return None
    classes = _classes([files[place] for place in annotated], notes)
    card = {"format": "coco", **classes, "splits": splits}
    images = {names[place]: own[place] for place in annotated}
    return Reading("COCO", card, notes, images)


def unread_files(found: Inventory) -> list[str]:
    """Why JSON files, of COCO or not, are passed over."""
    return _read_files(found)[1]


def _read_files(found: Inventory) -> tuple[dict[str, dict[str, list]], list[str]]:
    """The sound entries of each COCO file, and notes about other JSON files.

    Images that a file lists without annotations are those of a file that lacks "annotations".
    """
    files: dict[str, dict[str, list]] = {}
    notes: list[str] = []
    for folder, names in found.texts[".json"].items():
        for place in (join(folder, name) for name in names):
            try:
                content = read_json(found.root / place)
            except (OSError, UserError) as error:
                notes.append(f"{place} is passed over: {error}")
                continue
            if not isinstance(content, dict):
                continue
            content = content | {"images": with_slashes(content.get("images"))}
            if not (images := _sound(content, "images")):
                continue
            if "annotations" not in content:
                files[place] = {"images": images}
                continue
            tables = {name: _sound(content, name) for name in ("annotations", "categories")}
            if tables["categories"] and (tables["annotations"] or not content["annotations"]):
                files[place] = {"images": images, **tables}
            else:
                notes.append(f"{place} is passed over: it is COCO's, but has no boxes of classes")
    return files, notes


def _sound(content: Mapping, name: str) -> list[dict]:
    """The entries of a table that have what is needed here; readers report the others."""
    table = content.get(name)
    entries = table if isinstance(table, list) else []
    return [entry for entry in entries if entry_fault(entry, _NEEDED[name]) is None]


def _choose(own: Mapping[str, set[str]], notes: list[str]) -> list[str]:
    """One file for each image, of COCO's own instances_*, and none that is all of others.

    Raises:
        UserError: if files of equal rank have the same images.
    """
    chosen = list(own)
    for place in own:
        same = [p for p in chosen if p != place and own[p] & own[place]]
        if any(_is_instances(p) for p in same) and not _is_instances(place):
            notes.append(f"{place} is passed over: {same[0]} has its images, too")
            chosen.remove(place)
    for place in list(chosen):
        parts = [p for p in chosen if p != place and own[p] < own[place]]
        if len(parts) > 1 and own[place] == set().union(*(own[p] for p in parts)):
            notes.append(f"{place} is passed over: it joins {' and '.join(parts)}")
            chosen.remove(place)
    for place, other in combinations(chosen, 2):
        if own[place] == own[other]:
            raise UserError(
                f"{place} and {other} have the same images: name the file that is meant in place "
                "of the folder, or write a card"
            )
    return chosen


def _is_instances(place: str) -> bool:
    return PurePath(place).name.startswith("instances_")


def _find_images(found: Inventory, place: str, content: Mapping) -> str | None:
    """The folder that the file names of a COCO file start from, None if there is none."""
    entries = [entry["file_name"] for entry in content["images"]]
    tried = entries[:: max(1, len(entries) // _TRIED)]
    folders = sorted({above for folder in found.images for above in _with_parents(folder)})
    known = {folder: set(found.images.get(folder, ())) for folder in folders}
    near = [parent(place), parent(parent(place))]

    def rank(folder: str) -> tuple:
        name = PurePath(folder).name
        likely = name in PurePath(place).stem, name == "images", parent(folder) in near
        number = sum(_is_there(found, known[folder], folder, entry) for entry in tried)
        return number, folder in near, *likely, -folder.count("/")

    best = max(folders, key=rank, default=None)
    return best if best is not None and rank(best)[0] else None


def _is_there(found: Inventory, names: set[str], folder: str, entry: str) -> bool:
    return entry in names if "/" not in entry else (found.root / folder / entry).is_file()


def _with_parents(folder: str) -> list[str]:
    parts = folder.split("/")
    return [".", *("/".join(parts[: n + 1]) for n in range(len(parts)) if folder != ".")]


def _classes(files: Sequence[Mapping], notes: list[str]) -> dict[str, list[str]]:
    """The keys of a card that name the classes, in the order of their ids."""
    names: dict[str, None] = {}
    used, supers, tables = set(), set(), []
    for content in files:
        own = {entry["id"]: entry["name"] for entry in content["categories"]}
        ordered = sorted(own, key=lambda n: (isinstance(n, str), n))
        tables.append(list(dict.fromkeys(own[number] for number in ordered)))
        names |= dict.fromkeys(tables[-1])
        used |= {own.get(entry["category_id"]) for entry in content["annotations"]}
        supers |= {entry.get("supercategory") for entry in content["categories"]}
    heads = [name for name in names if name in supers and name not in used]
    if heads and len(heads) < len(names):
        notes.append(f"class {', '.join(heads)} has no object and is a group of others: left out")
    wanted = [name for name in names if name not in heads] or list(names)
    differ = [table for table in tables if table != list(names)]
    if differ:
        notes.append(f"not all files have the same categories; all {len(names)} are classes")
    return {"classes": list(names)} | ({"only": wanted} if differ or wanted != list(names) else {})
