"""Cross-head distillation: what crosses, what imitates what, and who learns from it."""

import copy
from itertools import pairwise

import pytest
import torch
from detectron2.modeling import build_model
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

import weighing
from golden_cases import double
from limited_network import network_cfg, sample
from multas.distillation import Teacher
from multas.distillation.functional.cross_head import (
    box_imitation,
    match_moments,
    object_scores,
    score_imitation,
)
from multas.distillation.functional.localization import distribution_kl_elements
from multas.modeling.heads.dense_predictor import cut_subnets
from weighing import parameters_of, without_statistics

pytestmark = pytest.mark.usefixtures("storage")
HEADS = ("levelwise", "shared", "gfl", "retinanet")
IMAGES = [sample(0), sample(1)]


def config(head="levelwise", width=4, convs=2, **path):
    """A small detector with such a head, as student of the path."""
    cfg = network_cfg(width, PATHS=[{"TYPE": "CrossKD"} | path], AGGREGATION__NAME="hand_tuned")
    cfg.MODEL.DENSE_HEAD.NUM_CONVS = cfg.MODEL.GFL_HEAD.NUM_CONVS = convs
    cfg.MODEL.DENSE_HEAD.SHARED = head == "shared"
    # With an untrained head all scores are 0.01, and its boxes are its anchors.
    cfg.MODEL.DENSE_HEAD.PRIOR_PROB = cfg.MODEL.GFL_HEAD.PRIOR_PROB = 0.3
    if head == "gfl":
        cfg.MODEL.MULTITASK.HEADS = ["GFLHead"]
        cfg.MODEL.GFL_HEAD.NUM_CLASSES, cfg.MODEL.GFL_HEAD.REG_MAX = 3, 4
    if head == "retinanet":
        cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
        cfg.MODEL.RETINANET.IN_FEATURES = ["p3", "p4"]
        cfg.MODEL.RETINANET.NUM_CLASSES, cfg.MODEL.RETINANET.NUM_CONVS = 3, convs
        cfg.MODEL.DISTILLATION.PATHS[0]["STUDENT"] = "head"
    return cfg


def network(cfg, seed):
    torch.manual_seed(seed)
    model = build_model(cfg)
    for parameter in model.parameters():  # heads are not as flat as at their start
        if parameter.dim() == 4 and parameter.std() < 0.02:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def distiller(student, teacher=None, precision=None):
    """Student and teacher of these configs; the student is the teacher's copy without one."""
    model = network(teacher or student, 1)
    own = weighing.make_distiller(student, Teacher(copy.deepcopy(model), precision=precision))
    own.student.load_state_dict((model if teacher is None else network(student, 2)).state_dict())
    return without_statistics(own)


def terms(model, images=IMAGES):
    """The terms of the path, and the path."""
    distillation = model.distillation
    with distillation.student_taps.record() as record:
        model.student(images)
    (path,), (spec,) = distillation.paths.values(), distillation.specs
    teacher = distillation.teachers[0]
    taught = teacher.record(teacher.inputs(images, "BGR"))
    sides = (record[n] for n in spec.student), (taught[n] for n in spec.teacher)
    return path(*map(tuple, sides), model._targets(images)), path


@pytest.mark.parametrize("head", HEADS)
def test_it_is_zero_with_zero_gradient_where_the_networks_agree(head):
    model = distiller(config(head))
    losses, path = terms(in_float64(model))
    assert list(losses) == list(path.labels)
    # GIoU has an epsilon of 1e-7 against boxes without area.
    assert max(float(x.detach().abs()) for x in losses.values()) < 1e-6
    parameters = parameters_of(model.student)
    gradients = torch.autograd.grad(sum(losses.values()), parameters, allow_unused=True)
    assert max(float(g.abs().max()) for g in gradients if g is not None) < 1e-5


def test_so_it_is_where_aligned_channels_agree():
    losses, _ = terms(in_float64(distiller(config("shared", ALIGN=True))))
    assert max(float(x.detach().abs()) for x in losses.values()) < 1e-6


