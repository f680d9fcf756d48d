"""One label file of YOLO: an object on each line.

A line has the number of the class and four fractions of the image's size: centre x, centre y, width
and height of the box. More than four are the corners x1 y1 x2 y2 … of a polygon (segmentation,
oriented boxes), which also gives the box.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from multas.data.formats.base import Source, box_annotation, remark_copies
from multas.data.issues import unread
from multas.util.errors import UserError
from multas.util.files import read_text

_OVERSHOOT = 1.0  # pixels by which rounded numbers may leave the image
_LEAST_SIDE = 0.01  # of a box, in pixels

# Files that have names of classes, one on each line, where label files lie: those of LabelImg,
# Label Studio, Darknet and CVAT.
CLASS_FILES = (
    "classes.txt",
    "obj.names",
    "labels.txt",
    "_darknet.labels",
    "predefined_classes.txt",
)


def listed_names(names: Any) -> Any:
    """Names of classes as a list; YOLO's tables {0: cat, 1: dog} must have all numbers."""
    if not isinstance(names, dict):
        return names
    numbers = sorted(names, key=str)
    if set(numbers) != set(range(len(names))):
        shown = ", ".join(map(str, numbers[:8]))
        raise UserError(f"the numbers of the classes must be 0 … {len(names) - 1}, got {shown}")
    return [names[number] for number in range(len(names))]


def read_labels(
    file: str, record: dict, classes: Sequence[str], extra: int, source: Source
) -> list[dict] | None:
    """Detectron2's annotations of an image, or None if there are objects but all are faulty."""
    try:
        lines = read_text(file).split("\n")
    except (OSError, UserError) as error:
        source.issues.add(file, unread(error))
        return None
    size = (record["width"], record["height"])
    annotations, faulty = [], False
    for number, words in enumerate(map(str.split, lines), start=1):
        if not words:
            continue
        try:
            label, values = parse_line(words, len(classes), extra)
            if source.leaves_out(classes[label]):
                continue
            annotation, is_cut = convert_line(label, values, size)
        except UserError as error:
            source.issues.add(f"{file}: line {number}", str(error))
            faulty = True
            continue
        annotations.append(annotation)
        if is_cut:
            source.issues.remark(file, "boxes that leave the image end at its border")
    remark_copies(annotations, file, source.issues)
    # An image whose objects are there but have no usable box must not pass for background.
    return None if faulty and not annotations else annotations


def parse_line(words: Sequence[str], num_classes: int, extra: int = 0) -> tuple[int, list[float]]:
    """Read the words of a line: a class, and a box (4 numbers) or a polygon (6 and more).

    Args:
        words: of the line.
        num_classes: how many classes there are.
        extra: how many words are passed over behind the box.

    Raises:
        UserError: if the words are no such numbers.
    """
    if any("," in word for word in words):
        raise UserError(
            f"{' '.join(words[:5])!r} has commas; write 0.5 with a point, and spaces between words"
        )
    if extra and len(words) == 5 + extra:
        words = words[:5]
    try:
        number, *values = map(float, words)
    except ValueError as error:
        raise UserError(f"{error}; need a class number and fractions of the image's size") from None
    if not all(map(math.isfinite, (number, *values))):
        raise UserError("not all numbers are finite")
    if number % 1 or not 0 <= number < num_classes:
        raise UserError(f"class {number:g}, but the classes are 0 … {num_classes - 1}")
    if len(values) != 4 and (extra or len(values) < 6 or len(values) % 2):
        cure = f"need {5 + extra}" if extra else "need 5 for a box, or 7, 9, … for a polygon"
        raise UserError(
            f"has {len(words)} columns, {cure}; `extra_columns` passes over those behind a box"
        )
    return int(number), values


def convert_line(label: int, values: list[float], size: tuple[int, int]) -> tuple[dict, bool]:
    """Detectron2's annotation of an object, and whether its box had to be cut.

    Raises:
        UserError: if a value is not in 0 … 1, or the box has no area in the image.
    """
    points = np.array(values, np.float64).reshape(-1, 2)
    pixels = points * size
    beyond = (pixels < -_OVERSHOOT) | (pixels > np.add(size, _OVERSHOOT))
    if beyond.any():
        value = points[beyond][0]
        rather = ": are these pixels?" if abs(value) > 2 else ""
        raise UserError(f"{value:g} is not in 0 … 1, a fraction of the image's size{rather}")
    if len(values) == 4:
        centre, sides = pixels
        corners = np.array([centre - sides / 2, centre + sides / 2])
    else:
        corners = np.array([pixels.min(axis=0), pixels.max(axis=0)])
    inside = corners.clip(0, size)
    if (inside[1] - inside[0]).min() < _LEAST_SIDE:
        what = " ".join(f"{value:g}" for value in values[:4])
        raise UserError(f"the box {what} has no area in the image of {size[0]}x{size[1]}")
    annotation = box_annotation(label, inside.reshape(-1).tolist(), 0, 0)
    if len(values) > 4:
        annotation["segmentation"] = [pixels.clip(0, size).reshape(-1).tolist()]
    return annotation, bool(np.abs(inside - corners).max() > _OVERSHOOT)
