"""Pseudo-labels for images that are not annotated: the boxes of files (pseudo_label_files.py), and
the masks of folders (pseudo_masks.py)."""

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.structures import BoxMode

from multas.data.pseudo_label_files import Header, read_pseudo_labels
from multas.data.pseudo_masks import PseudoMasks
from multas.data.shared_list import SharedDict
from multas.util.errors import UserError
from multas.util.names import check_choice

logger = logging.getLogger(__name__)

# Why boxes of a file are not used.
BELOW = "below the threshold"
BEYOND = "beyond TOPK"


@dataclass(frozen=True)
class PseudoLabels:
    """The boxes of one or more files, and masks.

    Attributes:
        boxes: by image id, the annotations in Detectron2's form, best first, each with "score" and
            "pseudo": 1; an empty list for an image that was labelled but has no box left.
        empty: what such an image counts as, see DATASETS.PSEUDO_LABELS.EMPTY.
        headers: the headers of the files by path.
        dropped: by image id, how many boxes are not used, by the reason.
        masks: masks for images that have none.
    """

    boxes: Mapping[Any, list[dict]] = field(default_factory=dict)
    empty: str = "background"
    headers: Mapping[str, Header] = field(default_factory=dict)
    dropped: Mapping[Any, Mapping[str, int]] = field(default_factory=dict)
    masks: PseudoMasks = field(default_factory=PseudoMasks)

    def join(self, dataset_dict: dict) -> dict:
        """Add its pseudo-labels to the dict of an unannotated image.

        Ground truth is never mixed with pseudo-labels: a dict with "annotations" gets no box, and
        one with "sem_seg_file_name" no mask.
        """
        return self.masks.join(self._join_boxes(dataset_dict))

    def _join_boxes(self, dataset_dict: dict) -> dict:
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

        Masks have a check of their own.

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


def load_pseudo_labels(
    files: Sequence[str],
    classes: Sequence[str],
    *,
    score_thresh: float = 0.0,
    class_score_thresh: Sequence[float] = (),
    topk: int = 0,
    empty: str = "background",
    masks: PseudoMasks | None = None,
) -> PseudoLabels:
    """Read files of pseudo-labels, written by :func:`save_pseudo_labels`, for training.

    Args:
        files: their paths.
        classes: classes of the training set; the files must have the same, in the same order.
        score_thresh: score below which boxes are dropped.
        class_score_thresh: a further threshold for each class, or nothing.
        topk: number of boxes to keep for an image, best first; 0 for all.
        empty: "background" or "skip", see :class:`PseudoLabels`.
        masks: masks to join as well.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if a file is not one of pseudo-labels, has a wrong entry or other classes, or
            labels an image again; if the number of thresholds is wrong.
    """
    check_choice("DATASETS.PSEUDO_LABELS.EMPTY", empty, ("background", "skip"))
    if class_score_thresh and len(class_score_thresh) != len(classes):
        raise UserError(
            f"DATASETS.PSEUDO_LABELS.CLASS_SCORE_THRESH has {len(class_score_thresh)} thresholds, "
            f"but there are {len(classes)} classes; give one for each, or none."
        )
    thresholds = [max(score_thresh, t) for t in class_score_thresh or [0.0] * len(classes)]
    boxes: dict[Any, list[dict]] = {}
    dropped: dict[Any, dict[str, int]] = {}
    source: dict[Any, str] = {}
    headers: dict[str, Header] = {}
    for path in files:
        headers[path], annotations = read_pseudo_labels(path)
        _check_header(path, headers[path], classes, thresholds, topk)
        found, below = defaultdict(list), Counter[Any]()
        for box in sorted(annotations, key=lambda a: -a["score"]):
            if box["score"] < thresholds[box["category_id"]]:
                below[box["image_id"]] += 1
                continue
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
            beyond = len(found[image_id]) - len(boxes[image_id])
            if below[image_id] or beyond:
                dropped[image_id] = {BELOW: below[image_id], BEYOND: beyond}
    return PseudoLabels(SharedDict(boxes), empty, headers, dropped, masks or PseudoMasks())


def _check_header(
    path: str, header: Header, classes: Sequence[str], thresholds: Sequence[float], topk: int
) -> None:
    """Make sure that a file has the classes of the training set; warn where it lacks boxes."""
    if list(header.classes) != list(classes):
        raise UserError(
            f"{path} was made for the classes {header.classes}, but the training set has "
            f"{list(classes)}. Label again with a teacher of these classes."
        )
    lowest = min((t for t in thresholds if t > 0), default=1.0)  # 0 asks for all that there is
    if lowest < header.score_thresh:
        logger.warning(
            f"{path} has no boxes with scores below {header.score_thresh:g}, so that the threshold "
            f"{lowest:g} (DATASETS.PSEUDO_LABELS) has no effect. Label again with --score-thresh "
            f"{lowest:g} to use more."
        )
    if 0 < header.topk < topk:
        logger.warning(
            f"{path} has at most {header.topk} boxes of an image, fewer than "
            f"DATASETS.PSEUDO_LABELS.TOPK {topk}. Label again with --topk {topk} to use more."
        )