def test_aligned_features_are_those_of_the_student():
    own, other = (config("shared", width, ALIGN=True) for width in (4, 8))
    losses, path = terms(distiller(own, other))
    sum(losses.values()).backward()
    assert all(p.grad.abs().max() > 0 for p in path.parameters() if p.dim() > 1)


def in_float64(model):
    model.double()
    model.distillation.teachers[0].model.double()
    return model


@pytest.mark.parametrize(
    ("head", "position"), [*((head, -1) for head in HEADS), ("levelwise", 3), ("shared", 1)]
)
def test_only_layers_in_front_of_the_crossing_learn(head, position):
    student, teacher = (config(head, w, convs=3, POSITION=position) for w in (4, 8))
    model = distiller(student, teacher)
    before = copy.deepcopy(model.distillation.teachers[0].model.state_dict())
    losses, path = terms(model)
    assert all(x > 0 for x in losses.values())
    sum(losses.values()).backward()
    front = position if position > 0 else 2
    name = "head" if head == "retinanet" else "heads.det.predictor"
    predictor = model.student.get_submodule(name)
    behind = {
        id(p)
        for cuts in cut_subnets(predictor, front)
        for cut in cuts
        for layer in cut.rest
        for p in layer.parameters()
    }
    head_module = model.student.get_submodule(name.removesuffix(".predictor"))
    behind |= {id(p) for n, p in head_module.named_parameters() if n == "scales"}
    learned = {id(p) for p in model.student.parameters() if p.grad is not None}
    assert learned == {id(p) for p in parameters_of(model.student)} - behind
    assert all(p.grad.abs().max() > 0 for p in path.parameters())
    taught = model.distillation.teachers[0].model
    assert all(torch.equal(before[k], v) for k, v in taught.state_dict().items())
    assert all(p.grad is None for p in taught.parameters())


def test_the_path_has_nothing_of_the_teacher_in_its_state():
    model = distiller(config(), config(width=8))
    adapters = model.distillation.state_dict()
    assert adapters.keys() == {
        f"paths.cross.adapters.{i}.project.{what}" for i in range(4) for what in ("weight", "bias")
    }
    assert not any(key.startswith("distillation") for key in model.state_dict())


def test_the_layers_that_are_tapped_are_those_in_front_of_the_crossing():
    names = {head: distiller(config(head, convs=3)).distillation.specs[0] for head in HEADS}
    where = "heads.det.predictor"
    subnets = ("cls_subnets", "box_subnets")
    levels = [f"{where}.{net}.{level}.1" for net in subnets for level in (0, 1)]
    assert names["levelwise"].student == (*levels, "heads.det")
    # Convolution, norm and ReLU of each block.
    shared = [f"{where}.{net}.5" for net in ("cls_subnet", "bbox_subnet")]
    assert names["shared"].student == names["gfl"].student == (*shared, "heads.det")
    assert names["retinanet"].student == ("head.cls_subnet.3", "head.bbox_subnet.3", "head")
    assert names["retinanet"].teacher == ("head",)


