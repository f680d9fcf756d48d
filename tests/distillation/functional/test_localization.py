"""Localization distillation and generalized focal loss: golden numbers and mathematics."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from detectron2.structures.boxes import Boxes, matched_pairwise_iou
from hypothesis import given
from hypothesis import strategies as st

import golden_cases
from golden_cases import assert_gradient, assert_value, double, gradient
from multas.distillation.functional.localization import (
    distribution_kl_elements,
    localization_distillation,
    pairwise_iou_and_diou,
    valuable_region,
)
from multas.modeling.generalized_focal import (
    decode_distances,
    decode_logits,
    distribution_focal_elements,
    encode_distances,
    integral,
    iou_and_giou,
)
from multas.modeling.losses import quality_focal_elements, weighted_sum


def quality_focal_loss_of_rows(logits, labels, scores, *, beta=2.0):
    classes = logits.shape[1]
    targets = F.one_hot(labels, classes + 1)[:, :classes] * scores[:, None]
    return quality_focal_elements(logits, targets, gamma=beta).sum(dim=1)


def quality_focal_loss(logits, labels, scores, *, beta=2.0, **reduction):
    return weighted_sum(quality_focal_loss_of_rows(logits, labels, scores, beta=beta), **reduction)


def distribution_focal_loss(logits, targets, **reduction):
    return weighted_sum(distribution_focal_elements(logits, targets), **reduction)


def giou_loss(boxes, targets, **reduction):
    return weighted_sum(1.0 - iou_and_giou(boxes, targets)[1], **reduction)


load = partial(golden_cases.load, "adaptive")
cases = partial(golden_cases.cases, "adaptive")


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
    labels, scores = golden["in_label"].long(), golden["in_score"]
    elements = quality_focal_loss_of_rows(logits, labels, scores, beta=beta)
    assert_value(golden["in_loss_weight"] * elements, golden["out_loss_unreduced"])
    loss = golden["in_loss_weight"] * quality_focal_loss(
        logits, labels, scores, beta=beta, **reduction(golden)
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
    """(N, C, H, W) -> (N H W C / columns, columns) in the order n, y, x."""
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
    for name in ("bbox", "dfl"):
        normalised = losses[name] / (confidence.sum() + 1e-6)
        assert_value(normalised, golden[f"out_loss_{name}_normalised"], 1e-8)
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
