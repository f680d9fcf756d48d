"""A distilled image classifier small enough to be trained in a test, here or in a subprocess."""

import detectron2  # noqa: F401  (first: it makes torchvision work without compiled operators)
import torch
from detectron2.config import get_cfg

import multas.modeling  # noqa: F401
import weighing
from multas.config import add_multas_config
from multas.distillation import Distiller
from weighing import set_keys, without_statistics

PATHS = [
    {"TYPE": "AttentionTransfer", "STUDENT": ["backbone.res3", "backbone.res4"], "WEIGHT": 2.0},
    {"TYPE": "FeatureMap", "STUDENT": "backbone.res5"},
    {"TYPE": "SoftTarget", "STUDENT": "heads.cls", "WEIGHT": 0.5},
]


def model_cfg(width: int):
    cfg = get_cfg()
    add_multas_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "MultiTaskNetwork"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_multas_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    resnets = cfg.MODEL.RESNETS
    resnets.DEPTH, resnets.NORM, resnets.STEM_MAX_POOL = 18, "BN", False
    resnets.STEM_OUT_CHANNELS = resnets.RES2_OUT_CHANNELS = width
    resnets.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.MULTITASK.TASKS = ["cls"]
    cfg.MODEL.MULTITASK.HEADS = ["LinearClassificationHead"]
    cfg.MODEL.LINEAR_HEAD.NUM_CLASSES = 5
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [114.0] * 3, [58.0] * 3
    cfg.INPUT.MIN_SIZE_TRAIN = (32,)
    return cfg


def make_distiller(paths=PATHS, *opts, alpha: float = 1.0) -> Distiller:
    """Student and teacher of fixed random weights; ``opts``: keys below AGGREGATION, values."""
    keys = {f"AGGREGATION__{k}": v for k, v in zip(opts[::2], opts[1::2], strict=True)}
    cfg = set_keys(model_cfg(4), PATHS=list(paths), ALPHA=alpha, **keys)
    return without_statistics(weighing.make_distiller(cfg, model_cfg(8)))


def images(count: int, seed: int = 0, labels: bool = True) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    batch = []
    for number in range(count):
        image = torch.randint(0, 255, (3, 32, 32), generator=generator, dtype=torch.uint8)
        batch.append({"image": image, "height": 32, "width": 32})
        if labels:
            batch[-1]["label"] = number % 5
    return batch
