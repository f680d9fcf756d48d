"""Boxes in a CSV file: a row for each object, with its image, class and box."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from multas.data.csv_boxes import BoxRow, box_rows
from multas.data.csv_files import read_csv
from multas.data.formats.base import (
    DATA_FORMAT_REGISTRY,
    DataFormat,
    Loaded,
    Source,
    box_annotation,
    cut_box,
    remark_copies,
)
from multas.data.image_files import index_images, select_images
from multas.data.image_names import ImageNames
from multas.data.issues import DatasetError, or_rather, unread
from multas.util.annotation import BOXES
from multas.util.errors import UserError

ANY_OBJECT = "object"  # the class of a file that names none


@DATA_FORMAT_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class Csv(DataFormat):
    """The images that the file ``csv`` names, with the boxes of its rows.

    Boxes are corners (xmin, ymin, xmax, ymax), a corner and sides (x, y, width, height), a centre
    and sides (x_center, …), or x, y, width and height in one column (bbox); in pixels, or all of
    them in fractions of the image's size. A row without box says that an image has no object.
    Without a column of classes all objects are of the card's only class, or "object".

    Ids are paths below ``images`` without extension; a row may name an image otherwise, if it is
    clear which one is meant. ``image_column`` and ``class_column`` are needed where these columns
    cannot be known by their names or by what they hold. With ``part``, only rows count that have
    it in ``split_column``, or in a column called split. Each annotation also has the integers
    "difficult" and "truncated", always 0.
    """

    main_key = "csv"
    can_annotate = (BOXES,)

    csv: str = ""
    image_column: str = ""
    class_column: str = ""
    part: str = ""
    split_column: str = ""
    annotates: tuple[str, ...] = (BOXES.task,)

    def __post_init__(self) -> None:
        if self.annotates and not self.csv:
            raise UserError("key 'csv' is missing")

    def load(self, source: Source) -> Loaded:
        classes = source.classes or _find_classes(source)
        class_ids = {name: i for i, name in enumerate(classes)}
        file = source.root / self.csv
        files = index_images(source.root / self.images)
        found = self._objects(source, files)
        boxes = [row.box for rows in found.values() for row in rows if row.box]
        # The median, as some of them may be wrong, or rounded to more than 1.
        in_fractions = bool(boxes) and statistics.median(map(max, boxes)) <= 1
        records = []
        for record in self._images(found, source, files):
            size = (record["width"], record["height"])
            scale = size if in_fractions else (1, 1)
            own = _annotations(found[record["image_id"]], size, scale, class_ids, file, source)
            if own is not None:
                records.append({**record, "annotations": own})
        return records, self.class_metadata(classes)

    def load_unlabeled(self, source: Source) -> Loaded:
        """The same images, all of the folder for a split without file; boxes do not count."""
        if not self.csv:
            return super().load_unlabeled(source)
        files = index_images(source.root / self.images)
        return self._images(self._objects(source, files), source, files), {}

    def rows(self, root: Path) -> list[BoxRow]:
        """The rows of the file.

        Raises:
            DatasetError: It cannot be read.
        """
        try:
            file = read_csv(root / self.csv).part(self.part, self.split_column)
            return box_rows(file, self.image_column, self.class_column)
        except OSError as error:
            raise DatasetError(f"{root / self.csv}: {unread(error)}") from None
        except UserError as error:
            raise DatasetError(str(error)) from None

    def _objects(self, source: Source, files: Mapping[str, str]) -> dict[str, list[BoxRow]]:
        """The rows of each image by its id; images that are not there are reported."""
        folder, rows = source.root / self.images, self.rows(source.root)
        ids = ImageNames(files).find_all(row.image for row in rows)
        found: dict[str, list[BoxRow]] = {}
        lost: dict[str, int] = {}
        for row in rows:
            if row.image in ids:
                found.setdefault(ids[row.image], []).append(row)
            else:
                lost.setdefault(row.image, row.line)
        for image, line in lost.items():
            where = f"{source.root / self.csv}: line {line}"
            source.issues.add(where, f"no image {image!r} in {folder}")
        return found

    def _images(
        self, rows: Mapping[str, Sequence[BoxRow]], source: Source, files: Mapping[str, str]
    ) -> list[dict]:
        """The dicts of the images that have rows, or of those of a list that do."""
        ids = source.ids
        for image_id in ids or ():
            if image_id not in rows:
                source.issues.add(image_id, f"has no row in {source.root / self.csv}")
        wanted = sorted(rows) if ids is None else [i for i in ids if i in rows]
        return select_images(files, wanted, source.root / self.images, source.issues)


def _find_classes(source: Source) -> list[str]:
    """Sorted classes of the objects of all splits; files that cannot be read do not count."""
    names: set[str] = set()
    for split in source.splits:
        if not isinstance(split, Csv) or not split.annotates:
            continue
        try:
            names |= class_names(split.rows(source.root))
        except DatasetError:
            continue
    return sorted(names)


def class_names(rows: Sequence[BoxRow]) -> set[str]:
    """The names of the classes of some rows."""
    names = {row.label for row in rows if row.box or row.fault}
    return {ANY_OBJECT if name is None else name for name in names if name != ""}


def _annotations(
    rows: Sequence[BoxRow],
    size: tuple[int, int],
    scale: tuple[int, int],
    class_ids: Mapping[str, int],
    file: Path,
    source: Source,
) -> list[dict] | None:
    """Detectron2's annotations of an image, or None if there are objects but all are faulty."""
    annotations, faulty, issues = [], False, source.issues
    only_class = next(iter(class_ids)) if len(class_ids) == 1 else ANY_OBJECT
    for row in rows:
        name = only_class if row.label is None else row.label
        where = f"{file}: line {row.line}"
        if row.size and row.size != size:
            issues.add(where, "says {}x{}, but the image is {}x{}".format(*row.size, *size))
            return None
        if (not row.fault and row.box is None) or source.leaves_out(name):
            continue
        fault = row.fault
        if not name:
            fault = "has a box, but no class"
        elif name not in class_ids:
            rather = or_rather(name, class_ids)
            issues.add(f"{where} ({name})", f"class not among the card's{rather}")
            continue
        elif row.box is not None:
            box = [value * side for value, side in zip(row.box, scale * 2, strict=True)]
            try:
                annotations.append(box_annotation(class_ids[name], cut_box(box, size), 0, 0))
            except UserError as error:
                fault = str(error)
        if fault:
            issues.add(f"{where} ({name})" if name else where, fault)
            faulty = True
    remark_copies(annotations, f"{file}: {rows[0].image}", issues)
    # An image whose objects are there but have no usable box must not pass for background.
    return None if faulty and not annotations else annotations
