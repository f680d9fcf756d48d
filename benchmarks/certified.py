"""Certified precision of solutions of the min-norm problem, whatever solver found them.

For any v and the Gram matrix M of the gradients,

    2 min_i (M v)_i - v'Mv  <=  min_{u on the simplex} u'Mu,

since (u - v)'M(u - v) >= 0. If lengths differ by a factor of 1e12, a tight bound needs more digits
than a float has. Therefore all numbers are integers: fixed point numbers with BITS binary digits
after the point.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

BITS = 192
REFINEMENTS = 8


def _fixed(values: np.ndarray) -> np.ndarray:
    def one(value: float) -> int:
        numerator, denominator = float(value).as_integer_ratio()
        return (numerator << BITS) // denominator

    return np.frompyfunc(one, 1, 1)(values)


def _merit(gram: np.ndarray, weights: np.ndarray) -> tuple[Fraction, Fraction]:
    """v'Mv and min_i (M v)_i of fixed point weights, divided by their sum."""
    product, total = gram @ weights, int(weights.sum())
    unit = Fraction(1, total << 2 * BITS)
    return int(weights @ product) * unit / total, int(product.min()) * unit


def _refine(gram: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The stationary point over the support of ``weights``, possibly outside of the simplex."""
    support = np.flatnonzero(weights > 0)
    part = gram[np.ix_(support, support)]
    lengths = np.sqrt([x / (1 << 2 * BITS) for x in part.diagonal()])
    cosines = (part / (1 << 2 * BITS)).astype(float) / lengths / lengths[:, None]
    target, x = int(part.diagonal().min()) << BITS, np.zeros(len(support), dtype=object)
    for _ in range(REFINEMENTS):
        rest = ((target - part @ x) / (1 << 3 * BITS)).astype(float)
        step = np.linalg.lstsq(cosines, rest / lengths, rcond=None)[0] / lengths
        x = x + _fixed(step)
    refined = np.zeros(len(weights), dtype=object)
    refined[support] = x
    return refined


def excess(gradients: np.ndarray, points: Sequence[np.ndarray]) -> list[float]:
    """Upper bound of the relative excess of each point above the optimum.

    If the optimum is (nearly) zero, the excess is relative to the squared length of the shortest
    gradient.

    Args:
        gradients: (K, d).
        points: weights (K,) >= 0 of several solvers.
    """
    fixed = _fixed(gradients)
    gram = fixed @ fixed.T
    weights = [_fixed(point) for point in points]
    merits = [_merit(gram, v) for v in weights]
    refined = [v for v in (_refine(gram, w) for w in weights) if v.sum() > 0]
    bounds = [2 * low - value for value, low in merits + [_merit(gram, v) for v in refined]]
    optimum = max(Fraction(0), *bounds)
    shortest = Fraction(int(gram.diagonal().min()), 1 << 2 * BITS)
    unit = optimum if optimum > shortest / 10**6 else shortest
    return [float((value - optimum) / unit) for value, _ in merits]


def angle_residual(gradients: np.ndarray, point: np.ndarray) -> float:
    """Violation of the Karush-Kuhn-Tucker conditions: max_i (|u|^2 - g_i'u) / (|g_i| s).

    u is the direction and s its length, or that of the shortest gradient if u is (nearly) zero.
    The result is a cosine: how much u may fail to be a descent direction of a path.
    """
    exact = gradients.astype(np.longdouble)
    direction = exact.T @ (point / point.sum())
    square = direction @ direction
    lengths = np.sqrt((exact**2).sum(1))
    unit = np.sqrt(square) if square > 1e-6 * lengths.min() ** 2 else lengths.min()
    return float(max(0.0, ((square - exact @ direction) / lengths / unit).max()))
