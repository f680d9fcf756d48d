"""Heads of the multi-task network; importing this registers them."""

from multas.modeling.heads import linear, semantic_fpn  # noqa: F401
from multas.modeling.heads.build import TASK_HEAD_REGISTRY, TaskHead, build_task_head
from multas.modeling.heads.dense import DenseDetectionHead
from multas.modeling.heads.gfl import GFLHead

__all__ = ["TASK_HEAD_REGISTRY", "DenseDetectionHead", "GFLHead", "TaskHead", "build_task_head"]
