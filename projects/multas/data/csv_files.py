"""CSV files that annotate images: their rows, and which column has what.

Columns are known by the names that tools give them (TensorFlow's and RetinaNet's tables of boxes,
Open Images, Roboflow, AutoML, Kaggle). Case, spaces and punctuation of names do not matter.
"""

import csv
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from multas.data.image_files import IMAGE_SUFFIXES
from multas.util.errors import UserError
from multas.util.files import read_text

IMAGE = (
    "filename", "file", "image", "imagename", "imagefile", "imagefilename", "imageid", "imagepath",
    "filepath", "path", "img", "imgname", "imgpath", "imgid", "fname", "id",
)  # fmt: skip
LABEL = (
    "class", "classname", "label", "labelname", "category", "categoryname", "objectclass", "object",
    "objectname", "species", "breed", "diagnosis", "target", "classid", "labelid", "categoryid",
    "classes", "labels",
)  # fmt: skip
_ONE_COLUMN = ("bbox", "box", "boundingbox", "bboxes")
_NO_HEADER = {6: ("filename", "xmin", "ymin", "xmax", "ymax", "class"), 2: ("filename", "class")}

Box = tuple[float, float, float, float]


def _corners(values: Sequence[float]) -> Box:
    left, top, right, bottom = values
    return left, top, right, bottom


def _sides(values: Sequence[float]) -> Box:
    left, top, width, height = values
    return left, top, left + width, top + height


def _centre(values: Sequence[float]) -> Box:
    x, y, width, height = values
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


_WIDTH = ("width", "w", "bboxwidth", "bboxw", "boxwidth", "boxw")
_HEIGHT = ("height", "h", "bboxheight", "bboxh", "boxheight", "boxh")
# How four columns tell a box; the first of these that a file has counts.
_BOXES: Sequence[tuple[Callable[[Sequence[float]], Box], Sequence[Sequence[str]]]] = (
    (_corners, (
        ("xmin", "x1", "left", "bboxxmin", "bboxx1", "xtl"),
        ("ymin", "y1", "top", "bboxymin", "bboxy1", "ytl"),
        ("xmax", "x2", "right", "bboxxmax", "bboxx2", "xbr"),
        ("ymax", "y2", "bottom", "bboxymax", "bboxy2", "ybr"),
    )),
    (_corners, (("x0",), ("y0",), ("x1",), ("y1",))),
    (_centre, (("xcenter", "xcentre", "centerx", "cx"), ("ycenter", "ycentre", "centery", "cy"),
               _WIDTH, _HEIGHT)),
    (_sides, (("x", "xmin", "left", "bboxx", "bboxleft", "boxx"),
              ("y", "ymin", "top", "bboxy", "bboxtop", "boxy"), _WIDTH, _HEIGHT)),
)  # fmt: skip


class Row(NamedTuple):
    """One row, its fields without spaces around them."""

    line: int  # in the file, from 1
    fields: Sequence[str]


@dataclass(frozen=True)
class CsvFile:
    """The columns and rows of a file; all rows have as many fields as there are columns."""

    path: Path
    columns: Sequence[str]
    rows: Sequence[Row]

    def find(self, names: Collection[str], given: str = "") -> int | None:
        """The number of the first of some columns that there is, or of the ``given`` one.

        Raises:
            UserError: There is no given one.
        """
        if given and given not in self.columns:
            raise UserError(f"{self.path} has no column {given}, but {', '.join(self.columns)}")
        if given:
            return list(self.columns).index(given)
        known = [plain(column) for column in self.columns]
        return next((known.index(name) for name in names if name in known), None)


def plain(column: str) -> str:
    """The name of a column in small letters and digits alone."""
    return "".join(filter(str.isalnum, column.lower()))


def read_csv(path: Path) -> CsvFile:
    """Read a CSV file, with commas, semicolons or tabs between the fields.

    One without a header is known by its first row: an image, four numbers (or none) and a class, as
    for RetinaNet, or an image and a class.

    Raises:
        OSError: The file is missing or unreadable.
        UserError: It has no rows, or they have different numbers of fields.
    """
    lines = read_text(path).split("\n")
    head = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    try:
        rows = [Row(reader.line_num, [field.strip() for field in row]) for row in reader]
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num} cannot be read ({error})") from None
    rows = [row for row in rows if any(row.fields)]
    if not rows:
        raise UserError(f"{path} is empty")
    columns = _NO_HEADER.get(len(rows[0].fields)) if _is_data(rows[0].fields) else None
    if columns is None:
        columns, rows = tuple(rows[0].fields), rows[1:]
    for row in rows:
        if len(row.fields) != len(columns):
            raise UserError(
                f"{path}: line {row.line} has {len(row.fields)} fields, but there are "
                f"{len(columns)} columns"
            )
    return CsvFile(path, columns, rows)


