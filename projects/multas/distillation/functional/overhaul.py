"""Overhaul of feature distillation (OFD; Heo et al., ICCV 2019).

Features are tapped before the ReLU. The teacher's negative values are cut at their expectation, the
margin; below it the student is not penalised.
"""

import math

import torch
from torch import Tensor

from multas.modeling.losses import full_precision

_SMALLEST_TAIL = 1e-3


def ofd_margin(gamma: Tensor, beta: Tensor) -> Tensor:
    """Expected negative activation after a BatchNorm (Heo et al., ICCV 2019, eq. 4), never above 0.

    For ``x ~ N(m, s^2)``, ``m = beta``, ``s = |gamma|``, ``P = P(x < 0) = Phi(-m / s)``::

        E[x | x < 0] = m - s phi(m / s) / P     if P > 0.001, else -3 s (as in the authors' code)

    This is wrong for a BatchNorm whose statistics were folded into ``gamma`` and ``beta`` (running
    mean 0, variance 1, as in Caffe2 checkpoints).

    Args:
        gamma: (C,) scale; its sign does not matter. 0 (a constant channel) gives ``min(beta, 0)``.
        beta: (C,) shift.

    Returns:
        (C,) float64.
    """
    m, s = beta.detach().double(), gamma.detach().double().abs()
    t = m / s.clamp_min(torch.finfo(torch.float64).tiny)
    tail = torch.special.ndtr(-t)
    density = torch.exp(-0.5 * t.square()) / math.sqrt(2.0 * math.pi)
    expected = m - s * density / tail.clamp_min(_SMALLEST_TAIL)
    return torch.where(tail > _SMALLEST_TAIL, expected, -3.0 * s).clamp(max=0.0)


def margin_relu(features: Tensor, margin: Tensor) -> Tensor:
    """``max(F, margin)`` of features (N, C, H, W) and margins (C,) of any device and dtype."""
    return torch.maximum(features, margin.to(features).reshape(1, -1, 1, 1))


def ofd_loss(
    student: Tensor, teacher: Tensor, *, divisor: float = 1000.0, weight: float = 1.0
) -> Tensor:
    """Partial squared distance (Heo et al., ICCV 2019, eq. 5), a scalar; 0 for an empty batch.

    ``weight / (N divisor) * sum (S - T)^2 [S > T or T > 0]``, summed over channels and positions.

    Args:
        student: (N, C, H, W) before the ReLU, adapted to the teacher's width.
        teacher: (N, C, H, W), already cut by :func:`margin_relu`.
        divisor: 1000 in the authors' code (the paper has no such constant).
        weight: weight of the layer; see :func:`ofd_layer_weights`.
    """
    student, teacher = full_precision(student), full_precision(teacher)
    followed = (student > teacher) | (teacher > 0)
    squares = torch.where(followed, (student - teacher).square(), 0.0)
    return squares.sum() * (weight / (max(len(student), 1) * divisor))


def ofd_layer_weights(layers: int) -> list[float]:
    """Layer weights of the authors' code, from shallow to deep: ..., 1/4, 1/2, 1."""
    return [2.0 ** (layer + 1 - layers) for layer in range(layers)]
