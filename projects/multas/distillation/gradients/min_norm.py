"""Minimum-norm point in the convex hull of gradients (Chennupati et al., BMVC 2021, eq. 4).

``v = argmin ||sum_i v_i g_i||^2`` over ``v >= 0, sum(v) = 1``, solved exactly as a non-negative
least-squares problem. Derivation, scaling and precision: ``docs/min_norm.md``.
"""

import numpy as np
import torch
from torch import Tensor

from multas.util.names import check_choice

NORMALISATIONS = ("none", "l2", "loss", "loss+")
LENGTHS = ("auto", "mean", "simplex", "raw")


def min_norm_weights(gram: Tensor, *, skip_zero: bool = False) -> Tensor:
    """Exact min-norm weights from the Gram matrix of the gradients.

    Args:
        gram: (K, K) symmetric positive semi-definite, any floating dtype and device; it is copied
            to the CPU once.
        skip_zero: whether zero gradients get the weight 0 (no direction harms their losses), or
            equal weights if all are zero. Otherwise the optimum is a zero gradient itself, and the
            combined direction is zero.

    Returns:
        (K,) float64 weights on the simplex, on the device of ``gram``. Where the optimum is not
        unique, one of the optimal points.

    Raises:
        ValueError: ``gram`` is not a square matrix with a non-negative diagonal.
        FloatingPointError: gradients are not finite; the message names their rows.
    """
    matrix = gram.detach().double().cpu().numpy()
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(f"A Gram matrix is square and not empty, but has shape {matrix.shape}.")
    _check_finite(matrix)
    diagonal = matrix.diagonal()
    if diagonal.min() < 0:
        raise ValueError(f"Row {diagonal.argmin()} of the Gram matrix has a negative diagonal.")
    return torch.from_numpy(_solve(matrix, skip_zero)).to(gram.device)


def gradient_scales(gram: Tensor, losses: Tensor, normalisation: str) -> Tensor:
    """Divisors n_i of the gradients (code of Sener and Koltun, NeurIPS 2018).

    Args:
        gram: (K, K) inner products of the raw gradients.
        losses: (K,) non-negative losses.
        normalisation: ``none``: 1; ``l2``: ||g_i||; ``loss``: L_i; ``loss+``: L_i ||g_i||.

    Returns:
        (K,) of the dtype of ``gram``; a divisor of 0 (zero gradient or zero loss) is replaced by 1.

    Raises:
        ValueError: unknown normalisation, or a negative loss where losses are used.
    """
    check_choice("NORMALISATION", normalisation, NORMALISATIONS)
    scales = torch.ones_like(gram.diagonal())
    if normalisation.startswith("loss"):
        losses = losses.detach().to(gram)
        if (losses < 0).any():
            raise ValueError(
                f"NORMALISATION '{normalisation}' needs losses >= 0, but they are "
                f"{losses.tolist()}; use 'l2'."
            )
        scales = scales * losses
    if normalisation in ("l2", "loss+"):
        scales = scales * gram.diagonal().sqrt()
    return torch.where(scales == 0, torch.ones_like(scales), scales)


def mgda_weights(gram: Tensor, losses: Tensor, normalisation: str, length: str = "auto") -> Tensor:
    """Weights v >= 0 of gradients g_i: which way sum v_i g_i points, and how long it is.

    With the divisors n of :func:`gradient_scales` and the min-norm weights w of the ``g_i / n_i``,
    the direction is that of ``sum_i w_i g_i / n_i``, which raises no loss. The length is another
    matter:

    * ``mean``: the lengths of the summands, ``v_i ||g_i||``, add up to the mean of the ``||g_i||``
      that are not 0, as they do for v = 1 / K. If all gradients agree, the direction is as long as
      a mean one; the more they oppose each other, the shorter it is.
    * ``simplex``: ``sum_i v_i = 1``. The direction is about as long as the shortest gradient.
    * ``raw``: v = w, as in the code of Sener and Koltun. The direction is another one where the n_i
      differ, and may raise a loss.

    Args:
        gram: (K, K) float64 inner products of the g_i.
        losses: (K,) float64.
        normalisation: see :func:`gradient_scales`.
        length: ``mean``, ``simplex`` or ``raw``; ``auto`` is ``simplex`` for the normalisation
            ``none``, which is then eq. 4, and ``mean`` for all others.

    Returns:
        (K,) float64; 0 for a zero gradient, and 1 / K if all are zero.

    Raises:
        ValueError: unknown normalisation or length, or a negative loss where losses are used.
    """
    check_choice("LENGTH", length, LENGTHS)
    scales = gradient_scales(gram, losses, normalisation)
    solution = min_norm_weights(gram / scales[:, None] / scales, skip_zero=True)
    norms = gram.diagonal().sqrt()
    if length == "auto":
        length = "simplex" if normalisation == "none" else "mean"
    if length == "raw" or not norms.any():
        return solution
    weights = solution / scales
    if length == "simplex":
        return weights / weights.sum()
    return weights / (weights @ norms) * norms[norms > 0].mean()


def _check_finite(gram: np.ndarray) -> None:
    broken = ~np.isfinite(gram)
    rows = np.flatnonzero(broken.diagonal() if broken.diagonal().any() else broken.any(axis=1))
    if len(rows):
        raise FloatingPointError(
            f"The gradients of the paths in rows {rows.tolist()} are not finite; check these "
            "losses, lower the learning rate, or skip the step if the loss scaler overflowed."
        )


def _solve(gram: np.ndarray, skip_zero: bool) -> np.ndarray:
    zero = gram.diagonal() == 0
    if zero.any():
        if not skip_zero or zero.all():
            return zero / zero.sum()
        weights = np.zeros(len(gram))
        weights[~zero] = _solve(gram[np.ix_(~zero, ~zero)], skip_zero)
        return weights
    return _two(gram) if len(gram) == 2 else _many(gram)


def _two(gram: np.ndarray) -> np.ndarray:
    # Closed form (Désidéri 2012). Both numerators are computed, since 1 - v would lose a tiny v.
    (first, inner), (_, second) = gram.tolist()
    weights = np.array([max(second - inner, 0.0), max(first - inner, 0.0)])
    total = weights.sum()
    return weights / total if total > 0 else np.array([0.5, 0.5])


def _many(gram: np.ndarray) -> np.ndarray:
    # Only here: it is slow to import, and most trainings and tools do without.
    from scipy.optimize import nnls

    norms = np.sqrt(gram.diagonal())
    eigenvalues, vectors = np.linalg.eigh(gram / norms[:, None] / norms)
    factor = np.sqrt(np.maximum(eigenvalues, 0.0))[:, None] * vectors.T
    ratios = norms.min() / norms
    target = np.zeros(len(factor) + 1)
    target[-1] = 1.0
    # Degenerate hulls need more than SciPy's default of 3 K exchanges.
    scaled, _ = nnls(np.vstack([factor, ratios]), target, maxiter=100 * len(norms))
    weights = scaled * ratios
    return weights / weights.sum()
