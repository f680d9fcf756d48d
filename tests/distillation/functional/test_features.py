"""Neuron selectivity, feature map and softmax regression: golden numbers and mathematics."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

import golden_cases
from golden_cases import assert_gradient, assert_value, double, gradient
from multas.distillation.functional.features import (
    channel_gram,
    feature_map_loss,
    nst_channel_gram,
    nst_polynomial,
    softmax_regression,
)

load = partial(golden_cases.load, "adaptive")
cases = partial(golden_cases.cases, "adaptive")


@pytest.mark.parametrize("case", sorted(set(cases("nst_*")) - {"nst_sum4"}))
def test_neuron_selectivity_golden(case):
    golden = load(case)
    student, teacher = golden["in_fs"].requires_grad_(), golden["in_ft"]
    for name, features in (("out_gram_s", student), ("out_gram_t", teacher)):
        torch.testing.assert_close(channel_gram(features), golden[name], rtol=1e-10, atol=1e-12)
    loss = nst_channel_gram(student, teacher)
    assert_value(loss, golden["out_loss"])
    dead = student.flatten(2).norm(dim=2) == 0
    actual = gradient(loss, student)
    assert actual[dead].eq(0).all()
    assert_gradient(actual[~dead], golden["grad_fs"][~dead])


def test_neuron_selectivity_over_four_layers_golden():
    golden = load("nst_sum4")
    students = [golden[f"in_fs{i}"].requires_grad_() for i in range(4)]
    teachers = [golden[f"in_ft{i}"] for i in range(4)]
    pairs = zip(students, teachers, strict=True)
    losses = torch.stack([nst_channel_gram(s, t) for s, t in pairs])
    assert_value(losses, golden["out_layer_losses"])
    assert_value(losses.sum(), golden["out_loss"])
    for i, student in enumerate(students):
        actual, expected = gradient(losses.sum(), student), golden[f"grad_fs{i}"]
        if student[0, 0].numel() > 1:
            assert_gradient(actual, expected)
        else:  # the sign alone counts, so both gradients are rounding
            assert max(actual.abs().max(), expected.abs().max()) < 1e-14


def test_polynomial_kernel_equals_the_matrices_of_positions():
    student, teacher = double(2, 4, 3, 5), double(2, 7, 3, 5)

    def positions(features):
        rows = F.normalize(features.flatten(2), dim=2)
        return rows.mT @ rows / rows.shape[1]

    expected = (positions(student) - positions(teacher)).square().sum((1, 2)).mean()
    torch.testing.assert_close(nst_polynomial(student, teacher), expected)


@pytest.mark.parametrize("loss", [nst_channel_gram, nst_polynomial])
def test_dead_channels_have_no_gradient_in_either_form(loss):
    student = torch.rand(2, 3, 4, 4).index_fill(1, torch.tensor(1), 0.0).requires_grad_()
    actual = gradient(loss(student, torch.rand(2, 3, 4, 4)), student)
    assert actual[:, 1].eq(0).all() and 0 < actual.abs().max() < 10


@pytest.mark.parametrize("case", cases("fm_*"))
def test_feature_map_golden(case):
    golden = load(case)
    student = golden["in_fs"].requires_grad_()
    loss = feature_map_loss(student, golden["in_ft"])
    assert_value(loss, golden["out_loss"], 1e-12)
    assert_gradient(gradient(loss, student), golden["grad_fs"], 1e-12)


def test_softmax_regression_golden_leaves_the_classifier_alone():
    golden = load("sr_basic")
    student = golden["in_fs_adapted"].requires_grad_()
    weight = golden["in_w_head_t"].requires_grad_()
    loss = softmax_regression(student, golden["in_zt"], weight, golden["in_b_head_t"])
    assert_value(loss, golden["out_loss"], 1e-12)
    assert_gradient(gradient(loss, student), golden["grad_fs_adapted"], 1e-10)
    loss.backward()
    assert weight.grad is None
    crossed = student.mean((2, 3)) @ weight.T + golden["in_b_head_t"]
    assert_value(crossed, golden["out_cross_logits"], 1e-12)


def test_channel_losses_refuse_other_widths():
    for loss in (nst_channel_gram, feature_map_loss):
        with pytest.raises(ValueError, match="1x1 convolution"):
            loss(torch.ones(1, 2, 4, 4), torch.ones(1, 3, 4, 4))
