"""Feature losses NST, FM and SR. Student features are already adapted to the teacher's width."""

import torch
import torch.nn.functional as F
from torch import Tensor

from multas.distillation.functional.shapes import check_same
from multas.modeling.losses import full_precision

_EPS = 1e-12
_ADAPT = "Adapt the student's features with a 1x1 convolution first."


def _unit_channels(features: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, HW) of unit rows; a channel of norm at most 1e-12 becomes 0."""
    rows = full_precision(features).flatten(2)
    norms = torch.linalg.vector_norm(rows, dim=2, keepdim=True)
    unit = rows / norms.clamp_min(_EPS)
    # The value of a dead channel is 0 anyway; its gradient would be of order 1e12.
    return torch.where(norms > _EPS, unit, torch.zeros_like(unit))


def channel_gram(features: Tensor) -> Tensor:
    """Cosines between the channels of a feature map: (N, C, H, W) -> (N, C, C).

    A dead channel (norm at most 1e-12 over the positions) has value and gradient 0.
    """
    rows = _unit_channels(features)
    with torch.autocast(rows.device.type, enabled=False):
        return rows @ rows.mT


def nst_channel_gram(student: Tensor, teacher: Tensor) -> Tensor:
    """NST as in the code of Chennupati et al. (BMVC 2021): mean squared distance of channel Grams.

    ``1 / (N C^2) * sum (G(Fs) - G(Ft))^2`` with :func:`channel_gram`, a scalar. The hand-tuned
    weight 10 belongs to this form. A dead channel has gradient 0 (about 1e10 in that code).

    Args:
        student, teacher: (N, C, Hs, Ws) and (N, C, Ht, Wt).

    Raises:
        ValueError: the widths differ.
    """
    check_same("numbers of channels", student.shape[1], teacher.shape[1], _ADAPT)
    return (channel_gram(student) - channel_gram(teacher)).square().mean()


def nst_polynomial(student: Tensor, teacher: Tensor) -> Tensor:
    """NST (Huang and Wang, arXiv 2017): squared MMD with the kernel ``(x^T y)^2``.

    The samples are the channels of one image, normalised over the positions; a dead channel has
    gradient 0. The loss, a scalar, is the mean over the images. It equals
    ``|| X_s^T X_s / C_s - X_t^T X_t / C_t ||_F^2`` of (HW, HW) matrices, but the expanded kernel
    needs only matrices over the channels.

    Args:
        student, teacher: (N, Cs, H, W) and (N, Ct, H, W).

    Raises:
        ValueError: the maps have different sizes.
    """
    cure = "Resize one of the maps, or use the channel Gram form."
    check_same("sizes of the maps", student.shape[-2:], teacher.shape[-2:], cure)
    s, t = _unit_channels(student), _unit_channels(teacher)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return (x @ y.mT).square().mean(dim=(1, 2))

    return (kernel(s, s) + kernel(t, t) - 2.0 * kernel(s, t)).mean()


def feature_map_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """FM (Yang et al., ICLR 2021): mean squared difference of the global averages.

    ``1 / (N C) * sum_{n,c} (mean_hw Fs - mean_hw Ft)^2``, a scalar.

    Args:
        student, teacher: (N, C, Hs, Ws) and (N, C, Ht, Wt).

    Raises:
        ValueError: the widths differ.
    """
    check_same("numbers of channels", student.shape[1], teacher.shape[1], _ADAPT)
    student, teacher = (full_precision(f).mean(dim=(2, 3)) for f in (student, teacher))
    return (student - teacher).square().mean()


def softmax_regression(
    student: Tensor, teacher_logits: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """SR (Yang et al., ICLR 2021): the student's features through the teacher's classifier.

    ``1 / (N K) * sum (z_t - (GAP(Fs) W_t^T + b_t))^2``, a scalar. The classifier is a constant and
    gets no gradient (the authors' code fills the teacher's gradient buffers).

    Args:
        student: (N, C, H, W), the last feature map.
        teacher_logits: (N, K).
        weight, bias: (K, C) and (K,) of the teacher's linear layer.
    """
    pooled = full_precision(student).mean(dim=(2, 3))
    weight = weight.detach().to(pooled.dtype)
    bias = None if bias is None else bias.detach().to(pooled.dtype)
    with torch.autocast(pooled.device.type, enabled=False):
        crossed = F.linear(pooled, weight, bias)
    return (full_precision(teacher_logits) - crossed).square().mean()
