"""Minimum-norm point in the convex hull of the path gradients (adaptive distillation, Eq. 4).

For gradients ``g_1 .. g_K`` (rows of G) and the simplex ``D = {v >= 0, sum(v) = 1}`` we want

    v* = argmin_{v in D} ||G^T v||^2.

**Reduction to non-negative least squares.** Let ``x >= 0`` minimise ``||G^T x||^2 + (1^T x -
1)^2``. Every x is ``s v`` with ``s >= 0`` and ``v in D``, and the objective becomes
``s^2 ||G^T v||^2 + (s - 1)^2``. For a fixed v it is least at ``s = 1 / (1 + f(v))`` with value
``f(v) / (1 + f(v))``, ``f(v) = ||G^T v||^2``; this grows with f, so ``x / sum(x)`` is v*. The
problem is ``nnls([G^T; 1^T], [0; 1])`` (Lawson and Hanson 1974), solved exactly by an active-set
method.

**Scales.** With ``d_i = ||g_i||`` and ``w_i = d_i v_i`` the same argument holds for unit rows and
the constraint ``a^T w = 1``, ``a_i = 1 / d_i``. A common factor of ``a`` changes w only by a
factor, so we take ``a_i = min(d) / d_i``: all columns have norms in [1, sqrt(2)] whatever the
gradients' scales.

**What a Gram matrix can know.** ``G G^T`` stores cosines to machine precision e, a factor of G
stores the vectors to e. If ``sum_i v_i g_i`` nearly cancels, to a fraction r of its terms, the
relative error of the minimum is about ``e / r^2`` from the Gram matrix and ``(e / r)^2`` from the
gradients. The second matters for r < 1e-5 only, which gradients in single precision cannot resolve:
train with :func:`min_norm_weights`, and use :func:`min_norm_weights_from_gradients` as a check.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

NORMALISATIONS = ("none", "l2", "loss", "loss+")


def gram_matrix(gradients: Tensor | Sequence[Tensor], chunk: int = 1 << 20) -> Tensor:
    """Inner products of K flat gradients, accumulated in float64.

    Args:
        gradients: K tensors of shape (d,), or one tensor (K, d); any floating dtype, one device.
        chunk: Columns converted to float64 at a time, so that no second copy of the gradients
            exists.

    Returns:
        (K, K) float64 tensor on the gradients' device. Gram matrices of disjoint blocks of
        parameters add up; those of data-parallel replicas do not (average the gradients first).

    Raises:
        ValueError: If there is no gradient, or the gradients are not flat and equally long.
    """
    rows = list(gradients)
    if not rows:
        raise ValueError("gram_matrix needs at least one gradient")
    shapes = {tuple(row.shape) for row in rows}
    if len(shapes) != 1 or rows[0].dim() != 1:
        raise ValueError(f"gradients must be flat and of one length, got shapes {sorted(shapes)}")
    gram = rows[0].new_zeros((len(rows), len(rows)), dtype=torch.float64)
    for start in range(0, rows[0].numel(), chunk):
        block = torch.stack([row[start : start + chunk].to(torch.float64) for row in rows])
        gram += block @ block.T
    return gram


def min_norm_weights(gram: Tensor | np.ndarray, *, skip_zero: bool = False) -> Tensor | np.ndarray:
    """Exact min-norm weights from the Gram matrix of the gradients.

    Args:
        gram: (K, K) symmetric positive semi-definite; a tensor on any device costs one transfer.
        skip_zero: The optimum of a set that contains a zero gradient is that vertex, and the
            combined direction is zero. With True such a path gets weight 0 and the others are
            solved for (any direction leaves a path of zero gradient unharmed); if all are zero they
            share equally.

    Returns:
        (K,) float64 weights on the simplex, of the type and on the device of ``gram``. Where the
        optimum is not unique, one of the optimal points.

    Raises:
        ValueError: If ``gram`` is not a square matrix with a non-negative diagonal.
        FloatingPointError: If gradients are not finite; the message names their rows.
    """
    if isinstance(gram, Tensor):
        weights = min_norm_weights(gram.detach().cpu().numpy(), skip_zero=skip_zero)
        return torch.from_numpy(weights).to(gram.device)
    gram = np.asarray(gram, dtype=np.float64)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or gram.shape[0] == 0:
        raise ValueError(f"a Gram matrix is square and not empty, got shape {gram.shape}")
    squared_norms = gram.diagonal()
    _check_finite(gram, squared_norms)
    if squared_norms.min() < 0:
        row = int(squared_norms.argmin())
        raise ValueError(f"row {row} of the Gram matrix has a negative diagonal")
    if squared_norms.min() == 0:
        return _with_zero_rows(gram, squared_norms, skip_zero)
    if len(gram) == 2:
        return _two(gram)
    norms = np.sqrt(squared_norms)
    eigenvalues, vectors = np.linalg.eigh(gram / norms[:, None] / norms)
    factor = np.sqrt(np.maximum(eigenvalues, 0.0))[:, None] * vectors.T
    return _solve(factor, norms)


def min_norm_weights_from_gradients(gradients: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """Exact min-norm weights from the gradients (K, d) themselves, by a QR factor of the unit rows.

    More precise than :func:`min_norm_weights` where the optimum nearly cancels (see the module
    text), at the cost of O(K^2 d) work and one float64 copy. Returns and raises as
    :func:`min_norm_weights`.
    """
    if isinstance(gradients, Tensor):
        weights = min_norm_weights_from_gradients(gradients.detach().cpu().numpy())
        return torch.from_numpy(weights).to(gradients.device)
    gradients = np.asarray(gradients, dtype=np.float64)
    if gradients.ndim != 2 or 0 in gradients.shape:
        raise ValueError(f"gradients must be a matrix (K, d), got shape {gradients.shape}")
    norms = np.linalg.norm(gradients, axis=1)
    _check_finite(gradients, norms)
    zero = norms == 0
    if zero.any():
        return zero / zero.sum()
    _, triangle = np.linalg.qr((gradients / norms[:, None]).T)
    return _solve(triangle, norms)


def duality_gap(gram: Tensor | np.ndarray, weights: Tensor | np.ndarray) -> float:
    """Certificate ``v^T M v - min_i (M v)_i`` of weights on the simplex, M the Gram matrix.

    It is 0 exactly at an optimum (the Karush-Kuhn-Tucker conditions), never negative, and
    ``||G^T v||^2`` exceeds the minimum by at most twice its value.
    """
    gram, weights = (np.asarray(torch.as_tensor(a).cpu(), np.float64) for a in (gram, weights))
    product = gram @ weights
    return float(weights @ product - product.min())


def gradient_scales(gram: Tensor, losses: Tensor, normalisation: str) -> Tensor:
    """Divisors n_i of the gradients before the min-norm problem (code of Sener and Koltun 2018).

    Args:
        gram: (K, K) inner products of the raw gradients.
        losses: (K,) non-negative path losses.
        normalisation: ``none``: 1; ``l2``: ||g_i||; ``loss``: L_i; ``loss+``: L_i ||g_i||.

    Returns:
        (K,) of the dtype of ``gram``; a divisor of 0 (zero gradient or zero loss) is replaced by 1.

    Raises:
        ValueError: On an unknown normalisation, or a negative loss where losses are used.
    """
    if normalisation not in NORMALISATIONS:
        known = ", ".join(NORMALISATIONS)
        raise ValueError(f"unknown normalisation {normalisation!r}, known: {known}")
    scales = torch.ones_like(gram.diagonal())
    if normalisation.startswith("loss"):
        losses = losses.detach().to(gram)
        if (losses < 0).any():
            raise ValueError(
                f"normalisation {normalisation!r} needs losses >= 0, got {losses.tolist()}; "
                "use 'l2'"
            )
        scales = scales * losses
    if normalisation in ("l2", "loss+"):
        scales = scales * gram.diagonal().sqrt()
    return torch.where(scales == 0, torch.ones_like(scales), scales)


def normalise_gram(gram: Tensor, scales: Tensor) -> Tensor:
    """Gram matrix of the gradients ``g_i / n_i``: M_ij / (n_i n_j)."""
    return gram / scales[:, None] / scales


def raw_weights(weights: Tensor, scales: Tensor, *, on_simplex: bool = False) -> Tensor:
    """Weights v_i = v~_i / n_i of the raw gradients, from the weights v~ of the normalised ones.

    ``sum v_i g_i`` is the min-norm direction of the normalised gradients, hence a descent direction
    for every path. (The code of Sener and Koltun applies v~_i to the raw losses instead, which
    gives up
    that guarantee: that is ``weights`` itself.)

    Args:
        weights: (K,) solution v~ of the normalised problem.
        scales: (K,) divisors n from :func:`gradient_scales`.
        on_simplex: Divide v by its sum. The direction stays, its length becomes that of a weighted
            mean of the raw gradients instead of a mean of unit ones.
    """
    weights = weights / scales
    return weights / weights.sum() if on_simplex else weights


def mgda_weights(gram: Tensor, losses: Tensor, normalisation: str) -> Tensor:
    """Weights v >= 0, sum v = 1, of gradients g_i such that sum v_i g_i / n_i has minimum norm.

    Args:
        gram: (K, K) float64 inner products of the g_i.
        losses: (K,) float64.
        normalisation: gives the n_i, see :func:`gradient_scales`.

    Returns:
        (K,) float64, of the raw gradients; 0 for one that is zero.
    """
    scales = gradient_scales(gram, losses, normalisation)
    solved = min_norm_weights(normalise_gram(gram, scales), skip_zero=True)
    return raw_weights(torch.as_tensor(solved), scales, on_simplex=True)


def _check_finite(matrix: np.ndarray, norms: np.ndarray) -> None:
    if np.isfinite(matrix).all():
        return
    rows = np.flatnonzero(~np.isfinite(norms))
    if not len(rows):
        rows = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    raise FloatingPointError(
        f"the gradients of the paths in rows {rows.tolist()} are not finite; check these paths' "
        "losses, lower the learning rate, or skip the step if the loss scaler overflowed"
    )


def _with_zero_rows(gram: np.ndarray, squared_norms: np.ndarray, skip_zero: bool) -> np.ndarray:
    zero = squared_norms == 0
    if not skip_zero or zero.all():
        return zero / zero.sum()
    weights = np.zeros(len(gram))
    weights[~zero] = min_norm_weights(gram[np.ix_(~zero, ~zero)])
    return weights


def _two(gram: np.ndarray) -> np.ndarray:
    # The segment's closed form (Desideri 2012); both numerators, since 1 - v loses a tiny v.
    (first, inner), (_, second) = gram.tolist()
    weights = np.array([max(second - inner, 0.0), max(first - inner, 0.0)])
    total = weights.sum()
    return weights / total if total > 0 else np.array([0.5, 0.5])


def _solve(factor: np.ndarray, norms: np.ndarray) -> np.ndarray:
    ratios = norms.min() / norms
    target = np.zeros(len(factor) + 1)
    target[-1] = 1.0
    # Degenerate hulls need more than SciPy's default of 3 K exchanges.
    scaled, _ = nnls(np.vstack([factor, ratios]), target, maxiter=100 * len(norms))
    weights = scaled * ratios
    return weights / weights.sum()
