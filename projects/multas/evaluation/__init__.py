"""Evaluators: VOC boxes, semantic segmentation, classification and agreement."""

from .build import EVALUATOR_REGISTRY, build_evaluator
from .classification import ClassificationEvaluator
from .sem_seg import SemanticSegmentationEvaluator
from .voc import VOCDetectionEvaluator

__all__ = [
    "EVALUATOR_REGISTRY",
    "ClassificationEvaluator",
    "SemanticSegmentationEvaluator",
    "VOCDetectionEvaluator",
    "build_evaluator",
]
