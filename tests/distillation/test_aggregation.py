"""Aggregators: golden numbers of the authors' code, and what must hold for any losses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from multas.distillation.aggregation.adaptive import Adaptive
from multas.distillation.aggregation.fixed import Equal, HandTuned, Single

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "adaptive"


def cases(pattern: str) -> list[str]:
    return sorted(path.stem for path in GOLDEN.glob(pattern))


def load(case: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"{case}.npz", allow_pickle=False) as file:
        return {k: torch.as_tensor(v) for k, v in file.items() if v.dtype.kind in "fi"}


def adaptive(k: int, bound: float = 0.0, dtype=torch.float64) -> Adaptive:
    names = [str(i) for i in range(k)]
    return Adaptive(names=names, hand_tuned=[1.0] * k, max_weighted_loss=bound).to(dtype)


def objective(aggregator: Adaptive, losses: Tensor) -> Tensor:
    weighted, extra = aggregator(losses)
    return weighted.sum() + sum(extra.values())


@pytest.mark.parametrize("case", cases("scaler_*"))
def test_one_evaluation_equals_the_authors_code(case):
    data = load(case)
    for j, alpha in enumerate(data["in_alpha"].tolist()):
        aggregator = adaptive(len(data["in_z"]))
        aggregator.z.data = data["in_z"].clone()
        losses = data["in_losses"].clone().requires_grad_()
        weighted, _ = aggregator(losses)
        f_d = alpha * objective(aggregator, losses)
        f_d.backward()
        torch.testing.assert_close(aggregator.weights(), data["out_v"], rtol=1e-12, atol=0)
        torch.testing.assert_close(weighted, data["out_scaled_losses"], rtol=1e-12, atol=0)
        torch.testing.assert_close(f_d, data["out_fd"][j], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(aggregator.z.grad, data["grad_z"][j], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(losses.grad, data["grad_losses"][j], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", cases("traj_*"))
@pytest.mark.parametrize("run", ["plain", "mom", "momwd"])
def test_z_moves_as_in_the_authors_optimiser(case, run):
    data = load(case)
    setting = ["plain", "mom", "momwd"].index(run)
    aggregator = adaptive(data["in_losses"].shape[1])
    optimizer = torch.optim.SGD(
        [aggregator.z],
        lr=float(data["in_lr"]),
        momentum=float(data["in_momentum"][setting]),
        weight_decay=float(data["in_weight_decay"][setting]),
    )
    trajectory, values = [aggregator.z.detach().clone()], []
    for losses in data["in_losses"]:
        optimizer.zero_grad()
        f_d = float(data["in_alpha"]) * objective(aggregator, losses)
        f_d.backward()
        optimizer.step()
        trajectory.append(aggregator.z.detach().clone())
        values.append(f_d.detach())
    torch.testing.assert_close(torch.stack(trajectory), data[f"out_z_{run}"], rtol=0, atol=1e-8)
    torch.testing.assert_close(torch.stack(values), data[f"out_fd_{run}"], rtol=1e-7, atol=1e-7)


positive = st.floats(1e-4, 1e4)


@given(st.lists(positive, min_size=1, max_size=6))
def test_z_gradient_is_equation_6(losses):
    aggregator = adaptive(len(losses))
    aggregator.z.data = torch.linspace(-2, 2, len(losses), dtype=torch.float64)
    values = torch.tensor(losses, dtype=torch.float64)
    objective(aggregator, values).backward()
    expected = 1 - torch.exp(-aggregator.z.detach()) * values
    torch.testing.assert_close(aggregator.z.grad, expected)


@settings(max_examples=4)
@given(st.lists(positive, min_size=10, max_size=10))
def test_the_weighted_loss_tends_to_one_when_losses_are_constant(losses):
    aggregator = adaptive(len(losses), bound=10.0)
    optimizer = torch.optim.SGD([aggregator.z], lr=0.1, momentum=0.5)
    values = torch.tensor(losses, dtype=torch.float64)
    for _ in range(600):
        optimizer.zero_grad()
        objective(aggregator, values).backward()
        optimizer.step()
    assert (aggregator.weights() * values).tolist() == pytest.approx([1] * 10, rel=1e-3)


@given(positive, st.floats(-3, 3))
def test_the_bound_changes_nothing_below_it(loss, z):
    bounded, free = adaptive(1, bound=10.0), adaptive(1)
    results = []
    for aggregator in (bounded, free):
        aggregator.z.data.fill_(z)
        values = torch.tensor([loss], dtype=torch.float64, requires_grad=True)
        objective(aggregator, values).backward()
        results.append((float(aggregator.z.grad), float(values.grad)))
    weighted = loss * np.exp(-z)
    if weighted <= 10:
        assert results[0] == pytest.approx(results[1])
    else:
        assert results[0][0] == pytest.approx(1 - 10)
        assert results[0][1] * loss == pytest.approx(10), "the student's share is bounded too"


def test_a_loss_that_vanishes_and_returns_throws_neither_z_nor_the_student():
    def run(bound: float) -> tuple[float, float]:
        aggregator = adaptive(1, bound=bound)
        optimizer = torch.optim.SGD([aggregator.z], lr=0.1, momentum=0.9)
        z, shares = [], []
        for step in range(400):
            loss = torch.tensor([0.0 if 100 <= step < 300 else 0.5], dtype=torch.float64)
            optimizer.zero_grad()
            weighted, _ = aggregator(loss)
            objective(aggregator, loss).backward()
            optimizer.step()
            z.append(float(aggregator.z.detach()))
            shares.append(float(weighted.detach()))
        return max(map(abs, z)), max(shares)

    assert run(bound=0.0)[0] > 1e6, "the paper's equation alone explodes"
    z, share = run(bound=10.0)
    assert z < 5
    assert share <= 10


def test_z_is_optimised_with_the_options_that_are_given():
    def group(**options):
        (found,) = Adaptive(names=["a"], hand_tuned=[1.0], **options).param_groups()
        return {name: value for name, value in found.items() if name != "params"}

    assert group() == {"weight_decay": 0.0}, "all others are the network's"
    own = {"weight_decay": 0.1, "momentum": 0.0, "lr": 0.5}
    assert group(**{f"z_{name}": value for name, value in own.items()}) == own


def test_fixed_weights():
    losses = torch.tensor([2.0, 3.0])
    options = {"names": ["a", "b"], "hand_tuned": [1000.0, 0.1]}
    assert HandTuned(**options)(losses)[0].tolist() == pytest.approx([2000, 0.3])
    assert Equal(**options)(losses)[0].tolist() == [2, 3]
    with pytest.raises(ValueError, match=r"takes one path, but .* 2: a, b"):
        Single(**options)
    assert Single(names=["a"], hand_tuned=[5.0])(losses[:1])[0].tolist() == [10]


@pytest.mark.parametrize("bound", [-1.0, 0.5, 1.0])
def test_a_bound_at_or_below_the_optimum_is_refused(bound):
    with pytest.raises(ValueError, match="MAX_WEIGHTED_LOSS"):
        adaptive(1, bound=bound)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=4))
def test_weights_that_start_at_rest_weigh_the_first_losses_to_1(losses):
    first = torch.tensor(losses, dtype=torch.float64)
    k = len(losses)
    aggregator = Adaptive(
        names=[str(i) for i in range(k)], hand_tuned=[1.0] * k, start="rest"
    ).double()  # fmt: skip
    with torch.no_grad():
        aggregator(first)  # no step of training
    assert not aggregator.z.any()
    torch.testing.assert_close(aggregator(first)[0], torch.ones(k, dtype=torch.float64))
    aggregator.zero_grad()
    objective(aggregator, first).backward()
    assert aggregator.z.grad.abs().max() < 1e-9
    # Only the first step puts z anywhere, also in a run that is resumed.
    again = Adaptive(names=aggregator.names, hand_tuned=[1.0] * k, start="rest").double()
    again.load_state_dict(aggregator.state_dict())
    torch.testing.assert_close(again(2 * first)[0], torch.full((k,), 2.0, dtype=torch.float64))


def test_a_path_that_has_no_loss_at_the_start_starts_at_zero():
    aggregator = Adaptive(names=["a", "b"], hand_tuned=[1.0, 1.0], start="rest")
    weighted, _ = aggregator(torch.tensor([0.0, 3.0]))
    torch.testing.assert_close(weighted, torch.tensor([0.0, 1.0]))
    assert aggregator.z[0] == 0 and "started" in aggregator.state_dict()
    assert "started" not in adaptive(2).state_dict()
