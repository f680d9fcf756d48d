"""Losses of dense detection and segmentation as pure functions of tensors.

Shapes: N images, A anchors of one image (all levels), K classes, C segmentation channels. "Entry"
is one element of a tensor. Half-precision inputs are computed in float32, float64 stays float64.
Each loss is finite for finite inputs: where nothing is positive, selected or annotated the value is
0 or undivided, and the result always hangs on the graph.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def full_precision(tensor: Tensor) -> Tensor:
    """Return ``tensor`` in float32, or as it is if it has that or a wider floating type."""
    wide = tensor.is_floating_point() and tensor.dtype.itemsize >= 4
    return tensor if wide else tensor.float()


def balanced_l1_elements(
    pred: Tensor, target: Tensor, *, alpha: float = 0.5, gamma: float = 1.5, beta: float = 0.11
) -> Tensor:
    """Balanced L1 (Libra R-CNN, https://arxiv.org/abs/1904.02701, eq. 7-9) of every entry.

    With ``d = |pred - target|`` and ``b = exp(gamma / alpha) - 1``::

        l(d) = alpha / b * (b d + 1) * ln(b d / beta + 1) - alpha d    if d < beta
               gamma d + gamma / b - alpha beta                        otherwise

    The derivation assumes ``beta = 1``. With the detectors' ``beta = 0.11`` the curve stays
    continuous but its slope is not monotone (4.05 at 0+, minimum 1.55 near 0.05, 1.5 beyond beta);
    the published results were made with it.

    Args:
        pred: box deltas (or anything else), any shape.
        target: same shape; usually a constant.
        alpha: growth of the inlier gradient.
        gamma: slope of the outlier part.
        beta: error at which the outlier part begins, in the unit of ``pred``.

    Returns:
        Tensor of the shape of ``pred``; the gradient at exactly zero error is 0.
    """
    error = (full_precision(pred) - full_precision(target)).abs()
    b = math.exp(gamma / alpha) - 1.0
    # The clamp keeps the logarithmic branch, and so its gradient, finite where the linear one is
    # taken.
    near = error.clamp(max=beta)
    inlier = alpha / b * (b * near + 1.0) * torch.log1p(b * near / beta) - alpha * near
    outlier = gamma * error + (gamma / b - alpha * beta)
    return torch.where(error < beta, inlier, outlier)


def balanced_l1_loss(
    pred: Tensor,
    target: Tensor,
    *,
    weights: Tensor | None = None,
) -> Tensor:
    """Reduce :func:`balanced_l1_elements` to a scalar.

    Args:
        pred: any shape, e.g. deltas (N, A, 4).
        target: same shape.
        weights: broadcastable to ``pred``, e.g. (N, A, 1). For a mean over the boxes they must sum
            to 1 over all entries.

    Returns:
        Scalar: the mean over all entries without ``weights`` (0 for empty tensors), the sum of
            ``weights * l`` with them.
    """
    elements = balanced_l1_elements(pred, target)
    if weights is None:
        return elements.sum() / max(elements.numel(), 1)
    return (elements * weights).sum()


def quality_focal_elements(logits: Tensor, targets: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Quality focal loss of every entry: ``|t - sigmoid(logits)|^gamma * BCE(logits, t)``.

    Generalized Focal Loss, https://arxiv.org/abs/2006.04388, eq. 5. Targets in [0, 1], same shape
    as ``logits``.
    """
    logits, targets = full_precision(logits), full_precision(targets).to(logits.device)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (targets - logits.sigmoid()).abs().pow(gamma) * entropy


def quality_focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    mask: Tensor | None = None,
    gamma: float = 2.0,
    weight: float = 2.0,
    weights: Tensor | None = None,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Quality focal loss, divided by the number of selected entries with a target above 0.

    Args:
        logits: (..., K), e.g. (N, A, K).
        targets: same shape, in [0, 1]: the quality (IoU) of the prediction for positives; 0/1 is
            allowed. Values where ``mask`` is False do not matter.
        mask: bool, broadcastable to ``logits``; False takes an entry out of the sum and of the
            divisor.
        gamma: exponent of the distance to the target.
        weight: factor of the whole loss.
        weights: factor of each entry, broadcastable to ``logits``; does not change the divisor.
        normalizer: divisor to be used instead of the count, e.g. one reduced over all workers.

    Returns:
        Scalar. Without a positive entry the sum is divided by 1 (the reference divides by 0).
    """
    targets = _hide(targets, mask)
    elements = quality_focal_elements(_hide(logits, mask), targets, gamma=gamma)
    return weight * _per_positive(elements, targets > 0, mask, weights, normalizer)


def focal_elements(
    logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 1.0
) -> Tensor:
    """Focal loss (https://arxiv.org/abs/1708.02002) of every entry, for hard or soft targets.

    With ``s = sigmoid(logits)`` and ``m = (1 - s) t + s (1 - t)``::

        (alpha t + (1 - alpha) (1 - t)) * m^gamma * BCE(logits, t)

    Nothing is detached: the focal factor is differentiated as well. Targets in [0, 1], same shape
    as ``logits``.
    """
    logits, targets = full_precision(logits), full_precision(targets).to(logits.device)
    scores = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    miss = (1.0 - scores) * targets + scores * (1.0 - targets)
    balance = alpha * targets + (1.0 - alpha) * (1.0 - targets)
    return balance * miss.pow(gamma) * entropy


def focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    mask: Tensor | None = None,
    alpha: float = 0.25,
    gamma: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Focal loss, divided by the number of selected entries with a target of exactly 1.

    Args:
        logits: (..., K), e.g. (N, A, K).
        targets: same shape, 0 or 1 (soft values are accepted, but only ones count as positive).
            Values where ``mask`` is False do not matter.
        mask: bool, broadcastable to ``logits``; False takes an entry out of the sum and of the
            divisor.
        alpha: balance of positives against negatives.
        gamma: focusing exponent. The detectors here use 1, not the 2 of the paper.
        weights: factor of each entry, broadcastable to ``logits``; does not change the divisor.

    Returns:
        Scalar. Without a positive entry the sum is divided by 1 (the reference divides by 0).
    """
    targets = _hide(targets, mask)
    elements = focal_elements(_hide(logits, mask), targets, alpha=alpha, gamma=gamma)
    return _per_positive(elements, targets == 1, mask, weights)


def soft_focal_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Focal loss towards the teacher's sigmoid scores, as a plain mean over all entries.

    Args:
        student_logits: (..., K).
        teacher_logits: same shape; treated as a constant.
        alpha: see :func:`focal_elements`.
        gamma: see :func:`focal_elements`.
        weights: factor of each entry, broadcastable; the mean is still over all entries.

    Returns:
        Scalar, 0 for empty tensors. It is not 0 at equality: the entropy of the teacher's scores
        remains.
    """
    targets = full_precision(teacher_logits).detach().sigmoid()
    elements = focal_elements(student_logits, targets, alpha=alpha, gamma=gamma)
    if weights is not None:
        elements = elements * weights
    return elements.sum() / max(elements.numel(), 1)


def semantic_cross_entropy(logits: Tensor, labels: Tensor, *, ignore_value: int = 255) -> Tensor:
    """Softmax cross-entropy, mean over all annotated pixels of the batch.

    Args:
        logits: (N, C, H, W); C includes the background.
        labels: (N, H, W) integers in [0, C) or ``ignore_value``.
        ignore_value: label of the pixels that do not count.

    Returns:
        Scalar; exactly 0 with zero gradient when no pixel is annotated (the reference gives NaN).
    """
    labels = labels.long()
    total = F.cross_entropy(
        full_precision(logits), labels, ignore_index=ignore_value, reduction="sum"
    )
    return total / (labels != ignore_value).sum().clamp(min=1)


def _hide(values: Tensor, mask: Tensor | None) -> Tensor:
    """Put 0 where ``mask`` is False: markers (-1, NaN) there reach neither value nor gradient."""
    return values if mask is None else torch.where(mask, values, torch.zeros_like(values))


def _per_positive(
    elements: Tensor,
    positive: Tensor,
    mask: Tensor | None,
    weights: Tensor | None,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Sum of the selected elements over ``normalizer``, else over the number of positives."""
    if weights is not None:
        elements = elements * weights
    if normalizer is None:
        normalizer = positive.sum().clamp(min=1)
    return _hide(elements, mask).sum() / normalizer
