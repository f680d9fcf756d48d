"""A teacher's detections on a data set, and how good they are."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from detectron2.structures import Boxes, BoxMode, pairwise_iou
from torch import nn
from tqdm import tqdm

from multas.util.modules import evaluation_mode


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
    """
    annotations: list[dict] = []
    image_ids: list[Any] = []
    with evaluation_mode(model), torch.no_grad():
        for batch in tqdm(loader, desc="pseudo-labels", unit="batch"):
            for sample, output in zip(batch, model(batch), strict=True):
                found = output["instances"].to("cpu")
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
