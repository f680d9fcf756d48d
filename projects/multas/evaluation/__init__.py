"""Evaluators of boxes (VOC), semantic segmentation, and classification."""

from multas.evaluation.build import EVALUATOR_REGISTRY, build_evaluator
from multas.evaluation.classification import ClassificationEvaluator
from multas.evaluation.sem_seg import SemanticSegmentationEvaluator
from multas.evaluation.voc import VOCDetectionEvaluator

__all__ = [
    "EVALUATOR_REGISTRY",
    "ClassificationEvaluator",
    "SemanticSegmentationEvaluator",
    "VOCDetectionEvaluator",
    "build_evaluator",
]
