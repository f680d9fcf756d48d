"""Backbones, necks, heads and the meta-architecture; importing this registers them."""

from multas.modeling.anchor_generator import ClippedAnchorGenerator
from multas.modeling.backbone import (
    build_multas_fpn_backbone,
    build_multas_resnet_backbone,
    build_resnet,
)
from multas.modeling.fold import fold_batch_norm
from multas.modeling.heads import (
    TASK_HEAD_REGISTRY,
    DenseDetectionHead,
    GFLHead,
    LinearClassificationHead,
    SemanticFPNHead,
    TaskHead,
)
from multas.modeling.multitask_network import MultiTaskNetwork
from multas.modeling.neck import (
    ContextPyramid,
    build_context_fpn_backbone,
    build_context_pafpn_backbone,
)

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
