"""Pseudo-labels from the COCO file of an annotation program, after :mod:`coco_export`.

What the programs write differs. CVAT counts categories from 1, the others from 0; CVAT has scores
as an attribute of its own, Label Studio has none; Label Studio puts a hash and its own folders
before the names of images, and may not know their sizes; FiftyOne leaves out empty tables. Classes
therefore go by their names, and images by those of their files.
"""

import math
import os
import re
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from multas.data.coco_export import file_names, labelled, upright_size
from multas.data.json_files import BOX, ID, Kind, entry_fault, is_number, read_json
from multas.data.pseudo_label_files import Header
from multas.data.review import CERTAIN, KEEP
from multas.util.errors import UserError
from multas.util.names import did_you_mean, plain_name
from multas.util.sizes import are_fractions

# Where FiftyOne, Label Studio and CVAT have their file, in the folder or archive that they write.
_PLACES = re.compile(r"(?:.*/)?(?:labels\.json|result\.json|annotations/[^/]+\.json)")
_HASH = re.compile(r"^[0-9a-f]{8}(?:-|__)(?=.)")  # Label Studio's, before the name of a file

_TEXT = Kind("a text", lambda v: type(v) is str and bool(v))
_SIDE = Kind("a number of pixels", lambda v: v is None or (is_number(v) and v >= 0))
_SHARE = Kind("a number from 0 to 1", lambda v: v is None or (is_number(v) and 0 <= v <= 1))
_TABLES: dict[str, dict[str, Kind]] = {
    "categories": {"id": ID, "name": _TEXT},
    "images": {"id": ID, "file_name": _TEXT},
    "annotations": {"image_id": ID, "category_id": ID, "bbox": BOX},
}
_OPTIONAL = {
    "width": _SIDE,
    "height": _SIDE,
    "score": _SHARE,
    "attributes": Kind("a table", lambda v: type(v) is dict),
}


def import_coco(
    source: str,
    header: Header,
    annotations: Sequence[Mapping],
    images: Sequence[Mapping],
    unreviewed: str = KEEP,
) -> tuple[Header, list[dict], Counter[str]]:
    """Pseudo-labels from the COCO file that an annotation program wrote.

    Of an image in that file, its boxes there are all that counts; one without a score was confirmed
    by a person and gets 1. An image that is not there keeps its pseudo-labels or, with
    ``unreviewed`` "drop", counts as not labelled.

    Args:
        source: a JSON file, or the folder or ZIP archive of an export that has one.
        header, annotations: the content of the file of pseudo-labels that was exported.
        images: dataset dicts of its images.
        unreviewed: "keep" or "drop".

    Returns:
        The header, the annotations, and numbers of images and boxes by what became of them.

    Raises:
        OSError: There is no such file.
        UserError: It is no COCO file, has a wrong entry, a class or sizes that are not those of the
            pseudo-labels, or none of their images.
    """
    content = _read(source)
    known = labelled(header, images)
    counts: Counter[str] = Counter()
    ids = _match_images(source, content["images"], known, counts)
    edited = _edited_boxes(source, content, ids, known, header.classes, counts)
    if are_fractions(box["bbox"] for own in edited.values() for box in own):
        raise UserError(
            f"{source}: all boxes lie in the first pixel, as fractions of the image's size do; "
            "export pixels."
        )
    before: dict[Any, list[dict]] = defaultdict(list)
    for box in annotations:
        before[box["image_id"]].append(dict(box))
    seen = set(ids.values())
    image_ids = [i for i in header.image_ids if i in seen or unreviewed == KEEP]
    kept = [box for i in image_ids for box in (edited if i in seen else before)[i]]
    counts["images of the file"] = len(seen)
    counts["boxes of the file"] = sum(map(len, edited.values()))
    fate = "kept" if unreviewed == KEEP else "dropped"
    counts[f"images that it lacks, {fate}"] = len(header.image_ids) - len(seen)
    lowest = min([header.score_thresh, *(box["score"] for box in kept)])
    return replace(header, image_ids=image_ids, score_thresh=lowest, topk=0), kept, +counts


def _match_images(
    source: str, entries: Sequence[Mapping], known: Mapping[Any, Mapping], counts: Counter[str]
) -> dict[Any, Any]:
    """The ids that the pseudo-labels have for images, by those of the file."""
    by_name = {name: image_id for image_id, name in file_names(known).items()}
    ids: dict[Any, Any] = {}
    seen: set[Any] = set()
    for entry in entries:
        image_id = _image_of(entry["file_name"], by_name)
        if image_id is None:
            counts["images that are none of the labelled ones, left out"] += 1
            continue
        if image_id in seen:
            raise UserError(f"{source} has the image {entry['file_name']!r} twice; drop one.")
        _check_size(source, entry, known[image_id])
        ids[entry["id"]] = image_id
        seen.add(image_id)
    if not ids:
        first = entries[0]["file_name"] if entries else "nothing"
        raise UserError(
            f"{source} has none of the {len(known)} labelled images, but {first}. Name the "
            "pseudo-labels that were exported, and keep the names of the files in data/."
        )
    return ids


