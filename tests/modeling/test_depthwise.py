"""Depthwise convolutions compute what those that they replace compute, and train in float32."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from multas.modeling.depthwise import DepthwiseConv2d, replace_slow_convolutions

layers = pytest.importorskip("timm.layers")


def replaced(conv):
    model = nn.Sequential(conv)
    own = copy.deepcopy(model)
    replace_slow_convolutions(own, layers.Conv2dSame)
    return model, own


@given(
    kernel=st.sampled_from([3, 5]), stride=st.integers(1, 3), dilation=st.integers(1, 2),
    size=st.tuples(st.integers(5, 13), st.integers(5, 13)), same=st.booleans(),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_outputs_and_gradients_are_those_of_the_convolution(kernel, stride, dilation, size, same):
    torch.manual_seed(kernel + stride)
    kind = layers.Conv2dSame if same else nn.Conv2d
    padding = 0 if same else dilation * (kernel // 2)
    conv = kind(4, 4, kernel, stride, padding, dilation, groups=4, bias=not same)
    model, own = replaced(conv)
    assert isinstance(own[0], DepthwiseConv2d) == (stride > 1 or kernel > 3)
    assert list(own.state_dict()) == list(model.state_dict())
    image = torch.randn(2, 4, *size)
    found, wanted = own(image), model(image)
    assert torch.equal(found, wanted)
    found.square().sum().backward()
    wanted.square().sum().backward()
    assert torch.equal(own[0].weight.grad, model[0].weight.grad)


def test_training_on_a_cpu_is_in_single_precision_and_answers_in_half():
    model, own = replaced(nn.Conv2d(8, 8, 5, 2, 2, groups=8))
    image = torch.randn(2, 8, 12, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained = own(image.bfloat16())
    assert trained.dtype == torch.bfloat16
    assert torch.equal(trained, own(image.bfloat16().float()).bfloat16())
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(own(image), model(image)), "no gradient is needed"


@pytest.mark.parametrize(
    "conv", [nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 8, 3, 2, 1),
             nn.Conv2d(8, 8, 3, 2, 1, groups=4),
             nn.Conv2d(8, 8, 5, 2, 2, groups=8, padding_mode="reflect")]
)  # fmt: skip
def test_convolutions_that_gain_nothing_stay(conv):
    assert type(replaced(conv)[1][0]) is nn.Conv2d
