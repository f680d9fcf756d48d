"""Pseudo-label files: the detections of a teacher, kept in a file of their own.

A file is JSON with two entries. "header" says where the boxes come from (:class:`Header`);
"annotations" is a COCO results list: ``{"image_id", "category_id", "bbox", "score"}`` with boxes
as x, y, width, height in pixels of the original image, and with category_id counted from 0 in the
order of the header's classes.
"""

import hashlib
import json
import os
import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from detectron2.utils.file_io import PathManager

from multas.data.json_files import BOX, ID, Kind, entry_fault, is_number, read_json
from multas.util.errors import UserError
from multas.util.files import require_writable, written_whole
from multas.util.sizes import are_fractions

VERSION = 1
_KEY = "DATASETS.PSEUDO_LABELS.FILES"
_MAX_FAULTS = 5  # so many are shown
_AGAIN = "Label the images again with tools/pseudo_label.py, or mend the file."

_WHOLE = Kind("a whole number", lambda v: type(v) is int)
_SHARE = Kind("a number from 0 to 1", lambda v: is_number(v) and 0 <= v <= 1)
_TEXT = Kind("a text", lambda v: type(v) is str)
_ENTRY = {"image_id": ID, "category_id": _WHOLE, "bbox": BOX, "score": _SHARE}
_HEADER = {
    "dataset": _TEXT,
    "classes": Kind("a list of names", lambda v: type(v) is list and all(map(_TEXT.fits, v))),
    "image_ids": Kind("a list of ids", lambda v: type(v) is list and all(map(ID.fits, v))),
    "score_thresh": _SHARE,
    "topk": Kind("0 (all) or more", lambda v: type(v) is int and v >= 0),
}
_ORIGIN = {
    **dict.fromkeys(("teacher_config", "teacher_weights", "teacher_sha256", "reviewed"), _TEXT),
    "version": Kind(f"{VERSION}, which this multas reads", lambda v: v == VERSION),
}


@dataclass(frozen=True)
class Header:
    """Where a file of pseudo-labels comes from."""

    dataset: str  # name of the split whose images were labelled
    classes: list[str]  # names of the classes in the order of category_id
    image_ids: list[Any]  # of all images that were labelled, also of those without a box
    score_thresh: float  # lowest score of the boxes that were kept
    topk: int  # largest number of boxes of an image; 0 if all were kept
    teacher_config: str = ""  # file of the teacher's config
    teacher_weights: str = ""  # file of its weights
    teacher_sha256: str = ""  # hash of that file
    reviewed: str = ""  # hash of the file that a person has looked through; "" = nobody has
    version: int = VERSION


def file_sha256(path: str) -> str:
    """SHA-256 of a file, hexadecimal."""
    with PathManager.open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_pseudo_labels(path: str, header: Header, annotations: Sequence[Mapping]) -> None:
    """Write a file of pseudo-labels; an interrupted write leaves the old file."""
    PathManager.mkdirs(os.path.dirname(path) or ".")
    with written_whole(path) as partial, open(partial, "w") as file:
        json.dump({"header": asdict(header), "annotations": list(annotations)}, file)


def require_replaceable(output: str) -> None:
    """Make sure that pseudo-labels can be written to --output, and replace nothing else.

    Raises:
        UserError: There is another file, such as weights, a config or annotations, or no way.
    """
    require_writable(output, "--output")
    if not os.path.isfile(output) or not os.path.getsize(output):
        return
    try:
        read_pseudo_labels(output)
    except UserError:
        raise UserError(
            f"--output '{output}' is there and no file of pseudo-labels; it would be lost. Name "
            "another file, or delete it."
        ) from None


def read_pseudo_labels(path: str) -> tuple[Header, list[dict]]:
    """Header and annotations of a file, checked entry by entry.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is not a file of pseudo-labels, or an entry is wrong; the message has the
            number of the entry in "annotations", from 0, and its image.
    """
    content = _read(path)
    if isinstance(content, list):
        raise UserError(
            f"{path} is a plain list of COCO results, which does not say which images have no box. "
            'Put it into a table {"header": {"dataset": …, "classes": [names], "image_ids": [all '
            'labelled images], "score_thresh": 0.5, "topk": 0}, "annotations": the list} and count '
            "category_id from 0 in the order of the classes, or label with tools/pseudo_label.py."
        )
    if not isinstance(content, dict) or not {"header", "annotations"} <= content.keys():
        raise UserError(
            f"{path} is not a file of pseudo-labels: it must have 'header' and 'annotations', as "
            "tools/pseudo_label.py writes them."
        )
    header, annotations = content["header"], content["annotations"]
    if fault := _header_fault(header):
        raise UserError(f"{path}: header: {fault}. {_AGAIN}")
    if not isinstance(annotations, list):
        what = reprlib.repr(annotations)
        raise UserError(f"{path}: annotations must be a list, it is {what}. {_AGAIN}")
    if faults := list(_entry_faults(header, annotations)):
        more = f"; and {len(faults) - _MAX_FAULTS} more" if len(faults) > _MAX_FAULTS else ""
        raise UserError(f"{path}: {'; '.join(faults[:_MAX_FAULTS])}{more}. {_AGAIN}")
    if are_fractions(entry["bbox"] for entry in annotations):
        raise UserError(
            f"{path}: all boxes lie in the first pixel, as fractions of the image's size do; bbox "
            "must be x, y, width and height in pixels."
        )
    known = {f.name for f in fields(Header)}
    return Header(**{k: v for k, v in header.items() if k in known}), annotations


def _read(path: Any) -> Any:
    if not isinstance(path, str) or not PathManager.exists(path):
        raise FileNotFoundError(
            f"{_KEY} names '{path}': no such file. tools/pseudo_label.py writes it."
        )
    if not PathManager.isfile(path):
        raise UserError(f"{_KEY} names '{path}', which is a folder or a pipe; name a file.")
    try:
        return read_json(PathManager.get_local_path(path))
    except UserError as error:
        raise UserError(f"{error} {_AGAIN}") from None


def _header_fault(header: Any) -> str | None:
    if fault := entry_fault(header, _HEADER, _ORIGIN):
        return fault
    image_id, count = Counter(header["image_ids"] or [""]).most_common(1)[0]
    return f"image_ids lists the image {image_id!r} twice" if count > 1 else None


def _entry_faults(header: Mapping, annotations: Sequence[Any]) -> Iterator[str]:
    listed, count = set(header["image_ids"]), len(header["classes"])
    for number, entry in enumerate(annotations):
        if fault := entry_fault(entry, _ENTRY) or _box_fault(entry, listed, count):
            image_id = entry.get("image_id") if isinstance(entry, dict) else None
            image = f" (image {image_id!r})" if ID.fits(image_id) else ""
            yield f"annotations[{number}]{image}: {fault}"


def _box_fault(entry: Mapping, listed: set, num_classes: int) -> str | None:
    """What is wrong with an entry that has all its keys, or None."""
    if entry["image_id"] not in listed:
        return "image_ids of the header does not list this image"
    if not 0 <= entry["category_id"] < num_classes:
        return (
            f"category_id {entry['category_id']} is none of 0 to {num_classes - 1}, the positions "
            f"of the {num_classes} classes"
        )
    x, y, width, height = entry["bbox"]
    if width <= 0 or height <= 0:
        return f"bbox {entry['bbox']} has no area; width and height must be above 0"
    return f"bbox {entry['bbox']} begins outside of the image" if min(x, y) < -1 else None
