"""The names of a model's classes: of its data sets or, where these are not there, of its config."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from multas.data.cards import register_card
from multas.data.task_batches import training_sets
from multas.util.annotation import STANDARD, Annotation

logger = logging.getLogger(__name__)

Names = dict[Annotation, list[str]]


def class_names(cfg: CfgNode) -> Names:
    """The names of the classes of each kind of annotation, as far as they are known.

    They are those of the first data set of a config that is annotated so, training sets first, or
    MODEL.CLASSES. Of a card that does not list them, they are known once its data are loaded.
    """
    found: Names = {}
    for name in [*training_sets(cfg), *cfg.DATASETS.TEST]:
        data = MetadataCatalog.get(name)
        for kind in STANDARD:
            if data.get(kind.classes_key) and kind.task in data.get("annotates", (kind.task,)):
                found.setdefault(kind, list(data.get(kind.classes_key)))
    for kind in STANDARD:
        if names := cfg.MODEL.CLASSES[kind.task.upper()]:
            found.setdefault(kind, list(names))
    return found


def with_class_names(cfg: CfgNode) -> CfgNode:
    """A copy of a config whose MODEL.CLASSES has what :func:`class_names` knows."""
    cfg = cfg.clone()
    cfg.defrost()
    for kind, names in class_names(cfg).items():
        cfg.MODEL.CLASSES[kind.task.upper()] = names
    cfg.freeze()
    return cfg


def register_cards_or_classes(cfg: CfgNode) -> None:
    """Register the cards of a config; where one is not there, the names of its classes suffice.

    A model is served without its data then: its data sets have the classes of MODEL.CLASSES, and
    are not registered.

    Raises:
        DatasetError: A card is wrong, or is missing, and MODEL.CLASSES is empty.
    """
    known = any(cfg.MODEL.CLASSES.values())
    for card in cfg.DATASETS.CARDS:
        if known and isinstance(card, str) and not PathManager.isfile(os.path.expanduser(card)):
            logger.warning(
                f"DATASETS.CARDS: {card} is not there. The names of classes are those of "
                "MODEL.CLASSES, and its data sets can be used for nothing else."
            )
        else:
            register_card(card)
    name_classes(cfg, cfg.MODEL.CLASSES)


def name_classes(cfg: CfgNode, classes: Mapping[str, Any]) -> None:
    """Give names of classes, by task, to the data sets of a config that are not registered."""
    for name in [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]:
        data = MetadataCatalog.get(name)
        for kind in STANDARD if name not in DatasetCatalog.list() else ():
            names: Sequence[str] = classes.get(kind.task.upper(), ())
            if names and not data.get(kind.classes_key):
                data.set(**{kind.classes_key: list(names)})
