"""Aggregators that compare paths with the task: ratios of lengths, gates, and the trade-off."""

import math

import pytest
import torch
from detectron2.config import get_cfg
from hypothesis import given
from hypothesis import strategies as st

from multas.config import add_multas_config
from multas.distillation.aggregation.build import build_aggregator
from multas.distillation.aggregation.dto import DTO
from multas.distillation.aggregation.gradient_ratio import GradientRatio
from multas.distillation.aggregation.gradient_similarity import GradientSimilarity

counts, seeds, exponents = st.integers(1, 5), st.integers(0, 999), st.floats(-4, 4)


def make(kind, count: int, hand_tuned=None, **options):
    names = [str(i) for i in range(count)]
    return kind(names=names, hand_tuned=hand_tuned or [1.0] * count, **options)


def solve(aggregator, rows, task, losses=None, task_loss=1.0, alpha=1.0) -> torch.Tensor:
    """v for path gradients (K, D) and the task's gradient (D,), as a step asks for it."""
    losses = torch.ones(len(rows), dtype=torch.float64) if losses is None else losses
    products = torch.cat([rows @ task, (task @ task)[None]])
    known = products, torch.tensor(task_loss, dtype=torch.float64)
    return aggregator.solve(rows @ rows.T, losses, alpha, known)


def random_rows(seed: int, count: int, size: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Path gradients and the task's, of lengths over four orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count + 1, size, generator=generator, dtype=torch.float64)
    rows *= 10 ** (4 * torch.rand(count + 1, 1, generator=generator, dtype=torch.float64) - 2)
    return rows[:-1], rows[-1]


@given(seeds, counts, st.floats(0.01, 10))
def test_without_a_mean_each_path_has_its_share_of_the_tasks_length(seed, count, ratio):
    rows, task = random_rows(seed, count)
    v = solve(make(GradientRatio, count, ratio=ratio, momentum=0.0), rows, task)
    lengths = v * rows.norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, ratio / count) * task.norm())
    assert (rows.T @ v).norm() <= ratio * task.norm() * (1 + 1e-9)


def test_the_ratio_is_one_of_running_means():
    aggregator = make(GradientRatio, 1, momentum=0.5)
    task = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for length, task_length in ((1.0, 2.0), (3.0, 2.0), (5.0, 8.0)):
        v = solve(aggregator, length * task[None], task_length * task)
    expected = (0.25 * 2 + 0.5 * 2 + 8) / (0.25 * 1 + 0.5 * 3 + 5)
    assert v.tolist() == pytest.approx([expected])


@given(seeds, counts, exponents)
def test_units_of_a_loss_change_nothing_of_what_its_path_pulls(seed, count, exponent):
    rows, task = random_rows(seed, count)
    plain, scaled = (make(GradientRatio, count) for _ in range(2))
    for step in range(3):
        v = solve(plain, rows * (step + 1), task)
        w = solve(scaled, 10**exponent * rows * (step + 1), task)
    torch.testing.assert_close(w * 10**exponent, v)


def test_steps_without_task_losses_are_not_counted_and_the_first_ones_are_not_distilled():
    aggregator = make(GradientRatio, 2)
    rows, task = random_rows(0, 2)
    nothing = torch.zeros_like(task)
    assert solve(aggregator, rows, nothing).tolist() == [0, 0]
    v = solve(aggregator, rows, task)
    assert torch.equal(solve(aggregator, 7 * rows, nothing), v)


@pytest.mark.parametrize("kind", [GradientRatio, GradientSimilarity, DTO])
def test_paths_and_tasks_without_gradient_are_survived(kind):
    rows, task = random_rows(1, 2)
    for own, other in ((0 * rows, task), (rows * torch.tensor([[0.0], [1.0]]), task), (rows, 0)):
        v = solve(make(kind, 2), own, other * task, losses=own.norm(dim=1))
        assert v.isfinite().all() and (v >= 0).all()


def test_the_running_means_go_through_a_checkpoint():
    first, second = (make(GradientRatio, 2) for _ in range(2))
    solve(first, *random_rows(2, 2))
    second.load_state_dict(first.state_dict())
    assert torch.equal(*(solve(a, *random_rows(3, 2)) for a in (first, second)))


@given(seeds, counts, st.booleans())
def test_gated_paths_never_slow_the_task_down(seed, count, weighted):
    rows, task = random_rows(seed, count)
    v = solve(make(GradientSimilarity, count, weighted=weighted), rows, task)
    cosines = torch.cosine_similarity(rows, task[None])
    torch.testing.assert_close(v, cosines.clamp(min=0) if weighted else (cosines > 0).double())
    assert (task + rows.T @ v) @ task >= task @ task * (1 - 1e-9)


def test_a_gate_multiplies_the_hand_tuned_weight():
    task = torch.tensor([2.0, 0.0], dtype=torch.float64)
    rows = torch.tensor([[3.0, 4.0], [-1.0, 5.0]], dtype=torch.float64)
    own = [10.0, 10.0]
    assert solve(make(GradientSimilarity, 2, own), rows, task).tolist() == pytest.approx([6, 0])
    unweighted = make(GradientSimilarity, 2, own, weighted=False)
    assert solve(unweighted, rows, task).tolist() == [10, 0]
    assert solve(unweighted, rows, 0 * task).tolist() == [10, 10], "nothing to agree with"