@pytest.mark.parametrize("head", HEADS)
def test_the_cross_head_predictions_are_the_teachers_on_the_students_features(head):
    model = distiller(config(head), config(head))
    with model.distillation.student_taps.record() as record:
        model.student(IMAGES)
    (path,), (spec,) = model.distillation.paths.values(), model.distillation.specs
    maps = [x for name in spec.student[:-1] for x in _as_list(record[name])]
    teacher = model.distillation.teachers[0].model
    # The teacher with the student's layers in front of the crossing, layer by layer.
    hybrid = copy.deepcopy(teacher)
    hybrid.load_state_dict(
        model.student.state_dict()
        | {k: v for k, v in teacher.state_dict().items() if _is_behind(k, head)}
    )
    head_name = "head" if head == "retinanet" else "heads.det"
    taps = type(model.distillation.student_taps)(hybrid, [head_name])
    expected = taps.probe(hybrid, IMAGES)[head_name]
    for own, other in zip(path.head.predict(maps), expected, strict=True):
        for x, y in zip(own, other, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def _as_list(value):
    return value if isinstance(value, list) else [value]


def _is_behind(key, head):
    """Whether a parameter is behind the first of two convolutions."""
    if head == "levelwise":
        return "subnets" in key and int(key.split(".")[5]) >= 1
    last = ("cls_score" in key, "bbox_pred" in key, key.endswith("scales"))
    ends = {"shared": 2, "gfl": 2, "retinanet": 1}[head]
    parts = key.split(".")
    inside = [int(n) > ends for p, n in pairwise(parts) if p.endswith("subnet")]
    return any(last) or any(inside)


def test_a_teacher_in_16_bits_that_is_made_fast_can_be_crossed():
    plain, half = (
        distiller(config(), config(width=8), precision) for precision in (None, torch.bfloat16)
    )
    half.distillation.teachers[0].optimize_for_inference()
    expected, _ = terms(plain)
    for name, x in terms(half)[0].items():
        assert x.dtype == torch.float32
        torch.testing.assert_close(x, expected[name], rtol=0.05, atol=0)
    sum(terms(half)[0].values()).backward()
    assert all(p.dtype == torch.float32 for p in half.student.parameters())


def test_options_of_the_losses_reach_them():
    plain, other = (
        terms(distiller(config(**options), config(width=8)))[0]
        for options in ({}, {"GAMMA": 2.0, "BOX_WEIGHT": 5.0})
    )
    torch.testing.assert_close(other["box_reg"], 5 * plain["box_reg"])
    assert 0 < other["cls"] < plain["cls"], "no two scores are as far apart as 1"


def test_under_autocast_the_losses_are_in_full_precision():
    model = distiller(config(), config(width=8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, _ = terms(model)
    assert all(x.dtype == torch.float32 and x.isfinite() for x in losses.values())


def test_heads_may_differ_in_depth_kind_and_classes():
    student = config("shared", convs=1)
    student.MODEL.DENSE_HEAD.NUM_CLASSES = 2
    model = distiller(student, config("levelwise", 8, convs=3))
    losses, _ = terms(model, [sample(0, annotated=False)] * 2)
    assert all(x.isfinite() and x > 0 for x in losses.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"POSITION": 4}, "POSITION is 4, but a sub-network .* has 2 convolutions"),
        ({"POSITION": 0}, "POSITION is 0"),
        ({"STUDENT": "backbone"}, "layer 'backbone' is a .*Name a DenseDetectionHead"),
        ({"STUDENT": "heads.dett"}, "'cross': .*layer 'heads.dett' is not there"),
        ({"STUDENT": ["heads.det", "backbone"]}, "in the student these are named: heads.det"),
        ({"ADAPTER": "none"}, "ADAPTER is 'none'"),
    ],
)
def test_what_cannot_be_crossed_is_explained(change, message):
    with pytest.raises(ValueError, match=message):
        distiller(config(**change))


def test_other_strides_are_refused():
    student = config()
    student.MODEL.DENSE_HEAD.IN_FEATURES = ["p3"]
    student.MODEL.ANCHOR_GENERATOR.SIZES = [[16, 22]]
    with pytest.raises(ValueError, match="need the same levels and strides"):
        distiller(student, config(width=8))


# The functions


def predictions(images=2, anchors=7, classes=3, grad=False):
    boxes = double(images, anchors, 4).abs() + 0.1
    boxes = torch.cat([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], dim=-1)
    return double(images, anchors, classes, grad=grad), boxes.requires_grad_(grad)


@given(repeats=st.integers(1, 4), seed=st.integers(0, 99))
def test_the_losses_do_not_depend_on_batch_and_number_of_anchors(repeats, seed):
    torch.manual_seed(seed)
    (logits, boxes), (other, others) = predictions(), predictions()
    other = other + 2  # above the least divisor
    whole = [x.repeat(repeats, repeats, 1) for x in (logits, boxes, other, others)]
    results = []
    for x, b, y, c in ((logits, boxes, other, others), whole):
        scores = object_scores(y)
        results.append(torch.stack([score_imitation(x, y, scores), box_imitation(b, c, scores)]))
    torch.testing.assert_close(*results)


