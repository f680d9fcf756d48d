"""Dynamic weight average: the formula of its paper on scripted losses."""

import math

import pytest
import torch

from multas.distillation.aggregation.dwa import DWA


def dwa(**options) -> DWA:
    return DWA(names=["a", "b"], hand_tuned=[1.0, 1.0], **options)


def feed(aggregator, *losses) -> list[list[float]]:
    """v of each step."""
    weights = []
    for values in losses:
        aggregator(torch.tensor(values))
        weights.append(aggregator.weights().tolist())
    return weights


def test_weights_are_the_softmax_of_relative_descent():
    aggregator = dwa(period=1, temperature=2.0)
    losses = torch.tensor([4.0, 1.0], requires_grad=True)
    weighted, extra = aggregator(losses)
    assert weighted.tolist() == [4, 1] and extra == {}
    first, second = feed(aggregator, [2.0, 1.0], [2.0, 0.5])
    # Ratios 0.5 and 1, then 1 and 0.5; two periods must be over before v moves.
    a, b = math.exp(0.25), math.exp(0.5)
    assert first == pytest.approx([2 * a / (a + b), 2 * b / (a + b)])
    assert second == pytest.approx(first[::-1])


def test_v_stays_for_a_period_and_compares_the_means_of_periods():
    aggregator = dwa(period=2)
    weights = feed(aggregator, [3.0, 1.0], [5.0, 1.0], [1.0, 1.0], [3.0, 1.0])
    assert weights[:3] == [[1, 1]] * 3
    a, b = math.exp(0.5 / 2), math.exp(1 / 2)
    assert weights[3] == pytest.approx([2 * a / (a + b), 2 * b / (a + b)])


def test_the_gradient_of_a_step_has_the_weight_before_its_update():
    aggregator = dwa(period=1)
    feed(aggregator, [4.0, 1.0])
    losses = torch.tensor([1.0, 1.0], requires_grad=True)
    aggregator(losses)[0].sum().backward()
    assert losses.grad.tolist() == [1, 1]


def test_a_vanished_loss_counts_as_standing_still():
    aggregator = dwa(period=1)
    weights = feed(aggregator, [0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0])
    assert weights[1] == [1, 1]
    assert all(math.isfinite(x) for pair in weights for x in pair)


def test_passes_without_gradient_are_not_counted():
    aggregator = dwa(period=1)
    with torch.no_grad():
        feed(aggregator, [4.0, 1.0], [1.0, 1.0])
    assert aggregator.weights().tolist() == [1, 1]


def test_state_goes_through_a_checkpoint():
    losses = [[4.0, 1.0], [2.0, 1.0], [3.0, 2.0], [1.0, 1.0], [2.0, 2.0]]
    whole = feed(dwa(period=2), *losses)
    first, second = dwa(period=2), dwa(period=2)
    feed(first, *losses[:3])
    second.load_state_dict(first.state_dict())
    assert feed(second, *losses[3:]) == whole[3:]


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"period": 0}])
def test_senseless_options_are_refused(options):
    with pytest.raises(ValueError, match="TEMPERATURE of dwa must be above 0 and PERIOD"):
        dwa(**options)
