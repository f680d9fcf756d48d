"""Layers and what holds for all of them."""

import copy

import pytest
import torch
from torch import nn

from multas.modeling.layers import channels_last_


@pytest.mark.parametrize("channels", [3, 4, 8])
def test_narrow_shortcuts_train_channels_last(channels):
    """oneDNN spoils memory with some of them, on CPUs without AVX-512, so that the process ends."""
    layers = [nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, 8, 1, stride=2, bias=False)]
    model = nn.Sequential(*layers)
    expected = copy.deepcopy(model).double()
    channels_last_(model)
    images = torch.randn(2, 3, 28, 28)
    for _ in range(50):
        model.zero_grad()
        model(images.to(memory_format=torch.channels_last)).square().sum().backward()
    expected(images.double()).square().sum().backward()
    for own, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(own.grad.double(), other.grad, rtol=1e-4, atol=1e-3)
