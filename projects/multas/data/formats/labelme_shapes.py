"""The shapes of one file of LabelMe: which of them are objects, their boxes, and their faults.

Coordinates are pixels x, y from the upper left corner of the image; a polygon and a rectangle end
where their points are, a mask with the pixel of its last corner.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from multas.data.formats.base import box_annotation
from multas.data.formats.coco import box_fault
from multas.data.issues import DatasetIssues
from multas.data.json_files import TEXT, Kind, entry_fault, is_number, read_json
from multas.util.errors import UserError
from multas.util.names import did_you_mean

_NO_CLASSES = ("__ignore__", "_background_")  # LabelMe's names for what is no object
_LINES = ("line", "linestrip", "point", "points")
# The numbers of points that objects may have; a polygon has more, too. A rectangle with all of its
# corners, and the shape "rotation", are those of X-AnyLabeling, which writes the same files.
_POINTS = {
    "polygon": (3,),
    "rectangle": (2, 4),
    "oriented_rectangle": (4,),
    "rotation": (4,),
    "circle": (2,),
    "mask": (2,),
}
_CUT = ("circle", "oriented_rectangle", "rotation")  # may leave the image, however they are drawn

_GROUP = Kind("a whole number, a text or null", lambda v: v is None or type(v) in (int, str))
_PLACES = Kind(
    "a list of points [x, y] of finite numbers",
    lambda v: type(v) is list and all(map(_is_point, v)),
)

Shapes = Sequence[tuple[int, dict]]  # shapes, and their numbers in the file


def is_labelme(content: Any) -> bool:
    """Whether the content of a JSON file is LabelMe's."""
    is_table = isinstance(content, dict) and isinstance(content.get("shapes"), list)
    return is_table and ("imagePath" in content or "version" in content)


def read_labelme(file: Path) -> dict[str, Any]:
    """The content of a file, which has a list "shapes".

    Raises:
        OSError: if the file is missing or unreadable.
        UserError: if it is another file; the message names it.
    """
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise UserError(f"{file} has no list `shapes`, as LabelMe writes it; save it there again")
    return content


def object_names(content: Mapping[str, Any]) -> set[str]:
    """The labels of the objects in the content of a file; faulty shapes do not count."""
    shapes = content["shapes"]
    named = [shape for shape in shapes if entry_fault(shape, {"label": TEXT}) is None]
    return {shape["label"] for shape in named if not _passed_over(shape)}


def place_of(file: Path, number: int, label: str) -> str:
    """Names a shape for messages."""
    return f"{file}: shapes[{number}] ({label})"


def _passed_over(shape: dict) -> str | None:
    """Why a shape is no object, or None if it is one."""
    if shape["label"] in _NO_CLASSES:
        return f"shapes with the labels {' and '.join(_NO_CLASSES)} are passed over"
    if shape.get("shape_type") in _LINES:
        return "lines and points are no objects and are passed over"
    return None


def group_shapes(
    shapes: Sequence[Any], file: Path, issues: DatasetIssues
) -> tuple[dict[tuple[str, Any], Shapes], bool]:
    """The shapes of each object, by its label and its group or number, in the order of the file.

    Returns also whether there are shapes of which not even this is known; they are reported.
    """
    objects: dict[tuple[str, Any], list[tuple[int, dict]]] = {}
    faulty = False
    for number, shape in enumerate(shapes):
        if fault := entry_fault(shape, {"label": TEXT}, {"group_id": _GROUP}):
            issues.add(f"{file}: shapes[{number}]", fault)
            faulty = True
        elif why := _passed_over(shape):
            issues.remark(place_of(file, number, shape["label"]), why)
        else:
            group = shape.get("group_id")
            key = ("alone", number) if group is None else group
            objects.setdefault((shape["label"], key), []).append((number, shape))
    return dict(objects), faulty


def object_faults(shapes: Shapes, size: tuple[int, int]) -> list[tuple[int, str]]:
    """The faults of an object in an image of (width, height), with the numbers of its shapes."""
    if faults := [(number, fault) for number, s in shapes if (fault := _shape_fault(s))]:
        return faults
    box = _enclose(shapes, size)
    for low, high in (box, box.clip(0, size)):
        if fault := box_fault([*low, *(high - low)], size):
            return [(shapes[0][0], fault)]
    return []


def _shape_fault(shape: dict) -> str | None:
    kind = _kind(shape)
    if kind not in _POINTS:
        known = (*_POINTS, *_LINES)
        return f"unknown shape_type {kind!r}.{did_you_mean(kind, known)}"
    if fault := entry_fault(shape, {"points": _PLACES}):
        return fault
    has, needs = len(shape["points"]), _POINTS[kind]
    if has in needs or (kind == "polygon" and has > max(needs)):
        return None
    more = " or more" if kind == "polygon" else ""
    return f"{kind} has {has} points, need {' or '.join(map(str, needs))}{more}"


def _kind(shape: dict) -> str:
    """The type of a shape; old files name none, and have polygons alone."""
    return str(shape.get("shape_type") or "polygon")


def _enclose(shapes: Shapes, size: tuple[int, int]) -> np.ndarray:
    """The box around shapes, (2, 2): low corner and high corner, each x, y in pixels."""
    corners = np.array([_corners(shape, size) for _, shape in shapes])
    return np.array([corners[:, 0].min(axis=0), corners[:, 1].max(axis=0)])


def _corners(shape: dict, size: tuple[int, int]) -> np.ndarray:
    """The box around a sound shape, as above; circles and turned boxes end at the border."""
    points, kind = np.array(shape["points"], np.float64), _kind(shape)
    if kind == "circle":
        centre, on_it = points
        radius = np.hypot(*(on_it - centre))
        points = np.array([centre - radius, centre + radius])
    corners = np.array([points.min(axis=0), points.max(axis=0)])
    if kind == "mask":
        corners[1] += 1  # its corners are pixels, and the last one belongs to it
    return corners.clip(0, size) if kind in _CUT else corners


def convert_shapes(shapes: Shapes, label: int, size: tuple[int, int]) -> dict:
    """Detectron2's annotation of an object without faults, of class ``label``."""
    box = _enclose(shapes, size).clip(0, size)
    annotation = box_annotation(label, box.reshape(-1).tolist(), 0, 0)
    if all(_kind(shape) == "polygon" for _, shape in shapes):
        outlines = [np.array(shape["points"], np.float64).clip(0, size) for _, shape in shapes]
        annotation["segmentation"] = [outline.reshape(-1).tolist() for outline in outlines]
    return annotation


def _is_point(value: Any) -> bool:
    return type(value) is list and len(value) == 2 and all(map(is_number, value))
