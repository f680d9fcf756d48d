"""Attention transfer: golden numbers and mathematics."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import golden_cases
from golden_cases import assert_gradient, assert_value, double, gradient
from multas.distillation.functional.attention import attention_map, attention_transfer

load = partial(golden_cases.load, "adaptive")
cases = partial(golden_cases.cases, "adaptive")


@pytest.mark.parametrize("case", cases("at_layer_*"))
def test_attention_transfer_golden(case):
    golden = load(case)
    single = golden["in_fs"].dtype == torch.float32
    student, teacher, p = golden["in_fs"].requires_grad_(), golden["in_ft"], int(golden["in_p"])
    loss = attention_transfer(student, teacher, p=p, reduction="mean")
    assert_value(loss, golden["out_loss"], 2e-5 if single else 1e-10)
    assert_gradient(gradient(loss, student), golden["grad_fs"], 2e-5 if single else 1e-8)
    for name, features in (("out_map_s", student), ("out_map_t", teacher)):
        expected = golden[name].to(features.dtype)
        actual = attention_map(features, p=p)
        torch.testing.assert_close(actual, expected, rtol=2e-5 if single else 1e-10, atol=0)
    # torchdistill clamps the norm at 1e-12 instead, which differs for maps of such a norm only.
    variants = {"tdcode": "mean", "tdpaper": "norm"}
    for suffix, reduction in variants.items():
        if f"out_loss_{suffix}" in golden and case != "at_layer_eps":
            other = attention_transfer(student, teacher, p=p, reduction=reduction, eps=1e-12)
            assert_value(other, golden[f"out_loss_{suffix}"], 2e-5 if single else 1e-10)
            expected = golden[f"grad_fs_{suffix}"]
            assert_gradient(gradient(other, student), expected, 2e-5 if single else 1e-8)


@pytest.mark.parametrize("case", cases("at_sum4*"))
def test_attention_transfer_over_four_layers_golden(case):
    golden = load(case)
    students = [golden[f"in_fs{i}"].requires_grad_() for i in range(4)]
    teachers = [golden[f"in_ft{i}"] for i in range(4)]
    pairs = list(zip(students, teachers, strict=True))
    losses = torch.stack([attention_transfer(s, t, reduction="mean") for s, t in pairs])
    torch.testing.assert_close(losses, golden["out_layer_losses"], rtol=1e-10, atol=1e-18)
    assert_value(losses.sum(), golden["out_loss"])
    for i, student in enumerate(students):
        assert_gradient(gradient(losses.sum(), student), golden[f"grad_fs{i}"])
    for suffix, reduction in (("tdcode", "mean"), ("tdpaper", "norm")):
        total = sum(attention_transfer(s, t, reduction=reduction, eps=1e-12) for s, t in pairs)
        assert_value(total, golden[f"out_loss_{suffix}"])


def test_sum_of_the_text_is_positions_times_mean_of_the_code():
    student, teacher = double(3, 4, 5, 6), double(3, 8, 5, 6)
    paper = attention_transfer(student, teacher)
    code = attention_transfer(student, teacher, reduction="mean")
    torch.testing.assert_close(paper, 30 * code)


@given(
    scale=st.floats(0.1, 1e3),
    reduction=st.sampled_from(["sum", "mean", "norm"]),
    seed=st.integers(0, 999),
)
def test_attention_transfer_ignores_the_scale_of_features(scale, reduction, seed):
    torch.manual_seed(seed)
    student, teacher = double(2, 3, 4, 4), double(2, 5, 4, 4)
    plain = attention_transfer(student, teacher, reduction=reduction, eps=1e-12)
    scaled = attention_transfer(scale * student, teacher, reduction=reduction, eps=1e-12)
    torch.testing.assert_close(scaled, plain, rtol=1e-6, atol=0)


@pytest.mark.parametrize("reduction", ["sum", "mean", "norm"])
def test_dead_maps_give_finite_attention_gradients(reduction):
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    for teacher in (torch.zeros(2, 5, 4, 4), torch.rand(2, 5, 4, 4)):
        loss = attention_transfer(student, teacher, reduction=reduction)
        assert gradient(loss, student).eq(0).all() and loss.isfinite()


def test_attention_refuses_other_sizes_and_reductions():
    with pytest.raises(ValueError, match="stride"):
        attention_transfer(torch.ones(1, 2, 4, 4), torch.ones(1, 2, 2, 2))
    with pytest.raises(ValueError, match="sum, mean, norm"):
        attention_transfer(torch.ones(1, 2, 4, 4), torch.ones(1, 2, 4, 4), reduction="max")
