"""Backbones, necks, heads and the meta-architecture; importing this registers them."""

from multas.modeling import anchor_generator, backbone, neck  # noqa: F401
from multas.modeling.heads import TASK_HEAD_REGISTRY, TaskHead
from multas.modeling.multitask_network import MultiTaskNetwork

__all__ = ["TASK_HEAD_REGISTRY", "MultiTaskNetwork", "TaskHead"]
