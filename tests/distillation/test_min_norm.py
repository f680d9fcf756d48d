"""The minimum-norm solver against golden optima, exact rational arithmetic and its certificates."""

import itertools
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from multas.distillation.functional.attention import attention_transfer
from multas.distillation.functional.logits import soft_target
from multas.distillation.gradients.min_norm import (
    gradient_scales,
    mgda_weights,
    min_norm_weights,
)

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "adaptive"
CASES = sorted(path.stem for path in GOLDEN.glob("mn_*.npz"))
MULTIOBJECTIVE = sorted(path.stem for path in GOLDEN.glob("moo_*.npz"))


def solve(gram, **options):
    return min_norm_weights(torch.from_numpy(gram), **options).numpy()


def load(name):
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def rational_gram(rows):
    rows = [[Fraction(float(x)) for x in row] for row in rows]
    return [[sum(a * b for a, b in zip(p, q, strict=True)) for q in rows] for p in rows]


def linear_solve(matrix, right):
    """Gauss-Jordan over the rationals; None for a singular matrix."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i in range(len(rows)):
        pivot = next((r for r in range(i, len(rows)) if rows[r][i] != 0), None)
        if pivot is None:
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(len(rows)):
            if r != i and rows[r][i] != 0:
                ratio = rows[r][i] / rows[i][i]
                rows[r] = [x - ratio * y for x, y in zip(rows[r], rows[i], strict=True)]
    return [row[-1] / row[i] for i, row in enumerate(rows)]


def exact_minimum(gram):
    """Minimum of v^T M v on the simplex: the best feasible stationary point of all supports."""
    best = None
    for size in range(1, len(gram) + 1):
        for support in itertools.combinations(range(len(gram)), size):
            system = [[*(gram[i][j] for j in support), Fraction(-1)] for i in support]
            system.append([Fraction(1)] * size + [Fraction(0)])
            solution = linear_solve(system, [Fraction(0)] * size + [Fraction(1)])
            feasible = solution is not None and min(solution[:-1]) >= 0
            if feasible and (best is None or solution[-1] < best):
                best = solution[-1]
    return best


def objective(gram, weights):
    """v^T M v in rationals, with v divided by its sum."""
    weights = [Fraction(float(w)) for w in weights]
    terms = zip(weights, gram, strict=True)
    value = sum(v * sum(w * m for w, m in zip(weights, row, strict=True)) for v, row in terms)
    return value / sum(weights) ** 2


def relative_excess(rows, weights, minimum=None):
    gram = rational_gram(rows)
    minimum = exact_minimum(gram) if minimum is None else Fraction(minimum)
    scale = minimum if minimum > 0 else Fraction(float((rows**2).sum(1).mean()))
    return float((objective(gram, weights) - minimum) / scale)


def duality_gap(gram, weights):
    """v^T M v - min_i (M v)_i, which is 0 exactly at an optimum."""
    product = gram @ weights
    return weights @ product - product.min()


def on_simplex(weights):
    return bool((weights >= 0).all()) and abs(float(weights.sum()) - 1.0) < 1e-12


@pytest.mark.parametrize("case", CASES)
def test_golden_optimum_is_reached(case):
    golden = load(case)
    rows, minimum = golden["in_G"], float(golden["out_norm2_exact"])
    weights = solve(rows @ rows.T)
    assert on_simplex(weights)
    # The stored optimum is rounded to float64, which alone accounts for 1e-16.
    assert abs(relative_excess(rows, weights, minimum)) < 1e-14
    well_conditioned = not any(word in case for word in ("near_parallel", "scales"))
    if golden["out_v_unique"] and well_conditioned:
        np.testing.assert_allclose(weights, golden["out_v_exact"], atol=1e-8)
        assert ((weights > 1e-8) == golden["out_support"]).all()
    gram = rows @ rows.T
    np.testing.assert_allclose(gram, golden["in_gram"], rtol=1e-12, atol=1e-12 * gram.max())
    if well_conditioned:
        products = golden["out_gram_v_exact"]
        np.testing.assert_allclose(gram @ weights, products, rtol=1e-7, atol=1e-8 * gram.max())
    error = np.linalg.norm(rows.T @ weights - golden["out_u_exact"])
    # |u - u*|^2 is at most the excess, so u is known to the square root of machine precision.
    assert error <= 1e-7 * np.sqrt(minimum) + 1e-13 * np.linalg.norm(rows, axis=1).max()


@pytest.mark.parametrize("case", MULTIOBJECTIVE)
def test_tiny_network_gradients_weights_and_direction(case):
    golden = {k: torch.from_numpy(np.asarray(v)) for k, v in load(case).items()}
    names = ("in_W1", "in_W2", "in_Wf", "in_bf")
    w1, w2, wf, bf = parameters = [golden[name].requires_grad_() for name in names]
    h1 = F.conv2d(golden["in_x"], w1, padding=1).relu()
    h2 = F.conv2d(h1, w2, stride=2, padding=1).relu()
    logits = h2.mean((2, 3)) @ wf.T + bf
    first, second = (
        attention_transfer(h, golden[f"in_ft{i}"], reduction="mean") for i, h in ((1, h1), (2, h2))
    )
    soft = soft_target(logits, golden["in_zt"])
    losses = [first, second, soft] if golden["in_layerwise"] else [first + second, soft]

    def flat(loss):
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        filled = [
            torch.zeros_like(p) if g is None else g
            for p, g in zip(parameters, gradients, strict=True)
        ]
        return torch.cat([g.flatten() for g in filled])

    rows = torch.stack([flat(loss) for loss in losses])
    task = F.cross_entropy(logits, golden["in_labels"].long())
    main = flat(task)
    weights = min_norm_weights(rows @ rows.T)
    for name, found in (("h1", h1), ("h2", h2), ("zs", logits), ("loss_cls", task)):
        torch.testing.assert_close(found, golden[f"out_{name}"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(torch.stack(losses), golden["out_path_losses"], rtol=1e-9, atol=0)
    for row, expected in zip((*rows, main), (*golden["grad_G_paths"], golden["grad_main"]),
                             strict=True):  # fmt: skip
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-7 * row.abs().max())
    torch.testing.assert_close(weights, golden["out_v_exact"], rtol=0, atol=1e-6)
    direction = rows.T @ weights
    torch.testing.assert_close(direction @ direction, golden["out_norm2_exact"], rtol=1e-9, atol=0)
    torch.testing.assert_close(rows @ direction, golden["out_path_dot_u"], rtol=1e-6, atol=1e-12)
    combined = main + golden["in_alpha"] * direction
    torch.testing.assert_close(combined, golden["out_combined"], rtol=0, atol=1e-8)


def gradients(max_paths=5, exponent=6):
    """Matrices of small integers, often degenerate, with rows scaled by powers of ten."""

    def build(values):
        entries, exponents = values
        return np.array(entries, dtype=np.float64) * 10.0 ** np.array(exponents)[:, None]

    def matrices(shape):
        paths, length = shape
        row = st.lists(st.integers(-3, 3), min_size=length, max_size=length)
        return st.tuples(
            st.lists(row, min_size=paths, max_size=paths),
            st.lists(st.integers(-exponent, exponent), min_size=paths, max_size=paths),
        ).map(build)

    return st.tuples(st.integers(1, max_paths), st.integers(1, 6)).flatmap(matrices)


@given(rows=gradients())
def test_optimum_of_rational_arithmetic_is_reached_at_all_scales(rows):
    weights = solve(rows @ rows.T)
    assert on_simplex(weights)
    gram = rational_gram(rows)
    minimum = exact_minimum(gram)
    # The resolution of float64 cosines: e times the squared weighted lengths.
    terms = float(sum(w * np.linalg.norm(row) for w, row in zip(weights, rows, strict=True))) ** 2
    excess = float(objective(gram, weights) - minimum)
    assert excess <= 1e-10 * float(minimum) + 1e-13 * terms


@pytest.mark.parametrize("paths", [2, 3, 5])
def test_random_scales_have_a_tiny_relative_excess(paths, rng=7):
    generator = np.random.default_rng(rng + paths)
    for _ in range(8):
        rows = generator.normal(size=(paths, 6)) * 10.0 ** generator.uniform(-6, 6, (paths, 1))
        assert relative_excess(rows, solve(rows @ rows.T)) < 1e-10


def test_nearly_opposing_gradients_are_at_the_limit_of_a_gram_matrix():
    generator = np.random.default_rng(0)
    half = generator.normal(size=(2, 8))
    rows = np.concatenate([half, -half + 1e-7 * generator.normal(size=(2, 8))])
    assert relative_excess(rows, solve(rows @ rows.T)) < 1.0


@given(rows=gradients(max_paths=8, exponent=2))
def test_direction_descends_for_every_path_or_is_zero(rows):
    gram = rows @ rows.T
    weights = solve(gram)
    descent = rows @ (rows.T @ weights)
    lengths = np.linalg.norm(rows, axis=1)
    assert (descent >= -1e-12 * lengths.max() * (weights @ lengths)).all()
    assert duality_gap(gram, weights) <= 1e-12 * max(gram.max(), 1e-300)


@given(rows=gradients(max_paths=6, exponent=1), seed=st.integers(0, 99))
def test_order_of_paths_and_common_scale_do_not_matter(rows, seed):
    order = np.random.default_rng(seed).permutation(len(rows))
    tolerance = 1e-7 * np.linalg.norm(rows, axis=1).max()
    direction = rows.T @ solve(rows @ rows.T)
    shuffled = rows[order]
    permuted = shuffled.T @ solve(shuffled @ shuffled.T)
    np.testing.assert_allclose(permuted, direction, atol=tolerance)
    scaled = rows.T @ solve(rows @ rows.T * 1e8)
    np.testing.assert_allclose(scaled, direction, atol=tolerance)


def test_single_duplicate_opposing_and_zero_gradients():
    np.testing.assert_allclose(solve(np.array([[4.0]])), [1.0])
    np.testing.assert_allclose(solve(np.ones((2, 2))), [0.5, 0.5])
    np.testing.assert_allclose(solve(np.array([[1.0, -2.0], [-2.0, 4.0]])), [2 / 3, 1 / 3])
    same = solve(np.ones((64, 64)))
    assert on_simplex(same)
    with_zero = np.diag([1.0, 0.0, 4.0])
    np.testing.assert_allclose(solve(with_zero), [0.0, 1.0, 0.0])
    np.testing.assert_allclose(solve(with_zero, skip_zero=True), [0.8, 0.0, 0.2])
    np.testing.assert_allclose(solve(np.zeros((4, 4)), skip_zero=True), [0.25] * 4)


@pytest.mark.parametrize("noise", [1.0, 1e-5, 0.0])
def test_sixty_four_paths_in_nearly_opposing_pairs_are_solved(noise):
    generator = np.random.default_rng(5)
    half = generator.normal(size=(32, 200))
    rows = np.concatenate([half, -half + noise * generator.normal(size=(32, 200))])
    gram = rows @ rows.T
    weights = solve(gram)
    assert on_simplex(weights)
    assert duality_gap(gram, weights) <= 1e-13 * gram.max()


def test_non_finite_gradients_are_named():
    rows = np.random.default_rng(0).normal(size=(4, 9))
    rows[1, 3] = np.nan
    rows[2, 0] = np.inf
    expected = pytest.raises(FloatingPointError, match=r"rows \[1, 2\]")
    with expected, np.errstate(invalid="ignore"):
        solve(rows @ rows.T)


@pytest.mark.parametrize("gram", [np.zeros((0, 0)), np.ones((2, 3)), np.ones(3), -np.eye(2)])
def test_what_is_no_gram_matrix_is_refused(gram):
    with pytest.raises(ValueError, match="Gram"):
        solve(gram)


def test_tensor_in_gives_float64_tensor_out():
    weights = min_norm_weights(torch.eye(3, dtype=torch.float32, requires_grad=True))
    assert weights.dtype == torch.float64 and not weights.requires_grad
    torch.testing.assert_close(weights, torch.full((3,), 1 / 3, dtype=torch.float64))


@given(rows=gradients(exponent=3), kind=st.sampled_from(["none", "l2", "loss", "loss+"]))
def test_normalised_problem_maps_back_to_a_common_descent_direction(rows, kind):
    assume((rows != 0).any())
    rows, losses = torch.from_numpy(rows), torch.from_numpy(np.abs(rows).sum(axis=1))
    gram = rows @ rows.T
    scales = gradient_scales(gram, losses, kind)
    weights = mgda_weights(gram, losses, kind, "simplex")
    normalised = rows / scales[:, None]
    solved = min_norm_weights(gram / scales[:, None] / scales, skip_zero=True)
    direction = normalised.T @ solved
    torch.testing.assert_close(
        rows.T @ weights, direction / (solved / scales).sum(), rtol=1e-9, atol=1e-12
    )
    descent = normalised @ direction
    assert (descent >= -1e-12 * normalised.norm(dim=1).max() ** 2).all()
    assert on_simplex(weights)


def test_l2_normalisation_frees_the_solution_from_the_scale_of_a_loss():
    rows = torch.randn(3, 20, dtype=torch.float64)
    stretched = rows * torch.tensor([[1e3], [1.0], [0.1]], dtype=torch.float64)
    solutions = []
    for matrix in (rows, stretched):
        gram = matrix @ matrix.T
        scales = gradient_scales(gram, torch.ones(3), "l2")
        solutions.append(min_norm_weights(gram / scales[:, None] / scales))
    torch.testing.assert_close(*solutions)
    plain = min_norm_weights(stretched @ stretched.T)
    assert plain.argmax() == 2 and plain[2] > 0.9


def test_bad_normalisations_and_lengths_are_refused():
    with pytest.raises(ValueError, match="LENGTH is 'sum'; choose from auto, mean, simplex, raw"):
        mgda_weights(torch.eye(2).double(), torch.ones(2), "l2", "sum")
    with pytest.raises(ValueError, match="choose from none, l2, loss, loss\\+"):
        gradient_scales(torch.eye(2), torch.ones(2), "l1")
    with pytest.raises(ValueError, match="use 'l2'"):
        gradient_scales(torch.eye(2), -torch.ones(2), "loss+")


@pytest.mark.parametrize("paths", [2, 5, 10, 16])
def test_a_solve_is_too_short_to_be_felt(paths):
    rows = np.random.default_rng(0).normal(size=(paths, 50)) + 0.3
    gram = rows @ rows.T

    def timed():
        start = time.perf_counter()
        solve(gram)
        return time.perf_counter() - start

    # Measured 0.01 to 0.1 ms; iterative solvers take 1 to 3 ms. The bound is for a busy machine.
    assert min(timed() for _ in range(50)) < 0.5e-3
