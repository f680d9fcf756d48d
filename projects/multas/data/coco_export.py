"""Pseudo-labels as a COCO data set for annotation programs; coco_import.py reads what comes back.

An export is a folder: ``labels.json`` with images, categories and annotations, and the images in
``data/``. That is FiftyOne's COCODetectionDataset; CVAT takes the images as a task and the file as
its annotations, and Label Studio takes both by its own converter. The names of the files are made
so that each of these programs keeps them, since each gives the images ids of its own.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from multas.data.image_files import image_record
from multas.data.issues import DatasetIssues
from multas.data.pseudo_label_files import Header
from multas.util.errors import UserError
from multas.util.files import write_text
from multas.util.names import plain_names

_LABELS, _DATA = "labels.json", "data"


def export_coco(
    folder: str | os.PathLike,
    header: Header,
    annotations: Sequence[Mapping],
    images: Sequence[Mapping],
) -> int:
    """Write pseudo-labels and their images, as links or copies, into a new folder.

    Args:
        folder: that is made; it must not be there, or be empty.
        header, annotations: the content of a file of pseudo-labels.
        images: dataset dicts of its images.

    Returns:
        The number of images.

    Raises:
        UserError: The folder has files, or none of the images is in the data set.
    """
    path = Path(folder)
    if os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"--output '{folder}' is there and not empty; name a new folder.")
    known = labelled(header, images)
    names = file_names(known)
    entries = []
    (path / _DATA).mkdir(parents=True)
    for number, (image_id, sample) in enumerate(known.items(), start=1):
        _link(sample["file_name"], path / _DATA / names[image_id])
        width, height = upright_size(sample)
        entries.append(
            {"id": number, "file_name": names[image_id], "width": width, "height": height}
        )
    numbers = {image_id: number for number, image_id in enumerate(known, start=1)}
    kept = [a for a in annotations if a["image_id"] in numbers]
    content = {
        "info": {"description": f"pseudo-labels of {header.dataset}"},
        "licenses": [],
        "categories": [
            {"id": k, "name": name, "supercategory": ""}
            for k, name in enumerate(header.classes, start=1)
        ],
        "images": entries,
        "annotations": [_annotation(n, numbers, a) for n, a in enumerate(kept, start=1)],
    }
    write_text(path / _LABELS, json.dumps(content, ensure_ascii=False))
    return len(entries)


def _annotation(number: int, images: Mapping[Any, int], box: Mapping) -> dict[str, Any]:
    """An entry with all keys that one of the programs asks for."""
    return {
        "id": number,
        "image_id": images[box["image_id"]],
        "category_id": box["category_id"] + 1,
        "bbox": list(box["bbox"]),
        "area": box["bbox"][2] * box["bbox"][3],
        "segmentation": [],
        "iscrowd": 0,
        "score": box["score"],
    }


def labelled(header: Header, images: Sequence[Mapping]) -> dict[Any, Mapping]:
    """The labelled images that a data set has, by id, in its order."""
    listed = set(header.image_ids)
    known = {sample["image_id"]: sample for sample in images if sample.get("image_id") in listed}
    if not known:
        raise UserError(
            f"The pseudo-labels were made for '{header.dataset}', but none of their images is in "
            "the data set."
        )
    return known


def file_names(known: Mapping[Any, Mapping]) -> dict[Any, str]:
    """The name of each image in an export, by id."""
    return plain_names({image_id: sample["file_name"] for image_id, sample in known.items()})


def upright_size(sample: Mapping) -> tuple[int, int]:
    """The (width, height) of an upright image."""
    if "width" not in sample or "height" not in sample:
        issues = DatasetIssues("the images", "stop")
        sample = image_record(0, sample["file_name"], issues) or {}
        issues.close()
    return int(sample["width"]), int(sample["height"])


def _link(file: str, target: Path) -> None:
    """One file under two names; a copy where the disk is another, or does not allow it."""
    try:
        os.link(os.path.realpath(file), target)
    except OSError:
        shutil.copyfile(file, target)
