"""Heads of the multi-task network."""

from multas.modeling.heads.build import TASK_HEAD_REGISTRY, TaskHead, build_task_head
from multas.modeling.heads.dense import DenseDetectionHead
from multas.modeling.heads.dense_inference import DenseInference
from multas.modeling.heads.dense_loss import DenseLoss
from multas.modeling.heads.dense_predictor import LevelwisePredictor
from multas.modeling.heads.gfl import GFLHead
from multas.modeling.heads.gfl_loss import GFLLoss
from multas.modeling.heads.linear import LinearClassificationHead
from multas.modeling.heads.semantic_fpn import SemanticFPNHead

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
