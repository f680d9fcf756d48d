"""Losses on logits: soft target (ST) and l2-logits."""

import torch.nn.functional as F
from torch import Tensor

from multas.modeling.losses import full_precision

L2_REDUCTIONS = ("mean", "sum")


def flatten_logits(logits: Tensor) -> Tensor:
    """(N, C, *positions) -> (N * positions, C): each position is a sample, in the order n, h, w."""
    return logits.movedim(1, -1).reshape(-1, logits.shape[1])


def soft_target(
    student: Tensor, teacher: Tensor, *, temperature: float = 4.0, scale_by_t2: bool = True
) -> Tensor:
    """Cross-entropy to the teacher's softened classes, less its minimum (a KL divergence).

    Hinton et al. 2015: ``T^2 * mean_n sum_c p_t (log p_t - log p_s)``, ``p = softmax(z / T)``.
    "Batchmean": a sum over classes and a mean over samples. For (N, C, H, W) each pixel is a sample
    ("we flatten the semantic segmentation output"; the adaptive distillation paper, sec. 4, does
    not say how). One softmax over all entries of an image, the other reading, is
    ``soft_target(student.flatten(1), teacher.flatten(1))``.

    Args:
        student: Logits (N, C) or (N, C, *positions).
        teacher: The same shape.
        temperature: T; 4 in the authors' code (the paper gives none).
        scale_by_t2: Multiply by T^2, which keeps the gradient's size when T grows.

    Returns:
        Scalar; 0 (gradient 0) without a sample.

    Raises:
        ValueError: If the shapes differ.
    """
    _check_shapes(student, teacher)
    student, teacher = (flatten_logits(full_precision(z)) / temperature for z in (student, teacher))
    # log_target: differences of log-softmax stay finite where probabilities underflow.
    divergence = F.kl_div(
        student.log_softmax(1), teacher.log_softmax(1), reduction="sum", log_target=True
    ) / max(len(student), 1)
    return divergence * temperature**2 if scale_by_t2 else divergence


def l2_logits(student: Tensor, teacher: Tensor, *, reduction: str = "mean") -> Tensor:
    """Squared difference of raw logits (Ba and Caruana 2014).

    Args:
        student: Logits (N, C) or (N, C, *positions).
        teacher: The same shape.
        reduction: ``mean`` over samples and classes (the authors' code, to which the hand-tuned
            weight 0.1 belongs), or ``sum`` over classes and mean over samples (the cited paper).

    Returns:
        Scalar; 0 (gradient 0) without a sample.

    Raises:
        ValueError: On an unknown reduction, or if the shapes differ.
    """
    if reduction not in L2_REDUCTIONS:
        raise ValueError(f"unknown reduction {reduction!r}, known: {', '.join(L2_REDUCTIONS)}")
    _check_shapes(student, teacher)
    total = (full_precision(student) - full_precision(teacher)).square().sum()
    mean = total / max(student.numel(), 1)
    return mean if reduction == "mean" else mean * student.shape[1]


def _check_shapes(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ValueError(
            f"logits of the student {tuple(student.shape)} and the teacher {tuple(teacher.shape)} "
            "differ; both need the same classes (and the same output size)"
        )
