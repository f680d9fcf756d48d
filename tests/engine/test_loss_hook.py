"""Losses that bring their gradient along."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multas.engine.loss_hook import with_gradient

DTYPES = [torch.float32, torch.float64]


def parameters_and_row(present, dtype):
    parameters = [torch.randn(2, i + 1, dtype=dtype, requires_grad=True) for i in present]
    row = [
        torch.randn_like(p) if there else None for p, there in zip(parameters, present, strict=True)
    ]
    return parameters, row


@given(
    st.lists(st.booleans(), min_size=1, max_size=5),
    st.sampled_from([None, 1.0, 64.0, 2.0**20, 1e-3]),
    st.sampled_from(DTYPES),
    st.sampled_from([*DTYPES, torch.bfloat16]),
)
def test_the_sum_has_exactly_the_row_as_gradient_and_the_values_stay(present, scale, dtype, first):
    parameters, row = parameters_and_row(present, dtype)
    losses = {
        "a": parameters[0].square().sum().to(first),
        "b": torch.tensor(2.0, dtype=torch.float64),
        "c": torch.stack([p.sum() for p in parameters]).sum(),
    }
    factor = None if scale is None else torch.tensor(scale)
    result = with_gradient(losses, parameters, row, factor)
    assert result.keys() == losses.keys()
    for name, loss in losses.items():
        assert torch.equal(result[name].double(), loss.double())
        assert result[name].requires_grad == (name == "a")
    total = sum(result.values())
    (total if factor is None else total * factor).backward()
    for parameter, gradient in zip(parameters, row, strict=True):
        if gradient is None:
            assert parameter.grad is None
        elif scale in (None, 1.0, 64.0, 2.0**20):
            assert torch.equal(parameter.grad, gradient)
        else:
            torch.testing.assert_close(parameter.grad, gradient)


def test_gradients_accumulate_as_those_of_any_loss():
    parameters, row = parameters_and_row([True, True], torch.float32)
    for _ in range(2):
        with_gradient({"a": parameters[0].sum()}, parameters, row)["a"].backward()
    for parameter, gradient in zip(parameters, row, strict=True):
        assert torch.equal(parameter.grad, 2 * gradient)


def test_parameters_do_not_share_the_memory_of_their_gradients():
    shared = torch.ones(2)
    parameters = [torch.zeros(2, requires_grad=True) for _ in range(2)]
    with_gradient({"a": torch.zeros(())}, parameters, [shared, shared])["a"].backward()
    parameters[0].grad.zero_()
    assert parameters[1].grad.tolist() == shared.tolist() == [1, 1]


def test_a_tensor_that_is_named_twice_gets_both_gradients():
    parameter = torch.zeros(2, requires_grad=True)
    row = [torch.ones(2), torch.full((2,), 2.0)]
    with_gradient({"a": torch.zeros(())}, [parameter, parameter], row)["a"].backward()
    assert parameter.grad.tolist() == [3, 3]


@pytest.mark.parametrize("factor", [0.5, -3.0])
def test_it_is_differentiated_by_the_chain_rule(factor):
    parameters, row = parameters_and_row([True, False], torch.float64)
    loss = sum(with_gradient({"a": parameters[0].sum()}, parameters, row).values())
    found = torch.autograd.grad(factor * loss, parameters, allow_unused=True)
    torch.testing.assert_close(found[0], factor * row[0])
    assert found[1] is None
