"""Small networks of the limited-data paper, distilled from wider ones."""

import torch
from detectron2.config import get_cfg
from detectron2.structures import Boxes, Instances

import weighing
from multas.config import add_multas_config
from weighing import set_keys, weighed

CLASSES = 3


def network_cfg(width=4, tasks=("det",), **keys):
    cfg = get_cfg()
    add_multas_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "MultiTaskNetwork"
    cfg.MODEL.BACKBONE.NAME = "build_context_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4"]
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = width
    cfg.MODEL.NECK.IN_FEATURES = ["res3", "res4"]
    cfg.MODEL.NECK.OUT_CHANNELS = 2 * width
    cfg.MODEL.NECK.NUM_LEVELS = 2
    heads = {"det": "DenseDetectionHead", "seg": "SemanticFPNHead"}
    cfg.MODEL.MULTITASK.TASKS = list(tasks)
    cfg.MODEL.MULTITASK.HEADS = [heads[task] for task in tasks]
    cfg.MODEL.DENSE_HEAD.NUM_CLASSES = CLASSES
    cfg.MODEL.DENSE_HEAD.NUM_CONVS = 1
    cfg.MODEL.DENSE_HEAD.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.SEMANTIC_FPN_HEAD.CONVS_DIM = 8
    cfg.MODEL.SEMANTIC_FPN_HEAD.NUM_FINAL_CONVS = 0
    cfg.MODEL.ANCHOR_GENERATOR.NAME = "ClippedAnchorGenerator"
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16, 22], [32, 45]]
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[1.0, 0.5, 2.0]]
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = 0.5
    cfg.INPUT.MIN_SIZE_TRAIN = (64,)
    return set_keys(cfg, **keys)


def make_distiller(paths, teacher_width=8, teacher_tasks=("det",), **keys):
    """A Distiller whose paths are weighed by hand unless ``keys`` say how."""
    cfg = network_cfg(**{"PATHS": paths, "AGGREGATION__NAME": "hand_tuned"} | keys)
    return weighed(weighing.make_distiller(cfg, network_cfg(teacher_width, teacher_tasks)))


def sample(seed=0, annotated=True, size=(64, 96)):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 255, (3, *size), generator=generator, dtype=torch.uint8)
    result = {"image": image, "height": size[0], "width": size[1]}
    if annotated:
        boxes = Boxes(torch.tensor([[5.0, 5, 45, 50], [30, 10, 90, 60]])[: 1 + seed])
        classes = torch.arange(len(boxes))
        result["instances"] = Instances(size, gt_boxes=boxes, gt_classes=classes)
    return result
