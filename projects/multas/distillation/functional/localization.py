"""Localization distillation (LD; Zheng et al., CVPR 2022).

Each box side is a distribution over bins (see :mod:`multas.modeling.generalized_focal`). The
student learns the teacher's distributions in the main region (the positive anchors) and in the
valuable localization region (anchors that overlap an object less than positives do).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from multas.modeling.box_coding import pairwise_overlaps
from multas.modeling.losses import full_precision, weighted_sum


def distribution_kl_elements(
    student: Tensor, teacher: Tensor, *, temperature: float = 10.0, mean_over_bins: bool = False
) -> Tensor:
    """``T^2 KL(p_t || p_s)`` with ``p = softmax(z / T)`` for each of the N rows: (N,).

    Args:
        student: (N, B) logits: one row per box side and B bins, or per anchor and B classes.
        teacher: same shape; a constant.
        temperature: T; the authors' code uses 10 for boxes and 2 for classes.
        mean_over_bins: divide by B, as the authors' code does; their loss weights (0.25 for boxes,
            10 for classes) belong to this form. The paper writes the sum.
    """
    student = (full_precision(student) / temperature).log_softmax(dim=1)
    teacher = (full_precision(teacher.detach()) / temperature).log_softmax(dim=1)
    rows = F.kl_div(student, teacher, reduction="none", log_target=True) * temperature**2
    return rows.mean(dim=1) if mean_over_bins else rows.sum(dim=1)


def localization_distillation(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 10.0,
    mean_over_bins: bool = False,
    weight: Tensor | None = None,
    avg_factor: Tensor | float | None = None,
) -> Tensor:
    """:func:`distribution_kl_elements` reduced to a scalar, 0 for N = 0.

    The authors' code weights the four sides of an anchor equally: in the main region by the
    student's confidence with ``avg_factor`` 4, in the valuable region by :func:`valuable_region`
    with ``avg_factor`` 16.

    Args:
        student, teacher, temperature, mean_over_bins: see :func:`distribution_kl_elements`.
        weight: (N,) weights of the rows.
        avg_factor: divisor of the sum; None divides by N (not by the sum of the weights).
    """
    elements = distribution_kl_elements(
        student, teacher, temperature=temperature, mean_over_bins=mean_over_bins
    )
    return weighted_sum(elements, weight, avg_factor)


def pairwise_iou_and_diou(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and distance-IoU (Zheng et al., AAAI 2020) of (G, 4) and (A, 4) boxes XYXY: (G, A) each.

    ``DIoU = IoU - (distance of the centres)^2 / (diagonal of the enclosing box)^2``, in (-1, 1].
    """
    boxes, others = full_precision(boxes), full_precision(others)
    iou = pairwise_overlaps(boxes, others)
    first, second = boxes[:, None], others[None]
    diagonal = torch.maximum(first, second)[..., 2:] - torch.minimum(first, second)[..., :2]
    squared = diagonal.square().sum(dim=-1).clamp_min(torch.finfo(iou.dtype).tiny)
    shift = (first[..., :2] + first[..., 2:] - second[..., :2] - second[..., 2:]) / 2.0
    return iou, iou - shift.square().sum(dim=-1) / squared


@torch.no_grad()
def valuable_region(
    anchors: Tensor, boxes: Tensor, thresholds: Tensor, *, gamma: float = 0.25
) -> Tensor:
    """Weights of the valuable localization region (Zheng et al., CVPR 2022, algorithm 1).

    An anchor is in the region of a box if its DIoU lies in [gamma, 1) times the box's IoU
    threshold for positives. Its weight is its IoU, the largest one if it is in several regions.

    Args:
        anchors: (A, 4) XYXY, pixels.
        boxes: (G, 4) XYXY, pixels, boxes of one image.
        thresholds: (G,) IoU thresholds of ATSS.
        gamma: lower end; 0.25 in the paper's best setting.

    Returns:
        (A,) in [0, 1]; 0 outside the regions.
    """
    if len(boxes) == 0:
        return anchors.new_zeros(len(anchors))
    iou, diou = pairwise_iou_and_diou(boxes, anchors)
    upper = thresholds[:, None]
    inside = (diou >= gamma * upper) & (diou < upper)
    return torch.where(inside, iou, torch.zeros_like(iou)).amax(dim=0)
