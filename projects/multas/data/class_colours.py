"""The names and colours of classes in pictures."""

import logging
from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.utils.colormap import colormap

from multas.util.annotation import BOXES, MASKS, STANDARD, Annotation
from multas.util.errors import UserError

logger = logging.getLogger(__name__)

_COLOURS = colormap(rgb=True).round().astype(int).tolist()  # 0 … 255


def class_colour(number: int, colours: Sequence[Sequence[float]] | None = None) -> str:
    """The colour of a class by its number, #rrggbb; of ``colours``, 0 … 255, if there are any."""
    own = colours[number] if colours and number < len(colours) else _colour(number)
    return "#{:02x}{:02x}{:02x}".format(*map(round, own))


def _colour(number: int) -> list[int]:
    return _COLOURS[number % len(_COLOURS)]


def name_of(number: int, names: Sequence[str] | None) -> str:
    """The name of a class, or its number where there is no name."""
    return names[number] if names and number < len(names) else str(number)


def legend(names: Sequence[str]) -> Metadata:
    """The names and colours of the classes: of each kind from the first data set that has it."""
    entries: dict[str, Any] = {}
    for kind in STANDARD:
        entries |= next(filter(None, (_classes_of(name, kind) for name in names)), {})
    for key in (BOXES.classes_key, MASKS.classes_key):
        if key in entries:
            entries.setdefault(_colours_key(key), [_colour(k) for k in range(len(entries[key]))])
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
