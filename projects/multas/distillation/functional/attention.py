"""Attention transfer (AT): compare where two feature maps are active.

Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017; ref. 34 of the adaptive
distillation paper. Widths of student and teacher may differ, heights and widths of the maps may
not.
"""

import torch
from torch import Tensor

from multas.modeling.losses import full_precision

AT_REDUCTIONS = ("sum", "mean", "norm")


def attention_map(
    features: Tensor, *, p: float = 2.0, eps: float = 1e-6, clamp: bool = False
) -> Tensor:
    """Where a feature map is active, per image of unit length over the positions.

    ``m[n,h,w] = sum_c |F[n,c,h,w]|^p``, ``A = m / (||m[n]||_2 + eps)``.

    Args:
        features: (N, C, H, W).
        p: Exponent of the activations.
        eps: Keeps an all-zero map finite; its attention map and its gradient are 0.
        clamp: Divide by ``max(||m[n]||, eps)`` instead (as torchdistill does, with 1e-12). The two
            differ only for maps whose norm is near ``eps``.

    Returns:
        (N, 1, H, W) in float32 or float64.
    """
    m = full_precision(features).abs().pow(p).sum(dim=1, keepdim=True)
    # Unlike sqrt of a sum of squares, vector_norm has gradient 0 (not NaN) for an all-zero map.
    norm = torch.linalg.vector_norm(m, dim=(2, 3), keepdim=True)
    return m / (norm.clamp_min(eps) if clamp else norm + eps)


def attention_transfer(
    student: Tensor,
    teacher: Tensor,
    *,
    p: float = 2.0,
    reduction: str = "sum",
    eps: float = 1e-6,
    clamp: bool = False,
) -> Tensor:
    """Distance of two attention maps, mean over the images of the batch.

    Args:
        student: (N, Cs, H, W).
        teacher: (N, Ct, H, W).
        p: See :func:`attention_map`.
        reduction: Over the H W positions of one image.
            ``sum``: sum of squared differences, the text of the adaptive distillation paper (sec.
            4);
            ``mean``: mean of squared differences, 1 / (H W) of it: its authors' code, to which the
            hand-tuned weight 1000 belongs;
            ``norm``: the norm of the difference, not squared: eq. 2 of the attention transfer
            paper.
        eps: See :func:`attention_map`.
        clamp: See :func:`attention_map`.

    Returns:
        Scalar; 0 at equality, and unchanged (up to ``eps``) when either input is scaled.

    Raises:
        ValueError: On an unknown reduction or maps of different size.
    """
    if reduction not in AT_REDUCTIONS:
        raise ValueError(f"unknown reduction {reduction!r}, known: {', '.join(AT_REDUCTIONS)}")
    if student.shape[-2:] != teacher.shape[-2:]:
        raise ValueError(
            f"attention maps of {tuple(student.shape[-2:])} (student) and "
            f"{tuple(teacher.shape[-2:])} (teacher) cannot be compared; tap layers of one "
            "stride or resize one of them"
        )
    difference = attention_map(student, p=p, eps=eps, clamp=clamp)
    difference = difference - attention_map(teacher, p=p, eps=eps, clamp=clamp)
    if reduction == "norm":
        return torch.linalg.vector_norm(difference, dim=(1, 2, 3)).mean()
    squares = difference.square()
    return squares.mean() if reduction == "mean" else squares.sum(dim=(1, 2, 3)).mean()
