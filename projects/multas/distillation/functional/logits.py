"""Losses on logits: soft target (ST) and l2-logits."""

import torch.nn.functional as F
from torch import Tensor

from multas.distillation.functional.shapes import check_same
from multas.modeling.losses import full_precision
from multas.util.names import check_choice

L2_REDUCTIONS = ("mean", "sum")
_CURE = "Both networks need the same classes and output size."


def flatten_logits(logits: Tensor) -> Tensor:
    """(N, C, ...) -> (N * positions, C): each position is a sample, in the order n, y, x."""
    return logits.movedim(1, -1).reshape(-1, logits.shape[1])


def soft_target(
    student: Tensor, teacher: Tensor, *, temperature: float = 4.0, scale_by_t2: bool = True
) -> Tensor:
    """KL divergence to the teacher's softened classes (Hinton et al., arXiv 2015), a scalar.

    ``T^2 * mean_n sum_c p_t (log p_t - log p_s)`` with ``p = softmax(z / T)``. For (N, C, H, W)
    each pixel is a sample. (Chennupati et al., BMVC 2021, section 4, "flatten the semantic
    segmentation output"; the other reading, one softmax for all entries of an image, is
    ``soft_target(student.flatten(1), teacher.flatten(1))``.)

    Args:
        student, teacher: logits (N, C) or (N, C, ...).
        temperature: T; 4 in the code of Chennupati et al. (their text gives none).
        scale_by_t2: multiply by T^2, so that the size of the gradient does not depend on T.

    Raises:
        ValueError: the shapes differ.
    """
    check_same("shapes of the logits", student.shape, teacher.shape, _CURE)
    student, teacher = (flatten_logits(full_precision(z)) / temperature for z in (student, teacher))
    # log_target: differences of log-softmax stay finite where probabilities underflow.
    divergence = F.kl_div(
        student.log_softmax(1), teacher.log_softmax(1), reduction="sum", log_target=True
    ) / max(len(student), 1)
    return divergence * temperature**2 if scale_by_t2 else divergence


def l2_logits(student: Tensor, teacher: Tensor, *, reduction: str = "mean") -> Tensor:
    """Squared difference of raw logits (Ba and Caruana, NeurIPS 2014), a scalar; 0 for no sample.

    Args:
        student, teacher: logits (N, C) or (N, C, ...).
        reduction: "mean" over samples and classes (the code of Chennupati et al., BMVC 2021, which
            the hand-tuned weight 0.1 belongs to), or "sum" over classes and mean over samples.

    Raises:
        ValueError: unknown reduction, or the shapes differ.
    """
    check_choice("REDUCTION", reduction, L2_REDUCTIONS)
    check_same("shapes of the logits", student.shape, teacher.shape, _CURE)
    total = (full_precision(student) - full_precision(teacher)).square().sum()
    mean = total / max(student.numel(), 1)
    return mean if reduction == "mean" else mean * student.shape[1]
