"""Self-training on dense teacher outputs: every anchor's scores and deltas are soft labels.

Shapes: N images, R = sum over levels of Hi * Wi * A anchors of an image, K classes.
"""

from torch import Tensor

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
    """Soft detection loss of Lê and Pham (ICCVW 2023, section 3) between two dense detectors.

    Classification: focal loss towards the teacher's sigmoid scores, mean over all entries, times
    ``class_weight``. Localisation: balanced L1 between the raw deltas of all anchors, background
    included, mean over all entries. The paper writes "focal loss"; its results were made with
    gamma 1 and not the usual 2.

    Args:
        student_logits: (N, R, K).
        student_deltas: (N, R, 4).
        teacher_logits: (N, R, K); a constant.
        teacher_deltas: (N, R, 4); a constant.
        class_weight: factor of the classification term.
        alpha: balance of the focal loss.
        gamma: exponent of the focal loss.
        anchor_weights: (N, R) factors of the anchors' losses; both means stay over all entries.

    Returns:
        ``{"cls", "box_reg"}``: scalars; their sum is the loss. Finite also for empty tensors.

    Raises:
        ValueError: student and teacher differ in anchors or classes.
    """
    check_same("class logits", student_logits, teacher_logits)
    check_same("box deltas", student_deltas, teacher_deltas)
    weights = None if anchor_weights is None else anchor_weights[..., None]
    classification = soft_focal_loss(
        student_logits, teacher_logits, alpha=alpha, gamma=gamma, weights=weights
    )
    elements = balanced_l1_elements(student_deltas, teacher_deltas.detach())
    if weights is not None:
        elements = elements * weights
    return {
        "cls": class_weight * classification,
        "box_reg": elements.sum() / max(elements.numel(), 1),
    }


def check_same(what: str, student: Tensor, teacher: Tensor) -> None:
    """Raise ValueError unless both tensors have one shape."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"Shapes of the {what} differ: student {tuple(student.shape)}, teacher "
            f"{tuple(teacher.shape)}. Give both models the same anchors, levels and classes."
        )
