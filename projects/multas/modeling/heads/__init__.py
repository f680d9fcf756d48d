"""Heads of the multi-task network."""

from .build import TASK_HEAD_REGISTRY, TaskHead, build_task_head
from .dense import DenseDetectionHead
from .dense_inference import DenseInference
from .dense_loss import DenseLoss
from .dense_predictor import LevelwisePredictor
from .gfl import GFLHead
from .gfl_loss import GFLLoss
from .linear import LinearClassificationHead
from .semantic_fpn import SemanticFPNHead

__all__ = [
    "TASK_HEAD_REGISTRY",
    "DenseDetectionHead",
    "DenseInference",
    "DenseLoss",
    "GFLHead",
    "GFLLoss",
    "LevelwisePredictor",
    "LinearClassificationHead",
    "SemanticFPNHead",
    "TaskHead",
    "build_task_head",
]
