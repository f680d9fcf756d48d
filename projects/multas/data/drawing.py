"""Pictures of what images are annotated with, and of what models find in them.

Boxes, masks and the class of the image have a colour for each class (class_colours.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.data.catalog import Metadata
from detectron2.structures import BitMasks, BoxMode, Instances
from detectron2.utils.visualizer import ColorMode, VisImage, Visualizer

from multas.data.class_colours import class_colour, name_of
from multas.data.formats.masks import MASK_VALUES, read_mask
from multas.data.image_files import read_image
from multas.util.annotation import BOXES, LABELS, MASKS

_OUTLINE = "#fffff0"  # of masks
_FEW = 15  # objects whose names can be read, and do not hide the image


def draw_truth(record: Mapping[str, Any], names: Metadata, side: float = 400) -> np.ndarray:
    """Draw the annotations of a dataset dict on its image; pseudo-boxes have a question mark.

    Args:
        record: a dict in Detectron2's standard format; "pixels", (H, W, 3) uint8 RGB, may stand for
            the image in "file_name", and "sem_seg", (H, W) int, for the mask in a file.
        names: has the names of the classes, and colours if they are not the usual ones.
        side: the longer side of the picture, in pixels.

    Returns:
        (h, w, 3) uint8 RGB.

    Raises:
        UserError: a file cannot be read; the message names it.
    """
    pixels = record.get("pixels")
    if pixels is None:
        pixels = read_image(record["file_name"], "RGB", least_side=round(side))
    size = pixels.shape[:2]
    drawing = _canvas(pixels, names, side / max(size))
    resize = T.ResizeTransform(record.get("height", size[0]), record.get("width", size[1]), *size)
    mask = record.get("sem_seg")
    if mask is None and (file := record.get(MASKS.dataset_key)) is not None:
        mask = read_mask(file, record.get(MASK_VALUES))
    if mask is not None:
        _draw_mask(drawing, resize.apply_segmentation(np.asarray(mask, np.uint8)), 0.5)
    _draw_objects(drawing, record.get(BOXES.dataset_key) or (), resize, size)
    if isinstance(label := record.get(LABELS.dataset_key), int):
        _write_class(drawing, label)
    return drawing.output.get_image()


def draw_results(
    image: np.ndarray, results: Mapping[str, Any], names: Metadata, scale: float, least: float
) -> VisImage:
    """A picture of what a model has found in an image.

    Args:
        image: (H, W, 3) uint8, RGB.
        results: what the model returned for it: "instances", "sem_seg" and "scores", or some.
        names: see :func:`draw_truth`, with colours of boxes.
        scale: the enlargement of the picture.
        least: the lowest score of boxes that are drawn.
    """
    drawing = _canvas(image, names, scale)
    if MASKS.input_key in results:
        _draw_mask(drawing, results[MASKS.input_key].argmax(0).cpu().numpy(), 0.8)
    if BOXES.input_key in results:
        found = results[BOXES.input_key].to("cpu")
        drawing.draw_instance_predictions(found[found.scores >= least])
    if "scores" in results:
        score, k = results["scores"].max(0)
        _write_class(drawing, int(k), f" {float(score):.0%}")
    return drawing.output


def _canvas(image: np.ndarray, names: Metadata, scale: float) -> Visualizer:
    """Draws each class in its own colour, which Detectron2 would change at random."""
    scale = max(scale, 1 / min(image.shape[:2]))  # or a narrow image would have no pixel
    drawing = Visualizer(image, names, scale, ColorMode.SEGMENTATION)
    drawing._jitter = tuple
    return drawing


def _draw_mask(drawing: Visualizer, mask: np.ndarray, alpha: float) -> None:
    """Draw a mask of class indices, (H, W) int; without names its classes are numbers."""
    known = drawing.metadata.get(MASKS.classes_key)
    ignored = drawing.metadata.get("ignore_label", 255)
    for value in np.unique(mask).tolist():
        if value == ignored or (known and value >= len(known)):
            continue
        drawing.draw_binary_mask(
            (mask == value).astype(np.uint8),
            color=class_colour(value, drawing.metadata.get("stuff_colors")),
            text=name_of(value, known),
            edge_color=_OUTLINE,
            alpha=alpha,
            area_threshold=0,
        )


def _write_class(drawing: Visualizer, number: int, more: str = "") -> None:
    """Write the class of an image into its corner."""
    text = name_of(number, drawing.metadata.get(LABELS.classes_key)) + more
    drawing.draw_text(text, (2, 2), horizontal_alignment="left")


def _draw_objects(
    drawing: Visualizer, annotations: Sequence[dict], resize: T.Transform, size: tuple[int, int]
) -> None:
    moved = [
        utils.transform_instance_annotations(dict(annotation), resize, size)
        for annotation in annotations
    ]
    classes = [annotation["category_id"] for annotation in moved]
    known, colours = drawing.metadata.get(BOXES.classes_key), drawing.metadata.get("thing_colors")
    texts = [name_of(k, known) + _kind(a) for k, a in zip(classes, moved, strict=True)]
    masks = [annotation.get("segmentation") for annotation in moved]
    drawing.overlay_instances(
        boxes=np.array([annotation["bbox"] for annotation in moved]).reshape(-1, 4),
        labels=texts if len(texts) <= _FEW else None,
        masks=masks if all(mask is not None for mask in masks) else None,
        assigned_colors=[class_colour(k, colours) for k in classes],
        alpha=0.3,
    )


def _kind(annotation: Mapping[str, Any]) -> str:
    """What is said of an object beside its class."""
    return " (crowd)" if annotation.get("iscrowd", 0) else "?" * annotation.get("pseudo", 0)


def as_record(sample: Mapping[str, Any], image_format: str) -> dict[str, Any]:
    """The dataset dict that :func:`draw_truth` takes, of what a mapper gives to a network.

    Args:
        sample: "image", (C, H, W) uint8, and if annotated "instances", "sem_seg" and "label".
        image_format: the order of its channels, INPUT.FORMAT.
    """
    image = sample["image"].permute(1, 2, 0).numpy()
    rgb = np.ascontiguousarray(image[..., ::-1] if image_format == "BGR" else image)
    record: dict[str, Any] = {"pixels": rgb, "height": rgb.shape[0], "width": rgb.shape[1]}
    if (instances := sample.get(BOXES.input_key)) is not None:
        record[BOXES.dataset_key] = _annotations(instances)
    if (mask := sample.get(MASKS.input_key)) is not None:
        record["sem_seg"] = mask.numpy()
    if LABELS.input_key in sample:
        record[LABELS.dataset_key] = sample[LABELS.input_key]
    return record


def _annotations(instances: Instances) -> list[dict]:
    boxes, classes = instances.gt_boxes.tensor.tolist(), instances.gt_classes.tolist()
    pseudo = instances.gt_pseudo.tolist() if instances.has("gt_pseudo") else [False] * len(boxes)
    found = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": k, "pseudo": int(p)}
        for box, k, p in zip(boxes, classes, pseudo, strict=True)
    ]
    if not instances.has("gt_masks"):
        return found
    masks = instances.gt_masks
    segmentations: list = masks.polygons if not isinstance(masks, BitMasks) else _encode(masks)
    return [a | {"segmentation": s} for a, s in zip(found, segmentations, strict=True)]


def _encode(masks: BitMasks) -> list[dict]:
    """Bit masks as COCO's run lengths."""
    bits = masks.tensor.to(torch.uint8).permute(1, 2, 0).numpy()
    return mask_util.encode(np.asfortranarray(bits))
