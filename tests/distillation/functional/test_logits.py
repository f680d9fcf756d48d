"""Soft target and l2-logits: golden numbers and mathematics."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import golden_cases
from golden_cases import assert_gradient, assert_value, double, gradient
from multas.distillation.functional.logits import flatten_logits, l2_logits, soft_target

load = partial(golden_cases.load, "adaptive")
cases = partial(golden_cases.cases, "adaptive")


@pytest.mark.parametrize("case", cases("st_cls_*"))
def test_soft_target_golden(case):
    golden = load(case)
    student, teacher = golden["in_zs"].requires_grad_(), golden["in_zt"]
    single = student.dtype == torch.float32
    for i, temperature in enumerate(golden["in_T"].tolist()):
        loss = soft_target(student, teacher, temperature=temperature)
        assert_value(loss, golden["out_loss"][i], 1e-5 if single else 1e-10)
        assert_gradient(gradient(loss, student), golden["grad_zs"][i], 1e-5 if single else 1e-8)
        plain = soft_target(student, teacher, temperature=temperature, scale_by_t2=False)
        assert_value(plain, golden["out_loss_kl_noT2"][i], 1e-5 if single else 1e-10)


def test_soft_target_on_segmentation_golden():
    golden = load("st_seg_flat")
    student, teacher = golden["in_zs"].requires_grad_(), golden["in_zt"]
    loss_of = partial(soft_target, temperature=float(golden["in_T"]))
    loss = loss_of(student, teacher)
    assert torch.equal(flatten_logits(student), golden["out_flat_zs"])
    assert_value(loss, golden["out_loss"])
    assert_gradient(gradient(loss, student), golden["grad_zs"])
    assert_value(loss * student[0, 0].numel(), golden["out_loss_unflattened"])
    per_image = loss_of(student.flatten(1), teacher.flatten(1))
    assert_value(per_image, golden["out_loss_flat_per_image"])


@pytest.mark.parametrize("case", cases("l2logits_*"))
def test_l2_logits_golden(case):
    golden = load(case)
    student = golden["in_zs"].requires_grad_()
    loss = l2_logits(student, golden["in_zt"])
    assert_value(loss, golden["out_loss"], 1e-12)
    assert_gradient(gradient(loss, student), golden["grad_zs"], 1e-12)
    total = l2_logits(student, golden["in_zt"], reduction="sum")
    assert_value(total, golden["out_loss"] * student.shape[1], 1e-12)


def test_l2_logits_of_pixels_equals_that_of_flattened_pixels():
    student, teacher = double(2, 3, 4, 5), double(2, 3, 4, 5)
    for reduction in ("mean", "sum"):
        torch.testing.assert_close(
            l2_logits(student, teacher, reduction=reduction),
            l2_logits(flatten_logits(student), flatten_logits(teacher), reduction=reduction),
        )


@given(shift=st.floats(-1e3, 1e3), temperature=st.floats(0.5, 20.0))
def test_soft_target_is_a_divergence(shift, temperature):
    student, teacher = double(4, 6), double(4, 6)
    loss = soft_target(student, teacher, temperature=temperature)
    assert loss > 0
    moved = soft_target(student + shift, teacher, temperature=temperature)
    torch.testing.assert_close(moved, loss, rtol=1e-6, atol=1e-9)
    assert soft_target(teacher, teacher, temperature=temperature).abs() < 1e-12


@pytest.mark.parametrize("loss", [soft_target, l2_logits])
def test_logit_losses_refuse_other_shapes_and_survive_no_sample(loss):
    with pytest.raises(ValueError, match="same classes"):
        loss(torch.ones(2, 3), torch.ones(2, 4))
    empty = torch.ones(0, 3, requires_grad=True)
    value = loss(empty, torch.ones(0, 3))
    value.backward()
    assert value == 0
