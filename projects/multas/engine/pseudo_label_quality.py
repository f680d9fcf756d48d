"""How good pseudo-labels are, by ground truth that was withheld."""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, BoxMode, pairwise_iou
from tabulate import tabulate

from multas.data.formats.masks import MASK_VALUES, read_mask
from multas.util.annotation import BOXES, MASKS, Annotation
from multas.util.errors import UserError

logger = logging.getLogger(__name__)


def check_truth(
    images: Sequence[Mapping],
    truth: Sequence[Mapping],
    dataset: str,
    kind: Annotation = BOXES,
) -> None:
    """Make sure that a data set has the withheld boxes or masks of images that are labelled.

    Raises:
        UserError: it has other images, or some without.
    """
    what = "boxes" if kind == BOXES else "masks"
    cure = f"name the data set that has the {what} of the same images"
    known = {sample.get("image_id"): sample for sample in truth}
    for sample in images:
        own = known.get(image_id := sample["image_id"])
        if own is None:
            raise UserError(
                f"--report-against {dataset} has no image '{image_id}' ({sample['file_name']}), "
                f"which is to be labelled; {cure}."
            )
        for key in ("width", "height"):
            if key in own and key in sample and own[key] != sample[key]:
                raise UserError(
                    f"--report-against {dataset}: the image '{image_id}' has {key} {own[key]}, "
                    f"but {sample['file_name']}, which is to be labelled, {sample[key]}; {cure}."
                )
    bare = [sample for sample in truth if kind.dataset_key not in sample]
    if bare:
        raise UserError(
            f"--report-against {dataset}: {len(bare)} of {len(truth)} images are not annotated "
            f"with {what} (the first is {bare[0]['file_name']}); {cure}, without _unlabeled."
        )
    if len(truth) > len(images):
        logger.warning(
            f"--report-against {dataset} has {len(truth)} images, of which {len(images)} are "
            "labelled: the objects of the others count as missed."
        )


def judge(
    annotations: Sequence[Mapping], truth: Sequence[Mapping], iou: float = 0.5
) -> list[bool | None]:
    """Whether each pseudo-label of :func:`label_images` is right by withheld ground truth.

    It is if its IoU with an object of its class is above ``iou``, and none with a better score has
    taken that object. What is found of an object marked "difficult" is neither right nor wrong:
    None, as on images of which there is no truth. The ``truth`` are dataset dicts.
    """
    verdicts: list[bool | None] = [None] * len(annotations)
    found: dict[tuple, list[int]] = defaultdict(list)
    for number, box in enumerate(annotations):
        found[box["image_id"], box["category_id"]].append(number)
    objects: dict[tuple, list[Mapping]] = defaultdict(list)
    for sample in truth:
        for item in sample["annotations"]:
            objects[sample["image_id"], item["category_id"]].append(item)
    known = {sample["image_id"] for sample in truth}
    for key, numbers in found.items():
        if key[0] in known:
            numbers.sort(key=lambda n: -annotations[n]["score"])
            judged = _match([annotations[n] for n in numbers], objects[key], iou)
            for number, verdict in zip(numbers, judged, strict=True):
                verdicts[number] = verdict
    return verdicts


def count_objects(truth: Sequence[Mapping], num_classes: int) -> list[int]:
    """The number of objects of each class that are not marked "difficult"."""
    easy = (a for sample in truth for a in sample["annotations"] if not a.get("difficult", 0))
    count = Counter(a["category_id"] for a in easy)
    return [count[k] for k in range(num_classes)]


def quality(
    annotations: Sequence[Mapping], truth: Sequence[Mapping], num_classes: int, iou: float = 0.5
) -> list[tuple[float, float, int, int]]:
    """Precision and recall of pseudo-labels against withheld ground truth, see :func:`judge`.

    Returns:
        (precision, recall, number of boxes, number of objects) of each class and, last, of all
        classes together. A ratio of nothing to nothing is nan.
    """
    counts = torch.zeros(num_classes + 1, 3, dtype=torch.float64)  # right, boxes, objects
    counts[:-1, 2] = torch.tensor(count_objects(truth, num_classes))
    for box, verdict in zip(annotations, judge(annotations, truth, iou), strict=True):
        if verdict is not None:
            counts[box["category_id"], :2] += torch.tensor([verdict, 1])
    counts[-1] = counts.sum(0)
    return [(float(r / b), float(r / o), int(b), int(o)) for r, b, o in counts]


def _match(boxes: Sequence[Mapping], objects: Sequence[Mapping], iou: float) -> list[bool | None]:
    """The verdicts on the boxes of one class in an image, which come best first."""
    if not objects:
        return [False] * len(boxes)

    def xyxy(items: Sequence[Mapping], mode: BoxMode | None) -> Boxes:
        rows = [BoxMode.convert(a["bbox"], mode or a["bbox_mode"], BoxMode.XYXY_ABS) for a in items]
        return Boxes(torch.tensor(rows))

    overlap = pairwise_iou(xyxy(boxes, BoxMode.XYWH_ABS), xyxy(objects, None))
    verdicts: list[bool | None] = []
    taken: set[int] = set()
    for row in overlap:
        best = int(row.argmax())
        is_new = bool(row[best] > iou) and best not in taken
        taken |= {best} if is_new else set()
        verdicts.append(None if is_new and objects[best].get("difficult", 0) else is_new)
    return verdicts


def mask_quality(
    files: Mapping[Any, str], truth: Sequence[Mapping], num_classes: int, ignore_label: int
) -> list[tuple[float, float, int]]:
    """Precision and recall of pseudo-masks, pixel by pixel, against withheld ground truth.

    Args:
        files: the mask of each image by its id; "" or none where nothing is certain.
        truth: dataset dicts with "sem_seg_file_name".
        num_classes: C, background included.
        ignore_label: the value, in both, of pixels that do not count; a pixel of which the teacher
            was not certain is missed.

    Returns:
        (precision, recall, number of true pixels) of each class and, last, of all together. A ratio
        of nothing to nothing is nan.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), np.int64)  # predicted, true
    for sample in truth:
        known = read_mask(sample[MASKS.dataset_key], sample.get(MASK_VALUES)).astype(np.int64)
        file = files.get(sample["image_id"])
        found = read_mask(file) if file else np.full_like(known, ignore_label)
        counted = known != ignore_label
        found = np.where(found == ignore_label, num_classes, found)[counted]
        pairs = (num_classes + 1) * found + known[counted]
        counts += np.bincount(pairs, minlength=counts.size).reshape(counts.shape)
    right, true = np.diagonal(counts)[:-1], counts[:, :-1].sum(0)
    predicted = counts[:-1].sum(1)
    rows = np.stack([right, predicted, true])
    with np.errstate(invalid="ignore"):
        return [
            (float(r / p), float(r / t), int(t))
            for r, p, t in np.concatenate([rows, rows.sum(1, keepdims=True)], 1).T
        ]


def quality_table(classes: Sequence[str], rows: Sequence[Sequence[float]], *counted: str) -> str:
    """What :func:`quality` or :func:`mask_quality` returns as text; ``counted`` heads numbers."""
    table = [[name, *row] for name, row in zip([*classes, "all"], rows, strict=True)]
    return tabulate(table, ["class", "precision", "recall", *counted], floatfmt=".3f")
