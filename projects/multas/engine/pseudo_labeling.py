"""A teacher's detections and masks on a data set."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode, Instances
from torch import nn
from tqdm import tqdm

from multas.data.dataset_dicts import require_registered
from multas.data.pseudo_label_files import Header
from multas.engine.checks.images import checked_images
from multas.engine.setup import load_config
from multas.util.allocator import freed_memory_kept
from multas.util.annotation import BOXES, MASKS
from multas.util.errors import UserError
from multas.util.modules import evaluation_mode


def label_images(
    model: nn.Module,
    loader: Iterable,
    *,
    score_thresh: float,
    topk: int = 0,
    find_boxes: bool = True,
    take_scores: Callable[[Any, torch.Tensor], None] | None = None,
) -> tuple[list[dict], list[Any]]:
    """Detect on every image of a loader in test mode.

    Args:
        model: predicts "instances" in the coordinates of the original image, or "sem_seg".
        score_thresh: boxes with a lower score are dropped.
        topk: the number of boxes per image that are kept, best first; 0 = all.
        find_boxes: whether boxes are wanted; without, there are no annotations.
        take_scores: gets the id of each image and its "sem_seg", logits (C, H, W).

    Returns:
        Annotations in the form of COCO's results (category_id from 0), and the ids of all images.

    Raises:
        FloatingPointError: a box or score is not finite.
        UserError: the model does not find what is asked for.
    """
    annotations: list[dict] = []
    image_ids: list[Any] = []
    with evaluation_mode(model), torch.no_grad(), freed_memory_kept():
        for batch in tqdm(loader, desc="pseudo-labels", unit="batch"):
            for sample, output in zip(batch, model(batch), strict=True):
                image_ids.append(sample["image_id"])
                if take_scores is not None:
                    take_scores(image_ids[-1], _scores_of_pixels(output, sample))
                if not find_boxes:
                    continue
                if BOXES.input_key not in output:
                    raise UserError("The teacher finds no boxes: leave out --output, give --masks.")
                found = output[BOXES.input_key].to("cpu")
                _check_finite(found, sample)
                found = found[found.pred_boxes.nonempty()]
                found = found[found.scores.argsort(descending=True)]
                found = found[found.scores >= score_thresh][: topk or len(found)]
                boxes = BoxMode.convert(found.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
                columns = boxes, found.scores, found.pred_classes
                annotations.extend(
                    {"image_id": image_ids[-1], "category_id": c, "bbox": b, "score": s}
                    for b, s, c in zip(*(column.tolist() for column in columns), strict=True)
                )
    return annotations, image_ids


def _check_finite(found: Instances, sample: Mapping) -> None:
    """A score that is not a number would pass for a low one, and the image for background."""
    if not (found.scores.isfinite().all() and found.pred_boxes.tensor.isfinite().all()):
        raise _not_finite("detections", sample)


def _scores_of_pixels(output: Mapping, sample: Mapping) -> torch.Tensor:
    """The "sem_seg" of a result; minus infinity stands for a probability of 0."""
    if MASKS.input_key not in output:
        raise UserError("The teacher segments no images: leave out --masks.")
    scores = output[MASKS.input_key]
    if not (scores < math.inf).all():
        raise _not_finite("scores of pixels", sample)
    return scores


def _not_finite(what: str, sample: Mapping) -> FloatingPointError:
    return FloatingPointError(
        f"The teacher's {what} on {sample['file_name']} are not finite: its training has diverged, "
        "or its weights are damaged. Label with another checkpoint."
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


def labelled_images(
    header: Header, config_file: str = "", dataset: str = "", opts: Sequence[Any] = ()
) -> list[dict]:
    """The dataset dicts of the images of a file of pseudo-labels.

    Args:
        header: of the file.
        config_file: a config whose data cards have the images; "" = the teacher's, if it is there.
        dataset: the name of the data set; "" = that which was labelled.
        opts: keys and values in turn, such as DATASETS.CARDS, which prevail over the config.

    Raises:
        UserError: The data set is not registered, has faults, or its ids cannot be told apart.
    """
    if not config_file and os.path.isfile(header.teacher_config.partition("#")[0]):
        config_file = header.teacher_config
    cfg = load_config(config_file, list(opts))
    name = dataset or header.dataset
    require_registered([name], "the file of pseudo-labels (or --dataset)")
    with checked_images(cfg, [name]):
        images = DatasetCatalog.get(name)
    check_ids(images, name)
    return images
