"""Looks for CSV files: boxes of objects, or the class of each image."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from multas.data.csv_files import IMAGE, CsvFile, box_rows, has_boxes, label_rows, read_csv
from multas.data.formats.csv import ANY_OBJECT, class_names
from multas.data.image_names import ImageNames
from multas.data.looking.inventory import Inventory, Reading, join, parent, split_names
from multas.data.looking.roles import role_of
from multas.util.errors import UserError

_TRIED = 200  # names of images that are looked for, to know a column or a folder by them
_LEAST = 0.5  # of them that must be there
_OFTEN = 1.2  # rows for each image of a table of classes; some may be lost, or named twice
_NO_LABELS = ("submission",)  # Kaggle's example of an answer has labels that say nothing


class _Table(NamedTuple):
    """A CSV file that tells about images of a folder."""

    place: str  # its path from the root
    file: CsvFile
    folder: str  # that of the images
    image_column: str  # "" where its name is a usual one
    images: Mapping[str, str]  # paths of images from the root, by their names in the file


def look_for_csv(found: Inventory) -> Reading | None:
    """The card of CSV files with boxes, or None if there are none.

    Raises:
        UserError: No file of boxes tells about images that are there.
    """
    read = _read_files(found)
    with_boxes = {place: file for place, file in read.items() if has_boxes(file)}
    tables = _tables(found, {p: f for p, f in read.items() if _has_columns(f)})
    boxes = [table for table in tables if _has_columns(table.file)]
    if not boxes:
        if with_boxes:
            place, file = next(iter(with_boxes.items()))
            image = box_rows(file)[0].image if file.rows else "none"
            raise UserError(
                f"{found.root / place} has boxes, but its images, such as {image}, are nowhere in "
                f"{found.root}; put them there, or correct their names"
            )
        return None

    def classes_of(table: _Table) -> set[str]:
        return class_names(box_rows(table.file, table.image_column))

    return _reading("CSV", found, boxes, "csv", "boxes", classes_of)


def look_for_csv_labels(found: Inventory, folders: Reading | None = None) -> Reading | None:
    """The card of CSV files that tell the class of each image, or None if there are none.

    Args:
        found: what lies in the folder.
        folders: its reading as class folders, which counts where the files tell the same of no more
            images; folders that have images of several classes are no class folders.
    """

    def classes_of(table: _Table) -> set[str]:
        return {name for _, _, name in label_rows(table.file, table.image_column) if name}

    tables = []
    for table in _tables(found, _read_files(found)):
        try:
            names = classes_of(table)
        except UserError:
            continue  # such as the table of images without labels
        rows = len(table.file.rows)
        # What has a value for each image, or several rows for one, tells no classes of images.
        if 2 <= len(names) <= max(2, rows // 2) and rows <= _OFTEN * len(table.images):
            tables.append(table)
    if not tables or (folders is not None and _tell_no_more(tables, folders)):
        return None
    return _reading("CSV with classes", found, tables, "folders", "classes", classes_of)


def _tell_no_more(tables: Sequence[_Table], folders: Reading) -> bool:
    """Whether each image of some tables has the class of all others of its folder."""
    kinds: dict[str, set[str]] = {}
    told: set[str] = set()
    for table in tables:
        for _, image, name in label_rows(table.file, table.image_column):
            if image in table.images:
                told.add(table.images[image])
                kinds.setdefault(parent(table.images[image]), set()).add(name)
    is_single = all(len(names) == 1 for names in kinds.values())
    return is_single and told <= set().union(*folders.images.values())


def _reading(
    what: str,
    found: Inventory,
    tables: Sequence[_Table],
    card_format: str,
    content: str,
    classes_of: Callable[[_Table], set[str]],
) -> Reading:
    """The reading of the tables that do not tell about the images of another one."""
    notes: list[str] = []
    chosen: list[_Table] = []
    for table in sorted(tables, key=lambda table: len(table.images)):
        own = set(table.images.values())
        same = next((t for t in chosen if own & set(t.images.values())), None)
        if same is None:
            chosen.append(table)
        else:
            notes.append(f"{table.place} is passed over: {same.place} has its images, too")
    by_name = {join(t.folder, os.path.splitext(t.place)[0]): t for t in chosen}
    key = "csv" if card_format == "csv" else "labels"
    splits: dict[str, Any] = {}
    images: dict[str, set[str]] = {}
    for path, name in split_names(by_name).items():
        table = by_name[path]
        splits[name] = {key: table.place, "images": table.folder}
        if table.image_column:
            splits[name]["image_column"] = table.image_column
        images[name] = set(table.images.values())
        notes.append(
            f"{table.place} has the {content} of {len(images[name])} images in {table.folder}: "
            f"split {name}"
        )
    classes = sorted(set().union(*map(classes_of, chosen)))
    if classes == [ANY_OBJECT]:
        notes.append(f"no column names classes: all objects are of one, {ANY_OBJECT}")
    card = {"format": card_format, "classes": classes, "splits": splits}
    return Reading(what, card, notes, images)


def _has_columns(file: CsvFile) -> bool:
    """Whether a file has columns of boxes, whatever that of images may be called."""
    return bool(file.columns) and has_boxes(file, file.columns[0])


def _read_files(found: Inventory) -> dict[str, CsvFile]:
    """The CSV files of a folder that can be read; others are passed over."""
    files = {}
    for folder, names in found.texts[".csv"].items():
        for place in (join(folder, name) for name in names):
            if any(word in place.lower() for word in _NO_LABELS):
                continue
            try:
                files[place] = read_csv(found.root / place)
            except (OSError, UserError):
                continue
    return files


def _tables(found: Inventory, files: Mapping[str, CsvFile]) -> list[_Table]:
    """The files that tell about images that are there, with the folders of these."""
    folders = {f for images in found.images for f in (images, *map(str, PurePath(images).parents))}
    known = {folder: _Images(found, folder) for folder in sorted(folders)}
    tables = []
    for place, file in files.items():
        usual = file.find(IMAGE)
        others = [i for i in range(len(file.columns)) if i != usual]
        for column in others if usual is None else [usual, *others]:
            names = list(dict.fromkeys(row.fields[column] for row in file.rows))
            folder = _best_folder(found, known, names[:_TRIED], place)
            if folder is not None:
                given = "" if column == usual else file.columns[column]
                tables.append(_Table(place, file, folder, given, known[folder].paths_of(names)))
                break
    return tables


class _Images:
    """The images in a folder and below it."""

    def __init__(self, found: Inventory, folder: str):
        start = 0 if folder == "." else len(folder) + 1
        self._paths = {os.path.splitext(path[start:])[0]: path for path in found.below(folder)}
        self._names = ImageNames(self._paths)

    def paths_of(self, names: Sequence[str]) -> dict[str, str]:
        """The paths from the root of those of some names that are those of images."""
        ids = {name: self._names.find(name) for name in names}
        return {name: self._paths[own] for name, own in ids.items() if own is not None}


def _best_folder(
    found: Inventory, known: Mapping[str, _Images], names: Sequence[str], place: str
) -> str | None:
    """The folder that has most of some images; None if none has enough of them.

    Of equal ones it is that of the file itself, one with the role that the file's path tells, or
    the lowest.
    """

    def rank(folder: str) -> tuple[float, ...]:
        share = len(known[folder].paths_of(names)) / max(len(names), 1)
        beside = folder == parent(place) and folder in found.images
        is_meant = role_of(place) in ("", role_of(folder))
        return share, beside, is_meant, folder.count("/") + (folder != ".")

    best = max(known, key=rank, default=None)
    return best if best is not None and rank(best)[0] >= _LEAST else None
