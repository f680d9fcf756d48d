"""Pictures of what images are annotated with, and of what models find in them."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import ColorMode, VisImage, Visualizer

from multas.data.formats.masks import MASK_VALUES, read_mask
from multas.util.annotation import BOXES, LABELS, MASKS, STANDARD, Annotation
from multas.util.errors import UserError

logger = logging.getLogger(__name__)


def legend(names: Sequence[str]) -> Metadata:
    """The names and colours of the classes: of each kind from the first data set that has it."""
    entries: dict[str, Any] = {}
    for kind in STANDARD:
        entries |= next(filter(None, (_classes_of(name, kind) for name in names)), {})
    for key in (BOXES.classes_key, MASKS.classes_key):
        if key in entries:
            colours = colormap(rgb=True).astype(int).tolist()
            own = [colours[i % len(colours)] for i in range(len(entries[key]))]
            entries.setdefault(_colours_key(key), own)
    return Metadata(name="legend", **entries)


def _classes_of(name: str, kind: Annotation) -> dict[str, Any]:
    """The classes of a data set that is annotated for a task, as entries of the metadata."""
    data = MetadataCatalog.get(name)
    if kind.task not in data.get("annotates", (kind.task,)):
        return {}
    if not data.get(kind.classes_key) and data.get("annotates"):
        # The classes of a card that does not list them are only known when it is loaded.
        try:
            DatasetCatalog.get(name)
        except (UserError, OSError) as error:
            logger.warning(f"The classes are drawn as numbers, since their names are lost: {error}")
    keys = [key for key in (kind.classes_key, _colours_key(kind.classes_key)) if data.get(key)]
    return {key: list(data.get(key)) for key in keys} if kind.classes_key in keys else {}


def _colours_key(classes_key: str) -> str:
    return classes_key.replace("_classes", "_colors")


def draw_results(
    image: np.ndarray, results: Mapping[str, Any], names: Metadata, scale: float, least: float
) -> VisImage:
    """A picture of what a model has found in an image.

    Args:
        image: (H, W, 3) uint8, RGB.
        results: what the model returned for it: "instances", "sem_seg" and "scores", or some.
        names: see :func:`legend`.
        scale: the enlargement of the picture.
        least: the lowest score of boxes that are drawn.
    """
    drawing = _canvas(image, names, scale)
    if MASKS.input_key in results:
        scores = results[MASKS.input_key]
        if not names.get(MASKS.classes_key):
            names.stuff_classes = [str(k) for k in range(len(scores))]
        drawing.draw_sem_seg(scores.argmax(0).cpu())
    if BOXES.input_key in results:
        found = results[BOXES.input_key].to("cpu")
        drawing.draw_instance_predictions(found[found.scores >= least])
    if "scores" in results:
        score, k = results["scores"].max(0)
        _write_class(drawing, names, int(k), f" {float(score):.0%}")
    return drawing.output


def draw_annotations(
    image: np.ndarray, record: Mapping[str, Any], names: Metadata, scale: float
) -> VisImage:
    """A picture of what an image is annotated with.

    Args:
        image: (H, W, 3) uint8, RGB.
        record: its dataset dict.
        names, scale: see :func:`draw_results`.
    """
    drawing = _canvas(image, names, scale)
    own: dict[str, Any] = {"annotations": record.get(BOXES.dataset_key)}
    if MASKS.dataset_key in record and names.get(MASKS.classes_key):
        own["sem_seg"] = read_mask(record[MASKS.dataset_key], record.get(MASK_VALUES))
    drawing.draw_dataset_dict(own)
    if isinstance(label := record.get(LABELS.dataset_key), int):
        _write_class(drawing, names, label)
    return drawing.output


def _canvas(image: np.ndarray, names: Metadata, scale: float) -> Visualizer:
    """Draws each class in its own colour, which Detectron2 would change at random."""
    drawing = Visualizer(image, names, scale, ColorMode.SEGMENTATION)
    drawing._jitter = tuple
    return drawing


def _write_class(drawing: Visualizer, names: Metadata, number: int, more: str = "") -> None:
    known = names.get(LABELS.classes_key)
    text = f"{known[number] if known else number}{more}"
    drawing.draw_text(text, (2, 2), horizontal_alignment="left")
