"""Teacher, taps, paths and their aggregation."""

from multas.distillation.aggregation import (
    AGGREGATOR_REGISTRY,
    Aggregator,
    GradientAggregator,
)
from multas.distillation.build import build_distillation
from multas.distillation.distillation import Distillation
from multas.distillation.distiller import Distiller, StepLosses, unwrap
from multas.distillation.paths import PATH_REGISTRY, Path, Targets
from multas.distillation.taps import Taps
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
    "Taps",
    "Targets",
    "Teacher",
    "build_distillation",
    "unwrap",
]
