"""The annotation files of Pascal VOC: one XML file per image."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class VocObject:
    """One object; the box is (xmin, ymin, xmax, ymax) as written: pixels from 1, inclusive."""

    name: str
    box: tuple[float, float, float, float]
    difficult: int
    truncated: int


@dataclass(frozen=True)
class VocAnnotation:
    """The content of a file; the size is (width, height) in pixels, None = the file lacks it."""

    size: tuple[int, int] | None
    objects: tuple[VocObject, ...]


def read_voc_xml(
    file: str | Path | BinaryIO, classes: Collection[str] | None = None
) -> VocAnnotation:
    """Read one annotation file.

    Args:
        file: a path or an open file.
        classes: the names of the objects to read; None = all. Other objects may be incomplete.

    Raises:
        OSError: The file is missing or unreadable.
        ValueError: It is not an XML file, or an object lacks its name or its box.
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
    return VocAnnotation(size, tuple(objects))


def _read_object(number: int, name: str, node: ElementTree.Element) -> VocObject:
    corners = ("xmin", "ymin", "xmax", "ymax")
    try:
        # A missing element reads as "", which is no number either.
        xmin, ymin, xmax, ymax = (float(node.findtext(f"bndbox/{key}") or "") for key in corners)
        difficult, truncated = (int(node.findtext(key) or 0) for key in ("difficult", "truncated"))
    except ValueError:
        raise ValueError(f"object {number} has no complete <bndbox>") from None
    return VocObject(name, (xmin, ymin, xmax, ymax), difficult, truncated)
