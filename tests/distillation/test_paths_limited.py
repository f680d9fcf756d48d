"""The paths of Lê and Pham (ICCVW 2023) on given feature maps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from torch import nn
from torch.autograd import gradcheck

from multas.config import add_multas_config
from multas.distillation import Teacher, build_distillation
from multas.distillation.functional.feature_imitation import (
    defeat_imitation,
)
from multas.distillation.functional.soft_detection import soft_detection_loss
from multas.distillation.paths.base import Targets
from multas.distillation.paths.spec import parse_paths
from multas.distillation.taps import leaves
from multas.modeling.heads.dense_predictor import flatten_levels
from no_transfer import NoTransfer
from path_building import build_path

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "multas"
CLASSES, ANCHORS = 3, 6
KINDS = ("FeatureMSE", "PDFDistil", "DeFeat", "SoftDetection")


def load(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file}
    return {k: v.double() if v.is_floating_point() else v for k, v in arrays.items()}


# Paths on given feature maps


def build(kind, student, teacher, **options):
    return build_path(kind, student, teacher, **options).double()


def targets(boxes=None, size=(64, 64)):
    boxes = None if boxes is None else [Boxes(b) for b in boxes]
    count = 0 if boxes is None else len(boxes)
    return Targets([size] * count, size, [None] * count, boxes)


def features(num_images=2, channels=4, sizes=((4, 4), (2, 2))):
    return [torch.randn(num_images, channels, *size).double() for size in sizes]


def head(num_images=2, classes=CLASSES, anchors=ANCHORS, sizes=((4, 4), (2, 2))):
    def maps(width):
        return [torch.randn(num_images, anchors * width, *size).double() for size in sizes]

    return maps(classes), maps(4)


def as_map(rows, size):
    """(N, Hi*Wi*A, K) -> (N, A*K, Hi, Wi)."""
    count, _, width = rows.shape
    return rows.reshape(count, *size, ANCHORS * width).permute(0, 3, 1, 2)


def as_head(data, side, size):
    return [as_map(data[f"in_conf_{side}"], size)], [as_map(data[f"in_loc_{side}"], size)]


def as_feature(rows, size):
    return rows.mT.unflatten(2, size)


@pytest.mark.parametrize(("case", "size"), [("a", (3, 3)), ("b", (5, 5))])
def test_mse_path_times_its_weight_is_the_reference(case, size):
    data = load(f"kd_mse_{case}")
    student, teacher = (as_feature(data[f"in_fea_{side}"], size) for side in "st")
    path = build("FeatureMSE", [student], [teacher], ADAPTER="none")
    (loss,) = path((student,), (teacher,), targets()).values()
    (spec,) = parse_paths([{"TYPE": "FeatureMSE"}])
    torch.testing.assert_close(spec.weight * loss, data["out_loss_kd"], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("case", "size"), [("a", (3, 3)), ("b", (4, 5)), ("one_loc", (1, 1))])
def test_pdf_path_is_the_reference_with_factor_5_on_the_features_alone(case, size):
    data = load(f"kd_pdf_{case}")
    student, teacher = (
        (as_feature(data[f"in_fea_{side}"], size), as_head(data, side, size)) for side in "st"
    )
    terms = build("PDFDistil", student, teacher, ADAPTER="none")(student, teacher, targets())
    assert parse_paths([{"TYPE": "PDFDistil"}])[0].weight == 1
    for label, key in (("feature", "pdf"), ("cls", "cls"), ("box_reg", "reg")):
        torch.testing.assert_close(terms[label], data[f"out_loss_{key}"], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("case", "size"), [("a", (1, 5)), ("b", (2, 5)), ("w1e2", (2, 2))])
def test_soft_detection_path_is_the_reference(case, size):
    data = load(f"soft_det_{case}")
    student, teacher = (as_head(data, side, size) for side in "st")
    weight = data["in_soft_weight"].item()
    options = {} if weight == 5e3 else {"SOFT_WEIGHT": weight}
    terms = build("SoftDetection", [student], [teacher], **options)(
        (student,), (teacher,), targets()
    )
    torch.testing.assert_close(terms["cls"], data["out_loss_c"], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(terms["box_reg"], data["out_loss_l"], rtol=1e-7, atol=1e-9)


def test_defeat_path_has_the_foreground_of_the_reference():
    data, mask = load("kd_def_a"), load("fg_mask_edge")
    sizes = [(8, 8), (4, 4), (2, 2), (1, 1)]
    student, teacher = (
        [
            as_feature(part, size)
            for part, size in zip(
                data[f"in_fea_{side}"].split([h * w for h, w in sizes], 1), sizes, strict=True
            )
        ]
        for side in "st"
    )
    boxes = [64 * mask["in_boxes"][mask["in_boxes_image"] == i] for i in range(2)]
    path = build("DeFeat", [student], [teacher], ADAPTER="none", DIVISOR=256.0)
    terms = path((student,), (teacher,), targets(boxes))
    expected = defeat_imitation(student, teacher, mask["out_mask"], divisor=256.0)
    assert terms.keys() == expected.keys() and expected["foreground"] > 0
    for label in expected:
        torch.testing.assert_close(terms[label], expected[label])


def test_defeat_takes_images_with_any_number_of_boxes():
    student, teacher = features(3), features(3)
    boxes = [torch.empty(0, 4), torch.tensor([[0.0, 0, 64, 64]]), torch.full((7, 4), 8.0)]
    path = build("DeFeat", [student], [teacher], ADAPTER="none", FOREGROUND_WEIGHT=3.0)
    terms = path((student,), (teacher,), targets(boxes))
    mask = torch.tensor([0.0, 1, 0])[:, None].repeat(1, 20).double()
    # The boxes of the third image are a single point: the centre of its first cell.
    mask[2, 0] = 1
    expected = defeat_imitation(student, teacher, mask, foreground_weight=3.0)
    torch.testing.assert_close(terms["foreground"], expected["foreground"])
    nothing = path((student,), (teacher,), targets([torch.empty(0, 4)] * 3))
    assert nothing["foreground"] == 0 and nothing["background"] > terms["background"]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_loss(kind):
    small = {"num_images": 1, "sizes": ((2, 2), (1, 1))}
    teacher_features, teacher_head = features(channels=3, **small), head(classes=2, **small)
    inputs = [x.requires_grad_() for x in features(channels=2, **small)]
    logits, deltas = head(classes=2, **small)
    boxes = [torch.tensor([[0.0, 0, 40, 40]])]
    if kind != "PDFDistil":  # whose disagreement is a constant by definition
        logits = [x.requires_grad_() for x in logits]
    deltas = [x.requires_grad_() for x in deltas]
    layers = {
        "PDFDistil": (inputs, (logits, deltas)),
        "SoftDetection": ((logits, deltas),),
    }.get(kind, (inputs,))
    theirs = {
        "PDFDistil": (teacher_features, teacher_head),
        "SoftDetection": (teacher_head,),
    }.get(kind, (teacher_features,))
    options = {"SOFT_WEIGHT": 10.0} if kind == "SoftDetection" else {}
    path = build(kind, layers, theirs, **options)
    free = [x for x in leaves(layers) if x.requires_grad]

    def loss(*_):
        return sum(path(layers, theirs, targets(boxes)).values())

    assert gradcheck(loss, (*free, *path.parameters()))


@pytest.mark.parametrize("kind", ["FeatureMSE", "PDFDistil", "DeFeat"])
def test_student_features_are_projected_even_between_equal_widths(kind):
    student, teacher = (features(), head()), (features(), head())
    if kind != "PDFDistil":
        student, teacher = student[:1], teacher[:1]
    path = build(kind, student, teacher)
    assert [type(m) for a in path.adapters for m in a.children()] == [nn.Conv2d] * 2
    assert all(a.project.bias is not None for a in path.adapters)
    assert "1x1 4→4" in path.adapter_note
    assert not list(build(kind, student, teacher, ADAPTER="conv").parameters())


def test_score_weighting_changes_the_named_terms_only():
    student, teacher = head(), head()
    plain, weighted = (
        build("SoftDetection", [student], [teacher], SCORE_WEIGHTED=terms)(
            (student,), (teacher,), targets()
        )
        for terms in ([], ["box_reg"])
    )
    assert torch.equal(plain["cls"], weighted["cls"])
    logits = flatten_levels(teacher[0], CLASSES)
    best = logits.sigmoid().amax(-1)
    arguments = [
        flatten_levels(maps, width)
        for maps, width in zip((*student, *teacher), (CLASSES, 4) * 2, strict=True)
    ]
    expected = soft_detection_loss(*arguments, anchor_weights=best / best.mean())
    torch.testing.assert_close(weighted["box_reg"], expected["box_reg"])
    assert not torch.isclose(weighted["box_reg"], plain["box_reg"])


def test_a_teacher_that_scores_all_anchors_alike_is_weighted_alike():
    student, (logits, deltas) = head(), head()
    teacher = [torch.zeros_like(x) for x in logits], deltas
    plain, weighted = (
        build("SoftDetection", [student], [teacher], SCORE_WEIGHTED=terms)(
            (student,), (teacher,), targets()
        )
        for terms in ([], ["cls", "box_reg"])
    )
    for label in plain:
        torch.testing.assert_close(plain[label], weighted[label])


def refusals():
    maps, dense = features(), head()
    segmentation = torch.randn(2, 21, 64, 64)
    scores = torch.randn(2, 10)
    other = {"sizes": ((4, 4), (1, 1))}
    yield (
        "PDFDistil",
        (maps, dense),
        (maps, segmentation),
        {},
        ("in the teacher is no dense head.*use FeatureMSE or DeFeat"),
    )
    yield "PDFDistil", (maps, scores), (maps, dense), {}, "in the student is no dense head"
    yield "PDFDistil", (maps,), (maps,), {}, "only one layer is named.*use FeatureMSE or DeFeat"
    yield "PDFDistil", (maps, dense), (maps, head(classes=4)), {}, "same levels, strides, anchors"
    yield "PDFDistil", (maps, dense), (maps, head(anchors=3)), {}, "same levels, strides, anchors"
    yield "PDFDistil", (maps[:1], dense), (maps, dense), {}, "features of the student have the size"
    yield "PDFDistil", (maps, dense), (features(**other), dense), {}, "features of the teacher"
    yield "PDFDistil", (maps, dense), (maps, dense), {"ADAPTER": "lin"}, "choose from none, conv"
    yield "PDFDistil", (maps, dense), (maps, dense), {"POSITIVE_SCORE": 1.0}, "in \\[0, 1\\)"
    wide = features(channels=8)
    yield "PDFDistil", (maps, dense), (wide, dense), {"ADAPTER": "none"}, "channels differ"
    yield "SoftDetection", (dense,), (segmentation,), {}, "use FeatureMSE or DeFeat"
    yield "SoftDetection", (maps, dense), (maps, dense), {}, "taps one layer"
    yield "SoftDetection", (dense,), (head(classes=1),), {}, "same levels, strides, anchors"
    yield "SoftDetection", (dense,), (head(**other),), {}, "same levels, strides, anchors"
    # The same number of logits, but for other anchors.
    yield "SoftDetection", (dense,), (head(classes=6, anchors=3),), {}, "same levels"
    yield "SoftDetection", (dense,), (dense,), {"SCORE_WEIGHTED": "cls"}, "is a list of none, one"
    yield "SoftDetection", (dense,), (dense,), {"SCORE_WEIGHTED": ["loc"]}, "SCORE_WEIGHTED is"
    yield "DeFeat", (maps,), (maps,), {"DIVISOR": 0.0}, "DIVISOR is 0.0"
    yield "DeFeat", (maps,), (maps[:1],), {}, "numbers of feature maps"
    yield "FeatureMSE", (maps,), (features(**other),), {"RESIZE": "none"}, "sizes differ"


@pytest.mark.parametrize(("kind", "student", "teacher", "options", "message"), list(refusals()))
def test_what_cannot_be_compared_is_refused_at_build_time(kind, student, teacher, options, message):
    with pytest.raises(ValueError, match=message):
        build(kind, student, teacher, **options)


@pytest.mark.parametrize("classes", [2 * 17, 20])
@pytest.mark.parametrize("kind", ["SoftDetection", "PDFDistil"])
def test_distributions_are_not_taken_for_deltas(kind, classes):
    """With 34 classes, 17 bins of one anchor have the shapes of deltas of 17 anchors."""
    cfg = get_cfg()
    add_multas_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "MultiTaskNetwork"
    cfg.MODEL.MULTITASK.HEADS = ["GFLHead"]
    cfg.MODEL.BACKBONE.NAME = "build_multas_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4"]
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[64.0], [128.0]]
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[1.0]]
    cfg.MODEL.GFL_HEAD.NUM_CLASSES = classes
    cfg.MODEL.GFL_HEAD.NUM_CONVS = 1
    cfg.MODEL.DISTILLATION.PATHS = [{"TYPE": kind}]
    student, teacher = build_model(cfg), Teacher(build_model(cfg))
    message = f"path '.*': {kind} compares deltas .* 17 bins .* LocalizationDistillation fits"
    with pytest.raises(ValueError, match=message):
        build_distillation(cfg, student, [teacher])
    cfg.MODEL.DISTILLATION.PATHS = [{"TYPE": "LocalizationDistillation", "STUDENT": "heads.det"}]
    assert build_distillation(cfg, student, [teacher])


@pytest.mark.parametrize("kind", KINDS)
def test_no_step_waits_for_the_device(kind):
    student, teacher = (features(), head()), (features(channels=8), head())
    used = {"PDFDistil": slice(0, 2), "SoftDetection": slice(1, 2)}.get(kind, slice(0, 1))
    student, teacher = student[used], teacher[used]
    options = {"SCORE_WEIGHTED": ["cls", "box_reg"]} if kind == "SoftDetection" else {}
    path = build(kind, student, teacher, **options)
    objects = targets([torch.tensor([[0.0, 0, 40, 40]]), torch.empty(0, 4)])
    for leaf in leaves(student):
        leaf.requires_grad_()
    with NoTransfer():
        sum(path(student, teacher, objects).values()).backward()


# The ramp
