"""Feature-based knowledge distillation for detectors (FKD; Zhang and Ma, ICLR 2021).

Attention masks, distances and the non-local relation, without learned layers. As in all public
code, a distance is one norm over the whole batch, which grows with the square root of its entries;
with ``normalise`` it is a root mean square instead, whose size depends neither on the batch nor on
the resolution. The gradient is 0 at equality.
"""

import math

import torch
from torch import Tensor

from multas.modeling.losses import full_precision


def spatial_attention(features: Tensor, *, absolute: bool = True) -> Tensor:
    """Mean over the channels of |F|, or of F if not ``absolute``: -> (N, 1, H, W)."""
    features = full_precision(features)
    return (features.abs() if absolute else features).mean(dim=1, keepdim=True)


def channel_attention(features: Tensor, *, absolute: bool = True) -> Tensor:
    """Mean over the positions of |F|, or of F if not ``absolute``: -> (N, C, 1, 1)."""
    features = full_precision(features)
    return (features.abs() if absolute else features).mean(dim=(2, 3), keepdim=True)


def attention_mask(attention: Tensor, temperature: float) -> Tensor:
    """``M * softmax(a / T)`` over the M entries of each image, so that the mean of a mask is 1.

    Args:
        attention: spatial attention (N, 1, H, W) or channel attention (N, C, 1, 1).
        temperature: T; lower values give sharper masks.
    """
    flat = attention.flatten(1)
    return (flat.shape[1] * (flat / temperature).softmax(dim=1)).reshape(attention.shape)


def joint_mask(
    student: Tensor, teacher: Tensor, temperature: float, *, softmax_of_sum: bool = True
) -> Tensor:
    """Mask from the attention of both networks, without gradient.

    Args:
        student, teacher: attentions of one shape, (N, 1, H, W) or (N, C, 1, 1).
        temperature: see :func:`attention_mask`.
        softmax_of_sum: True: one softmax of the summed attentions (the paper); False: the mean of
            the two networks' masks (all public code).
    """
    student, teacher = student.detach(), teacher.detach()
    if softmax_of_sum:
        return attention_mask(student + teacher, temperature)
    return (attention_mask(student, temperature) + attention_mask(teacher, temperature)) / 2.0


def batch_distance(student: Tensor, teacher: Tensor, *, normalise: bool = False) -> Tensor:
    """``||S - T||_2`` over all entries of the batch, or their root mean square."""
    return masked_distance(student, teacher, normalise=normalise)


def masked_distance(
    student: Tensor, teacher: Tensor, *masks: Tensor, normalise: bool = False
) -> Tensor:
    """``sqrt(sum (S - T)^2 M_1 M_2 ...)`` with non-negative masks broadcastable to the features.

    One-stage detectors use the spatial and the channel mask, two-stage ones only the spatial. With
    ``normalise`` the sum is a mean over all entries (the mean of a mask is 1).
    """
    difference = full_precision(student) - full_precision(teacher)
    for mask in masks:
        difference = difference * mask.sqrt()
    norm = torch.linalg.vector_norm(difference)
    return norm / math.sqrt(difference.numel()) if normalise else norm


def non_local(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    """Dot-product relation of a non-local block (Wang et al., CVPR 2018): ``(theta^T phi / P) g``.

    There is no softmax, so ``g phi^T`` is multiplied first: (E, D) instead of (HW, P) numbers.

    Args:
        theta: queries (N, D, H, W).
        phi: keys (N, D, Hp, Wp), possibly pooled; P = Hp * Wp.
        g: values (N, E, Hp, Wp), pooled like the keys.

    Returns:
        (N, E, H, W).
    """
    queries, keys, values = (full_precision(x).flatten(2) for x in (theta, phi, g))
    with torch.autocast(queries.device.type, enabled=False):
        summary = values @ keys.mT / keys.shape[2]
        relation = summary @ queries
    return relation.unflatten(2, theta.shape[2:])
