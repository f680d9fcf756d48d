"""Channels last, the fastest memory format for CPUs, and for GPUs in half precision."""

import torch
from torch import nn


def channels_last_(model: nn.Module) -> None:
    """Store the weights of all 2-D convolutions channels last; their outputs then are, too."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
