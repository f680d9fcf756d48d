"""A teacher's detections on a data set, and how good they are."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_iou
from torch import nn
from tqdm import tqdm

from multas.util.errors import UserError
from multas.util.modules import evaluation_mode

logger = logging.getLogger(__name__)


def label_images(
    model: nn.Module, loader: Iterable, *, score_thresh: float, topk: int = 0
) -> tuple[list[dict], list[Any]]:
    """Detect on every image of a loader in test mode.

    Args:
        model: predicts "instances" in the coordinates of the original image.
        score_thresh: boxes with a lower score are dropped.
        topk: the number of boxes per image that are kept, best first; 0 = all.

    Returns:
        Annotations in the form of COCO's results (category_id from 0), and the ids of all images.

    Raises:
        FloatingPointError: a box or score is not finite.
    """
    annotations: list[dict] = []
    image_ids: list[Any] = []
    with evaluation_mode(model), torch.no_grad():
        for batch in tqdm(loader, desc="pseudo-labels", unit="batch"):
            for sample, output in zip(batch, model(batch), strict=True):
                found = output["instances"].to("cpu")
                _check_finite(found, sample)
                found = found[found.pred_boxes.nonempty()]
                found = found[found.scores.argsort(descending=True)]
                found = found[found.scores >= score_thresh][: topk or len(found)]
                boxes = BoxMode.convert(found.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
                image_ids.append(sample["image_id"])
                columns = boxes, found.scores, found.pred_classes
                annotations.extend(
                    {"image_id": image_ids[-1], "category_id": c, "bbox": b, "score": s}
                    for b, s, c in zip(*(column.tolist() for column in columns), strict=True)
                )
    return annotations, image_ids


def _check_finite(found: Instances, sample: Mapping) -> None:
    """A score that is not a number would pass for a low one, and the image for background."""
    if not (found.scores.isfinite().all() and found.pred_boxes.tensor.isfinite().all()):
        raise FloatingPointError(
            f"The teacher's detections on {sample['file_name']} are not finite: its training has "
            "diverged, or its weights are damaged. Label with another checkpoint."
        )


def check_ids(images: Sequence[Mapping], dataset: str) -> None:
    """Make sure that pseudo-labels, which go by ids, can be told apart.

    Raises:
        UserError: an image has no id, one that JSON cannot hold, or that of another image.
    """
    seen: dict[Any, Any] = {}
    for sample in images:
        image_id, file = sample.get("image_id"), sample.get("file_name")
        if isinstance(image_id, bool) or not isinstance(image_id, str | int):
            raise UserError(
                f"Data set '{dataset}': the image_id of {file} is {image_id!r}; pseudo-labels go "
                "by it: give each image a text or an integer."
            )
        if image_id in seen:
            raise UserError(
                f"Data set '{dataset}': the image_id {image_id!r} is that of {seen[image_id]} and "
                f"of {file}; pseudo-labels go by it: give each image its own."
            )
        seen[image_id] = file


def check_truth(images: Sequence[Mapping], truth: Sequence[Mapping], dataset: str) -> None:
    """Make sure that a data set has the withheld boxes of images that are to be labelled.

    Raises:
        UserError: it has other images, or some without boxes.
    """
    cure = "name the data set that has the boxes of the same images"
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
    bare = [sample for sample in truth if "annotations" not in sample]
    if bare:
        raise UserError(
            f"--report-against {dataset}: {len(bare)} of {len(truth)} images are not annotated "
            f"with boxes (the first is {bare[0]['file_name']}); {cure}, without _unlabeled."
        )
    if len(truth) > len(images):
        logger.warning(
            f"--report-against {dataset} has {len(truth)} images, of which {len(images)} are "
            "labelled: the objects of the others count as missed."
        )


def quality(
    annotations: Sequence[Mapping], truth: Sequence[Mapping], num_classes: int, iou: float = 0.5
) -> list[tuple[float, float, int, int]]:
    """Precision and recall of pseudo-labels against withheld ground truth.

    A pseudo-label of :func:`label_images` is right if its IoU with an object of its class is above
    ``iou``, and none with a better score has taken that object. Objects marked "difficult" do not
    count. The ``truth`` are dataset dicts.

    Returns:
        (precision, recall, number of boxes, number of objects) of each class and, last, of all
        classes together. A ratio of nothing to nothing is nan.
    """
    found: dict[tuple, list[Mapping]] = defaultdict(list)
    for box in annotations:
        found[box["image_id"], box["category_id"]].append(box)
    counts = torch.zeros(num_classes + 1, 3)  # right, boxes, objects
    for sample in truth:
        for k in range(num_classes):
            objects = [a for a in sample["annotations"] if a["category_id"] == k]
            boxes = sorted(found[sample["image_id"], k], key=lambda b: -b["score"])
            counts[k] += torch.tensor(_match(boxes, objects, iou), dtype=torch.float32)
    counts[-1] = counts.sum(0)
    return [(float(r / b), float(r / o), int(b), int(o)) for r, b, o in counts]


def _match(boxes: Sequence[Mapping], objects: Sequence[Mapping], iou: float) -> list[int]:
    """The numbers of right boxes, boxes and objects, best boxes first."""
    easy = [not a.get("difficult", 0) for a in objects]
    if not boxes or not objects:
        return [0, len(boxes), sum(easy)]

    def xyxy(items: Sequence[Mapping], mode: BoxMode | None) -> Boxes:
        rows = [BoxMode.convert(a["bbox"], mode or a["bbox_mode"], BoxMode.XYXY_ABS) for a in items]
        return Boxes(torch.tensor(rows))

    overlap = pairwise_iou(xyxy(boxes, BoxMode.XYWH_ABS), xyxy(objects, None))
    taken = [False] * len(objects)
    right = neutral = 0
    for row in overlap:
        best = int(row.argmax())
        if row[best] > iou and not taken[best]:
            taken[best] = True
            right, neutral = right + easy[best], neutral + (not easy[best])
    return [right, len(boxes) - neutral, sum(easy)]
