"""Losses: reference numbers, gradients, mathematical properties, degenerate batches."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.nn import functional as F

import golden_cases
from multas.modeling.losses import (
    balanced_l1_elements,
    balanced_l1_loss,
    focal_elements,
    focal_loss,
    quality_focal_elements,
    quality_focal_loss,
    semantic_cross_entropy,
    soft_focal_loss,
)

DTYPES = [torch.float64, torch.float32]


load = partial(golden_cases.load, "multas")


def check(loss, inputs, value, gradients):
    """Compare a loss and its gradients with stored numbers, at the tolerance of the dtype."""
    exact = inputs[0].dtype == torch.float64
    rtol, atol = (1e-7, 1e-9) if exact else (1e-4, 1e-6)
    torch.testing.assert_close(loss.double(), value.double(), rtol=rtol, atol=atol)
    found = torch.autograd.grad(loss, inputs)
    for ours, stored in zip(found, gradients, strict=True):
        rtol, atol = (1e-7, 1e-9) if exact else (0, 1e-4 * stored.abs().max().item())
        torch.testing.assert_close(ours.double(), stored.double(), rtol=rtol, atol=atol)


def leaf(tensor):
    return tensor.clone().requires_grad_()


def selected(data, entries):
    """How many of these entries the mask of the case leaves, if it has one."""
    return (entries & data.get("in_mask", torch.tensor(True))).sum()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "case", ["mean_a", "mean_b", "mean_zeros", "other_params", "weighted_free", "weighted_norm"]
)
def test_balanced_l1_equals_the_reference(case, dtype):
    data = load(f"balanced_l1_{case}", dtype)
    curve = {key: data[f"in_{key}"].item() for key in ("alpha", "gamma", "beta")}
    pred = leaf(data["in_pred"])
    elements = balanced_l1_elements(pred, data["in_target"], **curve)
    torch.testing.assert_close(
        elements.double(),
        data["out_loss_elem"],
        rtol=1e-4 if dtype.itemsize == 4 else 1e-7,
        atol=1e-6 if dtype.itemsize == 4 else 1e-9,
    )
    loss = balanced_l1_loss(pred, data["in_target"], weights=data.get("in_weights"), **curve)
    check(loss, [pred], data["out_loss"], [data["grad_pred"]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "case", ["extreme_logits", "hard_mask_a", "single_pos", "soft_mask_a", "soft_nomask_a"]
)
def test_quality_focal_equals_the_reference(case, dtype):
    data = load(f"gfocal_{case}", dtype)
    pred = leaf(data["in_pred"])
    assert selected(data, data["in_target"] > 0) == data["out_num_pos"]
    loss = quality_focal_loss(
        pred,
        data["in_target"],
        mask=data.get("in_mask"),
        gamma=data["in_gamma"].item(),
        weight=data["in_weight"].item(),
    )
    check(loss, [pred], data["out_loss"], [data["grad_pred"]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["gamma2", "mask_a", "nomask_a"])
def test_focal_equals_the_reference(case, dtype):
    data = load(f"focal_sup_{case}", dtype)
    pred = leaf(data["in_pred"])
    assert selected(data, data["in_target"] == 1) == data["out_num_pos"]
    loss = data["in_weight"].item() * focal_loss(
        pred,
        data["in_target"],
        mask=data.get("in_mask"),
        alpha=data["in_alpha"].item(),
        gamma=data["in_gamma"].item(),
    )
    check(loss, [pred], data["out_loss"], [data["grad_pred"]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["a", "b"])
def test_soft_focal_equals_the_reference(case, dtype):
    data = load(f"focal_soft_{case}", dtype)
    student = leaf(data["in_conf_s"])
    loss = soft_focal_loss(student, data["in_conf_t"])
    check(loss, [student], data["out_loss"], [data["grad_conf_s"]])
    loss = 5e3 * soft_focal_loss(student, data["in_conf_t"])
    check(loss, [student], data["out_loss_x5e3"], [data["grad_conf_s_x5e3"]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["a", "mostly_ignored", "noignore"])
def test_segmentation_loss_equals_the_reference(case, dtype):
    data = load(f"seg_ce_{case}", dtype)
    seg = leaf(data["in_seg"])
    assert (data["in_gt"] != data["in_ignore"]).sum() == data["out_num_valid"]
    loss = semantic_cross_entropy(
        seg, data["in_gt"].squeeze(1), ignore_value=data["in_ignore"].item()
    )
    check(loss, [seg], data["out_loss"], [data["grad_seg"]])


MASK = torch.tensor([[True, False, True], [True, True, False]])
WEIGHTS = torch.tensor([[0.5, 1.0, 2.0], [0.0, 1.0, 1.5]], dtype=torch.float64)
SOFT = torch.tensor([[0.0, 0.3, 1.0], [0.7, 0.0, 0.2]], dtype=torch.float64)
LABELS = torch.tensor([[0, 2, 255], [255, 1, 1]])[None]


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (partial(balanced_l1_loss, target=SOFT), (2, 3)),
        (partial(balanced_l1_loss, target=SOFT, weights=WEIGHTS), (2, 3)),
        (partial(quality_focal_loss, targets=SOFT, mask=MASK, weights=WEIGHTS), (2, 3)),
        (partial(focal_loss, targets=SOFT, mask=MASK, weights=WEIGHTS), (2, 3)),
        (partial(focal_loss, targets=SOFT, gamma=2.0), (2, 3)),
        (partial(soft_focal_loss, teacher_logits=SOFT), (2, 3)),
        (partial(semantic_cross_entropy, labels=LABELS), (1, 3, 2, 3)),
    ],
)
def test_gradients_agree_with_finite_differences(loss, shape):
    inputs = 3 * torch.randn(shape, dtype=torch.float64)
    assert gradcheck(loss, [inputs.requires_grad_()])


numbers = st.floats(-20, 20, allow_nan=False, width=32)
shares = st.floats(0, 1, allow_nan=False, width=32)


@given(st.lists(st.tuples(numbers, shares, st.booleans()), min_size=1, max_size=30), st.randoms())
def test_order_of_the_entries_does_not_matter(rows, random):
    shuffled = random.sample(rows, len(rows))
    losses = []
    for table in (rows, shuffled):
        logits, targets, mask = (torch.tensor(column) for column in zip(*table, strict=True))
        logits, targets = logits.double(), targets.double()
        losses.append(
            torch.stack(
                [
                    balanced_l1_loss(logits, targets),
                    quality_focal_loss(logits, targets, mask=mask),
                    focal_loss(logits, targets.round(), mask=mask),
                    soft_focal_loss(logits, targets),
                ]
            )
        )
    torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12)


@given(numbers, shares)
def test_quality_focal_is_smallest_and_zero_at_its_target(logit, shift):
    logit = torch.tensor(logit, dtype=torch.float64)
    target = logit.sigmoid()
    at_target = quality_focal_elements(logit, target)
    assert at_target.item() == 0
    assert quality_focal_elements(logit + shift, target).item() >= 0


@given(numbers, numbers)
def test_balanced_l1_is_even_zero_at_equality_and_grows_with_the_error(a, b):
    near, far = sorted((abs(a), abs(b)))
    zero = torch.zeros((), dtype=torch.float64)
    loss = partial(balanced_l1_elements, target=zero)
    assert loss(zero).item() == 0
    assert loss(zero + far).item() >= loss(zero + near).item() >= 0
    torch.testing.assert_close(loss(zero + a), loss(zero - a))


@given(numbers, numbers)
def test_focal_falls_towards_a_hard_target(a, b):
    low, high = (torch.tensor(value, dtype=torch.float64) for value in sorted((a, b)))
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    assert focal_elements(low, one) >= focal_elements(high, one) >= 0
    assert focal_elements(high, zero) >= focal_elements(low, zero) >= 0
    assert quality_focal_elements(low, one) >= quality_focal_elements(high, one)


def test_focal_without_focusing_and_balance_is_half_the_cross_entropy():
    logits, targets = torch.randn(4, 5), torch.rand(4, 5)
    elements = focal_elements(logits, targets, alpha=0.5, gamma=0.0)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    torch.testing.assert_close(elements, 0.5 * entropy)


def test_balanced_l1_is_continuous_with_slope_gamma_beyond_beta():
    beta = torch.tensor(0.11, dtype=torch.float64)
    zero = torch.zeros_like(beta)
    below, above = (balanced_l1_elements(beta + e, zero) for e in (-1e-12, 1e-12))
    torch.testing.assert_close(below, above, rtol=0, atol=1e-11)
    error = leaf(beta + 1)
    balanced_l1_elements(error, zero).backward()
    assert error.grad.item() == pytest.approx(1.5)


def test_weights_scale_the_loss_and_leave_the_divisor():
    logits, targets = torch.randn(2, 3), (SOFT > 0.5).float()
    for loss in (quality_focal_loss, focal_loss):
        plain = loss(logits, targets)
        torch.testing.assert_close(
            loss(logits, targets, weights=torch.full((2, 3), 3.0)), 3 * plain
        )
    loss = partial(quality_focal_loss, logits, targets)
    torch.testing.assert_close(loss(weight=3.0), 3 * loss(weight=1.0))
    torch.testing.assert_close(loss(normalizer=4.0), loss() * (targets.sum() / 4))


def test_masked_entries_reach_neither_value_nor_gradient():
    logits = leaf(torch.tensor([[0.3, float("inf"), -1.0], [2.0, 0.1, float("nan")]]))
    targets = torch.where(MASK, SOFT.round().float(), float("nan"))
    for loss in (quality_focal_loss, focal_loss):
        value = loss(logits, targets, mask=MASK)
        positives = (targets == 1).sum()
        factor = loss(logits[MASK], targets[MASK])
        torch.testing.assert_close(value, factor)
        assert positives > 0
        (gradient,) = torch.autograd.grad(value, logits)
        assert gradient[~MASK].eq(0).all()
        assert gradient[MASK].abs().gt(0).all()


@pytest.mark.parametrize("loss", [quality_focal_loss, focal_loss])
def test_without_a_positive_the_sum_is_not_divided(loss):
    logits = leaf(torch.randn(2, 6, 3))
    value = loss(logits, torch.zeros(2, 6, 3))
    one_positive = torch.zeros(2, 6, 4)
    one_positive[0, 0, 3] = 1
    # The loss of a certain positive is 0, so it only sets the divisor to 1.
    certain = torch.full((2, 6, 1), -100.0)
    certain[0, 0] = 100
    torch.testing.assert_close(value, loss(torch.cat([logits, certain], 2), one_positive))
    value.backward()
    assert value > 0
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", [quality_focal_loss, focal_loss])
def test_a_mask_that_selects_nothing_gives_zero(loss):
    logits = leaf(torch.randn(2, 6, 3))
    value = loss(logits, torch.ones(2, 6, 3), mask=torch.zeros(2, 6, 3, dtype=torch.bool))
    value.backward()
    assert value.item() == 0
    assert logits.grad.eq(0).all()


def test_all_pixels_ignored_gives_zero():
    logits = leaf(torch.randn(2, 4, 3, 3))
    value = semantic_cross_entropy(logits, torch.full((2, 3, 3), 255))
    value.backward()
    assert value.item() == 0
    assert logits.grad.eq(0).all()


@pytest.mark.parametrize("stride", [2, 4])
def test_coarse_logits_stand_for_all_their_pixels(stride):
    coarse = leaf(torch.randn(2, 5, 3, 4, dtype=torch.float64))
    labels = torch.randint(0, 5, (2, 3 * stride, 4 * stride))
    labels[torch.rand(labels.shape) < 0.3] = 9
    loss = semantic_cross_entropy(coarse, labels, ignore_value=9)
    (gradient,) = torch.autograd.grad(loss, coarse)
    upsampled = F.interpolate(coarse, scale_factor=stride, mode="nearest")
    expected = semantic_cross_entropy(upsampled, labels, ignore_value=9)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, coarse)[0])
    nothing = semantic_cross_entropy(coarse, torch.full_like(labels, 9), ignore_value=9)
    assert nothing == 0 and torch.autograd.grad(nothing, coarse)[0].eq(0).all()


def test_segmentation_mean_is_over_the_pixels_of_the_batch_not_over_images():
    logits = torch.randn(2, 4, 3, 3)
    labels = torch.randint(0, 4, (2, 3, 3))
    labels[1].fill_(255)
    torch.testing.assert_close(
        semantic_cross_entropy(logits, labels), F.cross_entropy(logits[:1], labels[:1])
    )


@pytest.mark.parametrize(
    "loss",
    [
        balanced_l1_loss,
        partial(balanced_l1_loss, weights=torch.zeros(0, 3)),
        quality_focal_loss,
        focal_loss,
        soft_focal_loss,
    ],
)
def test_empty_tensors_give_zero_with_a_gradient(loss):
    inputs = leaf(torch.zeros(0, 3))
    value = loss(inputs, torch.zeros(0, 3))
    value.backward()
    assert value.item() == 0
    assert inputs.grad.shape == (0, 3)


def test_an_empty_segmentation_batch_gives_zero():
    logits = leaf(torch.zeros(0, 4, 3, 3))
    value = semantic_cross_entropy(logits, torch.zeros(0, 3, 3, dtype=torch.long))
    value.backward()
    assert value.item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_are_computed_in_float32(dtype):
    logits = (10 * torch.randn(2, 50, 3)).to(dtype)
    targets = (torch.rand(2, 50, 3) > 0.9).to(dtype)
    for loss in (balanced_l1_loss, quality_focal_loss, focal_loss, soft_focal_loss):
        short, wide = leaf(logits), leaf(logits.float())
        value, expected = loss(short, targets), loss(wide, targets.float())
        assert value.dtype == torch.float32
        assert value.item() == expected.item()
        value.backward()
        expected.backward()
        torch.testing.assert_close(short.grad, wide.grad.to(dtype))
    seg = torch.randn(1, 3, 2, 3).to(dtype)
    assert (
        semantic_cross_entropy(seg, LABELS).item()
        == semantic_cross_entropy(seg.float(), LABELS).item()
    )


def test_autocast_changes_nothing():
    logits, targets = 10 * torch.randn(2, 50, 3), (torch.rand(2, 50, 3) > 0.9).float()
    for loss in (balanced_l1_loss, quality_focal_loss, focal_loss, soft_focal_loss):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(logits, targets)
        assert value.item() == loss(logits, targets).item()


@pytest.mark.parametrize("size", [1e4, 1e18, 1e38])
def test_huge_inputs_stay_finite(size):
    """A diverging network must not get NaN from the formula of the loss."""
    inputs = leaf(torch.tensor([[size, -size, 1.0]]))
    targets = torch.tensor([[0.0, 1.0, 1.0]])
    for loss in (balanced_l1_loss, quality_focal_loss, focal_loss, soft_focal_loss):
        value = loss(inputs / 4, targets)
        (gradient,) = torch.autograd.grad(value, inputs)
        assert value.isfinite()
        assert gradient.isfinite().all()
