"""Multiple-gradient descent: golden direction, descent, length, scales, degenerate gradients."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multas.distillation.aggregation.mgda import MGDA
from multas.distillation.gradients.gramian import gram_of_rows
from multas.distillation.gradients.min_norm import LENGTHS, NORMALISATIONS

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "adaptive"


def mgda(count: int, normalisation: str = "l2", length: str = "auto", task: bool = False) -> MGDA:
    names = [str(i) for i in range(count)]
    return MGDA(
        names=names,
        hand_tuned=[1.0] * count,
        normalisation=normalisation,
        length=length,
        task_as_objective=task,
    )


def solve(rows, losses=None, normalisation="l2", length="auto", main=None, alpha=1.0):
    """The aggregator and v for path gradients (K, D), and with ``main`` for the task's too."""
    losses = torch.ones(len(rows), dtype=torch.float64) if losses is None else losses
    aggregator = mgda(len(rows), normalisation, length, task=main is not None)
    task = None
    if main is not None:
        task = torch.cat([rows @ main, (main @ main)[None]]), torch.tensor(1.0)
    return aggregator, aggregator.solve(rows @ rows.T, losses, alpha, task)


def random_rows(seed: int, count: int, size: int = 12, spread: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, size, generator=generator, dtype=torch.float64)
    scale = torch.rand(count, 1, generator=generator, dtype=torch.float64) * 2 - 1
    return rows * 10 ** (spread * scale)


@pytest.mark.parametrize("case", sorted(path.stem for path in GOLDEN.glob("moo_*.npz")))
def test_combined_direction_of_the_golden_network(case):
    with np.load(GOLDEN / f"{case}.npz", allow_pickle=False) as file:
        golden = {k: torch.from_numpy(np.asarray(v)) for k, v in file.items()}
    rows, losses = golden["grad_G_paths"], golden["out_path_losses"]
    _, v = solve(rows, losses, "none", "simplex")
    torch.testing.assert_close(v, golden["out_v_exact"], rtol=0, atol=1e-6)
    combined = golden["grad_main"] + golden["in_alpha"] * rows.T @ v
    torch.testing.assert_close(combined, golden["out_combined"], rtol=0, atol=1e-8)


counts, seeds = st.integers(1, 6), st.integers(0, 1000)


kinds = st.sampled_from(NORMALISATIONS)
# With v of the normalised problem on the raw losses a path may get worse.
descending = st.sampled_from(["auto", "mean", "simplex"])


@given(seeds, counts, kinds, descending, st.sampled_from([0.0, 3.0]))
def test_the_direction_harms_no_path_whatever_its_length(seed, count, kind, length, spread):
    rows = random_rows(seed, count, size=4, spread=spread)
    losses = rows.norm(dim=1) ** 0.5
    _, v = solve(rows, losses, kind, length)
    assert (v >= 0).all()
    direction = rows.T @ v
    # As angles, so that neither a short path nor a long one hides the other.
    descent = (rows @ direction) / rows.norm(dim=1)
    summands = float((v * rows.norm(dim=1)).max())
    assert descent.min() >= -1e-9 * float(direction.norm()) - 1e-14 * summands


@given(seeds, counts, kinds, st.sampled_from([0.0, 3.0]))
def test_lengths_are_those_of_the_documentation(seed, count, kind, spread):
    rows = random_rows(seed, count, size=40, spread=spread)
    losses, norms = rows.norm(dim=1) ** 0.5, rows.norm(dim=1)
    mean, simplex, raw = (solve(rows, losses, kind, length)[1] for length in LENGTHS[1:])
    assert float(mean @ norms) == pytest.approx(float(norms.mean()))
    assert float(simplex.sum()) == pytest.approx(1)
    assert float(raw.sum()) == pytest.approx(1)
    divisors = {"none": 1.0, "l2": norms, "loss": losses, "loss+": losses * norms}[kind]
    torch.testing.assert_close(simplex, raw / divisors / (raw / divisors).sum())
    # Two lengths of one direction.
    torch.testing.assert_close(mean / mean.sum(), simplex)
    assert float((rows.T @ mean).norm()) <= float(norms.mean()) * (1 + 1e-9)


