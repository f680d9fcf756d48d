"""A small scene and a small head for the tests of generalized focal loss."""

import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances

from multas.config import add_multas_config
from multas.modeling.heads import GFLHead, build_task_head

SHAPES = {f"p{i}": ShapeSpec(channels=32, stride=2**i) for i in (3, 4, 5)}
STRIDES = (8, 16, 32)
CLASSES, REG_MAX, SIZE = 3, 4, 64
BINS = REG_MAX + 1
# Off the symmetric places, so that nearest anchors are unique.
SCENE = (
    ([[3.0, 7.1, 40.7, 33.9], [20.3, 18.2, 61.0, 60.1], [18.9, 17.3, 60.2, 58.8]], [0, 2, 1]),
    ([[13.1, 2.3, 29.9, 17.0]], [1]),
)


def make_instances(boxes, classes) -> Instances:
    instances = Instances((SIZE, SIZE))
    instances.gt_boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.as_tensor(classes, dtype=torch.int64)
    return instances


def make_cfg(per_place: int = 1, **gfl_head):
    cfg = get_cfg()
    add_multas_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [
        [2.0 * stride * (1 + i / 3) for i in range(per_place)] for stride in STRIDES
    ]
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[1.0]]
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = 0.5
    cfg.MODEL.GFL_HEAD.NUM_CLASSES = CLASSES
    cfg.MODEL.GFL_HEAD.REG_MAX = REG_MAX
    cfg.MODEL.GFL_HEAD.NUM_CONVS = 1
    for key, value in gfl_head.items():
        cfg.MODEL.GFL_HEAD[key] = value
    return cfg


def make_head(per_place: int = 1, **gfl_head) -> GFLHead:
    return build_task_head("GFLHead", make_cfg(per_place, **gfl_head), SHAPES)


def make_features(images: int = 2) -> dict[str, torch.Tensor]:
    return {
        name: torch.randn(images, 32, SIZE // shape.stride, SIZE // shape.stride)
        for name, shape in SHAPES.items()
    }


def level_anchors(per_place: int = 1) -> list[torch.Tensor]:
    return make_head(per_place).level_anchors(make_features(1))


def random_outputs(levels, images: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    count = sum(map(len, levels))
    logits = torch.randn(images, count, CLASSES, dtype=torch.float64) - 1
    return logits, 2 * torch.randn(images, count, 4 * BINS, dtype=torch.float64)
