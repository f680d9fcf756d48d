"""The convolution block of paper A's neck and heads, and norms that survive a single value."""

from collections.abc import Callable

import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from detectron2.utils import comm
from torch import Tensor, nn

Norm = str | Callable[[int], nn.Module]


def _use_running_statistics(norm: nn.BatchNorm2d | nn.SyncBatchNorm, x: Tensor) -> Tensor:
    # Copies: the next mini-batch of the same iteration updates the statistics in place, and the
    # backward pass of this one would then read those.
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None
    return F.batch_norm(x, mean.clone(), var.clone(), norm.weight, norm.bias, False, 0.0, norm.eps)


class BatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that accepts a batch with a single value per channel in training.

    One image whose map is 1x1 (the pooled branch of the context module, the coarsest level of a
    small image) has no batch statistics: the variance is zero and PyTorch raises. Such a batch is
    normalised with the running statistics, which it leaves as they are, so that training and
    evaluation agree on it and its gradient is that of an affine map.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return _use_running_statistics(self, x)
        return super().forward(x)


class SyncBatchNorm(nn.SyncBatchNorm):
    """The same for synchronised statistics, where only a job of one process can lack values.

    With several processes all of them take part in the exchange, whatever their own batch is.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and comm.get_world_size() == 1 and x.numel() == x.shape[1]:
            return _use_running_statistics(self, x)
        return super().forward(x)


def norm_factory(norm: Norm) -> Norm:
    """What to hand to Detectron2's ``get_norm``: our BatchNorms for "BN" and "SyncBN".

    Args:
        norm: any value that ``get_norm`` takes ("", "BN", "SyncBN", "FrozenBN", "GN", a callable).
    """
    own = {"BN": BatchNorm2d, "SyncBN": SyncBatchNorm}
    return own.get(norm, norm) if isinstance(norm, str) else norm


def conv_block(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    stride: int = 1,
    norm: Norm = "BN",
    leaky_slope: float | None = 0.1,
) -> Conv2d:
    """Convolution (with bias, also in front of a norm) + norm + LeakyReLU, padded to keep size.

    Args:
        leaky_slope: slope for negative values; None = no activation.

    Returns:
        A Detectron2 ``Conv2d`` with attributes ``norm`` and ``activation``, initialised by
        PyTorch's default as in the reference implementation.
    """
    return Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        bias=True,
        norm=get_norm(norm_factory(norm), out_channels),
        activation=None if leaky_slope is None else nn.LeakyReLU(leaky_slope, inplace=True),
    )


def connected_zero(tensor: Tensor) -> Tensor:
    """Exactly zero, with a zero gradient to ``tensor``, even where that holds inf or NaN.

    A loss that does not apply to a batch must still reach its parameters, or
    DistributedDataParallel waits for their gradients.

    Returns:
        Scalar of the dtype of ``tensor``.
    """
    return tensor.reshape(-1)[:0].sum()
