"""The data sets that runs are compared on."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from multas.data.task_batches import training_sets
from multas.engine.report import final_values
from multas.evaluation.sem_seg import read_labels
from multas.evaluation.voc_ground_truth import GroundTruth, from_dataset_dicts
from multas.util.annotation import MASKS, STANDARD, Annotation
from multas.util.errors import UserError

Figures = dict[str, float]  # "bbox/AP": 30.0


@dataclass(frozen=True)
class Data:
    """A registered data set with its dicts, one for each image."""

    name: str
    records: Sequence[dict[str, Any]]

    @property
    def metadata(self) -> Any:
        return MetadataCatalog.get(self.name)

    @cached_property
    def tasks(self) -> list[Annotation]:
        """What its images are annotated with."""
        return [kind for kind in STANDARD if any(kind.dataset_key in r for r in self.records)]

    def classes(self, kind: Annotation) -> list[str]:
        return list(self.metadata.get(kind.classes_key) or ())

    @cached_property
    def truth(self) -> GroundTruth:
        """Its boxes."""
        return from_dataset_dicts(self.records)

    @cached_property
    def numbers(self) -> np.ndarray:
        """(N,) int64, the number of each image in ``truth``; -1 = not annotated with boxes."""
        index = self.truth.image_index
        found = [index.get(str(r["image_id"]), -1) for r in self.records]
        return np.array(found, dtype=np.int64)

    def true_mask(self, number: int) -> np.ndarray | None:
        """The class of each pixel of an image, (H, W); None if it is not annotated."""
        file = self.records[number].get(MASKS.dataset_key)
        return None if file is None else (self.metadata.get("read_sem_seg") or read_labels)(file)


def load_data(name: str) -> Data:
    """A registered data set.

    Raises:
        UserError: It is not registered, or its files are missing or wrong.
    """
    if name not in DatasetCatalog.list():
        raise UserError(
            f"{name} is not registered: is its card (DATASETS.CARDS) where the config says, from "
            "this working directory?"
        )
    return Data(name, DatasetCatalog.get(name))


def validation_set(cfg: CfgNode, data: Data, kind: Annotation) -> str:
    """The data set that a config has to choose on, annotated as ``data`` is; "" if there is none.

    That is one of early stopping or of learned path weights, or a split ``val`` of the same card,
    if none of its images is trained or judged on.
    """
    card = data.metadata.get("card")
    siblings = [
        name
        for name in DatasetCatalog.list()
        if card and name.endswith("_val") and MetadataCatalog.get(name).get("card") == card
    ]
    named = [
        cfg.SOLVER.EARLY_STOPPING.DATASET,
        *cfg.MODEL.DISTILLATION.AGGREGATION.get("DATA", ()),
        # Of toy_val and toy_both_val, that of toy_test is the former.
        *sorted(siblings, key=lambda name: name != data.name.replace("test", "val")),
    ]
    fitting = [
        name
        for name in dict.fromkeys(named)
        if name in DatasetCatalog.list()
        and kind.task in MetadataCatalog.get(name).get("annotates", (kind.task,))
    ]
    if not fitting:
        return ""
    trained = [name for name in training_sets(cfg) if name in DatasetCatalog.list()]
    used = {r["file_name"] for name in trained for r in DatasetCatalog.get(name)}
    used |= {record["file_name"] for record in data.records}
    for name in fitting:
        if used.isdisjoint(record["file_name"] for record in DatasetCatalog.get(name)):
            return name
    return ""


def noted_figures(folder: str, data_name: str, several: bool) -> Figures:
    """The figures on a data set that a run noted at its end; ``several``: one of several sets."""
    prefix = f"{data_name}/" if several else ""
    tasks = ("bbox/", "sem_seg/", "classification/")
    values = final_values(folder).items()
    own = {k.removeprefix(prefix): value for k, value in values if k.startswith(prefix)}
    return {name: value for name, value in own.items() if name.startswith(tasks)}
