"""Labelling images with a teacher, and judging the labels."""

import json
import os
import subprocess
import sys

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.structures import Boxes, BoxMode, Instances

from multas.engine import Trainer
from multas.engine.pseudo_labeling import label_images, quality


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


@pytest.fixture
def labelled(tiny_cfg, card, tmp_path, repository):
    """A file that tools/pseudo_label.py wrote with a random teacher, and what it printed."""
    cfg = tiny_cfg("MODEL.DENSE_HEAD.SCORE_THRESH_TEST", 0.0)
    config, weights = tmp_path / "teacher.yaml", tmp_path / "teacher.pth"
    config.write_text(cfg.dump())
    torch.save({"model": build_model(cfg).state_dict()}, weights)
    output = tmp_path / "pseudo.json"
    done = subprocess.run(
        [sys.executable, "tools/pseudo_label.py", "--config-file", config, "--weights", weights,
         "--dataset", f"{card['name']}_half2_unlabeled", "--output", output,
         "--score-thresh", "0.0", "--topk", "3",
         "--report-against", f"{card['name']}_half2"],
        cwd=repository, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    return cfg, output, done.stdout


def test_the_tool_writes_a_file_that_training_uses(labelled, tiny_cfg, card, devkit):
    _, output, printed = labelled
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
    _, output, _ = labelled
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
