"""The annotation files of Pascal VOC: one XML file per image."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO, NamedTuple

from multas.util.errors import UserError
from multas.util.files import refuse_pipe

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class VocObject(NamedTuple):
    """One object. ``box`` is (xmin, ymin, xmax, ymax) as written: pixels, 1-based, inclusive."""

    name: str
    box: tuple[float, float, float, float]
    difficult: int
    truncated: int


class VocAnnotation(NamedTuple):
    """The content of a file. ``size`` is (width, height) in pixels, None if the file lacks it."""

    size: tuple[float, float] | None
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
    if isinstance(file, str | Path):
        refuse_pipe(file)
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
        sides = [float(root.findtext(f"size/{key}") or "") for key in ("width", "height")]
    except ValueError:
        return VocAnnotation(None, objects)
    # As an integer where it is one, for messages; it is compared with the size of the image.
    width, height = (int(side) if side.is_integer() else side for side in sides)
    return VocAnnotation((width, height), objects)


def _read_object(number: int, name: str, node: ElementTree.Element) -> VocObject:
    for key in ("name", "bndbox"):
        if len(node.findall(key)) > 1:
            raise UserError(f"object {number} has several <{key}>, give each an <object>")
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
