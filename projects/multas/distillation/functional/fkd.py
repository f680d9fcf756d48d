"""Feature-based knowledge distillation for detectors (FKD), Zhang and Ma, ICLR 2021.

Pure terms: attention masks, the masked feature distance, the attention distances and the non-local
relation. All distances are norms over the whole batch (one square root), as in every public code;
they have gradient 0 at equality. Which adapters stand in front of them is the path's business.
"""

import torch
from torch import Tensor

from multas.modeling.losses import full_precision


def spatial_attention(features: Tensor, *, absolute: bool = True) -> Tensor:
    """Mean over the channels of |F| (without ``absolute``: of F): (N, C, H, W) -> (N, 1, H, W)."""
    features = full_precision(features)
    return (features.abs() if absolute else features).mean(dim=1, keepdim=True)


def channel_attention(features: Tensor, *, absolute: bool = True) -> Tensor:
    """Mean over the positions of |F| (without ``absolute``: of F): -> (N, C, 1, 1)."""
    features = full_precision(features)
    return (features.abs() if absolute else features).mean(dim=(2, 3), keepdim=True)


def attention_mask(attention: Tensor, temperature: float) -> Tensor:
    """``M * softmax(a / T)`` over the M entries of each image, so that the mean of a mask is 1.

    Args:
        attention: (N, 1, H, W) or (N, C, 1, 1) of :func:`spatial_attention` or
            :func:`channel_attention`.
        temperature: T; the lower, the sharper.
    """
    flat = attention.flatten(1)
    return (flat.shape[1] * (flat / temperature).softmax(dim=1)).reshape(attention.shape)


def joint_mask(
    student: Tensor, teacher: Tensor, temperature: float, *, softmax_of_sum: bool = True
) -> Tensor:
    """Mask from the attention of both networks, a constant (no gradient).

    Args:
        student: (N, 1, H, W) or (N, C, 1, 1), attention of the student.
        teacher: The same shape, of the teacher.
        temperature: T.
        softmax_of_sum: One softmax of the summed attentions, as the paper writes. False: the mean
            of the two networks' masks, as all public code does.
    """
    student, teacher = student.detach(), teacher.detach()
    if softmax_of_sum:
        return attention_mask(student + teacher, temperature)
    return (attention_mask(student, temperature) + attention_mask(teacher, temperature)) / 2.0


def batch_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """``||S - T||_2`` over all entries of the batch; gradient 0 at equality."""
    return torch.linalg.vector_norm(full_precision(student) - full_precision(teacher))


def masked_distance(student: Tensor, teacher: Tensor, *masks: Tensor) -> Tensor:
    """``sqrt(sum (S - T)^2 M_1 M_2 ...)`` with non-negative masks broadcastable to the features.

    The one-stage setting uses the spatial and the channel mask, the two-stage code the spatial
    only.
    """
    difference = full_precision(student) - full_precision(teacher)
    for mask in masks:
        difference = difference * mask.sqrt()
    return torch.linalg.vector_norm(difference)


def non_local(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    """Dot-product relation of a non-local block (Wang et al., CVPR 2018): ``(theta^T phi / P) g``.

    Without a softmax between them the products may be taken in the other order, ``phi g^T`` first:
    a D x D matrix instead of one of H W x P, same value.

    Args:
        theta: (N, D, H, W), one query per position.
        phi: (N, D, Hp, Wp), keys, possibly pooled.
        g: (N, E, Hp, Wp), values, possibly pooled.

    Returns:
        (N, E, H, W).
    """
    queries, keys, values = (full_precision(x).flatten(2) for x in (theta, phi, g))
    with torch.autocast(queries.device.type, enabled=False):
        summary = values @ keys.mT / keys.shape[2]
        relation = summary @ queries
    return relation.unflatten(2, theta.shape[2:])
