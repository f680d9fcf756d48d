"""Properties of all functional losses of Chennupati et al. (BMVC 2021)."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

import golden_cases
from golden_cases import double, gradient
from multas.distillation.functional.attention import attention_transfer
from multas.distillation.functional.features import (
    feature_map_loss,
    nst_channel_gram,
    nst_polynomial,
)
from multas.distillation.functional.fkd import (
    batch_distance,
    channel_attention,
    joint_mask,
    masked_distance,
    non_local,
    spatial_attention,
)
from multas.distillation.functional.localization import localization_distillation
from multas.distillation.functional.logits import flatten_logits, l2_logits, soft_target
from multas.distillation.functional.overhaul import ofd_loss
from multas.modeling.generalized_focal import (
    decode_logits,
    distribution_focal_elements,
    iou_and_giou,
)

load = partial(golden_cases.load, "adaptive")
cases = partial(golden_cases.cases, "adaptive")


def feature_losses():
    return {
        "at_sum": attention_transfer,
        "at_mean": partial(attention_transfer, reduction="mean"),
        "at_norm": partial(attention_transfer, reduction="norm"),
        "at_p3": partial(attention_transfer, p=3.0),
        "nst": nst_channel_gram,
        "nst_polynomial": nst_polynomial,
        "fm": feature_map_loss,
        "ofd": ofd_loss,
        "fkd_masked": lambda s, t: masked_distance(
            s, t, joint_mask(spatial_attention(t), spatial_attention(t), 0.5)
        ),
        "fkd_batch": batch_distance,
        "fkd_masked_mean": lambda s, t: masked_distance(
            s, t, joint_mask(spatial_attention(t), spatial_attention(t), 0.5), normalise=True
        ),
        "fkd_batch_mean": partial(batch_distance, normalise=True),
        "fkd_spatial": lambda s, t: batch_distance(spatial_attention(s), spatial_attention(t)),
        "fkd_channel": lambda s, t: batch_distance(channel_attention(s), channel_attention(t)),
        "fkd_relation": lambda s, t: batch_distance(non_local(s, s, s), non_local(t, t, t)),
        "st": soft_target,
        "l2": l2_logits,
        "l2_sum": partial(l2_logits, reduction="sum"),
        "ld": lambda s, t: localization_distillation(flatten_logits(s), flatten_logits(t)),
    }


@pytest.mark.parametrize("name", feature_losses())
def test_gradients_agree_with_finite_differences(name):
    loss, teacher = feature_losses()[name], double(2, 3, 4, 2)
    assert gradcheck(lambda s: loss(s, teacher), double(2, 3, 4, 2, grad=True))


def test_gradients_of_head_losses_agree_with_finite_differences():
    logits = double(6, 9, grad=True)
    distances = torch.rand(6, dtype=torch.float64) * 7.5
    assert gradcheck(lambda x: distribution_focal_elements(x, distances), logits)
    points, boxes = double(6, 2), torch.tensor([[-1.0, -1.0, 2.0, 3.0]]).double().repeat(6, 1)
    sides = double(6, 4 * 9, grad=True)
    assert gradcheck(lambda x: iou_and_giou(decode_logits(points, x, 8), boxes), sides)


@pytest.mark.parametrize("name", feature_losses())
@given(seed=st.integers(0, 999))
def test_losses_are_zero_with_zero_gradient_exactly_at_equality(name, seed):
    torch.manual_seed(seed)
    loss = feature_losses()[name]
    teacher = double(2, 3, 4, 2)
    student = teacher.clone().requires_grad_()
    value = loss(student, teacher)
    assert value.abs() < 1e-14
    assert gradient(value, student).abs().max() < 1e-14
    assert loss(teacher + double(2, 3, 4, 2), teacher) > 0


@pytest.mark.parametrize("name", feature_losses())
def test_half_precision_features_are_computed_in_float32(name):
    student, teacher = torch.randn(2, 3, 4, 2), torch.randn(2, 3, 4, 2)
    exact = feature_losses()[name](student.half().float(), teacher.half().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = feature_losses()[name](student.half(), teacher.half())
    torch.testing.assert_close(half, exact, rtol=1e-4, atol=1e-6)
