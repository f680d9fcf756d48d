"""Labelling images with a teacher, and judging the labels."""

import json
import logging
import os

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

import pseudo_label
from multas.data.pseudo_mask_files import read_pseudo_masks
from multas.data.statistics import PSEUDO_MASK
from multas.engine import Trainer
from multas.engine.contract import config_facts
from multas.engine.pseudo_label_quality import count_objects, judge, mask_quality, quality
from multas.engine.pseudo_labeling import label_images


class Fixed(torch.nn.Module):
    """Finds three boxes of falling score on every image."""

    def forward(self, batch):
        boxes = torch.tensor([[0.0, 0, 10, 20], [5, 5, 9, 9], [1, 1, 3, 4]])
        found = Instances((64, 64), pred_boxes=Boxes(boxes))
        found.scores = torch.tensor([0.2, 0.9, 0.6])
        found.pred_classes = torch.tensor([2, 0, 1])
        return [{"instances": found} for _ in batch]


@pytest.mark.parametrize(
    ("score_thresh", "topk", "scores"),
    [(0.0, 0, [0.9, 0.6, 0.2]), (0.5, 0, [0.9, 0.6]), (0.0, 1, [0.9]), (0.95, 0, [])],
)
def test_boxes_above_the_threshold_best_first(score_thresh, topk, scores):
    batches = [[{"image_id": "a"}], [{"image_id": "b"}]]
    annotations, ids = label_images(Fixed(), batches, score_thresh=score_thresh, topk=topk)
    assert ids == ["a", "b"], "also images without a box are covered"
    assert [a["score"] for a in annotations if a["image_id"] == "a"] == pytest.approx(scores)
    for a in annotations[:1]:
        assert a["bbox"] == [5, 5, 4, 4], "x, y, width, height"
        assert a["category_id"] == 0


def truth(*objects):
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": k, "difficult": d}
        for box, k, d in objects
    ]
    return [{"image_id": 1, "annotations": annotations}]


def box(xyxy, k, score):
    x0, y0, x1, y1 = xyxy
    bbox = [x0, y0, x1 - x0, y1 - y0]
    return {"image_id": 1, "category_id": k, "bbox": bbox, "score": score}


def test_precision_and_recall_by_hand():
    right, wrong_place = [0, 0, 10, 10], [50, 50, 60, 60]
    hidden = [20, 20, 30, 30]
    rows = quality(
        [box(right, 0, 0.9), box(right, 0, 0.8), box(wrong_place, 0, 0.7), box(hidden, 1, 0.6)],
        truth((right, 0, 0), (hidden, 1, 1), ([70, 70, 90, 90], 1, 0)),
        num_classes=2,
    )
    # A second box on one object is wrong; a box on a difficult object counts neither way.
    assert rows[0] == pytest.approx((1 / 3, 1.0, 3, 1))
    precision, recall, boxes, objects = rows[1]
    assert (boxes, objects, recall) == (0, 1, 0)
    assert precision != precision, "no box, no precision"
    assert rows[2][2:] == (3, 2)


def test_verdicts_on_single_boxes():
    right, hidden = [0, 0, 10, 10], [20, 20, 30, 30]
    found = [box(right, 0, 0.8), box(right, 0, 0.9), box(hidden, 1, 0.6), box(right, 1, 0.5)]
    elsewhere = {**box(right, 0, 0.9), "image_id": 2}
    known = truth((right, 0, 0), (hidden, 1, 1))
    assert judge([*found, elsewhere], known) == [False, True, None, False, None]
    assert count_objects(known, 3) == [1, 0, 0]


def test_masks_are_judged_pixel_by_pixel(tmp_path):
    def mask(name, rows):
        Image.fromarray(np.array(rows, np.uint8)).save(tmp_path / name)
        return str(tmp_path / name)

    known = [
        {"image_id": 1, "sem_seg_file_name": mask("t.png", [[0, 0, 1, 1, 255]])},
        {"image_id": 2, "sem_seg_file_name": mask("u.png", [[1, 1]])},
    ]
    files = {1: mask("p.png", [[0, 1, 1, 255, 1]]), 2: ""}
    rows = mask_quality(files, known, 3, 255)
    # Of class 1, one of two pixels is right, and one of four true ones found.
    assert rows[:2] == [(1.0, 0.5, 2), (0.5, 0.25, 4)]
    assert rows[2][2] == 0 and rows[2][0] != rows[2][0]
    assert rows[3] == pytest.approx((2 / 3, 2 / 6, 6))


def run_tool(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["pseudo_label.py", *map(str, arguments)])
    pseudo_label.main()


@pytest.fixture
def labelled(tiny_cfg, card, tmp_path, monkeypatch, capsys):
    """A file that tools/pseudo_label.py wrote with a random teacher, and what it printed."""
    cfg = tiny_cfg(
        "MODEL.DENSE_HEAD.SCORE_THRESH_TEST", 0.0, "MODEL.DENSE_HEAD.TOPK_CANDIDATES_TEST", 50
    )
    config, weights = tmp_path / "teacher.yaml", tmp_path / "teacher.pth"
    config.write_text(cfg.dump())
    torch.save({"model": build_model(cfg).state_dict()}, weights)
    output = tmp_path / "pseudo.json"
    run_tool(
        monkeypatch, "--config-file", config, "--weights", weights,
        "--dataset", f"{card['name']}_half2_unlabeled", "--output", output,
        "--score-thresh", "0.0", "--topk", "3", "--report-against", f"{card['name']}_half2",
    )  # fmt: skip
    return output, capsys.readouterr().out


