"""Feature-based distillation of detectors (FKD): golden numbers and mathematics."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import golden_cases
from golden_cases import assert_gradient, assert_value, double
from multas.distillation.functional.fkd import (
    attention_mask,
    batch_distance,
    channel_attention,
    joint_mask,
    masked_distance,
    non_local,
    spatial_attention,
)

load = partial(golden_cases.load, "adaptive")
cases = partial(golden_cases.cases, "adaptive")


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


def fkd_pairs(golden, student, teacher, level, pool):
    """What the four distances of one level compare, by their names: (of the student, teacher)."""

    def weights(name):
        return golden[f"in_w{level}_{name}"], golden[f"in_b{level}_{name}"]

    adapted = F.conv2d(student, *weights("adapt"))
    channel = F.linear(channel_attention(student, absolute=False).flatten(1), *weights("channel"))
    spatial = F.conv2d(spatial_attention(student, absolute=False), *weights("spatial"), padding=1)
    relation = F.conv2d(non_local_block(golden, f"{level}_snl", student, pool), *weights("nladapt"))
    return {
        "feat": (adapted, teacher),
        "channel": (channel, channel_attention(teacher, absolute=False).flatten(1)),
        "spatial": (spatial, spatial_attention(teacher, absolute=False)),
        "nonlocal": (relation, non_local_block(golden, f"{level}_tnl", teacher, pool)),
    }


def fkd_terms(pairs, masks):
    """The four distances, before their weights."""
    own = {"feat": masks}
    return {name: masked_distance(*pair, *own.get(name, ())) for name, pair in pairs.items()}


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
    pairs = fkd_pairs(golden, student, teacher, "", int(golden["in_pool"]))
    maps = [pairs["feat"][0], *pairs["nonlocal"]]
    for name, found in zip(("feat_adapted", "relation_s", "relation_t"), maps, strict=True):
        torch.testing.assert_close(found, golden[f"out_{name}"], rtol=1e-9, atol=1e-12)
    terms = fkd_terms(pairs, [mask])
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
        terms = fkd_terms(fkd_pairs(golden, student, teacher, str(i), pool), masks)
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


def root_mean_squares(student, teacher):
    """The distances of features, both attentions and relations, as root mean squares."""
    attentions = spatial_attention, channel_attention
    masks = [joint_mask(a(student), a(teacher), 0.5) for a in attentions]
    pairs = [(a(student), a(teacher)) for a in attentions]
    pairs.append(tuple(non_local(x, x, x) for x in (student, teacher)))
    return torch.stack(
        [masked_distance(student, teacher, *masks, normalise=True)]
        + [batch_distance(*pair, normalise=True) for pair in pairs]
    )


@given(images=st.integers(1, 3), zoom=st.integers(1, 3), seed=st.integers(0, 99))
def test_root_mean_squares_depend_neither_on_the_batch_nor_on_the_resolution(images, zoom, seed):
    torch.manual_seed(seed)
    maps = double(2, 6, 4, 5), double(2, 6, 4, 5)
    larger = [x.repeat(images, 1, 1, 1).repeat_interleave(zoom, 2) for x in maps]
    larger = [x.repeat_interleave(zoom, 3) for x in larger]
    torch.testing.assert_close(root_mean_squares(*larger), root_mean_squares(*maps))


@given(repeats=st.integers(1, 5))
def test_a_norm_over_the_batch_grows_with_its_root(repeats):
    student, teacher = double(2, 6, 4, 5), double(2, 6, 4, 5)
    larger = [x.repeat(repeats, 1, 1, 1) for x in (student, teacher)]
    expected = batch_distance(student, teacher) * repeats**0.5
    torch.testing.assert_close(batch_distance(*larger), expected)
    torch.testing.assert_close(
        batch_distance(*larger) / 240**0.5 / repeats**0.5, batch_distance(*larger, normalise=True)
    )