@given(seeds, st.integers(1, 6), kinds)
def test_paths_that_agree_make_a_step_of_their_mean_length(seed, count, kind):
    lengths = random_rows(seed, count, size=1).abs() + 0.1
    rows = lengths * random_rows(seed, 1) / random_rows(seed, 1).norm()
    direction = rows.T @ solve(rows, normalisation=kind, length="mean")[1]
    assert float(direction.norm()) == pytest.approx(float(lengths.mean()))


@given(seeds, st.integers(2, 5), st.sampled_from([0.0, 3.0]))
def test_the_direction_is_optimal_for_unit_gradients(seed, count, spread):
    """Karush, Kuhn and Tucker: no unit gradient descends less than those that have a weight."""
    rows = random_rows(seed, count, spread=spread)
    norms = rows.norm(dim=1)
    v = solve(rows)[1]
    shares = v * norms / norms.mean()
    products = rows @ (rows.T @ v) / norms / norms.mean()
    assert float(shares.sum()) == pytest.approx(1)
    least = float(products.min())
    assert least == pytest.approx(float(shares @ products), abs=1e-9)
    torch.testing.assert_close(
        products[shares > 1e-6], products.min().expand((shares > 1e-6).sum())
    )


def test_a_short_gradient_and_a_long_one():
    rows = torch.tensor([[1e-3, 0.0], [0.0, 1.0]], dtype=torch.float64)
    expected = {
        ("l2", "mean"): ([0.5005 / 2 / 1e-3, 0.5005 / 2], 0.5005 / 2**0.5),
        ("l2", "simplex"): ([1000 / 1001, 1 / 1001], 2**0.5 / 1001),
        ("l2", "raw"): ([0.5, 0.5], (1e-6 + 1) ** 0.5 / 2),
        ("none", "simplex"): ([1 / (1 + 1e-6), 1e-6 / (1 + 1e-6)], 1e-3 / (1 + 1e-6) ** 0.5),
    }
    for (kind, length), (weights, size) in expected.items():
        v = solve(rows, normalisation=kind, length=length)[1]
        assert v.tolist() == pytest.approx(weights)
        assert float((rows.T @ v).norm()) == pytest.approx(size)
    for kind, length in (("l2", "mean"), ("loss", "mean"), ("loss+", "mean"), ("none", "simplex")):
        by_default = solve(rows, normalisation=kind)[1]
        assert torch.equal(by_default, solve(rows, normalisation=kind, length=length)[1])


def test_the_weights_of_the_normalised_problem_may_harm_a_path():
    rows = torch.tensor([[1.0, 0.0], [-8.0, 6.0]], dtype=torch.float64)
    for length, harms in (("mean", False), ("simplex", False), ("raw", True)):
        direction = rows.T @ solve(rows, length=length)[1]
        assert bool(rows[0] @ direction < 0) == harms


@given(seeds, st.integers(2, 5), st.floats(-4, 4))
def test_l2_makes_the_direction_independent_of_the_scale_of_a_loss(seed, count, exponent):
    rows = random_rows(seed, count)
    stretched = rows.clone()
    stretched[0] *= 10**exponent
    directions = []
    for matrix in (rows, stretched):
        direction = matrix.T @ solve(matrix)[1]
        directions.append(direction / direction.norm())
    torch.testing.assert_close(*directions, rtol=1e-6, atol=1e-8)


