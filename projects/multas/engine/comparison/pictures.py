"""Small pictures of images, with boxes or masks drawn on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.structures import BoxMode
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer
from PIL import Image

from multas.data.image_files import read_image
from multas.util.document import Legend, Picture

SIDE = 480  # pixels of the long side
RIGHT, WRONG, MISSED, TRUTH = "#35c27a", "#ff5a4d", "#ffd23f", "#5ab4ff"
BOX_LEGEND = Legend(
    [("ground truth", TRUTH), ("right", RIGHT), ("wrong", WRONG), ("missed (dashed)", MISSED)]
)
_MAX_LABELS = 15  # of more boxes, texts would cover the image
_MAX_BOXES = 500
_FONT = 13


@dataclass(frozen=True)
class Box:
    """x0, y0, x1, y1 in pixels of the image, and what is written on it."""

    corners: Sequence[float]
    label: str
    colour: str


@dataclass(frozen=True)
class Canvas:
    """An image (H, W, 3) uint8 RGB, and its size relative to the file."""

    pixels: np.ndarray
    scale: float


def open_canvas(record: Mapping[str, Any]) -> Canvas:
    """The image of a dataset dict, so that its long side has SIDE pixels."""
    pixels = record["pixels"] if "pixels" in record else read_image(record["file_name"], "RGB")
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return Canvas(cv2.resize(np.ascontiguousarray(pixels), size, interpolation=how), scale)


def true_boxes(annotations: Sequence[Mapping], classes: Sequence[str]) -> list[Box]:
    """The boxes of a dataset dict."""
    return [
        Box(
            BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS),
            classes[a["category_id"]],
            TRUTH,
        )
        for a in annotations
    ]


def draw_boxes(canvas: Canvas, boxes: Sequence[Box], file: Path, caption: str) -> Picture:
    """Write a JPEG with boxes, and what they are if they are few; those MISSED are dashed."""
    drawing = Visualizer(canvas.pixels)
    for box in boxes[:_MAX_BOXES]:
        corners = np.asarray(box.corners, dtype=np.float64) * canvas.scale
        style = "--" if box.colour == MISSED else "-"
        drawing.draw_box(corners, alpha=1, edge_color=box.colour, line_style=style)
    for box in boxes if len(boxes) <= _MAX_LABELS else ():  # nothing lies over a text
        if box.label:
            left, top, right, _ = np.clip(np.asarray(box.corners) * canvas.scale, 0, None)
            side = "left" if left < 0.75 * canvas.pixels.shape[1] else "right"
            drawing.draw_text(
                box.label,
                (left if side == "left" else min(right, canvas.pixels.shape[1]), top),
                font_size=_FONT,
                color=box.colour,
                horizontal_alignment=side,
            )
    if len(boxes) > _MAX_BOXES:
        caption += f" (of {len(boxes)} boxes {_MAX_BOXES} are drawn)"
    return save_picture(drawing.output.get_image(), file, caption)


def draw_mask(
    canvas: Canvas, mask: np.ndarray, classes: Sequence[str], file: Path, caption: str
) -> Picture:
    """Write a JPEG with the class of each pixel (H, W), in a colour of the class."""
    height, width = canvas.pixels.shape[:2]
    fitted = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)
    colours = colormap(rgb=True)
    own = [colours[k % len(colours)].astype(int).tolist() for k in range(len(classes))]
    names = Metadata(name="classes", stuff_classes=list(classes), stuff_colors=own)
    drawing = Visualizer(canvas.pixels, names)
    drawing.draw_sem_seg(fitted.astype(np.int64), alpha=0.5)
    return save_picture(drawing.output.get_image(), file, caption)


def save_picture(pixels: np.ndarray, file: Path, caption: str) -> Picture:
    """Write a JPEG file."""
    Image.fromarray(pixels).save(file, quality=85)
    return Picture(file, caption, caption)
