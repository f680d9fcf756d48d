"""Self-training on dense outputs: the teacher's scores and box deltas are soft labels.

Shapes: N images, R = sum over levels of Hi * Wi * A anchors per image, K classes. The teacher's
tensors are constants.
"""

from torch import Tensor

from multas.distillation.functional.shapes import check_same_heads
from multas.modeling.losses import balanced_l1_elements, soft_focal_loss

# Balances the classification term, about 2e-4 at the start, against localisation, about 1.25.
SOFT_CLASS_WEIGHT = 5e3


def soft_detection_loss(
    student_logits: Tensor,
    student_deltas: Tensor,
    teacher_logits: Tensor,
    teacher_deltas: Tensor,
    *,
    class_weight: float = SOFT_CLASS_WEIGHT,
    alpha: float = 0.25,
    gamma: float = 1.0,
    anchor_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Soft detection loss between two dense detectors (Lê and Pham, ICCVW 2023, section 3).

    Classification: focal loss with the teacher's sigmoid scores as targets, times
    ``class_weight``. Localisation: balanced L1 between the box deltas. Both are means over the
    entries of all anchors, background included.

    Args:
        student_logits, teacher_logits: (N, R, K).
        student_deltas, teacher_deltas: (N, R, 4).
        class_weight: factor of the classification term.
        alpha, gamma: balance and exponent of the focal loss; gamma is 1 in the authors' code.
        anchor_weights: (N, R) factors of the anchors' losses; both means stay over all entries.

    Returns:
        ``{"cls", "box_reg"}``: scalars, finite also for empty tensors; their sum is the loss.

    Raises:
        ValueError: student and teacher differ in anchors or classes.
    """
    check_same_heads(student_logits, student_deltas, teacher_logits, teacher_deltas)
    weights = None if anchor_weights is None else anchor_weights[..., None]
    classification = soft_focal_loss(
        student_logits, teacher_logits, alpha=alpha, gamma=gamma, weights=weights
    )
    elements = balanced_l1_elements(student_deltas, teacher_deltas.detach())
    regression = (elements if weights is None else elements * weights).sum()
    return {"cls": class_weight * classification, "box_reg": regression / max(elements.numel(), 1)}
