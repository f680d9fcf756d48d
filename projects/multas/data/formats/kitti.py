"""KITTI's format, also that of NVIDIA TAO: text files with an object of the image on each line."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from multas.data.formats.annotation_files import find_classes, load_with_files
from multas.data.formats.base import (
    DATA_FORMAT_REGISTRY,
    DataFormat,
    Loaded,
    Source,
    box_annotation,
    cut_box,
    remark_copies,
)
from multas.data.issues import or_rather, unread
from multas.util.annotation import BOXES
from multas.util.errors import UserError
from multas.util.files import read_text, refuse_pipe

_COLUMNS = 15
SCORED = 16  # columns of what a network has found
_HEAD = 4096  # bytes of a file that tell what it is
_DONT_CARE = "DontCare"
_NO_FILE = "no label file"


class Line(NamedTuple):
    """An object: its class, and its box (xmin, ymin, xmax, ymax) in pixels from 0."""

    name: str
    truncated: bool
    box: tuple[float, float, float, float]


@DATA_FORMAT_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class Kitti(DataFormat):
    """Images of the folder ``images``, with label files of the same names in ``labels``.

    A line has the class, how far the object is truncated and occluded, its angle, its box (xmin,
    ymin, xmax, ymax in pixels), and seven numbers of its shape in space, which are not read.
    Regions ``DontCare`` are passed over and counted. Each annotation also has the integers
    "difficult", always 0, and "truncated".

    A file without lines says that its image has no object; a missing file is a fault, or with
    ``only_complete`` the image is left out.
    """

    can_annotate = (BOXES,)

    images: str = "image_2"
    labels: str = "label_2"
    only_complete: bool = False
    annotates: tuple[str, ...] = (BOXES.task,)

    def load(self, source: Source) -> Loaded:
        classes = source.classes or find_classes(source, _folder_of, ".txt", class_names)
        folder, why = source.root / self.labels, _NO_FILE if self.only_complete else ""
        return load_with_files(self, source, folder, ".txt", classes, _read_objects, why)


def class_names(file: Path) -> set[str]:
    """The classes of the objects of a label file; lines that cannot be read do not count.

    Raises:
        OSError, UserError: It cannot be read at all.
    """
    names = set()
    for _, words in _lines(file):
        try:
            names.add(parse_line(words).name)
        except UserError:  # reported when the data are loaded
            continue
    return names - {_DONT_CARE}


def columns_of(file: Path) -> int:
    """The columns of the first line of a file; 0 if it is not that of an object.

    No more of the file is read, as texts may be very large.

    Raises:
        OSError, UserError: It cannot be read.
    """
    refuse_pipe(file)
    with file.open("rb") as stream:
        head = stream.read(_HEAD).decode("utf-8", "replace").removeprefix("\ufeff")
    words = next(filter(None, map(str.split, head.splitlines())), [])
    try:
        line = parse_line(words)
    except UserError:
        return 0
    xmin, ymin, xmax, ymax = line.box
    is_likely = xmax > xmin and ymax > ymin and -1 <= float(words[1]) <= 1
    return len(words) if is_likely else 0


def parse_line(words: Sequence[str]) -> Line:
    """Read the words of a line.

    Raises:
        UserError: They are not those of an object.
    """
    if len(words) not in (_COLUMNS, SCORED):
        raise UserError(
            f"has {len(words)} columns, need {_COLUMNS}: class, truncated, occluded, alpha, xmin, "
            "ymin, xmax, ymax, and 7 of the object in space"
        )
    name, *rest = words
    try:
        numbers = list(map(float, rest))
    except ValueError as error:
        raise UserError(f"{error}; need numbers behind the class") from None
    if not all(map(math.isfinite, numbers)):
        raise UserError("not all numbers are finite")
    try:
        float(name)
    except ValueError:
        xmin, ymin, xmax, ymax = numbers[3:7]
        return Line(name, numbers[0] > 0, (xmin, ymin, xmax, ymax))
    raise UserError(f"begins with {name}, need the name of a class")


def _lines(file: Path) -> list[tuple[int, list[str]]]:
    """The number and the words of each line that has some."""
    split = map(str.split, read_text(file).split("\n"))
    return [(number, words) for number, words in enumerate(split, start=1) if words]


def _folder_of(split: DataFormat, root: Path) -> Path | None:
    return root / split.labels if isinstance(split, Kitti) and split.annotates else None


def _read_objects(
    file: Path, record: dict, class_ids: Mapping[str, int], source: Source
) -> list[dict] | None:
    """Detectron2's annotations of an image, or None if there are objects but all are faulty."""
    issues, size = source.issues, (record["width"], record["height"])
    try:
        lines = _lines(file)
    except (OSError, UserError) as error:
        issues.add(str(file), unread(error))
        return None
    annotations, faulty = [], False
    for number, words in lines:
        where = f"{file}: line {number}"
        try:
            name, truncated, box = parse_line(words)
        except UserError as error:
            issues.add(where, str(error))
            faulty = True
            continue
        if name == _DONT_CARE:
            issues.remark(str(file), f"regions {_DONT_CARE} are passed over")
        elif source.leaves_out(name):
            continue
        elif name not in class_ids:
            rather = or_rather(name, class_ids)
            issues.add(f"{where} ({name})", f"class not among the card's{rather}")
        else:
            try:
                own = cut_box(box, size)
                annotations.append(box_annotation(class_ids[name], own, 0, int(truncated)))
            except UserError as error:
                issues.add(f"{where} ({name})", str(error))
                faulty = True
    remark_copies(annotations, str(file), issues)
    # An image whose objects are there but have no usable box must not pass for background.
    return None if faulty and not annotations else annotations
