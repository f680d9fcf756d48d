"""Backbones, necks, heads and the meta-architecture; importing this registers them."""

from multas.modeling import (  # noqa: F401
    anchor_generator,
    backbone,
    neck,
    timm_backbone,
    vit_pyramid,
)
from multas.modeling.heads import TASK_HEAD_REGISTRY, TaskHead
from multas.modeling.multitask_network import MultiTaskNetwork

__all__ = ["TASK_HEAD_REGISTRY", "MultiTaskNetwork", "TaskHead"]
