"""The annotation files of Pascal VOC: one XML file per image."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO, NamedTuple

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class VocObject(NamedTuple):
    """One object. ``box`` is (xmin, ymin, xmax, ymax) as written: pixels, 1-based, inclusive."""

    name: str
    box: tuple[float, float, float, float]
    difficult: int
    truncated: int


class VocAnnotation(NamedTuple):
    """The content of a file. ``size`` is (width, height) in pixels, None if the file lacks it."""

    size: tuple[int, int] | None
    objects: list[VocObject]


def read_voc_xml(
    file: str | Path | BinaryIO, classes: Collection[str] | None = None
) -> VocAnnotation:
    """Read one annotation file, a path or an open file.

    With ``classes``, objects of other names are passed over, even if they lack their box.

    Raises:
        OSError: if the file is missing or unreadable.
        ValueError: if it is not an XML file, or an object lacks its name or its box.
    """
    try:
        root = ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"not an XML file ({error})") from None
    objects = []
    for number, node in enumerate(root.iter("object")):
        name = (node.findtext("name") or "").strip()
        if classes is not None and name not in classes:
            continue
        if not name:
            raise ValueError(f"object {number} has no name")
        objects.append(_read_object(number, name, node))
    try:
        size = (int(root.findtext("size/width") or ""), int(root.findtext("size/height") or ""))
    except ValueError:
        size = None
    return VocAnnotation(size, objects)


def _read_object(number: int, name: str, node: ElementTree.Element) -> VocObject:
    # A missing element reads as "", which is no number either.
    xmin, ymin, xmax, ymax = (node.findtext(f"bndbox/{key}") or "" for key in _CORNERS)
    try:
        box = (float(xmin), float(ymin), float(xmax), float(ymax))
        difficult, truncated = (int(node.findtext(key) or 0) for key in ("difficult", "truncated"))
    except ValueError:
        raise ValueError(f"object {number} has no complete <bndbox>") from None
    return VocObject(name, box, difficult, truncated)
