"""The data sets of configs: their names, whether they load, and a hash of their content."""

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from multas.data import (
    DatasetError,
    make_toy,
    make_toy_classes,
    make_toy_source,
    register_card,
)
from multas.data.pseudo_label_files import file_sha256

# Made when the runs start, always the same.
EMBEDDED = {
    "datasets/cards/toy.yaml": (make_toy, "datasets/toy"),
    "datasets/cards/toy_source.yaml": (make_toy_source, "datasets/toy_source"),
    "datasets/cards/toy_classes.yaml": (make_toy_classes, "datasets/toy_classes"),
}


def names_of(cfg: CfgNode) -> list[str]:
    """The names of all data sets that a training opens."""
    early = [cfg.SOLVER.EARLY_STOPPING.DATASET] if cfg.SOLVER.EARLY_STOPPING.ENABLED else []
    tasks = [name for batch in cfg.DATASETS.TASK_BATCHES for name in batch["TRAIN"]]
    return list(filter(None, [*cfg.DATASETS.TRAIN, *tasks, *cfg.DATASETS.TEST, *early]))


def names_on_cards(cfg: CfgNode) -> list[str]:
    """The names that the cards of a config describe, without the embedded sets.

    The cards are registered.

    Raises:
        DatasetError: a card is wrong, or two data sets have one name.
    """
    cards = [card for card in cfg.DATASETS.CARDS if card not in EMBEDDED]
    registered = {name for card in cards for name in register_card(card)}
    return [name for name in dict.fromkeys(names_of(cfg)) if name in registered]


def fault_of(name: str) -> str:
    """The reason why a registered data set cannot be loaded, or "" where it can."""
    return _load(name)[1]


def content_hash(name: str) -> str:
    """A hash of the annotations, the masks, and the names and sizes of the images.

    It does not depend on where they lie, and is "" for a data set that cannot be loaded.
    """
    return _load(name)[0]


@cache
def _load(name: str) -> tuple[str, str]:
    print(f"Reading {name} …", file=sys.stderr, flush=True)
    try:
        records = DatasetCatalog.get(name)
    except DatasetError as error:
        return "", str(error)
    digest = hashlib.sha256()
    base = os.path.commonpath([os.path.dirname(record["file_name"]) for record in records])
    for record in records:
        digest.update(json.dumps(_portable(record, base), default=_plain).encode())
    return digest.hexdigest(), ""


def _portable(record: Mapping[str, Any], base: str) -> dict[str, Any]:
    """A record of a data set without the folder in which its files lie."""
    image = record["file_name"]
    size = os.path.getsize(image) if os.path.isfile(image) else None
    own = {"file_name": os.path.relpath(image, base), "size": size}
    if mask := record.get("sem_seg_file_name"):
        own["sem_seg_file_name"] = file_sha256(mask)
    return {**record, **own}


def _plain(value: Any) -> Any:
    """A string for what JSON lacks: arrays (masks, CIFAR's pixels) and enumerations."""
    return hashlib.sha256(value.tobytes()).hexdigest() if hasattr(value, "tobytes") else str(value)


@cache
def file_hash(file: str) -> str:
    """The hash of a file that a config names; "" where there is none."""
    return file_sha256(file) if Path(file).is_file() else ""
