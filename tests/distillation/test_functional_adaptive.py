"""Losses of the adaptive distillation paths against golden numbers and their mathematics."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.structures.boxes import Boxes, matched_pairwise_iou
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from multas.distillation.functional.attention import attention_map, attention_transfer
from multas.distillation.functional.features import (
    channel_gram,
    feature_map_loss,
    nst_channel_gram,
    nst_polynomial,
    softmax_regression,
)
from multas.distillation.functional.fkd import (
    attention_mask,
    batch_distance,
    channel_attention,
    joint_mask,
    masked_distance,
    non_local,
    spatial_attention,
)
from multas.distillation.functional.localization import (
    distribution_kl_elements,
    localization_distillation,
    pairwise_iou_and_diou,
    valuable_region,
)
from multas.distillation.functional.logits import flatten_logits, l2_logits, soft_target
from multas.distillation.functional.overhaul import (
    margin_relu,
    ofd_layer_weights,
    ofd_loss,
    ofd_margin,
)
from multas.modeling.generalized_focal import (
    decode_distances,
    decode_logits,
    distribution_focal_elements,
    distribution_focal_loss,
    encode_distances,
    giou_loss,
    integral,
    quality_focal_loss,
    weighted_sum,
)

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "adaptive"


def load(name):
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return {k: torch.from_numpy(np.asarray(v)) for k, v in file.items() if v.dtype.kind != "U"}


def cases(pattern):
    names = sorted(path.stem for path in GOLDEN.glob(f"{pattern}.npz"))
    assert names
    return names


def gradient(loss, leaf):
    return torch.autograd.grad(loss, leaf, retain_graph=True)[0]


def assert_value(actual, expected, rtol=1e-10):
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=rtol, atol=1e-300)


def assert_gradient(actual, expected, tolerance=1e-8):
    """Equal relative to the largest entry."""
    bound = tolerance * float(expected.abs().max())
    torch.testing.assert_close(actual, expected, rtol=0, atol=max(bound, 1e-18))


def double(*shape, grad=False):
    return torch.randn(shape, dtype=torch.float64, requires_grad=grad)


# Attention transfer


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
    # torchdistill clamps the norm of the channel mean, 1 / C of the sum.
    variants = {"tdcode": "mean", "tdpaper": "norm"}
    for suffix, reduction in variants.items():
        if f"out_loss_{suffix}" in golden:
            other = attention_transfer(
                student, teacher, p=p, reduction=reduction, eps=1e-12, clamp=True
            )
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
    options = {"eps": 1e-12, "clamp": True}
    for suffix, reduction in (("tdcode", "mean"), ("tdpaper", "norm")):
        total = sum(attention_transfer(s, t, reduction=reduction, **options) for s, t in pairs)
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
@pytest.mark.parametrize("clamp", [False, True])
def test_dead_maps_give_finite_attention_gradients(reduction, clamp):
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    for teacher in (torch.zeros(2, 5, 4, 4), torch.rand(2, 5, 4, 4)):
        loss = attention_transfer(student, teacher, reduction=reduction, clamp=clamp)
        assert gradient(loss, student).eq(0).all() and loss.isfinite()


def test_attention_refuses_other_sizes_and_reductions():
    with pytest.raises(ValueError, match="stride"):
        attention_transfer(torch.ones(1, 2, 4, 4), torch.ones(1, 2, 2, 2))
    with pytest.raises(ValueError, match="sum, mean, norm"):
        attention_transfer(torch.ones(1, 2, 4, 4), torch.ones(1, 2, 4, 4), reduction="max")


# Logits


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


# Neuron selectivity, feature map, softmax regression


@pytest.mark.parametrize("case", sorted(set(cases("nst_*")) - {"nst_sum4"}))
def test_neuron_selectivity_golden(case):
    golden = load(case)
    student, teacher = golden["in_fs"].requires_grad_(), golden["in_ft"]
    for name, features in (("out_gram_s", student), ("out_gram_t", teacher)):
        torch.testing.assert_close(channel_gram(features), golden[name], rtol=1e-10, atol=1e-12)
    reference = nst_channel_gram(student, teacher, zero_safe=False)
    assert_value(reference, golden["out_loss"])
    assert_gradient(gradient(reference, student), golden["grad_fs"])
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
        # The gradient of a 1 x 1 map is rounding only.
        actual, expected = gradient(losses.sum(), student), golden[f"grad_fs{i}"]
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-10)


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


# Overhaul of feature distillation


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
    loss = ofd_loss(student, teacher, weight=float(golden["in_loss_weight"]))
    assert_value(loss, golden["out_loss"])
    for name, leaf in zip(names, (features, conv, gamma, beta), strict=True):
        assert_gradient(gradient(loss, leaf), golden[name.replace("in_", "grad_")])


def test_partial_distance_ignores_what_is_below_a_non_positive_target():
    teacher = torch.tensor([-1.0, -1.0, -1.0, 2.0, 0.0]).reshape(1, 5, 1, 1)
    student = torch.tensor([-3.0, -1.0, 0.5, -2.0, -1.0]).reshape(1, 5, 1, 1).requires_grad_()
    loss = ofd_loss(student, teacher, divisor=1.0)
    assert loss == 1.5**2 + 4.0**2
    assert gradient(loss, student).flatten().tolist() == [0.0, 0.0, 3.0, -8.0, 0.0]
    assert ofd_layer_weights(3) == [0.25, 0.5, 1.0]


# FKD


def test_attention_masks_golden():
    golden = load("fkd_masks")
    student, teacher = golden["in_fs"], golden["in_ft"]
    for kind, attention in (("spatial", spatial_attention), ("channel", channel_attention)):
        for i, temperature in enumerate(golden["in_T"].tolist()):
            for name, features in (("s", student), ("t", teacher)):
                mask = attention_mask(attention(features), temperature)
                assert_value(mask, golden[f"out_{kind}_mask_{name}"][i], 1e-12)
            joint = joint_mask(
                attention(student), attention(teacher), temperature, softmax_of_sum=False
            )
            assert_value(joint, golden[f"out_{kind}_mask"][i], 1e-12)


@given(temperature=st.floats(0.05, 5.0), seed=st.integers(0, 99))
def test_masks_have_mean_one_in_both_forms(temperature, seed):
    torch.manual_seed(seed)
    student, teacher = double(2, 6, 4, 5, grad=True), double(2, 6, 4, 5)
    for attention in (spatial_attention, channel_attention):
        for softmax_of_sum in (False, True):
            mask = joint_mask(
                attention(student), attention(teacher), temperature, softmax_of_sum=softmax_of_sum
            )
            assert not mask.requires_grad
            torch.testing.assert_close(mask.mean((1, 2, 3)), torch.ones(2).double())


def non_local_block(golden, prefix, features, pool):
    """The block around the relation: 1x1 convolutions, pooling, BatchNorm, residual."""

    def project(name):
        weight, bias = golden[f"in_w{prefix}_{name}"], golden[f"in_b{prefix}_{name}"]
        return F.conv2d(features, weight, bias)

    theta, phi, g = project("theta"), project("phi"), project("g")
    if pool > 1:
        phi, g = F.max_pool2d(phi, pool), F.max_pool2d(g, pool)
    out = F.conv2d(
        non_local(theta, phi, g), golden[f"in_w{prefix}_out"], golden.get(f"in_b{prefix}_out")
    )
    scale, shift = golden[f"in_w{prefix}_bn_gamma"], golden[f"in_w{prefix}_bn_beta"]
    return features + F.batch_norm(out, None, None, scale, shift, training=True)


def fkd_terms(golden, student, teacher, level, pool, masks):
    """The four distances of one level, before their weights."""

    def weights(name):
        return golden[f"in_w{level}_{name}"], golden[f"in_b{level}_{name}"]

    adapted = F.conv2d(student, *weights("adapt"))
    channel = F.linear(channel_attention(student, absolute=False).flatten(1), *weights("channel"))
    spatial = F.conv2d(spatial_attention(student, absolute=False), *weights("spatial"), padding=1)
    relation = F.conv2d(non_local_block(golden, f"{level}_snl", student, pool), *weights("nladapt"))
    return {
        "feat": masked_distance(adapted, teacher, *masks),
        "channel": batch_distance(channel, channel_attention(teacher, absolute=False).flatten(1)),
        "spatial": batch_distance(spatial, spatial_attention(teacher, absolute=False)),
        "nonlocal": batch_distance(
            relation, non_local_block(golden, f"{level}_tnl", teacher, pool)
        ),
    }


def check_all_gradients(golden, loss, tolerance):
    names = [name for name in golden if name.startswith("grad_")]
    assert names
    leaves = [golden[name.replace("grad_", "in_")] for name in names]
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    for name, leaf, actual in zip(names, leaves, gradients, strict=True):
        actual = torch.zeros_like(leaf) if actual is None else actual
        assert_gradient(actual, golden[name], tolerance)


def require_gradients(golden):
    for name in [k for k in golden if k.startswith("grad_")]:
        golden[name.replace("grad_", "in_")].requires_grad_()


@pytest.mark.parametrize("case", cases("fkd_twostage_*"))
def test_two_stage_fkd_golden(case):
    golden = load(case)
    require_gradients(golden)
    student, teacher = golden["in_fs"], golden["in_ft"]
    mask = joint_mask(
        spatial_attention(student),
        spatial_attention(teacher),
        float(golden["in_temperature"]),
        softmax_of_sum=False,
    )
    assert_value(mask, golden["out_spatial_mask"], 1e-12)
    terms = fkd_terms(golden, student, teacher, "", int(golden["in_pool"]), [mask])
    for name, value in terms.items():
        assert_value(value, golden[f"out_raw_{name}"], 1e-9)
    loss = (torch.stack(list(terms.values())) * golden["in_weights"]).sum()
    assert_value(loss, golden["out_loss"], 1e-9)
    check_all_gradients(golden, loss, 1e-7)


def test_one_stage_fkd_golden():
    golden = load("fkd_onestage")
    require_gradients(golden)
    levels = []
    for i in range(int(golden["in_num_levels"])):
        student, teacher = golden[f"in_fs{i}"], golden[f"in_ft{i}"]
        masks = [
            joint_mask(
                attention(student),
                attention(teacher),
                float(golden["in_temperature"]),
                softmax_of_sum=False,
            )
            for attention in (spatial_attention, channel_attention)
        ]
        pool = int(golden["in_pool"][i])
        terms = fkd_terms(golden, student, teacher, str(i), pool, masks)
        levels.append(torch.stack(list(terms.values())))
    weighted = torch.stack(levels).sum(0) * golden["in_weights"]
    for name, value in zip(("feat", "channel", "spatial", "nonlocal"), weighted, strict=True):
        assert_value(value, golden[f"out_loss_{name}"], 1e-9)
    assert_value(weighted.sum(), golden["out_loss"], 1e-9)
    check_all_gradients(golden, weighted.sum(), 1e-7)


def test_relation_equals_the_product_over_positions():
    theta, phi, g = double(2, 3, 4, 5), double(2, 3, 2, 3), double(2, 6, 2, 3)
    pairwise = theta.flatten(2).mT @ phi.flatten(2) / 6
    expected = (pairwise @ g.flatten(2).mT).mT.unflatten(2, (4, 5))
    torch.testing.assert_close(non_local(theta, phi, g), expected)


# Localization distillation and generalized focal loss


def reduction(golden):
    return {"weight": golden.get("in_weight"), "avg_factor": golden.get("in_avg_factor")}


@pytest.mark.parametrize("case", [*cases("ld_kl_*"), "kd_cls_T2"])
def test_localization_distillation_golden(case):
    golden = load(case)
    student, teacher = golden["in_pred"].requires_grad_(), golden["in_soft"].requires_grad_()
    options = {"temperature": float(golden["in_T"]), "mean_over_bins": True}
    scale = golden["in_loss_weight"]
    elements = scale * distribution_kl_elements(student, teacher, **options)
    assert_value(elements, golden["out_loss_unreduced"])
    loss = scale * localization_distillation(student, teacher, **options, **reduction(golden))
    assert_value(loss, golden["out_loss"])
    assert_gradient(gradient(loss, student), golden["grad_pred"])
    assert torch.autograd.grad(loss, teacher, allow_unused=True)[0] is None
    paper = distribution_kl_elements(student, teacher, temperature=options["temperature"])
    assert_value(scale * paper / student.shape[1], golden["out_loss_unreduced"])


@pytest.mark.parametrize("case", cases("dfl_*"))
def test_distribution_focal_golden(case):
    golden = load(case)
    logits, scale = golden["in_pred"].requires_grad_(), golden["in_loss_weight"]
    elements = scale * distribution_focal_elements(logits, golden["in_label"])
    assert_value(elements, golden["out_loss_unreduced"])
    loss = scale * distribution_focal_loss(logits, golden["in_label"], **reduction(golden))
    assert_value(loss, golden["out_loss"])
    assert_gradient(gradient(loss, logits), golden["grad_pred"])


@pytest.mark.parametrize("case", cases("qfl_*"))
def test_quality_focal_golden(case):
    golden = load(case)
    logits, beta = golden["in_pred"].requires_grad_(), float(golden["in_beta"])
    loss = golden["in_loss_weight"] * quality_focal_loss(
        logits, golden["in_label"].long(), golden["in_score"], beta=beta, **reduction(golden)
    )
    assert_value(loss, golden["out_loss"])
    assert_gradient(gradient(loss, logits), golden["grad_pred"])


@pytest.mark.parametrize("case", cases("integral_*"))
def test_integral_decoding_golden(case):
    golden = load(case)
    logits, points = golden["in_logits"].requires_grad_(), golden["in_points"]
    reg_max = int(golden["in_reg_max"])
    distances = integral(logits.unflatten(1, (4, reg_max + 1)))
    assert_value(distances, golden["out_distance"])
    boxes = decode_logits(points, logits, reg_max)
    assert_value(boxes, golden["out_boxes"])
    assert_gradient(
        gradient((boxes * golden["in_cotangent"]).sum(), logits), golden["grad_logits"], 1e-10
    )
    encoded = encode_distances(points, golden["in_gt_boxes"], reg_max)
    assert_value(encoded, golden["out_gt_distance"])


@given(seed=st.integers(0, 999))
def test_encoding_inverts_decoding(seed):
    torch.manual_seed(seed)
    points, distances = double(5, 2), 7 * torch.rand(5, 4, dtype=torch.float64)
    boxes = decode_distances(points, distances)
    torch.testing.assert_close(encode_distances(points, boxes, 8), distances)


def rows(maps, columns):
    """(N, C, H, W) -> (N H W C / columns, columns) in the order n, h, w."""
    return maps.permute(0, 2, 3, 1).reshape(-1, columns)


def test_one_pyramid_level_of_the_head_golden():
    golden = load("ld_head_level")
    scores, boxes = golden["in_cls_s"].requires_grad_(), golden["in_box_s"].requires_grad_()
    classes, reg_max = int(golden["in_num_classes"]), int(golden["in_reg_max"])
    stride, bins = float(golden["in_stride"]), reg_max + 1
    labels = golden["in_labels"].flatten().long()
    sample_weight, vlr = golden["in_label_weights"].flatten(), golden["in_vlr"].flatten()
    positive = labels < classes
    logits, teacher_logits = rows(scores, classes), rows(golden["in_cls_t"], classes)
    sides, teacher_sides = rows(boxes, 4 * bins), rows(golden["in_box_t"], 4 * bins)
    anchors = golden["in_anchors"].reshape(-1, 4)
    centres = (anchors[:, :2] + anchors[:, 2:])[positive] / (2 * stride)
    targets = golden["in_box_targets"].reshape(-1, 4)[positive] / stride
    confidence = logits.detach().sigmoid().amax(1)[positive]
    decoded = decode_logits(centres, sides[positive], reg_max)
    quality = torch.zeros_like(sample_weight)
    quality[positive] = matched_pairwise_iou(Boxes(decoded.detach()), Boxes(targets)).double()
    distances = encode_distances(centres, targets, reg_max)
    repeated = confidence.repeat_interleave(4)
    distil = partial(localization_distillation, mean_over_bins=True)
    inside = vlr > 0
    losses = {
        "bbox": 2 * giou_loss(decoded, targets, weight=confidence, avg_factor=1.0),
        "dfl": 0.25
        * distribution_focal_loss(
            rows_of_sides(sides[positive], bins), distances.flatten(), weight=repeated, avg_factor=4
        ),
        "ld": 0.25
        * distil(
            rows_of_sides(sides[positive], bins),
            rows_of_sides(teacher_sides[positive], bins),
            weight=repeated,
            avg_factor=4,
        ),
        "ld_vlr": 0.25
        * distil(
            rows_of_sides(sides[inside], bins),
            rows_of_sides(teacher_sides[inside], bins),
            weight=vlr[inside].repeat_interleave(4),
            avg_factor=16,
        ),
        "kd": 10
        * distil(
            logits[positive],
            teacher_logits[positive],
            temperature=2.0,
            weight=sample_weight[positive],
            avg_factor=positive.sum(),
        ),
        "cls": quality_focal_loss(
            logits, labels, quality, weight=sample_weight, avg_factor=golden["in_num_pos"]
        ),
    }
    assert_value(confidence.sum(), golden["out_weight_sum"], 1e-8)
    for name, loss in losses.items():
        assert_value(loss, golden[f"out_loss_{name}"], 1e-8)
        for kind, leaf in (("cls", scores), ("box", boxes)):
            expected = golden.get(f"grad_{kind}_{name}")
            if expected is not None:
                assert_gradient(gradient(loss, leaf), expected, 1e-7)


def rows_of_sides(sides, bins):
    return sides.reshape(-1, bins)


def test_empty_selections_give_zero_with_a_graph():
    logits = torch.zeros(0, 17, requires_grad=True)
    none = torch.zeros(0)
    losses = [
        distribution_focal_loss(logits, none, weight=none),
        localization_distillation(logits, logits.detach()),
        weighted_sum(logits.sum(1)),
    ]
    for loss in losses:
        loss.backward()
        assert loss == 0


def test_iou_and_diou_of_known_boxes():
    anchors = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [4.0, 0.0, 6.0, 2.0]])
    iou, diou = pairwise_iou_and_diou(anchors[:1], anchors)
    torch.testing.assert_close(iou[0], torch.tensor([1.0, 1 / 3, 0.0]))
    torch.testing.assert_close(diou[0], torch.tensor([1.0, 1 / 3 - 1 / 13, -16 / 40]))


def test_valuable_region_lies_between_background_and_positives():
    anchors = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [4.0, 0.0, 6.0, 2.0]])
    region = valuable_region(anchors, anchors[:1], torch.tensor([0.6]))
    torch.testing.assert_close(region, torch.tensor([0.0, 1 / 3, 0.0]))
    assert valuable_region(anchors, anchors[:1], torch.tensor([0.2])).eq(0).all()
    assert valuable_region(anchors, anchors[:0], torch.zeros(0)).tolist() == [0.0, 0.0, 0.0]


# All of them


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
    assert gradcheck(lambda x: distribution_focal_loss(x, distances), logits)
    labels, quality = torch.tensor([0, 3, 9, 9, 8, 1]), torch.rand(6, dtype=torch.float64)
    assert gradcheck(lambda x: quality_focal_loss(x, labels, quality, beta=1.5), logits)
    points, boxes = double(6, 2), torch.tensor([[-1.0, -1.0, 2.0, 3.0]]).double().repeat(6, 1)
    sides = double(6, 4 * 9, grad=True)
    assert gradcheck(lambda x: giou_loss(decode_logits(points, x, 8), boxes), sides)


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
