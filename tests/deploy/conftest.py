"""Tiny networks, in PyTorch and as files."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import BoxMode
from PIL import Image
from torch import nn

import tiny_classifier
from limited_network import network_cfg
from multas.deploy import Description
from multas.deploy.graph import ExportGraph

CLASSES = {
    "classes": ["cell", "dot", "ring"],
    "sem_seg": [f"tissue {i}" for i in range(21)],
    "probabilities": ["a", "b", "c", "d", "e"],
}


class Pair(NamedTuple):
    """A network of PyTorch, its config, and the same network in a file."""

    cfg: CfgNode
    model: nn.Module
    file: Path


def export(cfg: CfgNode, file: Path, description: Description, **options) -> Pair:
    """Write a network of random weights whose results differ from place to place."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from multas.deploy.onnx_file import write_onnx

    torch.manual_seed(3)
    model = build_model(cfg).train()
    for name, layer in model.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = 1.0
        if isinstance(layer, nn.Conv2d) and "subnets" in name:
            nn.init.normal_(layer.weight, std=0.2)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, -1.5 if "cls" in name else 0.0)
    image = torch.from_numpy(picture(64, 64).transpose(2, 0, 1).copy())
    model.raw_outputs([{"image": image}, {"image": image.flip(1)}])
    model.eval()
    graph = ExportGraph(model).eval()
    write_onnx(graph, replace(description, classes=CLASSES), str(file), **options)
    return Pair(cfg, model, file)


@pytest.fixture(scope="session")
def two_tasks(tmp_path_factory):
    """Boxes and masks; images are stretched."""
    cfg = network_cfg(tasks=("det", "seg"))
    cfg.INPUT.SQUARE_SIZE, cfg.INPUT.MIN_SIZE_TEST = 64, 0
    cfg.MODEL.DENSE_HEAD.SCORE_THRESH_TEST = 0.05
    file = tmp_path_factory.mktemp("two_tasks") / "student.onnx"
    return export(cfg, file, Description(resize="stretch", size=(64, 64)))


@pytest.fixture(scope="session")
def any_size(tmp_path_factory):
    """Boxes in RGB images of any size, which are resized and padded as Detectron2 does it."""
    cfg = network_cfg()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 56, 96
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.DENSE_HEAD.SCORE_THRESH_TEST = 0.05
    rule = Description(
        "shortest_edge", (64, 64), 56, 96, 16, image_sizes="image_sizes", format="RGB"
    )  # fmt: skip
    file = tmp_path_factory.mktemp("any_size") / "student.onnx"
    return export(cfg, file, rule, dynamic_size=True)


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    """Classes of images, whose middle is cut out."""
    cfg = tiny_classifier.model_cfg(4)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.CENTER_CROP_TEST = 40, 200, 32
    rule = Description("shortest_edge", (32, 32), 40, 200, center_crop=32)
    return export(cfg, tmp_path_factory.mktemp("classifier") / "student.onnx", rule)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise that is smooth enough to differ little where it is resized, (H, W, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3))
    return coarse.repeat(4, 0).repeat(4, 1)[:height, :width].astype(np.uint8)


@pytest.fixture
def cells(tmp_path, forget_registered):
    """A registered data set of three images with boxes, masks and labels; gives its name."""
    records = []
    for i, (height, width) in enumerate([(50, 70), (90, 61), (64, 64)]):
        file, mask = tmp_path / f"{i}.png", tmp_path / f"mask{i}.png"
        Image.fromarray(picture(height, width, i)).save(file)
        Image.fromarray(np.full((height, width), i, np.uint8)).save(mask)
        box = {"bbox": [5, 5, 40, 45], "bbox_mode": BoxMode.XYXY_ABS, "category_id": i}
        records.append(
            {"file_name": str(file), "sem_seg_file_name": str(mask), "label": i, "image_id": i,
             "height": height, "width": width, "annotations": [box]}
        )  # fmt: skip
    DatasetCatalog.register("cells", lambda: records)
    MetadataCatalog.get("cells").set(
        thing_classes=CLASSES["classes"],
        stuff_classes=CLASSES["sem_seg"],
        label_classes=CLASSES["probabilities"],
    )
    return "cells"
