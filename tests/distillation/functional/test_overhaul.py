"""Overhaul of feature distillation: golden numbers and mathematics."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import golden_cases
from golden_cases import assert_gradient, assert_value, gradient
from multas.distillation.functional.overhaul import (
    margin_relu,
    ofd_layer_weights,
    ofd_loss,
    ofd_margin,
)

load = partial(golden_cases.load, "adaptive")
cases = partial(golden_cases.cases, "adaptive")


def test_margin_golden():
    golden = load("ofd_margin")
    margin = ofd_margin(golden["in_bn_gamma"], golden["in_bn_beta"])
    assert_value(margin, golden["out_margin_f64"], 1e-12)
    assert_value(margin, golden["out_margin"].flatten().double(), 1e-6)


@given(beta=st.floats(-3.0, 2.0), gamma=st.floats(-2.0, 2.0).filter(lambda x: abs(x) > 0.7))
def test_margin_is_the_mean_of_the_negative_part(beta, gamma):
    margin = float(ofd_margin(torch.tensor([gamma]), torch.tensor([beta])))
    grid = torch.linspace(beta - 12 * abs(gamma), 0.0, 200_001, dtype=torch.float64)
    density = torch.exp(-0.5 * ((grid - beta) / gamma) ** 2)
    expected = torch.trapezoid(grid * density, grid) / torch.trapezoid(density, grid)
    assert margin == pytest.approx(float(expected), rel=1e-5)


def test_margin_of_constant_channels_is_the_negative_part():
    margin = ofd_margin(torch.zeros(3), torch.tensor([-2.0, 0.0, 1.5]))
    torch.testing.assert_close(margin, torch.tensor([-2.0, 0.0, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("case", cases("ofd_loss_*"))
def test_partial_distance_golden(case):
    golden = load(case)
    student = golden["in_fs"].requires_grad_()
    divisor, weight = float(golden["in_mul_factor"]), float(golden["in_loss_weight"])
    loss = ofd_loss(student, golden["in_ft"], divisor=divisor, weight=weight)
    assert_value(loss, golden["out_loss"], 1e-12)
    assert_gradient(gradient(loss, student), golden["grad_fs"], 1e-10)


def test_whole_overhaul_path_golden():
    golden = load("ofd_full")
    names = ("in_fs", "in_w_conv", "in_w_bn_gamma", "in_w_bn_beta")
    features, conv, gamma, beta = (golden[name].requires_grad_() for name in names)
    margin = golden["out_margin"].flatten()
    own = ofd_margin(golden["in_teacher_bn_gamma"], golden["in_teacher_bn_beta"])
    assert_value(own, margin.double(), 1e-6)
    teacher = margin_relu(golden["in_ft_preact"], margin)
    assert_value(teacher, golden["out_ft_transformed"], 1e-12)
    student = F.batch_norm(F.conv2d(features, conv), None, None, gamma, beta, training=True)
    torch.testing.assert_close(student, golden["out_fs_adapted"], rtol=1e-10, atol=1e-12)
    loss = ofd_loss(student, teacher, weight=float(golden["in_loss_weight"]))
    assert_value(loss, golden["out_loss"])
    for name, leaf in zip(names, (features, conv, gamma, beta), strict=True):
        assert_gradient(gradient(loss, leaf), golden[name.replace("in_", "grad_")], 1e-10)


def test_partial_distance_ignores_what_is_below_a_non_positive_target():
    teacher = torch.tensor([-1.0, -1.0, -1.0, 2.0, 0.0]).reshape(1, 5, 1, 1)
    student = torch.tensor([-3.0, -1.0, 0.5, -2.0, -1.0]).reshape(1, 5, 1, 1).requires_grad_()
    loss = ofd_loss(student, teacher, divisor=1.0)
    assert loss == 1.5**2 + 4.0**2
    assert gradient(loss, student).flatten().tolist() == [0.0, 0.0, 3.0, -8.0, 0.0]
    assert ofd_layer_weights(3) == [0.25, 0.5, 1.0]
