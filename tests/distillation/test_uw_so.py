"""UW-SO: the formula of its paper, and what must hold for any losses."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multas.distillation.aggregation.uw_so import UwSo, uw_so_weights
from no_transfer import NoTransfer


def uw_so(count: int, **options) -> UwSo:
    return UwSo(names=[str(i) for i in range(count)], hand_tuned=[1.0] * count, **options)


def test_two_losses_by_hand():
    # 1 / L = 1 and 0.5; with T = 0.5 these are 2 and 1.
    for temperature, (first, second) in {1.0: (1.0, 0.5), 0.5: (2.0, 1.0)}.items():
        aggregator = uw_so(2, temperature=temperature)
        losses = torch.tensor([1.0, 2.0], requires_grad=True)
        weighted, extra = aggregator(losses)
        share = math.exp(first) / (math.exp(first) + math.exp(second))
        assert aggregator.weights().tolist() == pytest.approx([share, 1 - share])
        assert weighted.tolist() == pytest.approx([share, 2 * (1 - share)])
        assert extra == {}
        weighted.sum().backward()
        assert losses.grad.tolist() == pytest.approx([share, 1 - share]), "v has no gradient"


losses_of = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6)


@given(losses_of, st.floats(1e-2, 1e2), st.floats(0.1, 10))
def test_v_is_on_the_simplex_and_smaller_losses_weigh_more(values, temperature, scale):
    losses = torch.tensor(values, dtype=torch.float64)
    v = uw_so_weights(losses, temperature)
    assert float(v.sum()) == pytest.approx(1)
    order = losses.argsort()
    assert (v[order].diff() <= 1e-12).all()
    # The temperature has the unit of 1 / loss.
    torch.testing.assert_close(uw_so_weights(scale * losses, temperature / scale), v)
    backwards = uw_so_weights(losses.flip(0), temperature)
    torch.testing.assert_close(backwards, v.flip(0))


def test_limits_of_the_temperature():
    losses = torch.tensor([0.5, 1.0, 4.0])
    assert uw_so_weights(losses, 1e6).tolist() == pytest.approx([1 / 3] * 3, abs=1e-5)
    assert uw_so_weights(losses, 1e-3).tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("losses", "weights"),
    [
        ([0.0, 1.0], [0, 1]),
        ([0.0, 1.0, 1.0], [0, 0.5, 0.5]),
        ([0.0, 0.0], [0.5, 0.5]),
        ([1e-45, 1.0], [1, 0]),
        ([1e-45, 1e-45], [0.5, 0.5]),
    ],
)
def test_vanished_losses_make_no_weight_infinite(losses, weights):
    assert uw_so_weights(torch.tensor(losses), 1.0).tolist() == pytest.approx(weights)


def test_only_steps_move_the_weights_and_the_device_is_never_waited_for():
    aggregator = uw_so(2)
    assert aggregator.weights().tolist() == [0.5, 0.5]
    losses = torch.tensor([1.0, 2.0])
    with torch.no_grad():
        assert aggregator(losses)[0].tolist() == [0.5, 1]
    with NoTransfer():
        aggregator(losses)
    assert aggregator.weights()[0] > 0.6
    assert aggregator.state_dict() == {}, "every step makes them anew"


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"TEMPERATURE is 0.0; it must be greater than 0"):
        uw_so(2, temperature=0.0)
