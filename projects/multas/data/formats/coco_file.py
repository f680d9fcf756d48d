"""The content of a COCO annotation file, checked entry by entry before anything is made of it."""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from multas.data.issues import DatasetError, DatasetIssues
from multas.data.json_files import (
    BOX,
    ID,
    TEXT,
    Kind,
    entry_fault,
    is_number,
    read_json,
    with_slashes,
)
from multas.util.errors import UserError

_SIDE = Kind("a number of pixels", lambda v: is_number(v) and v > 0)
_FLAG = Kind("0 or 1", lambda v: v in (0, 1))
_TABLES: dict[str, dict[str, Kind]] = {
    "images": {"id": ID, "file_name": TEXT, "width": _SIDE, "height": _SIDE},
    "annotations": {"id": ID, "image_id": ID, "category_id": ID, "bbox": BOX},
    "categories": {"id": ID, "name": TEXT},
}
_OPTIONAL = {"iscrowd": _FLAG}
_UNIQUE = {"annotations": ("id",), "categories": ("id", "name")}  # images: see Coco

Tables = dict[str, list[dict]]


class CocoFile(NamedTuple):
    """A COCO annotation file, as far as it is sound."""

    tables: Tables  # "images", "annotations" and "categories"
    faulty_images: set  # ids of the images that have annotations which are left out
    has_group: bool  # whether a category is left out as the group of others


def read_coco_file(file: str, issues: DatasetIssues) -> CocoFile:
    """The sound entries of a file; others are reported.

    A category without objects is no fault, and left out, if it is the group (``supercategory``) of
    one of the same name: Roboflow puts all categories into one that is named by the project.

    Raises:
        DatasetError: if the file is missing, or no COCO annotation file.
    """
    content = _read_tables(file)
    content = {**content, "images": with_slashes(content["images"])}
    groups = _groups(content["categories"], content["annotations"])
    tables = {name: _sound_entries(name, content[name], file, issues, groups) for name in _TABLES}
    kept = {id(entry) for entry in tables["annotations"]}
    lost = [e for e in content["annotations"] if isinstance(e, dict) and id(e) not in kept]
    faulty_images = {e["image_id"] for e in lost if ID.fits(e.get("image_id"))}
    return CocoFile(tables, faulty_images, bool(groups))


def _groups(categories: Sequence, annotations: Sequence) -> list[dict]:
    """The categories without objects that are the group of one of the same name."""
    used = [e.get("category_id") for e in annotations if isinstance(e, dict)]
    ids = {number for number in used if ID.fits(number)}
    told = [e for e in categories if isinstance(e, dict) and ID.fits(e.get("id"))]
    grouped = [e for e in told if e["id"] in ids and e.get("supercategory") == e.get("name")]
    names = [e.get("name") for e in grouped]
    return [e for e in told if e["id"] not in ids and e.get("name") in names]


def _read_tables(file: str) -> Mapping[str, list]:
    try:
        content = read_json(file)
    except OSError as error:
        raise DatasetError(f"{file} cannot be read ({error.strerror})") from None
    except UserError as error:
        raise DatasetError(str(error)) from None
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


def _sound_entries(
    name: str, entries: Sequence, file: str, issues: DatasetIssues, groups: Sequence[dict]
) -> list[dict]:
    sound: list[dict] = []
    seen: dict[tuple[str, Any], int] = {}
    for number, entry in enumerate(entries):
        if any(entry is group for group in groups):
            continue
        fault = entry_fault(entry, _TABLES[name], _OPTIONAL)
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
        return is_number(sum(values))  # NaN and infinity stay in it; ten times as fast as a loop
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
