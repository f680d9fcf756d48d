"""IMTL-L: its equation, and that it is eq. 5 of adaptive distillation under another sign."""

import math

import pytest
import torch

from multas.distillation.aggregation.adaptive import Adaptive
from multas.distillation.aggregation.imtl_l import ImtlL
from no_transfer import NoTransfer

OPTIONS = {"names": ["a", "b", "c"], "hand_tuned": [1.0] * 3}


def test_one_loss_by_hand():
    aggregator = ImtlL(names=["a"], hand_tuned=[1.0])
    aggregator.s.data.fill_(math.log(2))
    losses = torch.tensor([3.0], requires_grad=True)
    with NoTransfer():
        weighted, extra = aggregator(losses)
        (weighted.sum() + extra["z"]).backward()
    assert weighted.tolist() == pytest.approx([6])
    assert extra["z"].item() == pytest.approx(-math.log(2))
    assert aggregator.s.grad.tolist() == pytest.approx([5]), "exp(s) L - 1"
    assert losses.grad.tolist() == aggregator.weights().tolist() == pytest.approx([2])


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_it_trains_as_adaptive_without_a_bound(optimizer):
    generator = torch.Generator().manual_seed(0)
    series = torch.rand(60, 3, generator=generator) * torch.tensor([0.01, 1.0, 30.0])
    weights = []
    for aggregator in (ImtlL(**OPTIONS), Adaptive(**OPTIONS, max_weighted_loss=0.0)):
        steps = optimizer(aggregator.param_groups(), lr=0.05)
        course = []
        for losses in series:
            steps.zero_grad()
            weighted, extra = aggregator(losses)
            (weighted.sum() + sum(extra.values())).backward()
            steps.step()
            course.append(aggregator.weights())
        weights.append(torch.stack(course))
    assert (weights[0][-1] - 1).abs().max() > 0.5
    torch.testing.assert_close(*weights)