def _edited_boxes(
    source: str,
    content: Mapping[str, Sequence[Mapping]],
    ids: Mapping[Any, Any],
    known: Mapping[Any, Mapping],
    classes: Sequence[str],
    counts: Counter[str],
) -> dict[Any, list[dict]]:
    """The pseudo-labels that the annotations of the file make, by image id."""
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    edited: dict[Any, list[dict]] = defaultdict(list)
    for entry in content["annotations"]:
        image_id = ids.get(entry["image_id"])
        if image_id is None:
            continue
        if entry.get("iscrowd"):
            counts["masks of groups, left out"] += 1
            continue
        box = _inside(_upright(entry), upright_size(known[image_id]))
        if box is None:
            counts["boxes outside of their image, left out"] += 1
            continue
        category = _class_of(source, names.get(entry["category_id"]), classes)
        score = CERTAIN if entry.get("score") is None else float(entry["score"])
        new = {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
        edited[image_id].append(new)
    return edited


def _read(source: str) -> dict[str, list[dict]]:
    """The checked tables of a COCO file, or of that in a folder or archive."""
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive, tempfile.TemporaryDirectory() as folder:
            member = _only(source, [n for n in archive.namelist() if _PLACES.fullmatch(n)])
            return _tables(read_json(archive.extract(member, folder)), f"{source}: {member}")
    if os.path.isdir(source):
        files = [p.relative_to(source).as_posix() for p in Path(source).rglob("*.json")]
        member = _only(source, [name for name in files if _PLACES.fullmatch(name)])
        source = os.path.join(source, member)
    return _tables(read_json(source), source)


def _only(source: str, names: Sequence[str]) -> str:
    if len(names) != 1:
        found = f"has {', '.join(sorted(names))}" if names else "has no COCO file"
        raise UserError(
            f"{source} {found}; one of labels.json, result.json or annotations/*.json is looked "
            "for. Name the JSON file itself."
        )
    return names[0]


def _tables(content: Any, where: str) -> dict[str, list[dict]]:
    if not isinstance(content, dict) or not {"images", "categories"} <= content.keys():
        raise UserError(
            f"{where} is no COCO file: it lacks images and categories. Export as COCO, not as "
            "another format or a list of results."
        )
    tables = {name: content.get(name) or [] for name in _TABLES}  # FiftyOne may leave one out
    for name, entries in tables.items():
        if not isinstance(entries, list):
            raise UserError(f"{where}: `{name}` must be a list.")
        for number, entry in enumerate(entries):
            if fault := entry_fault(_with_score(entry), _TABLES[name], _OPTIONAL):
                raise UserError(f"{where}: {name}[{number}]: {fault}.")
    tables["annotations"] = [_with_score(entry) for entry in tables["annotations"]]
    return tables


def _with_score(entry: Any) -> Any:
    """An entry whose score is no longer a text among CVAT's attributes."""
    attributes = entry.get("attributes") if isinstance(entry, dict) else None
    if not isinstance(attributes, dict) or "score" in entry or "score" not in attributes:
        return entry
    try:
        return {**entry, "score": float(attributes["score"])}
    except (TypeError, ValueError):
        return {**entry, "score": attributes["score"]}


def _image_of(file_name: str, by_name: Mapping[str, Any]) -> Any:
    """The id of an image by its name in a program's file, or None.

    Folders, those of Windows too, are dropped, and so are hashes before the name, one after the
    other, unless the name itself is known.
    """
    name = plain_name(unquote(file_name).replace("\\", "/").rpartition("?d=")[2])
    while name not in by_name and _HASH.match(name):
        name = _HASH.sub("", name)
    return by_name.get(name)


def _check_size(source: str, entry: Mapping, sample: Mapping) -> None:
    listed, own = (entry.get("width"), entry.get("height")), upright_size(sample)
    if all(listed) and listed != own:
        raise UserError(
            f"{source}: {entry['file_name']} is listed as {listed[0]}x{listed[1]}, but the image "
            f"is {own[0]}x{own[1]}; boxes would be misplaced. Annotate the images of data/ as they "
            "are."
        )


def _class_of(source: str, name: str | None, classes: Sequence[str]) -> int:
    if name is None or name not in classes:
        what = "an unknown category" if name is None else f"the class '{name}'"
        raise UserError(
            f"{source}: an annotation has {what}, which the pseudo-labels do not have."
            f"{did_you_mean(name or '', classes)}"
        )
    return list(classes).index(name)


def _upright(entry: Mapping) -> list[float]:
    """The box, or the one that encloses it where CVAT says by how many degrees it is turned."""
    x, y, width, height = map(float, entry["bbox"])
    angle = (entry.get("attributes") or {}).get("rotation") or 0
    if not is_number(angle) or angle % 360 == 0:
        return [x, y, width, height]
    cos, sin = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
    outer = width * cos + height * sin, width * sin + height * cos
    return [x + (width - outer[0]) / 2, y + (height - outer[1]) / 2, *outer]


def _inside(box: Sequence[float], size: tuple[int, int]) -> list[float] | None:
    """The part of a box, (x, y, width, height), that is inside of its image, or None."""
    x, y, width, height = box
    if min(x, y, size[0] - x - width, size[1] - y - height) >= 0:
        return list(box) if width > 0 and height > 0 else None
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + width, size[0]), min(y + height, size[1])
    if right <= left or bottom <= top:
        return None
    return [left, top, right - left, bottom - top]
