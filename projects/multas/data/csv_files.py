"""CSV files that annotate images: their rows, and which column has what.

Columns are known by the names that tools give them (TensorFlow's and RetinaNet's tables of boxes,
Open Images, Roboflow, Kaggle). Case, spaces and punctuation of names do not matter.
"""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from multas.data.image_names import IMAGE_SUFFIXES
from multas.util.errors import UserError
from multas.util.files import read_text

_IMAGE = (
    "filename", "file", "image", "imagename", "imagefile", "imagefilename", "imageid", "imagepath",
    "filepath", "path", "img", "imgname", "imgpath", "imgid", "fname", "filenames", "filepaths",
    "images", "paths", "id",
)  # fmt: skip
_LABEL = (
    "class", "classname", "label", "labelname", "category", "categoryname", "objectclass", "object",
    "objectname", "species", "breed", "diagnosis", "dx", "target", "classes", "labels", "classid",
    "labelid", "categoryid",
)  # fmt: skip
# Columns that tell to which split an image belongs.
SPLIT_COLUMNS = ("split", "set", "subset", "partition", "fold", "phase", "dataset")
_SCORE = ("score", "scores", "confidence", "conf", "prob", "probability")
_TRIED = 100  # rows that tell whether a column has names of image files
_NO_HEADER = ("filename", "xmin", "ymin", "xmax", "ymax", "class")  # that of RetinaNet


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

    def find(self, names: Iterable[str], given: str = "") -> int | None:
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

    def image_column(self, given: str = "") -> int | None:
        """The number of the column with images: the ``given`` one, or that which is likely.

        That is one with names of image files, of several one with a usual name; or else one with a
        usual name.

        Raises:
            UserError: There is no given one.
        """
        if given:
            return self.find((), given)
        known = [plain(column) for column in self.columns]
        usual = [known.index(name) for name in _IMAGE if name in known]
        rows = self.rows[:: len(self.rows) // _TRIED + 1]
        files = [
            i
            for i in range(len(self.columns))
            if 2 * sum(row.fields[i].lower().endswith(IMAGE_SUFFIXES) for row in rows) > len(rows)
        ]
        return next(iter([*(i for i in usual if i in files), *files, *usual]), None)

    def label_column(self, given: str = "") -> int | None:
        """The number of the column with classes: the ``given`` one, or one with a usual name.

        Raises:
            UserError: There is no given one.
        """
        return self.find(_LABEL, given)

    def split_column(self, given: str = "") -> int | None:
        """The number of the column with splits: the ``given`` one, or one with a usual name.

        Raises:
            UserError: There is no given one.
        """
        return self.find(SPLIT_COLUMNS, given)

    def part(self, split: str, split_column: str = "") -> "CsvFile":
        """The rows of a split; all of them if it is "".

        Raises:
            UserError: There is no column of splits, or no such row.
        """
        if not split:
            return self
        column = self.split_column(split_column)
        if column is None:
            raise UserError(
                f"{self.path} has no column of splits (split), but {', '.join(self.columns)}"
            )
        rows = [row for row in self.rows if row.fields[column] == split]
        if not rows:
            have = ", ".join(sorted({row.fields[column] for row in self.rows})[:10])
            raise UserError(
                f"{self.path}: no row has {split} in the column {self.columns[column]}, but {have}"
            )
        return replace(self, rows=rows)

    @property
    def has_scores(self) -> bool:
        """Whether a column has scores, as what a network has found has."""
        return self.find(_SCORE) is not None


def plain(column: str) -> str:
    """The name of a column in small letters and digits alone."""
    return "".join(filter(str.isalnum, column.lower()))


def read_csv(path: Path) -> CsvFile:
    """Read a CSV file, with commas, semicolons or tabs between the fields.

    One without a header is known by its first row: the file of an image, four numbers (or none) and
    a class, as for RetinaNet, or the file of an image and a class, in any order.

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
    columns: Sequence[str] | None = _columns_of_data(rows[0].fields)
    if columns is None:
        columns, rows = rows[0].fields, rows[1:]
    for row in rows:
        if len(row.fields) != len(columns):
            raise UserError(
                f"{path}: line {row.line} has {len(row.fields)} fields, but there are "
                f"{len(columns)} columns"
            )
    return CsvFile(path, columns, rows)


def _columns_of_data(fields: Sequence[str]) -> tuple[str, ...] | None:
    """The columns of a file without header, by its first row; None if that is a header."""
    is_file = [field.lower().endswith(IMAGE_SUFFIXES) for field in fields]
    numbers = [is_number(field) for field in fields[1:5]]
    if len(fields) == len(_NO_HEADER) and is_file[0] and (all(numbers) or not any(fields[1:5])):
        return _NO_HEADER
    if len(fields) == 2 and sum(is_file) == 1:
        return ("filename", "class") if is_file[0] else ("class", "filename")
    return None


def is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def image_names(file: CsvFile, image_column: str = "") -> list[str]:
    """The images of the rows of a file.

    Raises:
        UserError: There is no column of images.
    """
    image = file.image_column(image_column)
    if image is None:
        raise UserError(
            f"{file.path} has no column of images (filename), but {', '.join(file.columns)}"
        )
    return [row.fields[image] for row in file.rows]


def label_rows(
    file: CsvFile, image_column: str = "", class_column: str = ""
) -> list[tuple[int, str, str]]:
    """The line, image and class of each row of a CSV file.

    The class stands in one column, or is the name of the one column that has 1 where others have 0.

    Raises:
        UserError: There are no such columns, or a row has not one class.
    """
    images = image_names(file, image_column)
    image, label = file.image_column(image_column), file.label_column(class_column)
    if label is None and len(file.columns) == 2 and image is not None:
        label = 1 - image
    if label is not None:
        pairs = zip(file.rows, images, strict=True)
        return [(row.line, name, row.fields[label]) for row, name in pairs]
    rows = []
    for row, name in zip(file.rows, images, strict=True):
        marks = {i: field for i, field in enumerate(row.fields) if i != image}
        if not all(map(is_number, marks.values())) or {*map(float, marks.values())} - {0, 1}:
            raise UserError(
                f"{file.path} has no column of classes (class), but {', '.join(file.columns)}"
            )
        own = [file.columns[i] for i, mark in marks.items() if float(mark) == 1]
        if len(own) != 1:
            raise UserError(
                f"{file.path}: line {row.line} has {len(own)} classes, but an image needs one"
            )
        rows.append((row.line, name, own[0]))
    return rows
