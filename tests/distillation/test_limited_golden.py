"""Losses of self-training and feature imitation against the numbers of the original authors' code.

Reference features are [batch, cells, channels]; ours are pyramids of (N, C, H, W).
"""

from functools import partial

import pytest
import torch

import golden_cases
from multas.distillation.functional.feature_imitation import (
    defeat_imitation,
    mse_imitation,
    pdf_cell_weights,
    pdf_imitation,
)
from multas.distillation.functional.soft_detection import soft_detection_loss

DTYPES = [torch.float64, torch.float32]
load = partial(golden_cases.load, "multas")


def to_levels(features, sizes=None):
    """[batch, cells, channels] as a pyramid; by default one column of cells per level."""
    if sizes is None:
        count = features.shape[1]
        sizes = [(count - count // 3, 1), (count // 3, 1)] if count > 2 else [(count, 1)]
    parts = features.split([h * w for h, w in sizes], dim=1)
    return [part.mT.unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]


def leaf(tensor):
    return tensor.clone().requires_grad_()


def check(loss, stored):
    exact = loss.dtype == torch.float64
    rtol, atol = (1e-7, 1e-9) if exact else (1e-4, 1e-6)
    torch.testing.assert_close(loss.double(), stored, rtol=rtol, atol=atol)


def check_gradients(total, pairs):
    found = torch.autograd.grad(total, [inputs for inputs, _ in pairs])
    for ours, (_, stored) in zip(found, pairs, strict=True):
        exact = ours.dtype == torch.float64
        rtol, atol = (1e-7, 1e-9) if exact else (0, 1e-4 * stored.abs().max().item() + 1e-10)
        torch.testing.assert_close(ours.double(), stored, rtol=rtol, atol=atol)


def check_disagreement(data):
    """What the terms of PDF-Distil are made of, in float64."""
    student, teacher = (data[f"in_conf_{side}"].double().sigmoid() for side in "st")
    check((student - teacher).square(), data["out_disagree"])
    assert (teacher > 0.5).sum() == data["out_num_teacher_pos"]
    # The stored weights are divided by the number of channels.
    cells, channels = data["in_fea_s"].shape[1:]
    weights = pdf_cell_weights(data["out_disagree"], cells)
    torch.testing.assert_close(weights / channels, data["out_weight"], rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["a", "b", "w1e2"])
def test_soft_detection_equals_the_reference(case, dtype):
    data = load(f"soft_det_{case}", dtype)
    logits, deltas = leaf(data["in_conf_s"]), leaf(data["in_loc_s"])
    terms = soft_detection_loss(
        logits,
        deltas,
        data["in_conf_t"],
        data["in_loc_t"],
        class_weight=data["in_soft_weight"].item(),
    )
    check(terms["box_reg"], data["out_loss_l"])
    check(terms["cls"], data["out_loss_c"])
    total = terms["box_reg"] + terms["cls"]
    check(total, data["out_total"])
    check_gradients(total, [(deltas, data["grad_loc_s"]), (logits, data["grad_conf_s"])])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["a", "b"])
def test_mse_equals_the_reference(case, dtype):
    data = load(f"kd_mse_{case}", dtype)
    features = leaf(data["in_fea_s"])
    weight = data["in_loss_weight"].item()
    loss = mse_imitation(to_levels(features), to_levels(data["in_fea_t"]), weight=weight)
    check(loss, data["out_loss_kd"])
    check(loss, data["out_total"])
    check_gradients(loss, [(features, data["grad_fea_s"])])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["a", "b", "one_loc"])
def test_pdf_equals_the_reference(case, dtype):
    data = load(f"kd_pdf_{case}", dtype)
    features, logits, deltas = (leaf(data[f"in_{key}_s"]) for key in ("fea", "conf", "loc"))
    terms = pdf_imitation(
        to_levels(features),
        to_levels(data["in_fea_t"]),
        logits,
        deltas,
        data["in_conf_t"],
        data["in_loc_t"],
        weight=data["in_loss_weight"].item(),
    )
    for term, key in (("feature", "pdf"), ("cls", "cls"), ("box_reg", "reg")):
        check(terms[term], data[f"out_loss_{key}"])
    total = sum(terms.values())
    check(total, data["out_loss_kd"])
    check(total, data["out_total"])
    pairs = [(features, "fea"), (logits, "conf"), (deltas, "loc")]
    check_gradients(total, [(inputs, data[f"grad_{key}_s"]) for inputs, key in pairs])
    check_disagreement(data)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["mse", "pdf"])
def test_self_training_with_imitation_equals_the_reference(kind, dtype):
    data = load(f"kd_soft_{kind}_a", dtype)
    features, logits, deltas = (leaf(data[f"in_{key}_s"]) for key in ("fea", "conf", "loc"))
    teacher = (data["in_conf_t"], data["in_loc_t"])
    pyramids = (to_levels(features), to_levels(data["in_fea_t"]))
    weight = data["in_loss_weight"].item()
    if kind == "mse":
        imitation = mse_imitation(*pyramids, weight=weight)
    else:
        terms = pdf_imitation(*pyramids, logits, deltas, *teacher, weight=weight)
        for term, key in (("feature", "pdf"), ("cls", "cls"), ("box_reg", "reg")):
            check(terms[term], data[f"out_loss_{key}"])
        check_disagreement(data)
        imitation = sum(terms.values())
    soft = soft_detection_loss(logits, deltas, *teacher, class_weight=data["in_soft_weight"].item())
    check(soft["box_reg"], data["out_loss_l"])
    check(soft["cls"], data["out_loss_c"])
    check(imitation, data["out_loss_kd"])
    total = imitation + soft["cls"] + soft["box_reg"]
    check(total, data["out_total"])
    pairs = [(features, "fea"), (logits, "conf"), (deltas, "loc")]
    check_gradients(total, [(inputs, data[f"grad_{key}_s"]) for inputs, key in pairs])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["def256_a", "def_a", "def_allfg", "def_nofg"])
def test_defeat_equals_the_reference(case, dtype):
    data = load(f"kd_{case}", dtype)
    features, divisor = leaf(data["in_fea_s"]), data["in_divisor"].item()
    terms = defeat_imitation(
        to_levels(features), to_levels(data["in_fea_t"]), data["in_mask"], divisor=divisor
    )
    check(terms["foreground"] * divisor, data["out_loss_fg"])
    check(terms["background"] * divisor, data["out_loss_bg"])
    total = terms["foreground"] + terms["background"]
    check(total, data["out_loss_kd"])
    check_gradients(total, [(features, data["grad_fea_s"])])