def _is_data(fields: Sequence[str]) -> bool:
    """Whether the first row of a file is no header."""
    if not fields[0].lower().endswith(IMAGE_SUFFIXES):
        return False
    return len(fields) == 2 or not any(fields[1:5]) or all(map(_is_number, fields[1:5]))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


class BoxRow(NamedTuple):
    """An object, or an image without one."""

    line: int
    image: str  # as the file names it
    label: str  # name of the class; "" where no column has one
    box: Box | None  # (xmin, ymin, xmax, ymax); None: the image has no object
    size: tuple[int, int] | None  # (width, height) of the image, if the file has it
    fault: str = ""  # why the row cannot be used


def has_boxes(file: CsvFile, image_column: str = "") -> bool:
    """Whether a file has columns of images and boxes."""
    return file.find(IMAGE, image_column) is not None and _box_columns(file) is not None


def box_rows(file: CsvFile, image_column: str = "", class_column: str = "") -> list[BoxRow]:
    """The objects of a CSV file.

    Args:
        file: its content.
        image_column, class_column: the columns of images and classes; "": known by their names.

    Raises:
        UserError: There are no columns of images or boxes.
    """
    image = file.find(IMAGE, image_column)
    found = _box_columns(file)
    if image is None or found is None:
        lacking = "images (filename)" if image is None else "boxes (xmin, ymin, xmax, ymax)"
        raise UserError(f"{file.path} has no column of {lacking}, but {', '.join(file.columns)}")
    read, box = found
    label = file.find(LABEL, class_column)
    sides = [file.find((name,)) for name in ("width", "height")]
    size = [side for side in sides if side is not None and side not in box]
    return [_box_row(row, image, label, read, box, size) for row in file.rows]


def _box_columns(
    file: CsvFile,
) -> tuple[Callable[[Sequence[float]], Box], tuple[int, ...]] | None:
    """How the columns of a file tell boxes, and their numbers."""
    for read, names in _BOXES:
        columns = [i for own in names if (i := file.find(own)) is not None]
        if len(columns) == len(set(columns)) == 4:
            return read, tuple(columns)
    one = file.find(_ONE_COLUMN)
    return None if one is None else (_sides, (one,))


def _box_row(
    row: Row,
    image: int,
    label: int | None,
    read: Callable[[Sequence[float]], Box],
    box: tuple[int, ...],
    size: Sequence[int],
) -> BoxRow:
    words = [row.fields[i] for i in box]
    if len(box) == 1:
        words = words[0].strip("[](){}").replace(",", " ").split()
    told = [int(row.fields[i]) for i in size if row.fields[i].isdecimal()]
    own = (row.line, row.fields[image], row.fields[label] if label is not None else "")
    image_size = (told[0], told[1]) if len(told) == 2 else None
    if not any(words):
        return BoxRow(*own, None, image_size)
    if len(words) != 4 or not all(map(_is_number, words)):
        return BoxRow(*own, None, image_size, f"{' '.join(words)} are not four numbers")
    return BoxRow(*own, read([float(word) for word in words]), image_size)


def label_rows(
    file: CsvFile, image_column: str = "", class_column: str = ""
) -> list[tuple[int, str, str]]:
    """The line, image and class of each row of a CSV file.

    The class stands in one column, or is the name of the one column that has 1 where others have 0.

    Raises:
        UserError: There are no such columns, or a row has not one class.
    """
    image = file.find(IMAGE, image_column)
    if image is None:
        raise UserError(
            f"{file.path} has no column of images (filename), but {', '.join(file.columns)}"
        )
    label = file.find(LABEL, class_column)
    if label is None and len(file.columns) == 2:
        label = 1 - image
    if label is not None:
        return [(row.line, row.fields[image], row.fields[label]) for row in file.rows]
    rows = []
    for row in file.rows:
        marks = {i: field for i, field in enumerate(row.fields) if i != image}
        if not all(map(_is_number, marks.values())) or {*map(float, marks.values())} - {0, 1}:
            raise UserError(
                f"{file.path} has no column of classes (class), but {', '.join(file.columns)}"
            )
        own = [file.columns[i] for i, mark in marks.items() if float(mark) == 1]
        if len(own) != 1:
            raise UserError(
                f"{file.path}: line {row.line} has {len(own)} classes, but an image needs one"
            )
        rows.append((row.line, row.fields[image], own[0]))
    return rows
