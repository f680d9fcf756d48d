"""GradNorm: equal lengths at rest, faster paths held back, weights that stay weights."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multas.distillation.aggregation.grad_norm import GradNorm


def grad_norm(count: int, **options) -> GradNorm:
    names = [str(i) for i in range(count)]
    return GradNorm(names=names, hand_tuned=[1.0] * count, **options)


def run(aggregator, norms, losses, steps=1) -> torch.Tensor:
    gram = torch.diag(torch.tensor(norms, dtype=torch.float64) ** 2)
    for _ in range(steps):
        v = aggregator.weigh(gram, torch.tensor(losses, dtype=torch.float64))
    return v


def test_the_first_step_is_unweighted_and_the_next_moves_against_the_longer_gradient():
    aggregator = grad_norm(2, lr=0.1)
    assert run(aggregator, [3.0, 1.0], [1.0, 1.0]).tolist() == [1, 1]
    # By hand: lengths 3 and 1 of mean 2; log v moves by -0.1 * 3/2 and +0.1 * 1/2.
    new = torch.exp(torch.tensor([-0.15, 0.05], dtype=torch.float64))
    expected = 2 * new / new.sum()
    torch.testing.assert_close(run(aggregator, [3.0, 1.0], [1.0, 1.0]), expected)


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=5))
def test_lengths_become_equal_when_all_train_at_one_rate(norms):
    aggregator = grad_norm(len(norms), lr=0.05)
    v = run(aggregator, norms, [1.0] * len(norms), steps=500)
    assert (v > 0).all() and float(v.sum()) == pytest.approx(len(norms))
    lengths = v * torch.tensor(norms)
    assert float(lengths.max() / lengths.min()) < 1.15


def test_a_path_that_lags_behind_gets_a_longer_gradient():
    aggregator = grad_norm(2, lr=0.01, asymmetry=1.0)
    run(aggregator, [1.0, 1.0], [1.0, 1.0])
    # The first loss has fallen to a quarter, the second not at all: rates 0.4 and 1.6.
    v = run(aggregator, [1.0, 1.0], [0.25, 1.0], steps=2000)
    assert float(v[1] / v[0]) == pytest.approx(4, rel=0.1)


@given(st.floats(-6, 6))
def test_the_scale_of_all_losses_does_not_matter(exponent):
    scale = 10**exponent
    plain, scaled = grad_norm(3), grad_norm(3)
    for factor, aggregator in ((1.0, plain), (scale, scaled)):
        run(aggregator, [factor * x for x in (1.0, 2.5, 3.0)], [factor * x for x in (1, 2, 3)])
    torch.testing.assert_close(plain.v, scaled.v)


def test_zero_gradients_and_losses_are_survived():
    aggregator = grad_norm(2)
    for norms, losses in (([0, 0], [0, 0]), ([0, 1], [0, 1]), ([1, 1], [2, 0]), ([1, 1], [2, 3])):
        assert run(aggregator, norms, losses).isfinite().all()
    assert aggregator.initial.tolist() == [2, 1], "the first loss above 0 is the start"


def test_state_goes_through_a_checkpoint():
    aggregator, other = grad_norm(2), grad_norm(2)
    run(aggregator, [3.0, 1.0], [1.0, 2.0], steps=3)
    other.load_state_dict(aggregator.state_dict())
    after = [run(a, [3.0, 1.0], [0.5, 2.0], steps=2) for a in (aggregator, other)]
    assert torch.equal(*after)


def test_the_task_can_be_one_of_the_balanced():
    aggregator = grad_norm(2, task_as_objective=True)
    products = torch.tensor([0.0, 0.0, 1.0]), torch.tensor(1.0)
    gram = torch.eye(2, dtype=torch.float64)
    v = aggregator.solve(gram, torch.ones(2).double(), 1.0, products)
    assert v.tolist() == [1, 1, 1] and aggregator.weights().tolist() == [1, 1]
