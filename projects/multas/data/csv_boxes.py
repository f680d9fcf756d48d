"""Boxes in CSV files: which columns have them, and what their rows say."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from multas.data.csv_files import CsvFile, Row, image_names, is_number
from multas.util.errors import UserError

_ONE_COLUMN = ("bbox", "box", "boundingbox", "bboxes")
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


# Those of an image may stand beside those of a box.
_WIDTH = ("bboxwidth", "bboxw", "boxwidth", "boxw", "w", "width")
_HEIGHT = ("bboxheight", "bboxh", "boxheight", "boxh", "h", "height")
_MORE_CORNERS = ("x3", "y3")  # of objects that are not boxes
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


class BoxRow(NamedTuple):
    """An object, or an image without one."""

    line: int
    image: str  # as the file names it
    label: str | None  # name of the class; None where there is no column of classes
    box: Box | None  # (xmin, ymin, xmax, ymax); None: the image has no object
    size: tuple[int, int] | None  # (width, height) of the image, if the file has it
    fault: str = ""  # why the row cannot be used


def has_boxes(file: CsvFile) -> bool:
    """Whether a file has columns of boxes."""
    return _box_columns(file) is not None


def box_rows(file: CsvFile, image_column: str = "", class_column: str = "") -> list[BoxRow]:
    """The objects of a CSV file.

    Args:
        file: its content.
        image_column, class_column: the columns of images and classes; "": known by their names.

    Raises:
        UserError: There are no columns of images or boxes.
    """
    images = image_names(file, image_column)
    found = _box_columns(file)
    if found is None:
        raise UserError(
            f"{file.path} has no column of boxes (xmin, ymin, xmax, ymax), but "
            f"{', '.join(file.columns)}"
        )
    read, box = found
    label = file.label_column(class_column)
    sides = [file.find((name,)) for name in ("width", "height")]
    size = [side for side in sides if side is not None and side not in box]
    pairs = zip(file.rows, images, strict=True)
    return [_box_row(row, image, label, read, box, size) for row, image in pairs]


def _box_columns(
    file: CsvFile,
) -> tuple[Callable[[Sequence[float]], Box], tuple[int, ...]] | None:
    """How the columns of a file tell boxes, and their numbers."""
    if file.find(_MORE_CORNERS) is not None:
        return None
    for read, names in _BOXES:
        columns = [i for own in names if (i := file.find(own)) is not None]
        if len(columns) == len(set(columns)) == 4:
            return read, tuple(columns)
    one = file.find(_ONE_COLUMN)
    return None if one is None else (_sides, (one,))


def _box_row(
    row: Row,
    image: str,
    label: int | None,
    read: Callable[[Sequence[float]], Box],
    box: tuple[int, ...],
    size: Sequence[int],
) -> BoxRow:
    words = [row.fields[i] for i in box]
    if len(box) == 1:
        words = words[0].strip("[](){}").replace(",", " ").split()
    told = [int(row.fields[i]) for i in size if row.fields[i].isdecimal()]
    own = (row.line, image, None if label is None else row.fields[label])
    image_size = (told[0], told[1]) if len(told) == 2 else None
    if not any(words):
        return BoxRow(*own, None, image_size)
    if len(words) != 4 or not all(map(is_number, words)):
        return BoxRow(*own, None, image_size, f"{' '.join(words)} are not four numbers")
    return BoxRow(*own, read([float(word) for word in words]), image_size)
