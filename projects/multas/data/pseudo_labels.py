"""Pseudo-label files: the detections of a teacher, kept in a file of their own.

A file is JSON with two entries. "header" says where the boxes come from (:class:`Header`);
"annotations" is a COCO results list: ``{"image_id", "category_id", "bbox", "score"}`` with boxes
as x, y, width, height in pixels of the original image, and with category_id counted from 0 in the
order of the header's classes.
"""

import hashlib
import json
import logging
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from multas.util.errors import UserError
from multas.util.files import written_whole
from multas.util.names import check_choice

logger = logging.getLogger(__name__)


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
    version: int = 1


@dataclass(frozen=True)
class PseudoLabels:
    """The boxes of one or more files.

    Attributes:
        boxes: by image id, the annotations in Detectron2's form, best first, each with "score" and
            "pseudo": 1; an empty list for an image that was labelled but has no box left.
        empty: what such an image counts as, see DATASETS.PSEUDO_LABELS.EMPTY.
        headers: the headers of the files by path.
    """

    boxes: Mapping[Any, list[dict]] = field(default_factory=dict)
    empty: str = "background"
    headers: Mapping[str, Header] = field(default_factory=dict)

    def join(self, dataset_dict: dict) -> dict:
        """Add its pseudo-labels to the dict of an unannotated image.

        Ground truth is never mixed with pseudo-labels: a dict with "annotations" stays as it is.
        """
        image_id = dataset_dict.get("image_id")
        if "annotations" in dataset_dict or image_id not in self.boxes:
            return dataset_dict
        boxes = self.boxes[image_id]
        is_skipped = not boxes and self.empty == "skip"
        return dataset_dict if is_skipped else {**dataset_dict, "annotations": boxes}

    def check(
        self, dicts: Sequence[Mapping], names: Sequence[str], training_key: str = "DATASETS.TRAIN"
    ) -> None:
        """Make sure that the files belong to the training images, since ids alone can mislead.

        Args:
            dicts: dataset dicts of the training set.
            names: names of the data sets that they come from.
            training_key: the config key that holds these names, for messages.

        Raises:
            UserError: if a file labels none of the unannotated images, if two images have one id,
                or if a box lies outside its image.
        """
        key = "DATASETS.PSEUDO_LABELS.FILES"
        images: dict[Any, Mapping] = {}
        for sample in dicts:
            image_id = sample.get("image_id")
            if "annotations" in sample or image_id not in self.boxes:
                continue
            other = images.setdefault(image_id, sample)["file_name"]
            if other != sample["file_name"]:
                raise UserError(
                    f"{key}: the id '{image_id}' is that of {other} and of {sample['file_name']}; "
                    "whose boxes are they? Give the images different names, or train on one set."
                )
        for path, header in self.headers.items():
            if images.keys().isdisjoint(header.image_ids):
                raise UserError(
                    f"{key}: {path} labels none of the unannotated images of {training_key} "
                    f"{tuple(names)}; it was made for '{header.dataset}'. Name that data set "
                    "there, or label these images with tools/pseudo_label.py."
                )
            if header.dataset not in names:
                logger.warning(
                    f"{path} was made for '{header.dataset}', not for one of {tuple(names)}; its "
                    "boxes go to the images of the same ids."
                )
        for image_id, sample in images.items():
            if any(_leaves(box["bbox"], sample) for box in self.boxes[image_id]):
                raise UserError(
                    f"{key}: a box of the id '{image_id}' leaves the image {sample['file_name']}; "
                    "the file was made for other images. Label these with tools/pseudo_label.py."
                )


