"""The content of a COCO annotation file, checked entry by entry before anything is made of it."""

import json
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from multas.data.issues import DatasetError, DatasetIssues
from multas.util.files import read_text, unique_keys
from multas.util.names import is_plain


class _Kind(NamedTuple):
    """What the value of a key has to be."""

    name: str
    fits: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a number that can be computed with."""
    return type(value) in (int, float) and abs(value) < 1e15  # NaN is not


_ID = _Kind(
    "a whole number or a text",
    lambda v: type(v) is str or type(v) is int or (is_number(v) and v % 1 == 0),
)
_TEXT = _Kind("a text", lambda v: type(v) is str and bool(v.strip()) and is_plain(v))
_SIDE = _Kind("a number of pixels", lambda v: is_number(v) and v > 0)
_BOX = _Kind(
    "four finite numbers", lambda v: type(v) is list and len(v) == 4 and all(map(is_number, v))
)
_FLAG = _Kind("0 or 1", lambda v: v in (0, 1))
_TABLES: dict[str, dict[str, _Kind]] = {
    "images": {"id": _ID, "file_name": _TEXT, "width": _SIDE, "height": _SIDE},
    "annotations": {"id": _ID, "image_id": _ID, "category_id": _ID, "bbox": _BOX},
    "categories": {"id": _ID, "name": _TEXT},
}
_OPTIONAL = {"iscrowd": _FLAG}
_UNIQUE = {"annotations": ("id",), "categories": ("id", "name")}  # images: see Coco

Tables = dict[str, list[dict]]


def read_coco_file(file: str, issues: DatasetIssues) -> tuple[Tables, set]:
    """The sound entries of ``images``, ``annotations`` and ``categories``; others are reported.

    Returns:
        The tables, and the ids of the images that have annotations which are left out.

    Raises:
        DatasetError: if the file is missing, or no COCO annotation file.
    """
    content = _read_json(file)
    tables = {name: _sound_entries(name, content[name], file, issues) for name in _TABLES}
    kept = {id(entry) for entry in tables["annotations"]}
    lost = [e for e in content["annotations"] if isinstance(e, dict) and id(e) not in kept]
    return tables, {e["image_id"] for e in lost if _ID.fits(e.get("image_id"))}


def _read_json(file: str) -> Mapping[str, list]:
    try:
        content = json.loads(read_text(file), object_pairs_hook=unique_keys)
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{file}: not a readable COCO annotation file ({error})") from None
    if isinstance(content, list):
        raise DatasetError(
            f"{file} is a list, as files of detections (COCO results) are; name the annotation "
            "file, a table with images, annotations and categories"
        )
    if not isinstance(content, dict):
        raise DatasetError(f"{file}: not a COCO annotation file: it holds {reprlib.repr(content)}")
    if missing := _TABLES.keys() - content.keys():
        raise DatasetError(f"{file}: lacks the table(s) {', '.join(sorted(missing))}")
    for name in _TABLES:
        if not isinstance(content[name], list):
            what = reprlib.repr(content[name])
            raise DatasetError(f"{file}: `{name}` must be a list of entries, it is {what}")
    return content


def _sound_entries(name: str, entries: Sequence, file: str, issues: DatasetIssues) -> list[dict]:
    sound: list[dict] = []
    seen: dict[tuple[str, Any], int] = {}
    for number, entry in enumerate(entries):
        fault = _entry_fault(entry, _TABLES[name])
        if not fault and sound and (type(entry["id"]) is str) != (type(sound[0]["id"]) is str):
            fault = f"id {entry['id']!r}, but the first is {sound[0]['id']!r}: texts and numbers"
        for key in () if fault else _UNIQUE.get(name, ()):
            first = seen.setdefault((key, entry[key]), number)
            if first != number:
                fault = f"{key} {entry[key]!r} is that of {name}[{first}], too"
                break
        if fault:
            issues.add(f"{file}: {name}[{number}]", fault)
        else:
            sound.append(entry)
    return sound


def _entry_fault(entry: Any, needed: Mapping[str, _Kind]) -> str | None:
    if not isinstance(entry, dict):
        return f"must be a table of keys, it is {reprlib.repr(entry)}"
    for key, kind in needed.items():
        if key not in entry:
            return f"lacks the key {key!r}"
        if not kind.fits(entry[key]):
            return f"{key} is {reprlib.repr(entry[key])}, need {kind.name}"
    for key, kind in _OPTIONAL.items():
        if key in entry and not kind.fits(entry[key]):
            return f"{key} is {reprlib.repr(entry[key])}, need {kind.name}"
    return None


def segmentation_fault(segmentation: Any, size: tuple[int, int]) -> str | None:
    """What is wrong with the polygons or the run lengths of an object, or None.

    Args:
        segmentation: a list of polygons, x1, y1, x2, y2 … in pixels; or run lengths ("counts",
            encoded or as numbers) of a mask with "size" (height, width).
        size: (width, height) of the image.
    """
    if segmentation is None or segmentation == []:
        return None
    if isinstance(segmentation, list):
        if not all(isinstance(p, list) and _are_numbers(p) for p in segmentation):
            return "segmentation must be lists of finite numbers, one for each polygon"
        if not valid_polygons(segmentation):
            return "segmentation has no polygon of three or more corners"
        return None
    if not isinstance(segmentation, dict) or not {"counts", "size"} <= segmentation.keys():
        return "segmentation must be a list of polygons, or run lengths with counts and size"
    if segmentation["size"] != [size[1], size[0]]:
        own = reprlib.repr(segmentation["size"])
        return f"segmentation has size {own}, but the image has height {size[1]}, width {size[0]}"
    if _run_length(segmentation["counts"]) != size[0] * size[1]:
        return f"segmentation has broken counts, they must sum to {size[0] * size[1]} pixels"
    return None


def _are_numbers(values: list) -> bool:
    try:
        return is_number(
            sum(values)
        )  # NaN and infinity stay in a sum; ten times faster than a loop
    except TypeError:
        return False


def valid_polygons(segmentation: list) -> list:
    """The polygons that have three or more corners."""
    return [polygon for polygon in segmentation if len(polygon) >= 6 and len(polygon) % 2 == 0]


def _run_length(counts: Any) -> int:
    """The sum of run lengths, numbers or COCO's encoding of them; -1 if they are broken.

    pycocotools believes the encoding, and reads beyond the end of one that was cut off.
    """
    if isinstance(counts, list):
        return sum(counts) if all(type(n) is int and n >= 0 for n in counts) else -1
    if not isinstance(counts, str):
        return -1
    # Five bits a character, lowest first, bit 5 says whether the number goes on, bit 4 of its last
    # character is the sign; from the fourth number on, it is the difference to the last but one.
    runs: list[int] = []
    value = shift = 0
    for code in (ord(character) - 48 for character in counts):
        if not 0 <= code < 64:
            return -1
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        value -= (code & 16) << (shift - 4)  # two's complement
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return sum(runs) if shift == 0 and all(n >= 0 for n in runs) else -1
