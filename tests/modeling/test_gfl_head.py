"""The generalized focal loss head: inference, configuration, training, distillation."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from gfl_scene import (
    BINS,
    CLASSES,
    REG_MAX,
    SCENE,
    SHAPES,
    SIZE,
    STRIDES,
    make_cfg,
    make_features,
    make_head,
    make_instances,
)
from multas.distillation import Teacher
from multas.modeling.heads import build_task_head
from multas.modeling.heads.gfl_loss import anchor_places
from multas.modeling.label_assignment import assign_atss
from multas.modeling.matcher import pad_objects
from weighing import make_distiller, weighed

# Inference


def perfect_outputs(levels, scene) -> tuple[torch.Tensor, torch.Tensor]:
    """Optimal outputs: certain classes, and two bins whose mean is the distance of a side."""
    padded = pad_objects([make_instances(*image) for image in scene])
    targets = assign_atss(padded, levels, CLASSES)
    places = anchor_places(levels, STRIDES)
    points, boxes = places[:, :2] / places[:, 2:], targets.boxes / places[:, 2:]
    d = torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)
    d = d.clamp(0, REG_MAX - 1e-3)
    bins = torch.arange(BINS)
    shares = (1 - (d[..., None] - bins).abs()).clamp(min=0)
    return 20 * targets.classes - 10, shares.clamp(min=1e-12).log().flatten(-2)


def test_perfect_predictions_give_the_objects_back():
    head = make_head()
    # Objects that do not suppress each other, with sides within REG_MAX strides.
    scene = [([[3.0, 7.1, 40.7, 33.9], [30.3, 38.2, 61.0, 60.1]], [0, 2]), SCENE[1]]
    features = make_features()
    logits, sides = perfect_outputs(head.level_anchors(features), scene)
    sizes = [(x.shape[2], x.shape[3]) for x in features.values()]
    counts = [height * width for height, width in sizes]
    maps = tuple(
        [
            part.mT.unflatten(2, size)
            for part, size in zip(rows.split(counts, dim=1), sizes, strict=True)
        ]
        for rows in (logits, sides)
    )
    found = head.inference(maps, features, [(SIZE, SIZE)] * 2, [(SIZE, 2 * SIZE)] * 2)
    for instances, (boxes, classes) in zip(found, scene, strict=True):
        order = instances.pred_classes.argsort()
        assert instances.pred_classes[order].tolist() == classes
        assert instances.scores.min() > 0.99
        wide = torch.tensor(boxes) * torch.tensor([2.0, 1.0, 2.0, 1.0])
        torch.testing.assert_close(instances.pred_boxes.tensor[order], wide, rtol=0, atol=1e-2)
    assert instances.image_size == (SIZE, 2 * SIZE)
    losses = head.losses(maps, features, [make_instances(*x) for x in scene], (SIZE, SIZE))
    assert losses["loss_cls"] < 1e-6 and losses["loss_box_reg"] < 1e-4


def test_no_detection_is_no_error():
    head, features = make_head(SCORE_THRESH_TEST=0.9), make_features(1)
    (instances,) = head.inference(head(features), features, [(60, 50)], [(60, 50)])
    assert len(instances) == 0


# Configuration


def test_layout_is_the_one_that_localization_distillation_taps():
    logits, sides = make_head(per_place=2)(make_features())
    for x, logit, side in zip(make_features().values(), logits, sides, strict=True):
        assert logit.shape == (2, 2 * CLASSES, *x.shape[2:])
        assert side.shape == (2, 2 * 4 * BINS, *x.shape[2:])
        assert logit.sigmoid().mean().item() == pytest.approx(0.01, rel=0.3)


@pytest.mark.parametrize(("width", "groups"), [(256, 32), (32, 16), (24, 8)])
def test_group_norm_has_as_many_groups_as_divide_the_width(width, groups):
    shapes = {name: ShapeSpec(channels=width, stride=s.stride) for name, s in SHAPES.items()}
    head = build_task_head("GFLHead", make_cfg(), shapes)
    norms = [m for m in head.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert [norm.num_groups for norm in norms] == [groups] * 2
    head({name: torch.randn(1, width, 1, 1) for name in SHAPES})


def test_wrong_values_are_named():
    with pytest.raises(ValueError, match=r"GFL_HEAD\.ASSIGNMENT is 'nearest'.*atss"):
        make_head(ASSIGNMENT="nearest")
    cfg = make_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16.0], [32.0, 40.0], [64.0]]
    with pytest.raises(ValueError, match=r"ANCHOR_GENERATOR gives \[1, 2, 1\]"):
        build_task_head("GFLHead", cfg, SHAPES)


# In a network


def network_cfg(width: int):
    cfg = make_cfg(REG_MAX=8)
    cfg.MODEL.META_ARCHITECTURE = "MultiTaskNetwork"
    cfg.MODEL.MULTITASK.HEADS = ["GFLHead"]
    cfg.MODEL.BACKBONE.NAME = "build_multas_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = width
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    return cfg


def sample(index: int = 0) -> dict:
    generator = torch.Generator().manual_seed(index)
    image = torch.randint(0, 255, (3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    return {"image": image, "instances": make_instances(*SCENE[index]), "height": SIZE,
            "width": SIZE}  # fmt: skip


def test_learns_an_image_by_heart():
    model = build_model(network_cfg(width=8)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    boxes = [[3.0, 7.1, 40.7, 33.9], [30.3, 38.2, 61.0, 60.1]]
    image = sample() | {"instances": make_instances(boxes, [0, 2])}
    history = []
    for _ in range(60):
        losses = model([image])
        history.append(sum(losses.values()))
        optimizer.zero_grad()
        history[-1].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    assert history[-1] < 0.2 * history[0]
    # With batch statistics, as there are no running statistics yet.
    with torch.no_grad():
        outputs = model.raw_outputs([image])
        head = model.heads["det"]
        size = [(SIZE, SIZE)]
        (found,) = head.inference(outputs.predictions["det"], outputs.features, size, size)
    best = found[found.scores > 0.5]
    order = best.pred_classes.argsort()
    assert best.pred_classes[order].tolist() == [0, 2]
    torch.testing.assert_close(best.pred_boxes.tensor[order], torch.tensor(boxes), rtol=0, atol=3.0)


def test_is_teacher_and_student_of_localization_distillation():
    cfg = network_cfg(width=8)
    cfg.MODEL.DISTILLATION.PATHS = [
        {"TYPE": "LocalizationDistillation", "STUDENT": "heads.det", "REG_MAX": 8},
        {"TYPE": "FKD", "STUDENT": "backbone"},
    ]
    teacher = Teacher(build_model(network_cfg(width=16)))
    distiller = weighed(make_distiller(cfg, teacher)).train()
    with EventStorage():
        losses = distiller([sample(0), sample(1)])
    own = {"loss_cls", "loss_box_reg", "loss_dfl"}
    assert losses.keys() == own | {f"loss_kd_{name}" for name in ("ld", "fkd", "z")}
    assert losses["loss_kd_ld"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in distiller.student.parameters())
    assert all(p.grad is None for p in teacher.model.parameters())
    assert distiller.student.heads["det"].scales.grad.any()
