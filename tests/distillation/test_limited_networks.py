"""The paths of Lê and Pham (ICCVW 2023) in a Distiller."""

import pytest
import torch
from detectron2.modeling import build_model

import weighing
from limited_network import CLASSES, make_distiller, network_cfg, sample
from multas.distillation import Teacher
from multas.distillation.functional.feature_imitation import (
    defeat_imitation,
    mse_imitation,
    pdf_imitation,
)
from multas.distillation.functional.foreground import cell_centers, foreground_mask
from multas.distillation.functional.soft_detection import soft_detection_loss
from multas.modeling.heads.dense_predictor import flatten_levels

pytestmark = pytest.mark.usefixtures("storage")
KINDS = ("FeatureMSE", "PDFDistil", "DeFeat", "SoftDetection")


def recorded(distiller, inputs):
    """Outputs of the tapped layers of both networks, teacher in eval mode."""
    with distiller.distillation.student_taps.record() as student:
        distiller.student(inputs)
    teacher = distiller.distillation.teachers[0]
    return student, teacher.record(teacher.inputs(inputs, "BGR"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_distiller_gives_the_functional_values_times_the_weight(kind):
    distiller = make_distiller([{"TYPE": kind}]).train()
    inputs = [sample(0), sample(1)]
    losses = distiller(inputs)
    student, teacher = recorded(distiller, inputs)
    path = next(iter(distiller.distillation.paths.values()))
    if kind != "SoftDetection":
        levels = student["backbone"].values()
        ours = [adapter(x) for adapter, x in zip(path.adapters, levels, strict=True)]
        theirs = list(teacher["backbone"].values())
    if kind in ("PDFDistil", "SoftDetection"):
        dense = [
            flatten_levels(maps, width)
            for values in (student, teacher)
            for maps, width in zip(values["heads.det"], (CLASSES, 4), strict=True)
        ]
    if kind == "FeatureMSE":
        expected = mse_imitation(ours, theirs)
    elif kind == "PDFDistil":
        expected = sum(pdf_imitation(ours, theirs, *dense).values())
    elif kind == "SoftDetection":
        expected = sum(soft_detection_loss(*dense).values())
    else:
        boxes = torch.zeros(2, 2, 4)
        for i, x in enumerate(inputs):
            boxes[i, : i + 1] = x["instances"].gt_boxes.tensor
        valid = torch.tensor([[True, False], [True, True]])
        centers = cell_centers([x.shape[2:] for x in ours], (64, 96))
        mask = foreground_mask(boxes, valid, centers)
        expected = sum(defeat_imitation(ours, theirs, mask).values())
    torch.testing.assert_close(losses[f"loss_kd_{type(path).default_name}"], expected)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in distiller.parameters())


def test_every_path_beside_the_others_and_layer_by_layer():
    entries = [{"TYPE": kind, "LAYERWISE": True} for kind in KINDS]
    distiller = make_distiller(entries).train()
    names = "mse_0 mse_1 pdf_feature pdf_cls pdf_box_reg defeat_foreground defeat_background"
    assert distiller.distillation.names == [*names.split(), "soft_cls", "soft_box_reg"]
    whole = make_distiller([{"TYPE": kind} for kind in KINDS]).train()
    whole.distillation.paths.load_state_dict(distiller.distillation.paths.state_dict())
    inputs = [sample()]
    parts, sums = distiller(inputs), whole(inputs)
    for name in ("mse", "pdf", "defeat", "soft"):
        own = [v for k, v in parts.items() if k.startswith(f"loss_kd_{name}")]
        torch.testing.assert_close(sum(own), sums[f"loss_kd_{name}"])


def test_every_teacher_gives_its_paths_its_own_boxes():
    cfg = network_cfg(
        PATHS=[{"TYPE": "DeFeat", "NAME": f"d{i}", "TEACHER_ID": i} for i in range(3)],
        AGGREGATION__NAME="equal", BOXES="teacher", BOX_SCORE_THRESH=0.0,
    )  # fmt: skip
    one, other = (build_model(network_cfg(8)) for _ in range(2))
    teachers = (Teacher(network) for network in (one, other, one))
    distiller = weighing.make_distiller(cfg, *teachers)
    boxes = {}
    for name, path in distiller.distillation.paths.items():

        def forward(student, teacher, targets, name=name, original=path.forward):
            boxes[name] = targets.boxes[0].tensor
            return original(student, teacher, targets)

        path.forward = forward
    distiller.train()([sample()])
    assert torch.equal(boxes["d0"], boxes["d2"])
    assert boxes["d0"].shape != boxes["d1"].shape or not torch.equal(boxes["d0"], boxes["d1"])


def test_defeat_without_hard_labels_has_the_boxes_of_the_teacher():
    path = {"TYPE": "DeFeat", "LAYERWISE": True}
    inputs = [sample(0), sample(1, annotated=False)]
    no_box = make_distiller([path], HARD_LABELS=False).train()(inputs)
    assert no_box["loss_kd_defeat_foreground"] == 0  # an untrained teacher detects nothing
    every_box = make_distiller([path], HARD_LABELS=False, BOX_SCORE_THRESH=0.0).train()(inputs)
    assert every_box["loss_kd_defeat_foreground"] > 0
    mixed = make_distiller([path]).train()(inputs)
    assert mixed["loss_kd_defeat_foreground"] > 0  # from the annotated image
    with pytest.raises(ValueError, match="BOXES is 'ground_truth'"):
        make_distiller([path], BOXES="ground_truth").train()(inputs)


def test_features_of_a_segmentation_teacher_are_imitated_but_not_its_predictions():
    paths = [{"TYPE": "FeatureMSE"}, {"TYPE": "DeFeat"}]
    losses = make_distiller(paths, teacher_tasks=("seg",)).train()([sample()])
    assert losses["loss_kd_mse"] > 0 and losses["loss_kd_defeat"] > 0
    layers = {"STUDENT": ["backbone", "heads.det"], "TEACHER": ["backbone", "heads.seg"]}
    with pytest.raises(ValueError, match=r"path 'pdf': PDFDistil compares detections.*DeFeat"):
        make_distiller([{"TYPE": "PDFDistil", **layers}], teacher_tasks=("seg",))
    for kind, name in (("PDFDistil", "pdf"), ("SoftDetection", "soft")):
        message = f"teacher has no layer 'heads.det'.*Path '{name}' taps it.*FeatureMSE or DeFeat"
        with pytest.raises(ValueError, match=message):
            make_distiller([{"TYPE": kind}], teacher_tasks=("seg",))
    with pytest.raises(ValueError, match="teacher gives sem_seg alone"):
        make_distiller(paths, teacher_tasks=("seg",)).train()([sample(annotated=False)])
