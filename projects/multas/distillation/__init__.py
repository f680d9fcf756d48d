"""Teacher, taps, paths and their aggregation."""

from multas.distillation.aggregation.base import AGGREGATOR_REGISTRY, Aggregator
from multas.distillation.aggregation.gradient import GradientAggregator
from multas.distillation.build import build_distillation
from multas.distillation.distillation import Distillation
from multas.distillation.distiller import Distiller, StepLosses, unwrap
from multas.distillation.paths.base import PATH_REGISTRY, Path
from multas.distillation.teacher.teacher import Teacher

__all__ = [
    "AGGREGATOR_REGISTRY",
    "PATH_REGISTRY",
    "Aggregator",
    "Distillation",
    "Distiller",
    "GradientAggregator",
    "Path",
    "StepLosses",
    "Teacher",
    "build_distillation",
    "unwrap",
]
