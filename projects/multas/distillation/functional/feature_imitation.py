"""Feature imitation for dense detectors: MSE, PDF-Distil, DeFeat.

Shapes: N images, C channels, L levels of Hi x Wi cells, M = sum of Hi * Wi cells per image, A
anchors per cell, R = A * M, K classes. Features are lists of levels (N, C, Hi, Wi); the student's
are already adapted to the teacher's width. All levels together count as one map (N, M, C), in the
order level, y, x. The teacher never gets a gradient.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from multas.distillation.functional.shapes import check_same, check_same_heads
from multas.modeling.losses import full_precision

# Factor of the feature terms of MSE and PDF-Distil in the code of Lê and Pham (ICCVW 2023); their
# text does not mention it.
FEATURE_WEIGHT = 5.0


def mse_imitation(
    student: Sequence[Tensor], teacher: Sequence[Tensor], *, weight: float = FEATURE_WEIGHT
) -> Tensor:
    """``weight`` times the mean of ``(student - teacher)^2`` over all entries; 0 for no entry."""
    entries = sum(level.numel() for level in student)
    return weight * cell_distances(student, teacher).sum() / max(entries, 1)


def pdf_imitation(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    student_logits: Tensor,
    student_deltas: Tensor,
    teacher_logits: Tensor,
    teacher_deltas: Tensor,
    *,
    weight: float = FEATURE_WEIGHT,
    positive_score: float = 0.5,
) -> dict[str, Tensor]:
    """PDF-Distil (Zhang et al., BMVC 2021): imitation where the predictions disagree.

    With the sigmoid scores p of the teacher and q of the student, and the constant
    ``D = (p - q)^2``::

        u = mean over a cell's anchors of sqrt(sum over classes of D);   w = u / (C * sum of u)
        feature = weight * sum of w (student - teacher)^2
        cls     = sum of D * BCE(student_logits, p) / max(1, #(p > positive_score))
        box_reg = mean of |student_deltas - teacher_deltas|

    The code of Lê and Pham (ICCVW 2023) is infinite without a teacher score above 0.5, and NaN
    where student and teacher agree exactly. If a weak teacher seldom reaches 0.5, the
    classification term becomes too large; set a lower ``positive_score`` then.

    Args:
        student, teacher: L levels (N, C, Hi, Wi).
        student_logits, teacher_logits: (N, R, K), in the order level, y, x, anchor.
        student_deltas, teacher_deltas: (N, R, 4).
        weight, positive_score: see the formula.

    Returns:
        ``{"feature", "cls", "box_reg"}``: finite scalars; their sum is the loss.

    Raises:
        ValueError: shapes differ, or R is not a multiple of M.
    """
    check_same_heads(student_logits, student_deltas, teacher_logits, teacher_deltas)
    logits, deltas = full_precision(student_logits), full_precision(student_deltas)
    scores = full_precision(teacher_logits).detach().sigmoid()
    disagreement = (scores - logits.detach().sigmoid()).square()
    distances = cell_distances(student, teacher)
    cell_weights = pdf_cell_weights(disagreement, distances.shape[1])
    entropy = F.binary_cross_entropy_with_logits(logits, scores, reduction="none")
    confident = (scores > positive_score).sum().clamp(min=1)
    offsets = (deltas - full_precision(teacher_deltas).detach()).abs()
    return {
        "feature": weight * (cell_weights * distances).sum() / student[0].shape[1],
        "cls": (disagreement * entropy).sum() / confident,
        "box_reg": offsets.sum() / max(offsets.numel(), 1),
    }


def pdf_cell_weights(disagreement: Tensor, num_cells: int) -> Tensor:
    """Each cell's share of the disagreement in the batch.

    Args:
        disagreement: (N, R, K) squared differences of scores.
        num_cells: M.

    Returns:
        (N, M) with the sum 1; zeros if there is no disagreement at all.

    Raises:
        ValueError: R is not a multiple of M.
    """
    num_images, num_anchors = disagreement.shape[:2]
    if num_cells == 0 or num_anchors % num_cells:
        raise ValueError(
            f"{num_anchors} anchors cannot be divided among the {num_cells} cells of the features. "
            "Tap all levels of the features that enter the dense head."
        )
    per_cell = num_anchors // num_cells
    norms = disagreement.sum(2).sqrt().view(num_images, num_cells, per_cell).mean(2)
    return norms / norms.sum().clamp(min=torch.finfo(norms.dtype).tiny)


def defeat_imitation(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    mask: Tensor,
    *,
    foreground_weight: float = 1.0,
    background_weight: float = 1.0,
    divisor: float = 1.0,
) -> dict[str, Tensor]:
    """DeFeat (Guo et al., CVPR 2021): separate imitation of foreground and background cells.

    With ``d2``, the squared distance of a cell summed over the channels, and the mask M::

        foreground = sum of M d2 / max(1, 2 sum M) / N
        background = sum of (1 - M) d2 / max(1, 2 sum (1 - M)) / N

    Args:
        student, teacher: L levels (N, C, Hi, Wi).
        mask: (N, M) bool or float in [0, 1], 1 for foreground; see
            :func:`multas.distillation.functional.foreground.foreground_mask`.
        foreground_weight, background_weight: factors of the two terms.
        divisor: divides both terms: 1, or 256 (the usual width) to offset the channel sum.

    Returns:
        ``{"foreground", "background"}``: scalars; their sum is the loss.
    """
    distances = cell_distances(student, teacher)
    mask = mask.to(distances.dtype)
    scale = divisor * max(distances.shape[0], 1)

    def share(part: Tensor) -> Tensor:
        return (part * distances).sum() / (2.0 * part.sum()).clamp(min=1.0) / scale

    return {
        "foreground": foreground_weight * share(mask),
        "background": background_weight * share(1.0 - mask),
    }


def cell_distances(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Squared distances (N, M) of all cells of all levels, summed over the channels.

    Raises:
        ValueError: the number of levels or their shapes differ.
    """
    check_same("numbers of levels", len(student), len(teacher), "Tap as many of both.")
    distances = []
    for level, (s, t) in enumerate(zip(student, teacher, strict=True)):
        cure = "Give both models the same levels, and adapt the student's width."
        check_same(f"shapes of the features of level {level}", s.shape, t.shape, cure)
        difference = full_precision(s) - full_precision(t).detach()
        distances.append(difference.square().sum(1).flatten(1))
    return torch.cat(distances, dim=1)