def test_the_tool_writes_a_file_that_training_uses(labelled, tiny_cfg, card, devkit):
    output, printed = labelled
    content = json.loads(output.read_text())
    assert len(content["header"]["image_ids"]) == 8
    assert content["header"]["classes"] == card["classes"]
    assert len(content["header"]["teacher_sha256"]) == 64
    assert "precision" in printed and "all" in printed

    name = card["name"]
    cfg = tiny_cfg(
        "DATASETS.TRAIN", [f"{name}_half2_unlabeled"], "DATASETS.PSEUDO_LABELS.FILES", [str(output)]
    )
    samples = next(iter(Trainer.build_train_loader(cfg)))
    assert all(x["instances"].gt_pseudo.all() for x in samples)
    assert all(1 <= len(x["instances"]) <= 3 for x in samples)
    assert all((x["instances"].gt_scores < 1).all() for x in samples)


def test_withheld_annotations_are_never_read(labelled, tiny_cfg, card, devkit, monkeypatch):
    output, _ = labelled
    name = card["name"]
    withheld = {d["image_id"] for d in DatasetCatalog.get(f"{name}_half2_unlabeled")}
    folder = devkit / "Annotations"
    try:
        for image_id in withheld:
            (folder / f"{image_id}.xml").rename(folder / f"{image_id}.gone")
        cfg = tiny_cfg(
            "DATASETS.TRAIN", [f"{name}_half", f"{name}_half2_unlabeled"],
            "DATASETS.PSEUDO_LABELS.FILES", [str(output)], "SOLVER.MAX_ITER", 4,
        )  # fmt: skip
        os.makedirs(cfg.OUTPUT_DIR)
        trainer = Trainer(cfg)
        trainer.resume_or_load(False)
        trainer.train()
    finally:
        for file in folder.glob("*.gone"):
            file.rename(file.with_suffix(".xml"))


@pytest.fixture
def two_task_teacher(joint_cfg, tmp_path):
    """The arguments of a random teacher of boxes and masks."""
    cfg = joint_cfg("MODEL.DENSE_HEAD.SCORE_THRESH_TEST", 0.0, "TEST.DETECTIONS_PER_IMAGE", 5)
    config, weights = tmp_path / "both.yaml", tmp_path / "both.pth"
    config.write_text(cfg.dump())
    torch.save({"model": build_model(cfg).state_dict()}, weights)
    return ["--config-file", config, "--weights", weights]


def test_a_teacher_of_two_tasks_writes_both_and_a_student_learns_both(
    two_task_teacher, joint_cfg, card, tmp_path, monkeypatch, capsys, caplog
):
    name, masks, output = card["name"], tmp_path / "masks", tmp_path / "labels.json"
    data = ["--dataset", f"{name}_half2_unlabeled", "--mask-thresh", "0", "--score-thresh", "0"]
    run_tool(
        monkeypatch, *two_task_teacher, *data, "--masks", masks, "--output", output, "--flip",
        "--report-against", f"{name}_half2", "--review",
    )  # fmt: skip
    page = (tmp_path / "review.html").read_text()
    assert page.count('"mask":"data:image/png') == 8, "the page shows the masks, too"
    header, files = read_pseudo_masks(str(masks))
    assert (len(header.classes), header.ignore_label) == (9, 255)
    assert len([file for file in files.values() if file]) == 8
    printed = capsys.readouterr().out
    assert "8 masks of 8 images" in printed and "objects" in printed
    key = "DATASETS.PSEUDO_LABELS"
    cfg = joint_cfg(
        "DATASETS.TRAIN", [f"{name}_det2", f"{name}_half2_unlabeled"],
        f"{key}.FILES", [str(output)], f"{key}.MASKS", [str(masks)],
    )  # fmt: skip
    os.makedirs(cfg.OUTPUT_DIR)
    monkeypatch.setattr(logging.getLogger("multas"), "propagate", True)  # as before the tool ran
    caplog.set_level(logging.INFO, "multas")
    trainer = Trainer(cfg)
    assert PSEUDO_MASK in caplog.text
    dataset = trainer._trainer.data_loader.dataset
    samples = [dataset.mapper(d) for d in dataset.dicts]
    assert all("instances" in x for x in samples)
    # Images of det2 that the teacher has labelled, too, keep their boxes and get masks.
    labelled = [x for x in samples if x["image_id"] in files]
    assert len(labelled) >= 8 and all("sem_seg" in x for x in labelled)
    (fact,) = config_facts(cfg)[f"{key}.MASKS"]
    assert fact.startswith("masks.json "), "a run that goes on has the same masks"
    losses = trainer.model(samples[:2])
    assert losses["loss_sem_seg"] > 0 and losses["loss_cls"] > 0


def test_masks_alone(two_task_teacher, card, tmp_path, monkeypatch, capsys):
    name, masks = card["name"], tmp_path / "masks"
    data = ["--dataset", f"{name}_seg2_unlabeled", "--masks", masks, "--mask-thresh", "0"]
    report = ["--report-against", f"{name}_seg2"]
    run_tool(monkeypatch, *two_task_teacher, *data, *report)
    printed = capsys.readouterr().out
    assert "100% of the pixels" in printed and "objects" not in printed
    assert "pixels" in printed.splitlines()[1]
