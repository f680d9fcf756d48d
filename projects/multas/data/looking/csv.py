"""Looks for CSV files: boxes of objects, or the class of each image."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from multas.data.csv_boxes import box_rows, has_boxes
from multas.data.csv_files import SPLIT_COLUMNS, image_names, label_rows, plain
from multas.data.formats.csv import ANY_OBJECT, class_names
from multas.data.image_names import without_suffix
from multas.data.looking.csv_tables import Table
from multas.data.looking.inventory import Inventory, Reading, join, parent, split_names
from multas.data.looking.roles import role_of
from multas.util.errors import UserError

_OFTEN = 1.2  # rows for each image of a table of classes; some may be lost, or named twice
_COVERED = 0.5  # of the images of a folder, where names might be those of others by chance
# Columns that are no classes, although they may stand alone beside that of images.
_NO_CLASS = (*SPLIT_COLUMNS, "usage", "isvalid", "sex", "gender", "age", "camera", "patient",
             "patientid", "source", "count", "width", "height", "date", "time", "caption", "text",
             "description", "url")  # fmt: skip
_MASKS = ("encodedpixels", "rle", "segmentation")  # with them, a class is that of pixels


def look_for_csv(tables: Sequence[Table], folders: Reading | None = None) -> Reading | None:
    """The card of CSV files with boxes, or None if there are none.

    Args:
        tables: the CSV files of a folder.
        folders: its reading as class folders, which counts if few of its images have boxes.
    """
    boxes = [table for table in tables if has_boxes(table.file)]
    if folders is not None:
        images: set[str] = set().union(*folders.images.values())
        told = images.intersection(path for table in boxes for path in table.images.values())
        if len(told) < _COVERED * len(images):
            return None
    return _reading("CSV", boxes, "csv", "boxes", _boxes_of) if boxes else None


def look_for_csv_labels(
    found: Inventory, tables: Sequence[Table], folders: Reading | None = None
) -> Reading | None:
    """The card of CSV files that tell the class of each image, or None if there are none.

    Args:
        found: what lies in the folder.
        tables: its CSV files.
        folders: its reading as class folders. It counts, unless the files tell the classes of all
            of its images, and in addition those of others, several classes of one folder, or
            splits.
    """
    known = [table for table in tables if _tells_classes(found, table, folders is None)]
    if not known or (folders is not None and not _tell_more(known, folders)):
        return None
    return _reading("CSV with classes", known, "folders", "classes", _labels_of)


def _boxes_of(table: Table) -> set[str]:
    return class_names(box_rows(table.file))


def _labels_of(table: Table) -> set[str]:
    return {name for _, _, name in label_rows(table.file) if name}


def _tells_classes(found: Inventory, table: Table, any_name: bool) -> bool:
    """Whether a table tells classes of images, and not something else about them.

    Args:
        any_name: whether a column of classes may have any name.
    """
    columns = [plain(column) for column in table.file.columns]
    try:
        rows = label_rows(table.file)
    except UserError:
        return False  # such as the table of images without labels
    if set(columns) & set(_MASKS):
        return False
    if table.file.label_column() is None and (not any_name or set(columns) & set(_NO_CLASS)):
        return False
    numbers = Counter(name for _, _, name in rows if name)
    # What has a value for each image, or several rows for one, tells no classes of images.
    repeated = sum(number for number in numbers.values() if number > 1)
    if len(numbers) < 2 or 2 * repeated < len(rows) or len(rows) > _OFTEN * len(table.images):
        return False
    has_files = all(without_suffix(name) != name for name in table.images)
    return has_files or len(table.images) >= _COVERED * len(found.below(table.folder))


def _tell_more(tables: Sequence[Table], folders: Reading) -> bool:
    """Whether tables tell what class folders do not; see :func:`look_for_csv_labels`."""
    kinds: dict[str, set[str]] = {}
    told: set[str] = set()
    for table in tables:
        for _, name, label in label_rows(table.file):
            if label and name in table.images:
                told.add(table.images[name])
                kinds.setdefault(parent(table.images[name]), set()).add(label)
    in_folders: set[str] = set().union(*folders.images.values())
    is_mixed = any(len(labels) > 1 for labels in kinds.values())
    has_splits = len(folders.images) == 1 and any(len(_parts(table, [])) > 1 for table in tables)
    return told >= in_folders and (is_mixed or has_splits or told != in_folders)


def _reading(
    what: str,
    tables: Sequence[Table],
    card_format: str,
    content: str,
    classes_of: Callable[[Table], set[str]],
) -> Reading:
    """The reading of some tables, of which one tells about each image."""
    notes: list[str] = []
    chosen = _chosen(tables, notes)
    by_name: dict[str, tuple[Table, str, set[str]]] = {}
    for table in chosen:
        path = join(table.folder, os.path.splitext(table.place)[0])
        for part, own in _parts(table, notes).items():
            place = part if part and len(chosen) == 1 else join(path, part) if part else path
            by_name[place] = table, part, own
    key = "csv" if card_format == "csv" else "labels"
    splits: dict[str, Any] = {}
    images: dict[str, set[str]] = {}
    shared = Counter(table.folder for table in chosen)
    for path, name in split_names(by_name).items():
        table, part, own = by_name[path]
        splits[name] = {key: table.place, "images": table.folder}
        if part:
            splits[name]["part"] = part
        elif shared[table.folder] > 1 and table.names_are_ids:
            splits[name]["ids"] = table.place  # for masks of the same images, if there are some
        rows = f"its rows of {part} have" if part else "has"
        if part and not classes_of(replace(table, file=table.file.part(part))):
            splits[name]["annotates"] = []
            notes.append(f"{table.place}: {rows} no {content}: split {name} is unlabelled")
            continue
        images[name] = own
        notes.append(
            f"{table.place} {rows} the {content} of {len(own)} images in {table.folder}: split "
            f"{name}"
        )
    classes = sorted(set().union(*map(classes_of, chosen)))
    if classes == [ANY_OBJECT]:
        notes.append(f"no column names classes: all objects are of one, {ANY_OBJECT}")
    card = {"format": card_format, "classes": classes, "splits": splits}
    return Reading(what, card, notes, images)


def _parts(table: Table, notes: list[str]) -> dict[str, set[str]]:
    """The images of each part of a table, or of "", its whole.

    Parts are told by a column of splits, if each of its words tells the role of one, and no image
    is in two of them.
    """
    whole = {"": set(table.images.values())}
    column = table.file.split_column()
    if column is None:
        return whole
    words = sorted({row.fields[column] for row in table.file.rows})
    roles = {role_of(word) for word in words}
    if len(roles) == len(words) and roles <= {"train", "val", "test"}:
        names = {word: image_names(table.file.part(word)) for word in words}
        parts = {w: {table.images[n] for n in own if n in table.images} for w, own in names.items()}
        if sum(map(len, parts.values())) == len(whole[""]):
            return {word: own for word, own in parts.items() if own}
    notes.append(
        f"{table.place}: its column {table.file.columns[column]} is not read, as its words are not "
        "train, val and test, or an image has two of them; give a data card with `part`"
    )
    return whole


def _chosen(tables: Sequence[Table], notes: list[str]) -> list[Table]:
    """Tables of which no two have an image in common.

    Of those that do, the parts of one that together have all of its images, or else the largest;
    those with scores, which a network has found, come last.
    """
    own = {table.place: set(table.images.values()) for table in tables}
    left = sorted(tables, key=lambda t: (t.file.has_scores, -len(own[t.place]), t.place))
    for table in list(left):
        parts = [t for t in left if own[t.place] < own[table.place]]
        if parts and set().union(*(own[t.place] for t in parts)) == own[table.place]:
            left.remove(table)
            names = ", ".join(sorted(t.place for t in parts))
            notes.append(f"{table.place} is passed over: {names} have its images, too")
    chosen: list[Table] = []
    for table in left:
        same = next((t for t in chosen if own[t.place] & own[table.place]), None)
        if same is None:
            chosen.append(table)
        else:
            notes.append(f"{table.place} is passed over: {same.place} has its images, too")
    return sorted(chosen, key=lambda table: table.place)