def trade_off(seed, count, length="task", alpha=1.0, scale=1.0):
    """Gradients of distillation and task, both losses, and the weights of all objectives."""
    rows, task = random_rows(seed, count)
    losses = rows.norm(dim=1) ** 0.5
    hand_tuned = [scale * (1.0 + i) for i in range(count)]
    aggregator = make(DTO, count, hand_tuned, length=length)
    v = solve(aggregator, rows, task, losses, task_loss=0.3, alpha=alpha)
    own = torch.tensor(hand_tuned, dtype=torch.float64)
    return rows.T @ own, task, own @ losses, 0.3, v, rows


@given(seeds, counts, st.sampled_from(["task", "log"]))
def test_the_direction_descends_on_task_and_distillation(seed, count, length):
    distilled, task, loss, task_loss, v, rows = trade_off(seed, count, length)
    direction = rows.T @ v[:-1] + v[-1] * task
    # What rounding leaves of two long vectors that cancel each other.
    slack = 1e-12 * float(v[-1] * task.norm() + (v[:-1] * rows.norm(dim=1)).sum())
    descents = [float(x @ direction / x.norm()) for x in (distilled, task)]
    assert min(descents) >= -slack
    if (v > 0).all():  # neither is the shortest by itself: both losses fall by the same fraction
        relative = float(task.norm() * loss / distilled.norm() / task_loss)
        assert descents[0] == pytest.approx(descents[1] * relative, rel=1e-6, abs=slack)


@given(seeds, counts)
def test_in_logarithms_it_is_the_min_norm_point_of_two(seed, count):
    distilled, task, loss, task_loss, v, rows = trade_off(seed, count, "log")
    direction = rows.T @ v[:-1] + v[-1] * task
    a, b = distilled / loss, task / task_loss
    for share in torch.linspace(0, 1, 21, dtype=torch.float64):
        assert direction.norm() <= (share * a + (1 - share) * b).norm() * (1 + 1e-9)


@given(seeds, counts)
def test_by_default_it_is_never_longer_than_the_tasks_gradient(seed, count):
    distilled, task, _, _, v, rows = trade_off(seed, count)
    direction = rows.T @ v[:-1] + v[-1] * task
    assert direction.norm() <= task.norm() * (1 + 1e-9) and v[-1] <= 1 + 1e-9
    lengths = v[0] * distilled.norm() + v[-1] * task.norm()  # the first hand-tuned weight is 1
    assert float(lengths) == pytest.approx(float(task.norm()))


@given(seeds, counts, exponents)
def test_neither_alpha_nor_the_size_of_all_weights_matters(seed, count, exponent):
    *_, v, _ = trade_off(seed, count)
    *_, w, _ = trade_off(seed, count, alpha=10**exponent, scale=2.0)
    torch.testing.assert_close(w[:-1] * 10**exponent, v[:-1])
    torch.testing.assert_close(w[-1], v[-1])


def test_where_nothing_is_distilled_or_learned_the_other_is_as_it_was():
    rows, task = random_rows(4, 2)
    aggregator = make(DTO, 2, [2.0, 3.0])
    losses = torch.ones(2, dtype=torch.float64)
    assert solve(aggregator, rows, task, losses, alpha=0.0)[-1] == 1
    assert solve(aggregator, rows, 0 * task, losses, task_loss=0.0).tolist() == [2, 3, 0]
    assert math.isclose(float(aggregator.weights()[1]), 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"NAME": "gradient_ratio", "RATIO": 0.0}, "RATIO is 0.0"),
        ({"NAME": "gradient_ratio", "MOMENTUM": 1.0}, "MOMENTUM is 1.0"),
        ({"NAME": "dto", "LENGTH": "unit"}, "LENGTH is 'unit'; choose from task, log"),
        ({"NAME": "dto", "TASK_AS_OBJECTIVE": True}, "unknown key 'TASK_AS_OBJECTIVE'"),
    ],
)
def test_senseless_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(options)


def test_a_student_without_labels_cannot_be_compared_with_its_task():
    for name in ("gradient_ratio", "gradient_similarity", "dto"):
        with pytest.raises(ValueError, match="HARD_LABELS False leaves out"):
            build({"NAME": name}, hard_labels=False)


def build(options, hard_labels=True):
    cfg = get_cfg()
    add_multas_config(cfg)
    cfg.MODEL.DISTILLATION.HARD_LABELS = hard_labels
    for key, value in options.items():
        cfg.MODEL.DISTILLATION.AGGREGATION[key] = value
    return build_aggregator(cfg, ["a", "b"], [1.0, 1.0])


def test_a_negative_loss_has_no_logarithm():
    rows, task = random_rows(5, 2)
    losses = torch.tensor([1.0, -2.0], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"takes the logarithm of losses, but they are \[-1.0, 1"):
        solve(make(DTO, 2), rows, task, losses)


def test_all_hand_tuned_weights_zero_are_no_distillation():
    with pytest.raises(ValueError, match="WEIGHT of one path at least"):
        make(DTO, 2, [0.0, 0.0])
