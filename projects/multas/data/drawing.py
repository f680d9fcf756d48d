"""Pictures of annotated images: boxes, masks and classes in a colour for each class."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.data.catalog import Metadata
from detectron2.structures import BitMasks, BoxMode, Instances
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer
from matplotlib.colors import to_hex
from PIL import Image

from multas.data.formats.masks import MASK_VALUES, read_mask
from multas.data.image_files import as_array, read_image
from multas.data.measures import spread
from multas.util.annotation import BOXES, LABELS, MASKS, Annotation

_COLOURS = colormap(rgb=True, maximum=1)
_OUTLINE = "#fffff0"  # of masks
_LOOKED_AT = 100  # images of a class, of which the one with the most other classes is chosen
_FEW = 15  # objects whose names can be read, and do not hide the image


def class_colour(number: int, colours: Sequence[Sequence[float]] | None = None) -> str:
    """The colour of a class by its number, #rrggbb; of ``colours``, 0 … 255, if there are any."""
    if colours and number < len(colours):
        red, green, blue = colours[number]
        return to_hex((red / 255, green / 255, blue / 255))
    return to_hex(_COLOURS[number % len(_COLOURS)])


def name_of(number: int, names: Sequence[str] | None) -> str:
    """The name of a class, or its number where there is no name."""
    return names[number] if names and number < len(names) else str(number)


def choose_images(
    records: Sequence[dict], classes: Sequence[set[Any]], least: int = 6, most: int = 24
) -> tuple[list[dict], int]:
    """Images that show every class, rare ones first, and others until there are ``least``.

    Args:
        records: the dicts of the images.
        classes: what each of them shows.
        least, most: numbers of images.

    Returns:
        The dicts in their order, and the number of classes for which there was no room.
    """
    images: dict[Any, list[int]] = defaultdict(list)
    for number, own in enumerate(classes):
        for name in own:
            images[name].append(number)
    missing = dict.fromkeys(sorted(images, key=lambda name: len(images[name])))
    chosen: set[int] = set()
    while missing and len(chosen) < most:
        rarest = next(iter(missing))
        few = spread(images[rarest], _LOOKED_AT)
        best = max(few, key=lambda number: len(classes[number] & missing.keys()))
        chosen.add(best)
        for name in classes[best]:
            missing.pop(name, None)
    for number in spread(range(len(records)), least):
        if len(chosen) < least:
            chosen.add(number)
    return [records[number] for number in sorted(chosen)], len(missing)


def draw_truth(record: Mapping[str, Any], names: Metadata, side: int = 400) -> np.ndarray:
    """Draw the annotations of a dataset dict on its image; pseudo-boxes have a question mark.

    Args:
        record: a dict in Detectron2's standard format; "pixels", (H, W, 3) uint8 RGB, may stand for
            the image in "file_name", and "sem_seg", (H, W) int, for the mask in a file.
        names: has the names of the classes.
        side: the longer side of the picture, in pixels.

    Returns:
        (h, w, 3) uint8 RGB.

    Raises:
        UserError: a file cannot be read; the message names it.
    """
    pixels = record.get("pixels")
    if pixels is None:
        pixels = read_image(record["file_name"], "RGB", least_side=side)
    height, width = record.get("height", pixels.shape[0]), record.get("width", pixels.shape[1])
    scale = side / max(height, width)
    size = max(round(height * scale), 1), max(round(width * scale), 1)
    small = as_array(Image.fromarray(pixels).resize(size[::-1]), "RGB")
    drawing = Visualizer(small, names)
    resize = T.ResizeTransform(height, width, *size)
    mask = record.get("sem_seg")
    if mask is None and (file := record.get(MASKS.dataset_key)) is not None:
        mask = read_mask(file, record.get(MASK_VALUES))
    if mask is not None:
        draw_mask(drawing, resize.apply_segmentation(np.asarray(mask, np.uint8)))
    _draw_objects(drawing, record.get(BOXES.dataset_key) or (), resize, size)
    if isinstance(label := record.get(LABELS.dataset_key), int):
        draw_title(drawing, name_of(label, names.get(LABELS.classes_key)))
    return drawing.output.get_image()


def classes_of(record: Mapping[str, Any]) -> set[tuple[Annotation, int]]:
    """The classes of the boxes and the label of a dataset dict."""
    found = {(BOXES, a["category_id"]) for a in record.get(BOXES.dataset_key, ())}
    if isinstance(label := record.get(LABELS.dataset_key), int):
        found.add((LABELS, label))
    return found


def draw_mask(drawing: Visualizer, mask: np.ndarray, alpha: float = 0.5) -> None:
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


def draw_title(drawing: Visualizer, title: str) -> None:
    """Write the class of an image into its corner."""
    drawing.draw_text(title, (2, 2), horizontal_alignment="left")


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
