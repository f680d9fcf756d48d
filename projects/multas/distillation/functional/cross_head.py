"""Cross-head distillation (CrossKD; Wang et al., CVPR 2024): what cross-head predictions imitate.

Shapes: N images, R anchors of one image, K classes. All sums are divided by the sum of the
teacher's highest scores of each anchor, at least 1: it counts the anchors that see an object, needs
no annotation, and depends neither on the batch nor on the resolution. (The authors' code divides
the scores' loss by the number of positives of the student's assignment instead.)
"""

import torch
from torch import Tensor

from multas.modeling.generalized_focal import iou_and_giou
from multas.modeling.losses import full_precision, quality_focal_elements


def object_scores(teacher_logits: Tensor) -> Tensor:
    """The teacher's highest score of each anchor: (N, R, K) -> (N, R), without gradient."""
    return full_precision(teacher_logits).detach().sigmoid().amax(-1)


def score_imitation(
    logits: Tensor, teacher_logits: Tensor, scores: Tensor, *, gamma: float = 1.0
) -> Tensor:
    """Quality focal loss between scores s and the teacher's t: ``|t - s|^gamma BCE(s, t)``.

    Args:
        logits, teacher_logits: (N, R, K); the latter are constants.
        scores: :func:`object_scores`.
        gamma: exponent of the distance; 1 in the authors' code.

    Returns:
        Scalar, 0 with gradient 0 at equality.
    """
    targets = full_precision(teacher_logits).detach().sigmoid()
    elements = quality_focal_elements(logits, targets, gamma=gamma)
    return elements.sum() / scores.sum().clamp(min=1)


def box_imitation(boxes: Tensor, teacher_boxes: Tensor, scores: Tensor) -> Tensor:
    """``1 - GIoU`` of each box with the teacher's, weighted by the teacher's score.

    Args:
        boxes, teacher_boxes: (N, R, 4) XYXY in one unit; the latter are constants.
        scores: :func:`object_scores`.

    Returns:
        Scalar, 0 with gradient 0 at equality.
    """
    _, giou = iou_and_giou(boxes, teacher_boxes.detach())
    return ((1.0 - giou) * scores).sum() / scores.sum().clamp(min=1)


def match_moments(student: Tensor, teacher: Tensor) -> Tensor:
    """The student's map with the teacher's mean and deviation of each channel over the batch.

    Args:
        student, teacher: (N, C, H, W) and (N, C, H', W'); the latter is a constant.
    """
    own, other = full_precision(student), full_precision(teacher).detach()
    moments = [torch.var_mean(x, dim=(0, 2, 3), correction=0, keepdim=True) for x in (own, other)]
    (own_var, own_mean), (var, mean) = moments
    # As a variance that cannot be 0, since the root has no gradient there.
    tiny = 1e-12
    return (own - own_mean) * ((var + tiny) / (own_var + tiny)).sqrt() + mean
