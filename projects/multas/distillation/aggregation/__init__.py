"""Aggregators: how several path losses become one."""

from multas.distillation.aggregation.adaptive import Adaptive
from multas.distillation.aggregation.base import AGGREGATOR_REGISTRY, Aggregator
from multas.distillation.aggregation.build import build_aggregator
from multas.distillation.aggregation.fixed import Equal, HandTuned, Single

__all__ = [
    "AGGREGATOR_REGISTRY",
    "Adaptive",
    "Aggregator",
    "Equal",
    "HandTuned",
    "Single",
    "build_aggregator",
]
