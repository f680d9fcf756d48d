"""Depthwise convolutions that a CPU trains in reasonable time in half precision."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DepthwiseConv2d(nn.Conv2d):
    """Convolves each channel by itself; in training on a CPU in single precision.

    Under autocast, oneDNN takes two to twenty times as long for two gradients in bfloat16 as in
    float32 (on an AMD EPYC): that of the input with a stride of 2, and that of the weight with a
    kernel of 5 x 5. So this computes in float32 there and returns what autocast would. Elsewhere it
    is the convolution that it replaces.

    Attributes:
        same: whether images are padded as in TensorFlow, so that the output has the size of the
            input over the stride, rounded up; ``padding`` is then 0.
    """

    same: bool = False

    def forward(self, input: Tensor) -> Tensor:
        on_cpu = input.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if not (on_cpu and torch.is_grad_enabled()):
            return self._convolve(input)
        with torch.autocast("cpu", enabled=False):
            return self._convolve(input.float()).to(torch.get_autocast_dtype("cpu"))

    def _convolve(self, input: Tensor) -> Tensor:
        if self.same:
            input = F.pad(input, self._padding_of(input))
        return self._conv_forward(input, self.weight, self.bias)

    def _padding_of(self, input: Tensor) -> list[int]:
        """Pixels on the left, right, top and bottom."""
        found: list[int] = []
        for axis in (1, 0):
            size, stride = input.shape[2 + axis], self.stride[axis]
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            total = max((-(-size // stride) - 1) * stride + reach - size, 0)
            found += [total // 2, total - total // 2]
        return found


def replace_slow_convolutions(model: nn.Module, same: type[nn.Conv2d]) -> None:
    """Put :class:`DepthwiseConv2d` in place of the depthwise convolutions that gain by it.

    Names and values of parameters stay.

    Args:
        model: is changed in place.
        same: the class of convolutions in it that pad as TensorFlow does.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if not isinstance(child, nn.Conv2d) or type(child) not in (nn.Conv2d, same):
                continue
            if _is_slow(child):
                setattr(parent, name, _like(child))


def _is_slow(conv: nn.Conv2d) -> bool:
    is_depthwise = conv.groups == conv.in_channels > 1 and conv.padding_mode == "zeros"
    return is_depthwise and (max(conv.stride) > 1 or max(conv.kernel_size) > 3)


def _like(conv: nn.Conv2d) -> DepthwiseConv2d:
    shared = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
    options = {name: getattr(conv, name) for name in (*shared, "groups")}
    new = DepthwiseConv2d(**options, bias=False, device="meta")
    new.weight, new.bias = conv.weight, conv.bias
    new.same = type(conv) is not nn.Conv2d
    return new.train(conv.training)
