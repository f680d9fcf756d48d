"""Attention transfer (AT): where feature maps are active (Zagoruyko and Komodakis, ICLR 2017)."""

import torch
from torch import Tensor

from multas.distillation.functional.shapes import check_same
from multas.modeling.losses import full_precision
from multas.util.names import check_choice

AT_REDUCTIONS = ("sum", "mean", "norm")


def attention_map(features: Tensor, *, p: float = 2.0, eps: float = 1e-6) -> Tensor:
    """Activity of a feature map over its positions, of unit length for each image.

    ``m[n,h,w] = sum_c |F[n,c,h,w]|^p``, ``A = m / (||m[n]||_2 + eps)``.

    Args:
        features: (N, C, H, W).
        p: exponent of the activations.
        eps: keeps an all-zero map finite; its attention map and gradient are 0.

    Returns:
        (N, 1, H, W) in float32 or float64.
    """
    m = full_precision(features).abs().pow(p).sum(dim=1, keepdim=True)
    # Unlike sqrt of a sum of squares, vector_norm has gradient 0 (not NaN) for an all-zero map.
    return m / (torch.linalg.vector_norm(m, dim=(2, 3), keepdim=True) + eps)


def attention_transfer(
    student: Tensor, teacher: Tensor, *, p: float = 2.0, reduction: str = "sum", eps: float = 1e-6
) -> Tensor:
    """Distance between two attention maps, a scalar: the mean over the images of the batch.

    It is 0 at equality, and does not change (up to ``eps``) when either input is scaled.

    Args:
        student, teacher: (N, Cs, H, W) and (N, Ct, H, W).
        p, eps: see :func:`attention_map`.
        reduction: over the H W positions of one image. "sum" of squared differences: the text of
            Chennupati et al. (BMVC 2021, section 4); "mean": their code, which the hand-tuned
            weight 1000 belongs to; "norm" of the difference, not squared: Zagoruyko and
            Komodakis (ICLR 2017, eq. 2).

    Raises:
        ValueError: unknown reduction, or maps of different size.
    """
    check_choice("REDUCTION", reduction, AT_REDUCTIONS)
    cure = "Tap layers of one stride, or resize one of the maps."
    check_same("sizes of the attention maps", student.shape[-2:], teacher.shape[-2:], cure)
    difference = attention_map(student, p=p, eps=eps) - attention_map(teacher, p=p, eps=eps)
    if reduction == "norm":
        return torch.linalg.vector_norm(difference, dim=(1, 2, 3)).mean()
    squares = difference.square()
    return squares.mean() if reduction == "mean" else squares.sum(dim=(1, 2, 3)).mean()
