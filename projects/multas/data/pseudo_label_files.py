"""Pseudo-label files: the detections of a teacher, kept in a file of their own.

A file is JSON with two entries. "header" says where the boxes come from (:class:`Header`);
"annotations" is a COCO results list: ``{"image_id", "category_id", "bbox", "score"}`` with boxes
as x, y, width, height in pixels of the original image, and with category_id counted from 0 in the
order of the header's classes.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from detectron2.utils.file_io import PathManager

from multas.data.issues import or_rather
from multas.util.errors import UserError
from multas.util.files import unique_keys, written_whole
from multas.util.sizes import are_fractions

VERSION = 1
_KEY = "DATASETS.PSEUDO_LABELS.FILES"
_ENTRY = ("image_id", "category_id", "bbox", "score")
_MAX_FAULTS = 5  # so many are shown
_FAR = 1e9  # pixels; no image reaches so far
_AGAIN = "Label the images again with tools/pseudo_label.py, or mend the file."


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


def read_pseudo_labels(path: str) -> tuple[Header, list[dict]]:
    """Header and annotations of a file, checked entry by entry.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is not a file of pseudo-labels, or an entry is wrong; the message has the
            number of the entry in "annotations", from 0, and its image.
    """
    content = _read_json(path)
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
    _refuse(path, _header_faults(header))
    if not isinstance(annotations, list):
        raise UserError(f"{path}: annotations must be a list, is {_shown(annotations)}. {_AGAIN}")
    _refuse(path, _entry_faults(header, annotations))
    if are_fractions(entry["bbox"] for entry in annotations):
        raise UserError(
            f"{path}: all boxes lie in the first pixel, as fractions of the image's size do; bbox "
            "must be x, y, width and height in pixels."
        )
    known = {f.name for f in fields(Header)}
    return Header(**{k: v for k, v in header.items() if k in known}), annotations


def _read_json(path: Any) -> Any:
    if not isinstance(path, str) or not PathManager.exists(path):
        raise FileNotFoundError(
            f"{_KEY} names '{path}': no such file. tools/pseudo_label.py writes it."
        )
    if not PathManager.isfile(path):
        raise UserError(f"{_KEY} names '{path}', which is a folder or a pipe; name a file.")
    with PathManager.open(path, "rb") as file:
        content = file.read()
    if not content.strip():
        raise UserError(f"{path} is empty. {_AGAIN}")
    try:
        return json.loads(content, object_pairs_hook=unique_keys)  # any of the encodings of Unicode
    except UnicodeDecodeError:
        raise UserError(f"{path} is not JSON, whose encoding is UTF-8. {_AGAIN}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); was it cut off? {_AGAIN}") from None


def _refuse(path: str, faults: Iterator[str]) -> None:
    found = list(faults)
    if found:
        shown = "; ".join(found[:_MAX_FAULTS])
        more = f"; and {len(found) - _MAX_FAULTS} more" if len(found) > _MAX_FAULTS else ""
        raise UserError(f"{path}: {shown}{more}. {_AGAIN}")


def _header_faults(header: Any) -> Iterator[str]:
    if not isinstance(header, dict):
        yield f"header must be a table, is {_shown(header)}"
        return
    needed = [f.name for f in fields(Header) if f.default is MISSING]
    if lacking := [key for key in needed if key not in header]:
        near = or_rather(lacking[0], [key for key in header if key not in needed])
        yield f"header lacks {', '.join(lacking)}{near}"
        return
    if (version := header.get("version", VERSION)) != VERSION:
        yield f"header: version is {_shown(version)}, but this multas reads version {VERSION}"
        return
    classes, ids = header["classes"], header["image_ids"]
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        yield f"header: classes must be a list of names, is {_shown(classes)}"
    if not isinstance(ids, list) or not all(map(_is_id, ids)):
        yield f"header: image_ids must be a list of texts or integers, is {_shown(ids)}"
    elif len(set(ids)) < len(ids):
        yield f"header: image_ids lists the image {Counter(ids).most_common(1)[0][0]!r} twice"
    for key in ("dataset", "teacher_config", "teacher_weights", "teacher_sha256"):
        if not isinstance(value := header.get(key, ""), str):
            yield f"header: {key} must be a text, is {_shown(value)}"
    if not _is_number(header["score_thresh"], 0, 1):
        yield f"header: score_thresh must be from 0 to 1, is {_shown(header['score_thresh'])}"
    if not _is_integer(header["topk"]) or header["topk"] < 0:
        yield f"header: topk must be 0 (all) or more, is {_shown(header['topk'])}"


def _entry_faults(header: Mapping, annotations: Sequence[Any]) -> Iterator[str]:
    listed, count = set(header["image_ids"]), len(header["classes"])
    for number, entry in enumerate(annotations):
        if fault := _entry_fault(entry, listed, count):
            image_id = entry.get("image_id") if isinstance(entry, dict) else None
            image = f" (image {image_id!r})" if _is_id(image_id) else ""
            yield f"annotations[{number}]{image}: {fault}"


def _entry_fault(entry: Any, listed: set, num_classes: int) -> str | None:
    """What is wrong with an entry, or None."""
    if not isinstance(entry, dict):
        return f"must be a table, is {_shown(entry)}"
    if lacking := [key for key in _ENTRY if key not in entry]:
        return f"lacks {', '.join(lacking)}"
    image_id, category, box, score = (entry[key] for key in _ENTRY)
    if not _is_id(image_id):
        return f"image_id must be a text or an integer, is {_shown(image_id)}"
    if image_id not in listed:
        return "image_ids of the header does not list this image"
    if not _is_integer(category) or not 0 <= category < num_classes:
        return (
            f"category_id {_shown(category)} is none of 0 to {num_classes - 1}, the positions of "
            f"the {num_classes} classes"
        )
    if not _is_number(score, 0, 1):
        return f"score must be from 0 to 1, is {_shown(score)}"
    if not isinstance(box, list) or len(box) != 4:
        return f"bbox must be four numbers x, y, width, height, is {_shown(box)}"
    if not all(_is_number(value, -_FAR, _FAR) for value in box):
        return f"bbox {_shown(box)} is not of four finite numbers"
    if box[2] <= 0 or box[3] <= 0:
        return f"bbox {_shown(box)} has no area; width and height must be above 0"
    if min(box[:2]) < -1:
        return f"bbox {_shown(box)} begins outside of the image"
    return None


def _is_id(value: Any) -> bool:
    return isinstance(value, str) or _is_integer(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any, low: float, high: float) -> bool:
    """Whether a value is a number of a closed interval, which NaN is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
