"""Detectron2's RetinaNet, random images, a given teacher and a whole step for the benchmarks."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.optim import Optimizer

from multas.distillation import Distiller, Teacher, build_distillation, unwrap
from multas.engine import load_config
from multas.engine.path_weights import PathWeights


def retinanet_config(depth: int, classes: int, opts: Sequence[Any] = ()) -> CfgNode:
    """Config of Detectron2's RetinaNet with a ResNet of this depth and random weights."""
    file = model_zoo.get_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    narrow = ["MODEL.RESNETS.RES2_OUT_CHANNELS", 64] if depth < 50 else []
    return load_config(
        file,
        ["MODEL.WEIGHTS", "", "MODEL.RESNETS.DEPTH", depth, *narrow,
         "MODEL.RETINANET.NUM_CLASSES", classes, *opts],
    )  # fmt: skip


def random_batch(images: int, size: int, objects: int, classes: int) -> list[dict]:
    """Model inputs: square images of noise with random boxes."""
    batch = []
    for _ in range(images):
        corner = torch.rand(objects, 2) * size * 0.7
        boxes = torch.cat([corner, corner + 16 + torch.rand(objects, 2) * size * 0.25], dim=1)
        labels = torch.randint(classes, (objects,))
        instances = Instances((size, size), gt_boxes=Boxes(boxes), gt_classes=labels)
        batch.append({"image": torch.randint(256, (3, size, size)).byte(), "instances": instances})
    return batch


def given_teacher(model: Distiller, cfg: CfgNode, teacher: Teacher) -> Distiller:
    """Prepare a Distiller with a teacher that is not loaded from a file."""
    model.distillation = build_distillation(cfg, model.student, teachers=[teacher])
    model.prepared = True
    teacher.optimize_for_inference()
    return model


def weigh_paths(cfg: CfgNode, model: nn.Module, optimizer: Optimizer) -> PathWeights | None:
    """The hook that weighs the paths of a prepared model, wrapped or not; None if it has none."""
    if unwrap(model)[1] is None:
        return None
    hook = PathWeights(cfg, model)
    for group in hook.aggregator.param_groups():
        optimizer.add_param_group({"lr": cfg.SOLVER.BASE_LR, **group})
    return hook


def whole_step(trainer: SimpleTrainer) -> Callable[[], None]:
    """A training step with its hooks, inside of an EventStorage."""

    def step() -> None:
        trainer.storage = get_event_storage()
        trainer.before_step()
        trainer.run_step()
        trainer.after_step()

    return step
