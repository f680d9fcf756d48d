"""Overhaul of feature distillation (OFD), Heo et al., ICCV 2019.

Features are taken in front of the ReLU. The teacher's negative values, which the ReLU would hide,
are cut at their expectation (the margin); the student need not follow it further down than that.
"""

import math

import torch
from torch import Tensor

from multas.modeling.losses import full_precision


def ofd_margin(gamma: Tensor, beta: Tensor, *, smallest_tail: float = 1e-3) -> Tensor:
    """Expected negative activation of each channel behind a BatchNorm (OFD, eq. 4).

    For ``x ~ N(m, s^2)``, ``m = beta``, ``s = |gamma|``, ``P = P(x < 0) = Phi(-m / s)``::

        E[x | x < 0] = m - s phi(m / s) / P     if P > smallest_tail, else -3 s

    Holds for a BatchNorm whose running statistics normalise its input, not for one whose statistics
    were folded into ``gamma`` and ``beta`` (mean 0, variance 1, as in Caffe2 checkpoints).

    Args:
        gamma: (C,) scale; its sign does not matter. 0 (a constant channel) gives ``min(beta, 0)``.
        beta: (C,) shift.
        smallest_tail: Below this probability the -3 s of the authors' code is used.

    Returns:
        (C,) float64, never positive.
    """
    m, s = beta.detach().double(), gamma.detach().double().abs()
    t = m / s.clamp_min(torch.finfo(torch.float64).tiny)
    tail = torch.special.ndtr(-t)
    density = torch.exp(-0.5 * t.square()) / math.sqrt(2.0 * math.pi)
    expected = m - s * density / tail.clamp_min(smallest_tail)
    return torch.where(tail > smallest_tail, expected, -3.0 * s).clamp(max=0.0)


def margin_relu(features: Tensor, margin: Tensor) -> Tensor:
    """``max(F, margin)``: (N, C, H, W) and a margin per channel (C,), any device or dtype."""
    return torch.maximum(features, margin.to(features).reshape(1, -1, 1, 1))


def ofd_loss(
    student: Tensor, teacher: Tensor, *, divisor: float = 1000.0, weight: float = 1.0
) -> Tensor:
    """Partial squared distance (OFD, eq. 5): none where the student is below a non-positive target.

    ``weight / (N divisor) * sum (S - T)^2 [S > T or T > 0]``, a sum over channels and positions.

    Args:
        student: (N, C, H, W) in front of the ReLU, adapted to the teacher's width.
        teacher: (N, C, H, W), already cut by :func:`margin_relu`.
        divisor: 1000 in the reference code (the paper has no such constant).
        weight: Of the layer; :func:`ofd_layer_weights`.

    Returns:
        Scalar; 0 (gradient 0) for an empty batch.
    """
    student, teacher = full_precision(student), full_precision(teacher)
    followed = (student > teacher) | (teacher > 0)
    squares = torch.where(followed, (student - teacher).square(), 0.0)
    return squares.sum() * (weight / (max(len(student), 1) * divisor))


def ofd_layer_weights(layers: int) -> list[float]:
    """Weights of the layers, from shallow to deep, in the reference code: ..., 1/4, 1/2, 1."""
    return [2.0 ** (layer + 1 - layers) for layer in range(layers)]
