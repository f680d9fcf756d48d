"""Aggregators: how several path losses become one."""

from multas.distillation.aggregation.adaptive import Adaptive
from multas.distillation.aggregation.base import AGGREGATOR_REGISTRY, Aggregator
from multas.distillation.aggregation.bilevel import Bilevel
from multas.distillation.aggregation.build import boundary_layers, build_aggregator
from multas.distillation.aggregation.dwa import DWA
from multas.distillation.aggregation.fixed import Equal, HandTuned, Single
from multas.distillation.aggregation.grad_norm import GradNorm
from multas.distillation.aggregation.gradient import (
    GradientAggregator,
    GradientScope,
)
from multas.distillation.aggregation.mgda import MGDA
from multas.distillation.aggregation.torchjd import TorchJD

__all__ = [
    "AGGREGATOR_REGISTRY",
    "DWA",
    "MGDA",
    "Adaptive",
    "Aggregator",
    "Bilevel",
    "Equal",
    "GradNorm",
    "GradientAggregator",
    "GradientScope",
    "HandTuned",
    "Single",
    "TorchJD",
    "boundary_layers",
    "build_aggregator",
]
