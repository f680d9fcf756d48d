"""Localization distillation as a path: its regions against loops, and its errors."""

import numpy as np
import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import Boxes
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from multas.distillation.functional.localization import distribution_kl_elements
from multas.distillation.paths.base import Targets
from multas.modeling.generalized_focal import atss_match
from path_building import build_path

BINS = 5
CLASSES = 3
SIZES = ((8, 8), (4, 4))


def dense_outputs(images=2, grad=False):
    scores = [torch.randn(images, CLASSES, *size, requires_grad=grad) for size in SIZES]
    sides = [torch.randn(images, 4 * BINS, *size, requires_grad=grad) for size in SIZES]
    return ((scores, sides),)


def detector():
    teacher = nn.Module()
    teacher.anchors = DefaultAnchorGenerator(
        sizes=[[32.0], [64.0]], aspect_ratios=[1.0], strides=[8, 16]
    )
    return teacher


def boxes_as_targets(*boxes):
    found = [Boxes(torch.tensor(b, dtype=torch.float32).reshape(-1, 4)) for b in boxes]
    return Targets([(64, 64)] * len(found), (64, 64), [None] * len(found), found)


def brute_force_regions(boxes, topk, gamma):
    """Regions of one image by loops: {anchor: box} of positives, {anchor: weight} of others."""
    anchors = []
    for stride, (height, width) in zip((8, 16), SIZES, strict=True):
        side = 2 * stride
        cells = [(x, y) for y in range(height) for x in range(width)]
        middle = [((x + 0.5) * stride, (y + 0.5) * stride) for x, y in cells]
        anchors.append([(x - side, y - side, x + side, y + side) for x, y in middle])

    def iou_and_diou(a, b):
        area = lambda r: (r[2] - r[0]) * (r[3] - r[1])  # noqa: E731
        low = [max(p, q) for p, q in zip(a[:2], b[:2], strict=True)]
        high = [min(p, q) for p, q in zip(a[2:], b[2:], strict=True)]
        inter = max(high[0] - low[0], 0) * max(high[1] - low[1], 0)
        iou = inter / (area(a) + area(b) - inter)
        shift = sum(((a[i] + a[i + 2] - b[i] - b[i + 2]) / 2) ** 2 for i in (0, 1))
        diagonal = sum((max(a[i + 2], b[i + 2]) - min(a[i], b[i])) ** 2 for i in (0, 1))
        return iou, iou - shift / diagonal

    flat = [a for level in anchors for a in level]
    main, valuable = {}, {}
    for box in boxes:
        overlaps = [iou_and_diou(a, box) for a in flat]
        near, start = [], 0
        for level in anchors:
            middle = [
                abs(complex(a[0] + a[2], a[1] + a[3]) - complex(box[0] + box[2], box[1] + box[3]))
                for a in level
            ]
            order = sorted(range(len(level)), key=middle.__getitem__)
            near += [start + i for i in order[:topk]]
            start += len(level)
        candidate_ious = np.array([overlaps[i][0] for i in near])
        threshold = candidate_ious.mean() + candidate_ious.std(ddof=1)
        for i, anchor in enumerate(flat):
            iou, diou = overlaps[i]
            x, y = (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2
            inside = box[0] < x < box[2] and box[1] < y < box[3]
            if i in near and iou >= threshold and inside:
                main[i] = max(main.get(i, 0.0), iou)
            if gamma * threshold <= diou < threshold:
                valuable[i] = max(valuable.get(i, 0.0), iou)
    return main, valuable


@given(
    corners=st.lists(st.tuples(*[st.floats(1.0, 63.0)] * 4), min_size=1, max_size=3),
    topk=st.integers(1, 6),
)
def test_positives_are_those_of_a_literal_reading_of_atss(corners, topk):
    # Irrational offsets, so that no two anchors are equally near.
    boxes = [
        [min(x, u) - 0.5417, min(y, v) - 0.3183, max(x, u) + 0.7071, max(y, v) + 0.5772]
        for x, y, u, v in corners
    ]
    grids = [torch.empty(1, 1, *size) for size in SIZES]
    levels = [level.tensor.double() for level in detector().anchors(grids)]
    matched, _ = atss_match(levels, torch.tensor(boxes, dtype=torch.float64), topk=topk)
    main, _ = brute_force_regions(boxes, topk, gamma=0.25)
    assert set((matched >= 0).nonzero().flatten().tolist()) == set(main)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("mean_over_bins", [True, False])
def test_localization_regions_and_divisors(normalise, mean_over_bins):
    # Centres off the symmetric places, so that the nearest anchors are unique.
    boxes = ([[3.0, 7.1, 40.7, 33.9], [20.3, 18.2, 61.0, 60.1]], [[13.1, 2.3, 49.9, 37.0]])
    student, teacher = dense_outputs(grad=True), dense_outputs()
    path = build_path(
        "LocalizationDistillation",
        student,
        teacher,
        detector(),
        REG_MAX=BINS - 1,
        TOPK=5,
        NORMALISE=normalise,
        MEAN_OVER_BINS=mean_over_bins,
    )
    losses = path(student, teacher, boxes_as_targets(*boxes))
    assert list(losses) == list(path.labels) == ["main", "valuable"]

    def rows(values, width):
        return torch.cat([v.permute(0, 2, 3, 1).flatten(1, 2) for v in values], 1).unflatten(
            -1, (-1, width)
        )

    confidence = rows(student[0][0], CLASSES).sigmoid().amax((2, 3)).detach()
    divergence = distribution_kl_elements(
        rows(student[0][1], BINS).reshape(-1, BINS),
        rows(teacher[0][1], BINS).reshape(-1, BINS),
        mean_over_bins=mean_over_bins,
    ).reshape(2, -1, 4)
    total = {"main": 0.0, "valuable": 0.0}
    weight = {"main": 0.0, "valuable": 0.0}
    for image, found in enumerate(boxes):
        main, valuable = brute_force_regions(found, topk=5, gamma=0.25)
        assert main and valuable
        for i in main:
            total["main"] = total["main"] + confidence[image, i] * divergence[image, i].sum()
            weight["main"] += 4 * confidence[image, i]
        for i, overlap in valuable.items():
            total["valuable"] = total["valuable"] + overlap * divergence[image, i].sum()
            weight["valuable"] += 4 * overlap
    divisor = weight if normalise else {"main": 4, "valuable": 16}
    for name in losses:
        torch.testing.assert_close(losses[name], total[name] / divisor[name])
    torch.stack(list(losses.values())).sum().backward()
    assert all(s.grad.abs().max() > 0 for s in student[0][1])
    assert all(s.grad is None for s in student[0][0])


@pytest.mark.parametrize("repeats", [1, 3])
def test_a_normalised_localization_depends_neither_on_batch_nor_on_number_of_objects(repeats):
    boxes = [[3.0, 7.1, 40.7, 33.9], [20.3, 18.2, 61.0, 60.1]], [[13.1, 2.3, 49.9, 37.0]]
    (scores, sides), (_, taught) = dense_outputs()[0], dense_outputs()[0]
    maps = [[x.repeat(repeats, 1, 1, 1) for x in levels] for levels in (scores, sides, taught)]
    options = {"REG_MAX": BINS - 1, "TOPK": 5}
    outputs = ((scores, sides),), ((scores, taught),)
    paths = [
        build_path("LocalizationDistillation", *outputs, detector(), NORMALISE=n, **options)
        for n in (True, False)
    ]

    def losses(path, images):
        scores, sides, taught = ([x[: 2 * images] for x in levels] for levels in maps)
        targets = boxes_as_targets(*boxes * images)
        return path(((scores, sides),), ((scores, taught),), targets)

    for name in ("main", "valuable"):
        mean, total = (losses(path, repeats)[name] for path in paths)
        torch.testing.assert_close(mean, losses(paths[0], 1)[name])
        torch.testing.assert_close(total, repeats * losses(paths[1], 1)[name])


@pytest.mark.parametrize("normalise", [True, False])
def test_localization_without_an_object_is_zero_on_the_graph(normalise):
    student, teacher = dense_outputs(grad=True), dense_outputs()
    path = build_path(
        "LocalizationDistillation",
        student,
        teacher,
        detector(),
        REG_MAX=BINS - 1,
        NORMALISE=normalise,
        REGIONS=["valuable"],
    )
    losses = path(student, teacher, boxes_as_targets([], []))
    assert losses["valuable"] == 0
    losses["valuable"].backward()
    assert all(s.grad.eq(0).all() for s in student[0][1])


def test_localization_uses_several_anchors_of_a_cell():
    generator = DefaultAnchorGenerator(
        sizes=[[32.0, 40.0], [64.0, 80.0]], aspect_ratios=[1.0], strides=[8, 16]
    )
    teacher_model = nn.Module()
    teacher_model.anchors = generator
    student = (
        (
            [torch.randn(1, 2 * CLASSES, *s) for s in SIZES],
            [torch.randn(1, 8 * BINS, *s) for s in SIZES],
        ),
    )
    path = build_path("LocalizationDistillation", student, student, teacher_model, REG_MAX=BINS - 1)
    losses = path(student, student, boxes_as_targets([3.0, 7.0, 40.0, 34.0]))
    assert all(loss.abs() < 1e-6 for loss in losses.values())


def test_localization_refuses_what_has_no_distributions():
    outputs = dense_outputs()
    cases = (
        (detector(), {"REG_MAX": 16}, "generalized focal"),
        (nn.Module(), {"REG_MAX": BINS - 1}, "0 anchor generators"),
        (detector(), {"REG_MAX": BINS - 1, "REGIONS": ["rest"]}, "main, valuable"),
        (
            detector(),
            {"REG_MAX": BINS - 1, "ANCHOR_GENERATOR": "a"},
            "1 anchor generators .anchors",
        ),
        (detector(), {"REG_MAX": BINS - 1, "TEMPERATURE": 0.0}, "positive"),
    )
    for teacher_model, options, message in cases:
        with pytest.raises(ValueError, match=message):
            build_path("LocalizationDistillation", outputs, outputs, teacher_model, **options)
