"""YOLO26n of ultralytics on the images of a cell: what a user would train instead.

ultralytics is no dependency of multas, and its licence (AGPL-3.0) no part of it: whoever runs the
row installs it. The network begins with random weights, since those of COCO are not in its package.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.structures import Boxes, BoxMode, Instances

from multas.evaluation.build import build_evaluator, max_detections
from multas.util.errors import UserError
from multas.util.files import write_text
from own_data.task_data import TaskData

NETWORK = "yolo26n.yaml"


def train_yolo(
    task: TaskData, cfg: CfgNode, folder: Path, test: str, opts: Mapping[str, Any]
) -> dict[str, Any]:
    """Train it with its own recipe, for as many iterations on as many images as ours, and test it.

    Args:
        task: the boxes to learn from.
        cfg: of our student: seed, size of the input, batch and iterations, evaluation.
        folder: receives data, weights, and detections as our evaluation writes them.
        test: the registered data set to evaluate on.
        opts: arguments of ultralytics' ``train``.

    Returns:
        The figures of boxes, in percent.

    Raises:
        UserError: ultralytics is not installed.
    """
    try:
        from ultralytics import YOLO
    except ImportError as error:
        raise UserError(f"This row needs ultralytics ({error}): pip install ultralytics") from error
    # Its size is that of the longer edge; the other follows.
    batch, size = cfg.SOLVER.IMS_PER_BATCH, cfg.INPUT.MAX_SIZE_TEST
    epochs = math.ceil(cfg.SOLVER.MAX_ITER / math.ceil(len(task.annotated) / batch))
    given = {"epochs": epochs, "batch": batch, "imgsz": size, "seed": cfg.SEED, "workers": 0,
             "device": "cpu", "val": False, "plots": False, "verbose": False, "exist_ok": True,
             "pretrained": False, "project": str(folder), "name": "train", **opts}  # fmt: skip
    YOLO(NETWORK).train(data=str(write_data(task, folder / "data")), **given)
    network = YOLO(folder / "train" / "weights" / "last.pt")
    most = max_detections(cfg)

    def found(record: Mapping[str, Any]) -> Instances:
        boxes = network.predict(
            record["file_name"], imgsz=size, conf=0.001, max_det=most, device="cpu", verbose=False
        )[0].boxes
        instances = Instances((record["height"], record["width"]))
        instances.pred_boxes, instances.scores = Boxes(boxes.xyxy), boxes.conf
        instances.pred_classes = boxes.cls.to(torch.int64)
        return instances

    evaluator = build_evaluator(cfg, test, str(folder / "inference" / test))
    evaluator.reset()
    for record in task.records[test]:
        evaluator.process([record], [{"instances": found(record)}])
    return evaluator.evaluate()["bbox"]


def write_data(task: TaskData, folder: Path) -> Path:
    """Write links to the annotated images, with labels of YOLO's format; return the data.yaml."""
    images, labels = folder / "images", folder / "labels"
    for path in (images, labels):
        path.mkdir(parents=True, exist_ok=True)
    files = []
    for number, record in enumerate(task.annotated):
        source = Path(record["file_name"]).absolute()
        link = images / f"{number}{source.suffix}"
        link.unlink(missing_ok=True)
        link.symlink_to(source)
        lines = [_line(record, thing) for thing in record["annotations"]]
        write_text(labels / f"{number}.txt", "".join(lines))
        files.append(str(link))
    write_text(folder / "train.txt", "\n".join(files) + "\n")
    content = {"path": str(folder), "train": "train.txt", "val": "train.txt",
               "names": dict(enumerate(task.classes))}  # fmt: skip
    write_text(folder / "data.yaml", yaml.safe_dump(content))
    return folder / "data.yaml"


def _line(record: Mapping[str, Any], thing: Mapping[str, Any]) -> str:
    """An object as YOLO writes it: class, centre, width and height as shares of the image."""
    x, y, width, height = BoxMode.convert(thing["bbox"], thing["bbox_mode"], BoxMode.XYWH_ABS)
    shares = (
        (x + width / 2) / record["width"], (y + height / 2) / record["height"],
        width / record["width"], height / record["height"],
    )  # fmt: skip
    return " ".join(map(str, (thing["category_id"], *shares))) + "\n"
