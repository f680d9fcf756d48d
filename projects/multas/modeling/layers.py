"""The convolution block of necks and heads, BatchNorms for one value per channel, and the like."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, CycleBatchNormList, get_norm
from detectron2.utils import comm
from torch import Tensor, nn
from torch.func import functional_call

Norm = str | Callable[[int], nn.Module]


def _use_running_statistics(norm: nn.BatchNorm2d | nn.SyncBatchNorm, x: Tensor) -> Tensor:
    # Copies, because the next mini-batch of the same iteration updates the statistics in place
    # before the backward pass of this one.
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None
    return F.batch_norm(x, mean.clone(), var.clone(), norm.weight, norm.bias, False, 0.0, norm.eps)


class BatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that can train on a single value per channel.

    PyTorch raises for one image with a 1x1 map (the pooled branch of the context module, the
    coarsest level of a small image), as its variance is zero. Here such a batch is normalised with
    the running statistics, which stay unchanged.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return _use_running_statistics(self, x)
        return super().forward(x)


class SyncBatchNorm(nn.SyncBatchNorm):
    """SyncBatchNorm that can train on a single value per channel in a single process.

    With several processes the statistics are always synchronised.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and comm.get_world_size() == 1 and x.numel() == x.shape[1]:
            return _use_running_statistics(self, x)
        return super().forward(x)


class LevelNorms(CycleBatchNormList):
    """A norm for each level, with one scale and shift for all of them, trained fast in 16 bits."""

    _pos: int

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and torch.is_autocast_enabled(x.device.type)):
            return super().forward(x)
        # Detectron2 scales after the norm, which makes the map float32 for all that follows.
        norm = self[self._pos]
        self._pos = (self._pos + 1) % len(self)
        return functional_call(norm, {"weight": self.weight, "bias": self.bias}, x)


def norm_factory(norm: Norm) -> Norm:
    """Replace "BN" and "SyncBN" by the classes above; all else is for Detectron2's ``get_norm``."""
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
    """Convolution with bias and padding, norm, and LeakyReLU unless ``leaky_slope`` is None.

    Returns:
        A Detectron2 ``Conv2d`` with ``norm`` and ``activation``. As in the code of Lê and Pham
        (ICCVW 2023), it has PyTorch's default initialisation.
    """
    activation = None if leaky_slope is None else nn.LeakyReLU(leaky_slope, inplace=True)
    options = {"norm": get_norm(norm_factory(norm), out_channels), "activation": activation}
    return Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, **options)


def connected_zero(tensor: Tensor) -> Tensor:
    """Scalar 0 with gradient 0 to ``tensor``, even if that contains inf or NaN.

    For a loss that does not apply to a batch: DistributedDataParallel waits for the gradients of
    all parameters.
    """
    return tensor.reshape(-1)[:0].sum()


def channels_last_(model: nn.Module) -> None:
    """Store the weights of 2-D convolutions channels last; their outputs then are, too.

    This memory format is the fastest one on CPUs, and on GPUs in half precision. Convolutions 1 x 1
    with a stride over fewer than 8 channels, the shortcuts of very narrow networks, stay channels
    first: oneDNN's gradient of their weights for AVX2 writes beyond its memory (torch 2.13), which
    ends the program on CPUs without AVX-512.
    """
    for module in model.modules():
        if not isinstance(module, nn.Conv2d):
            continue
        narrow = module.in_channels < 8 and module.kernel_size == (1, 1)
        if narrow and module.stride != (1, 1):
            module.register_forward_pre_hook(_channels_first)
        else:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _channels_first(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].contiguous(),)
