"""Learned weights that fade: the equation, where they rest, and how they compare with adaptive."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multas.distillation.aggregation.adaptive import Adaptive
from multas.distillation.aggregation.fading import Fading
from no_transfer import NoTransfer


def make(kind, count: int, bound: float = 0.0):
    names = [str(i) for i in range(count)]
    return kind(names=names, hand_tuned=[1.0] * count, max_weighted_loss=bound).double()


def objective(aggregator, losses: torch.Tensor) -> torch.Tensor:
    weighted, extra = aggregator(losses)
    return weighted.sum() + sum(extra.values())


def settled(aggregator, losses: torch.Tensor, steps: int = 400):
    optimizer = torch.optim.SGD([aggregator.z], lr=0.3, momentum=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        objective(aggregator, losses).backward()
        optimizer.step()
    return aggregator


def rest(loss: float) -> float:
    """exp(z) where the gradient vanishes."""
    return (loss + math.sqrt(loss**2 + 4 * loss)) / 2


def test_a_loss_of_a_half_by_hand():
    # exp(z)^2 = L (1 + exp(z)): 1 for L = 1/2, so z = 0 is at rest, and v L = sigmoid(0) = 1/2.
    aggregator = make(Fading, 1)
    losses = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    weighted, extra = aggregator(losses)
    assert weighted.tolist() == [0.5] and extra["z"].item() == pytest.approx(math.log(2))
    (weighted.sum() + extra["z"]).backward()
    assert aggregator.z.grad.tolist() == pytest.approx([0])
    assert losses.grad.tolist() == [1]


positive = st.floats(1e-3, 1e3)


@given(st.lists(positive, min_size=1, max_size=6))
def test_the_gradient_is_the_equation_and_the_objective_never_negative(values):
    aggregator = make(Fading, len(values))
    aggregator.z.data = torch.linspace(-3, 3, len(values), dtype=torch.float64)
    losses = torch.tensor(values, dtype=torch.float64)
    total = objective(aggregator, losses)
    total.backward()
    z = aggregator.z.detach()
    torch.testing.assert_close(aggregator.z.grad, torch.sigmoid(z) - torch.exp(-z) * losses)
    assert total > 0
    assert torch.autograd.gradcheck(lambda x: objective(aggregator, x), losses.requires_grad_())


@settings(max_examples=5)
@given(st.lists(st.floats(0.05, 30), min_size=4, max_size=4))
def test_constant_losses_come_to_rest_at_the_closed_form(values):
    aggregator = settled(make(Fading, 4, bound=10.0), torch.tensor(values, dtype=torch.float64))
    v = aggregator.weights().tolist()
    for weight, loss in zip(v, values, strict=True):
        assert 1 / weight == pytest.approx(rest(loss), rel=1e-3)


@given(positive, positive)
def test_a_smaller_loss_weighs_less_and_never_more_than_with_adaptive(a, b):
    small, large = sorted((a, b))
    weighted = [loss / rest(loss) for loss in (small, large)]
    assert weighted[0] <= weighted[1] < 1, "adaptive has 1 for each"
    assert weighted[0] <= math.sqrt(small)
    assert large / (1 + large) <= weighted[1]


def test_a_mastered_path_fades_where_adaptive_holds_on_to_it():
    losses = torch.tensor([1e-4], dtype=torch.float64)
    fading, adaptive = make(Fading, 1, bound=10.0), make(Adaptive, 1, bound=10.0)
    for aggregator in (fading, adaptive):
        aggregator.z.data.fill_(-9.0)  # v = 8103
        settled(aggregator, losses, steps=600)
    assert float(fading.weights() * losses) == pytest.approx(0.01, rel=0.01)
    assert float(adaptive.weights() * losses) == pytest.approx(1, rel=0.01)


def test_a_vanished_loss_moves_z_with_no_bound_alone():
    for bound, moves in ((0.0, True), (10.0, False)):
        aggregator = settled(make(Fading, 1, bound), torch.zeros(1).double(), steps=3)
        assert bool(aggregator.z != 0) == moves
    losses = torch.tensor([1000.0], dtype=torch.float64)
    assert make(Fading, 1, bound=10.0)(losses)[0].tolist() == pytest.approx([10])


def test_the_device_is_never_waited_for():
    aggregator = Fading(names=["a", "b"], hand_tuned=[1.0, 1.0])
    losses = torch.tensor([1.0, 0.0], requires_grad=True)
    with NoTransfer():
        objective(aggregator, losses).backward()
    assert aggregator.z.grad[0] != 0 and aggregator.z.grad[1] == 0


def test_a_bound_that_holds_at_rest_is_refused():
    with pytest.raises(ValueError, match=r"MAX_WEIGHTED_LOSS is 0\.5; it must be above 1"):
        make(Fading, 1, bound=0.5)
