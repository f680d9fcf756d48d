"""Small VOC devkits written to disk, registered, and removed again."""

import os
from collections.abc import Callable
from itertools import count

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_voc_instances
from detectron2.structures import Boxes, Instances

_serial = count()


def write_devkit(root: str, objects: list[list[tuple]], names: list[str], split: str) -> None:
    """One XML per image; objects are (class name, difficult, x1, y1, x2, y2) per image."""
    for folder in ("Annotations", os.path.join("ImageSets", "Main")):
        os.makedirs(os.path.join(root, folder), exist_ok=True)
    with open(os.path.join(root, "ImageSets", "Main", f"{split}.txt"), "w") as file:
        file.write("".join(f"{name}\n" for name in names))
    for name, rows in zip(names, objects, strict=True):
        items = "".join(
            f"<object><name>{label}</name><pose>Left</pose><truncated>0</truncated>"
            f"<difficult>{int(difficult)}</difficult><bndbox>"
            + "".join(
                f"<{corner}>{int(value)}</{corner}>"
                for corner, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
            )
            + "</bndbox></object>"
            for label, difficult, *box in rows
        )
        with open(os.path.join(root, "Annotations", f"{name}.xml"), "w") as file:
            file.write(
                "<annotation><size><width>500</width><height>500</height><depth>3</depth></size>"
                f"{items}</annotation>"
            )


def to_batch(
    predictions: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]],
) -> tuple[list[dict], list[dict]]:
    """Inputs and outputs of a detector from (image id, classes, scores, 0-based boxes)."""
    inputs, outputs = [], []
    for image_id, classes, scores, boxes in predictions:
        instances = Instances((500, 500))
        instances.pred_boxes = Boxes(torch.as_tensor(boxes).reshape(-1, 4))
        instances.scores = torch.as_tensor(scores)
        instances.pred_classes = torch.as_tensor(classes, dtype=torch.int64)
        inputs.append({"image_id": image_id})
        outputs.append({"instances": instances})
    return inputs, outputs


@pytest.fixture(scope="session")
def register() -> Callable[..., str]:
    """Register dataset dicts (a function) and metadata under a new name, for one file of tests."""

    def add(dicts: Callable[[], list[dict]], **metadata) -> str:
        name = f"evaluation_test_{next(_serial)}"
        DatasetCatalog.register(name, dicts)
        MetadataCatalog.get(name).set(**metadata)
        return name

    return add


@pytest.fixture(scope="session")
def make_devkit(tmp_path_factory, register) -> Callable[..., str]:
    """Write and register a devkit: (objects per image, class names, year) -> data set name."""

    def make(objects: list[list[tuple]], class_names: list[str], year: int = 2007) -> str:
        root = str(tmp_path_factory.mktemp("devkit"))
        names = [f"{number:06d}" for number in range(len(objects))]
        write_devkit(root, objects, names, "test")
        return register(
            lambda: load_voc_instances(root, "test", class_names),
            thing_classes=class_names,
            dirname=root,
            split="test",
            year=year,
            evaluator_type="pascal_voc",
        )

    return make


@pytest.fixture(scope="session")
def run_evaluator() -> Callable[..., dict]:
    """Feed predictions to an evaluator in batches of three and evaluate."""

    def run(evaluator, predictions: list[tuple]) -> dict:
        evaluator.reset()
        for start in range(0, len(predictions), 3):
            evaluator.process(*to_batch(predictions[start : start + 3]))
        return evaluator.evaluate()

    return run
