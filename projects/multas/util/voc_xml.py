"""The annotation files of Pascal VOC: one XML file per image."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO, NamedTuple

from multas.util.errors import UserError

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
        UserError: if it is not an XML file, or an object lacks its name or its box.
    """
    try:
        root = ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise UserError(f"not an XML file ({error})") from None
    except (LookupError, ValueError) as error:  # what Python makes of other encodings
        cure = "save it in the encoding UTF-8, with encoding='UTF-8' in its first line"
        raise UserError(f"not in an encoding that can be read ({error}); {cure}") from None
    if root.tag != "annotation":
        raise UserError(f"not a VOC annotation: its first tag is <{root.tag}>, not <annotation>")
    objects = []
    for number, node in enumerate(root.iter("object")):
        name = (node.findtext("name") or "").strip()
        if classes is not None and name not in classes:
            continue
        if not name:
            raise UserError(f"object {number} has no name")
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
    except ValueError:
        raise UserError(f"object {number} has no complete <bndbox>") from None
    difficult, truncated = (_read_flag(number, key, node) for key in ("difficult", "truncated"))
    return VocObject(name, box, difficult, truncated)


def _read_flag(number: int, key: str, node: ElementTree.Element) -> int:
    text = node.findtext(key) or "0"
    try:
        return int(text)
    except ValueError:
        raise UserError(f"object {number} has <{key}> {text.strip()!r}, need 0 or 1") from None