@given(seeds, st.integers(2, 5), st.floats(-3, 3), st.sampled_from(LENGTHS))
def test_a_common_scale_of_all_losses_changes_no_weight(seed, count, exponent, length):
    rows = random_rows(seed, count)
    for kind in NORMALISATIONS:
        losses = rows.norm(dim=1)
        _, plain = solve(rows, losses, kind, length)
        _, scaled = solve(rows * 10**exponent, losses * 10**exponent, kind, length)
        torch.testing.assert_close(plain, scaled, rtol=1e-6, atol=1e-9)


def test_without_normalisation_the_shortest_gradient_takes_all():
    rows = torch.eye(2, dtype=torch.float64) * torch.tensor([[1000.0], [0.1]])
    assert solve(rows, normalisation="none")[1][1] > 0.999
    shares = solve(rows)[1] * rows.norm(dim=1)
    assert float(shares[0]) == pytest.approx(float(shares[1]))


@pytest.mark.parametrize("length", LENGTHS)
def test_a_path_without_gradient_stops_no_other(length):
    rows = torch.eye(3, dtype=torch.float64)
    rows[1] = 0
    for kind in NORMALISATIONS:
        v = solve(rows, normalisation=kind, length=length)[1]
        assert v.tolist() == pytest.approx([0.5, 0, 0.5])
    assert solve(0 * rows, length=length)[1].tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("length", LENGTHS)
def test_opposing_paths_are_at_rest_and_equal_ones_share(length):
    row = random_rows(0, 1)
    half = torch.full((2,), 0.5, dtype=torch.float64)
    for rows in (torch.cat([row, -row]), torch.cat([row, row])):
        torch.testing.assert_close(solve(rows, length=length)[1], half)
    assert solve(row, length=length)[1].tolist() == pytest.approx([1])


@given(seeds, st.floats(0.1, 10))
def test_the_task_as_objective_descends_too_and_alpha_weighs_the_paths(seed, alpha):
    rows = random_rows(seed, 3)
    main = random_rows(seed + 5000, 1)[0]
    aggregator, v = solve(rows, normalisation="none", main=main, alpha=alpha)
    assert aggregator.objectives == ["0", "1", "2", "task"] and len(v) == 4
    everything = torch.cat([alpha * rows, main[None]])
    direction = everything.T @ v
    assert (everything @ direction).min() >= -1e-9
    assert (
        float(direction @ direction) <= float((everything @ everything.T).diagonal().min()) + 1e-9
    )
    assert len(aggregator.weights()) == 3


def test_conflicts_with_the_task_are_counted():
    aggregator = mgda(2)
    gram = torch.eye(2, dtype=torch.float64)
    for products in ([-1.0, 1.0, 1.0], [-1.0, -1.0, 1.0]):
        aggregator.solve(
            gram, torch.ones(2).double(), 1.0, (torch.tensor(products), torch.tensor(1.0))
        )
    assert aggregator.monitors()["conflict"].tolist() == [1.0, 0.5]


def test_gram_of_rows_with_gaps_equals_that_of_whole_vectors():
    shapes = [(3, 5), (70_000,), (2,), (4, 4)]
    generator = torch.Generator().manual_seed(0)
    rows = [[torch.randn(s, generator=generator) for s in shapes] for _ in range(4)]
    for row, column in ((0, 0), (1, 0), (1, 3), (2, 1), (3, 0)):
        rows[row][column] = None
    whole = torch.stack([
        torch.cat([
            torch.zeros(s).flatten() if g is None else g.flatten()
            for g, s in zip(row, shapes, strict=True)
        ])
        for row in rows
    ]).double()  # fmt: skip
    gram, overlap = gram_of_rows(rows)
    torch.testing.assert_close(gram, whole @ whole.T, rtol=1e-12, atol=1e-9)
    assert overlap.all(), "every two of these rows have a tensor in common"
    _, overlap = gram_of_rows([[torch.ones(2), None], [None, torch.ones(3)]])
    assert overlap.tolist() == [[True, False], [False, True]]
    gram, overlap = gram_of_rows([[None], [None]])
    assert not gram.any() and not overlap.any()