def _leaves(box: Sequence[float], sample: Mapping) -> bool:
    """Whether a box (x, y, width, height) ends more than a pixel outside, if the size is known."""
    ends = box[0] + box[2], box[1] + box[3]
    sizes = sample.get("width", math.inf), sample.get("height", math.inf)
    return any(end > size + 1 for end, size in zip(ends, sizes, strict=True))


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
    """Header and annotations of a file.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is not a file of pseudo-labels.
    """
    if not PathManager.isfile(path):
        raise FileNotFoundError(
            f"DATASETS.PSEUDO_LABELS.FILES names '{path}': no such file. "
            "tools/pseudo_label.py writes it."
        )
    try:
        with PathManager.open(path) as file:
            content = json.load(file)
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}). Write it again.") from error
    if not isinstance(content, dict) or not {"header", "annotations"} <= content.keys():
        raise UserError(
            f"{path} is not a file of pseudo-labels: it must have 'header' and 'annotations', as "
            "tools/pseudo_label.py writes them."
        )
    known = {f.name for f in fields(Header)}
    header = Header(**{k: v for k, v in content["header"].items() if k in known})
    return header, content["annotations"]


def load_pseudo_labels(
    files: Sequence[str],
    classes: Sequence[str],
    *,
    score_thresh: float = 0.0,
    class_score_thresh: Sequence[float] = (),
    topk: int = 0,
    empty: str = "background",
) -> PseudoLabels:
    """Read files of pseudo-labels, written by :func:`save_pseudo_labels`, for training.

    Args:
        files: their paths.
        classes: classes of the training set; the files must have the same, in the same order.
        score_thresh: score below which boxes are dropped.
        class_score_thresh: a further threshold for each class, or nothing.
        topk: number of boxes to keep for an image, best first; 0 for all.
        empty: "background" or "skip", see :class:`PseudoLabels`.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if a file is not one of pseudo-labels, has other classes or a category_id
            without class, or labels an image again; if the number of thresholds is wrong.
    """
    check_choice("DATASETS.PSEUDO_LABELS.EMPTY", empty, ("background", "skip"))
    if class_score_thresh and len(class_score_thresh) != len(classes):
        raise UserError(
            f"DATASETS.PSEUDO_LABELS.CLASS_SCORE_THRESH has {len(class_score_thresh)} thresholds, "
            f"but there are {len(classes)} classes; give one for each, or none."
        )
    thresholds = [max(score_thresh, t) for t in class_score_thresh or [0.0] * len(classes)]
    boxes: dict[Any, list[dict]] = {}
    source: dict[Any, str] = {}
    headers: dict[str, Header] = {}
    for path in files:
        headers[path], annotations = read_pseudo_labels(path)
        _check_classes(path, headers[path], annotations, classes)
        found = defaultdict(list)
        for box in sorted(annotations, key=lambda a: -a["score"]):
            if box["score"] >= thresholds[box["category_id"]]:
                annotation = {key: box[key] for key in ("bbox", "category_id", "score")}
                annotation |= {"bbox_mode": BoxMode.XYWH_ABS, "iscrowd": 0, "pseudo": 1}
                found[box["image_id"]].append(annotation)
        for image_id in headers[path].image_ids:
            if image_id in source:
                raise UserError(
                    f"DATASETS.PSEUDO_LABELS.FILES: image '{image_id}' is labelled in "
                    f"{source[image_id]} and again in {path}. Name files that do not overlap."
                )
            source[image_id] = path
            boxes[image_id] = found[image_id][: topk or None]
    return PseudoLabels(boxes, empty, headers)


def _check_classes(
    path: str, header: Header, annotations: Sequence[Mapping], classes: Sequence[str]
) -> None:
    if list(header.classes) != list(classes):
        raise UserError(
            f"{path} was made for the classes {header.classes}, but the training set has "
            f"{list(classes)}. Label again with a teacher of these classes."
        )
    wrong = {a["category_id"] for a in annotations} - set(range(len(classes)))
    if wrong:
        raise UserError(
            f"{path}: category_id {min(wrong)} is none of 0 to {len(classes) - 1}, the positions "
            f"of the {len(classes)} classes. Label again with a teacher of these classes."
        )
