"""Losses of dense detection and segmentation as pure functions of tensors.

Shapes: N images, A anchors per image (all levels), K classes, C segmentation channels. Losses are
computed in float32 for half-precision inputs and in float64 for float64. They are finite for finite
inputs, and always have a gradient, which is 0 if nothing is positive, selected or annotated.

Where a loss has them, ``mask`` is bool, and False removes an element from sum and divisor;
``weights`` are factors of the elements that do not change the divisor. Both are broadcastable to
the logits.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def full_precision(tensor: Tensor) -> Tensor:
    """Convert ``tensor`` to float32 unless it is float32 or float64 already."""
    wide = tensor.is_floating_point() and tensor.dtype.itemsize >= 4
    return tensor if wide else tensor.float()


def weighted_sum(
    loss: Tensor, weight: Tensor | None = None, avg_factor: Tensor | float | None = None
) -> Tensor:
    """``sum(weight * loss) / avg_factor``, or the mean of ``weight * loss`` without ``avg_factor``.

    It is 0 without elements. ``weight`` is broadcastable to ``loss``; ``avg_factor`` > 0 is, for
    instance, the number of positives.
    """
    if weight is not None:
        loss = loss * weight
    return loss.sum() / (max(loss.numel(), 1) if avg_factor is None else avg_factor)


def balanced_l1_elements(
    pred: Tensor, target: Tensor, *, alpha: float = 0.5, gamma: float = 1.5, beta: float = 0.11
) -> Tensor:
    """Balanced L1 loss of every element (Libra R-CNN; Pang et al., CVPR 2019, eq. 7-9).

    With ``d = |pred - target|`` and ``b = exp(gamma / alpha) - 1``::

        l(d) = alpha / b * (b d + 1) * ln(b d / beta + 1) - alpha d    if d < beta
               gamma d + gamma / b - alpha beta                        otherwise

    The derivation assumes ``beta = 1``. With 0.11, as in the code of Lê and Pham (ICCVW 2023), the
    curve is continuous, but its slope is not monotone (4.05 at 0+, minimum 1.55 near 0.05, 1.5
    above beta).

    Args:
        pred, target: box deltas of one shape, which is that of the result.
        alpha: growth of the inlier gradient; the gradient at exactly zero error is 0.
        gamma: slope of the outlier part.
        beta: error at which the outlier part begins, in the unit of ``pred``.
    """
    error = (full_precision(pred) - full_precision(target)).abs()
    b = math.exp(gamma / alpha) - 1.0
    # The clamp keeps the gradient of the logarithmic branch finite where it is not taken.
    near = error.clamp(max=beta)
    inlier = alpha / b * (b * near + 1.0) * torch.log1p(b * near / beta) - alpha * near
    outlier = gamma * error + (gamma / b - alpha * beta)
    return torch.where(error < beta, inlier, outlier)


def balanced_l1_loss(
    pred: Tensor, target: Tensor, *, weights: Tensor | None = None, **curve: float
) -> Tensor:
    """Reduce :func:`balanced_l1_elements`, which gets the ``curve``, to a scalar.

    Without ``weights`` it is the mean over all elements (0 for empty tensors), with them the sum of
    ``weights * l``: they are broadcastable to ``pred`` and must already be normalised.
    """
    elements = balanced_l1_elements(pred, target, **curve)
    return weighted_sum(elements) if weights is None else (elements * weights).sum()


def quality_focal_elements(logits: Tensor, targets: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Quality focal loss of every element (Li et al., NeurIPS 2020, eq. 5).

    ``|t - sigmoid(logits)|^gamma * BCE(logits, t)`` with targets t in [0, 1] of the same shape.
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
    """Quality focal loss, divided by the number of selected targets above 0 (at least 1).

    Args:
        logits: (..., K), e.g. (N, A, K).
        targets: same shape, in [0, 1]: the quality (IoU) of the prediction for positives, or 1.
            Ignored where ``mask`` is False.
        gamma: exponent of the distance to the target.
        weight: factor of the loss.
        normalizer: divisor to use instead of the count, e.g. its mean over the processes.
    """
    targets = _hide(targets, mask)
    elements = quality_focal_elements(_hide(logits, mask), targets, gamma=gamma)
    return weight * _per_positive(elements, targets > 0, mask, weights, normalizer)


def focal_elements(
    logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 1.0
) -> Tensor:
    """Focal loss of every element (Lin et al., ICCV 2017, eq. 5), for hard or soft targets.

    With targets t in [0, 1], ``s = sigmoid(logits)`` and ``m = (1 - s) t + s (1 - t)``::

        (alpha t + (1 - alpha) (1 - t)) * m^gamma * BCE(logits, t)

    The focal factor has a gradient as well.
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
    """Focal loss, divided by the number of selected targets that are 1 (at least 1).

    Args:
        logits: (..., K), e.g. (N, A, K).
        targets: same shape, 0 or 1. Ignored where ``mask`` is False.
        alpha: balance of positives against negatives.
        gamma: focusing exponent; 2 in the paper, 1 in the code of Lê and Pham (ICCVW 2023).
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
    """Focal loss with the teacher's sigmoid scores as targets, averaged over all elements.

    Both logits are (..., K); those of the teacher have no gradient. The loss is 0 for empty
    tensors. At equality it is the entropy of the scores, not 0.
    """
    targets = full_precision(teacher_logits).detach().sigmoid()
    elements = focal_elements(student_logits, targets, alpha=alpha, gamma=gamma)
    return weighted_sum(elements, weights)


def semantic_cross_entropy(logits: Tensor, labels: Tensor, *, ignore_value: int = 255) -> Tensor:
    """Softmax cross-entropy, averaged over all annotated pixels of the batch.

    Args:
        logits: (N, C, H / s, W / s), each of which stands for s x s pixels; C includes the
            background. The value is that of upsampled logits, which are not made.
        labels: (N, H, W) integers in [0, C), or ``ignore_value`` for pixels without annotation.
    """
    labels = labels.long()
    logits = full_precision(logits)
    count = (labels != ignore_value).sum().clamp(min=1)
    stride = labels.shape[-1] // logits.shape[-1]
    if stride == 1:
        return F.cross_entropy(logits, labels, ignore_index=ignore_value, reduction="sum") / count
    pixels = F.pixel_unshuffle(labels[:, None], stride)  # (N, s * s, H / s, W / s)
    known = pixels != ignore_value
    found = logits.log_softmax(1).gather(1, torch.where(known, pixels, 0))
    return -(found * known).sum() / count


def _hide(values: Tensor, mask: Tensor | None) -> Tensor:
    """Zeros where ``mask`` is False, so that -1 or NaN there affects neither value nor gradient."""
    return values if mask is None else torch.where(mask, values, torch.zeros_like(values))


def _per_positive(
    elements: Tensor,
    positive: Tensor,
    mask: Tensor | None,
    weights: Tensor | None,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Sum of the selected elements, divided by ``normalizer`` or the number of positives."""
    if weights is not None:
        elements = elements * weights
    if normalizer is None:
        normalizer = positive.sum().clamp(min=1)
    return _hide(elements, mask).sum() / normalizer
