"""Backbones, necks, heads and the meta-architecture; importing it registers them."""

from .anchor_generator import ClippedAnchorGenerator
from .backbone import build_multas_fpn_backbone, build_multas_resnet_backbone, build_resnet
from .fold import fold_batch_norm
from .heads import (
    TASK_HEAD_REGISTRY,
    DenseDetectionHead,
    GFLHead,
    LinearClassificationHead,
    SemanticFPNHead,
    TaskHead,
)
from .multitask_network import MultiTaskNetwork
from .neck import ContextPyramid, build_context_fpn_backbone, build_context_pafpn_backbone

__all__ = [
    "TASK_HEAD_REGISTRY",
    "ClippedAnchorGenerator",
    "ContextPyramid",
    "DenseDetectionHead",
    "GFLHead",
    "LinearClassificationHead",
    "MultiTaskNetwork",
    "SemanticFPNHead",
    "TaskHead",
    "build_context_fpn_backbone",
    "build_context_pafpn_backbone",
    "build_multas_fpn_backbone",
    "build_multas_resnet_backbone",
    "build_resnet",
    "fold_batch_norm",
]