def test_gradients_agree_with_finite_differences():
    (logits, boxes), (other, others) = predictions(grad=True), predictions()
    scores = object_scores(other)
    assert gradcheck(lambda x: score_imitation(x, other, scores), logits)
    assert gradcheck(lambda x: box_imitation(x, others, scores), boxes)
    assert gradcheck(match_moments, (double(2, 3, 4, 2, grad=True), double(2, 3, 2, 2)))


def test_scores_imitate_as_the_formula_says():
    student, teacher = torch.tensor([[[0.4]]]).logit(), torch.tensor([[[0.9]]]).logit()
    entropy = -0.9 * torch.tensor(0.4).log() - 0.1 * torch.tensor(0.6).log()
    # One anchor with the score 0.9; the least divisor is 1.
    loss = score_imitation(student, teacher, object_scores(teacher))
    torch.testing.assert_close(loss, 0.5 * entropy)
    loss = score_imitation(student, teacher, object_scores(teacher), gamma=2.0)
    torch.testing.assert_close(loss, 0.25 * entropy)
    # Of two classes at four anchors, each anchor's highest score counts in the divisor.
    whole = student.repeat(1, 4, 2), teacher.repeat(1, 4, 2)
    loss = score_imitation(*whole, object_scores(whole[1]))
    torch.testing.assert_close(loss, 0.5 * entropy * 8 / (4 * 0.9))


def test_an_image_without_objects_makes_no_loss_of_boxes_explode():
    (logits, boxes), (_, others) = predictions(), predictions()
    nothing = torch.full_like(logits, -50.0)
    scores = object_scores(nothing)
    assert float(box_imitation(boxes, others, scores)) < 1e-15
    assert float(score_imitation(nothing, nothing, scores)) == 0


@given(seed=st.integers(0, 99))
def test_aligned_channels_have_the_teachers_moments(seed):
    torch.manual_seed(seed)
    student, teacher = 3 * double(2, 3, 4, 5) + 1, double(2, 3, 8, 2)
    aligned = match_moments(student, teacher)
    for x, y in zip(aligned.unbind(1), teacher.unbind(1), strict=True):
        torch.testing.assert_close(x.mean(), y.mean())
        torch.testing.assert_close(x.var(correction=0), y.var(correction=0))
    torch.testing.assert_close(match_moments(teacher, teacher), teacher)
    torch.testing.assert_close(match_moments(student, teacher.flip(0)), aligned)


def test_a_constant_channel_keeps_its_gradient_finite():
    student = torch.ones(1, 2, 1, 1, requires_grad=True)
    match_moments(student, torch.zeros(1, 2, 1, 1)).sum().backward()
    assert student.grad.isfinite().all()


def test_distributions_add_their_divergence():
    model = distiller(config("gfl"), config("gfl", 8))
    losses, path = terms(model)
    with model.distillation.student_taps.record() as record:
        model.student(IMAGES)
    maps = [x for name in model.distillation.specs[0].student[:-1] for x in record[name]]
    maps = [a(x) for a, x in zip(path.adapters, maps, strict=True)]
    logits, sides = path.head.flatten(path.head.predict(maps))
    teacher = model.distillation.teachers[0]
    taught = teacher.record(teacher.inputs(IMAGES, "BGR"))["heads.det"]
    other, other_sides = path.head.flatten(taught)
    scores = object_scores(other)
    bins = path.head.bins
    rows = distribution_kl_elements(
        sides.reshape(-1, bins), other_sides.reshape(-1, bins), temperature=1.0
    )
    divergence = (rows.reshape(*scores.shape, 4).mean(-1) * scores).sum() / scores.sum()
    places = path.head.anchors(taught)
    giou = box_imitation(*(path.head.decode(x, places) for x in (sides, other_sides)), scores)
    torch.testing.assert_close(losses["box_reg"], 2 * giou + 3 * divergence)
    torch.testing.assert_close(losses["cls"], score_imitation(logits, other, scores))
