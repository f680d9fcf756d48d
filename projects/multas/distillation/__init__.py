"""Teacher, taps, paths and their aggregation."""

from multas.distillation.aggregation import (
    AGGREGATOR_REGISTRY,
    Aggregator,
    GradientAggregator,
)
from multas.distillation.distillation import Distillation, build_distillation
from multas.distillation.distiller import Distiller
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
    "Taps",
    "Targets",
    "Teacher",
    "build_distillation",
]
