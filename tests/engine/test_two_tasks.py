"""Boxes on some images, masks on others: whole runs of a network that learns both."""

import os
import runpy
import sys

import cv2
import pytest
import torch
from detectron2.engine import DefaultPredictor

from multas.data import register_cards
from multas.engine import Trainer
from training import (
    HEADS,
    different,
    start,
    train,
    train_in_parts,
    train_on_two_ranks,
    two_tasks,
)
from two_ranks import process_group, run_on_two_ranks


def test_images_with_either_annotation_or_both_share_a_batch(joint_cfg):
    opts = ["SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 3]
    whole = train(joint_cfg(*opts, folder="whole"))
    resumed = train_in_parts(joint_cfg(*opts, folder="parts"), 2)
    assert different(whole.model.state_dict(), resumed.model.state_dict()) == []
    assert set(whole._last_eval_results) >= {"bbox", "sem_seg"}
    counts = {
        task: [value for value, _ in whole.storage.history(f"images/{task}").values()]
        for task in HEADS
    }
    assert all(4 <= d + s <= 8 for d, s in zip(*counts.values(), strict=True))
    assert any(d + s > 4 for d, s in zip(*counts.values(), strict=True)), "some images have both"


def test_the_predictor_returns_boxes_and_masks(joint_cfg, devkit):
    cfg = joint_cfg()
    train(cfg)
    cfg.merge_from_list(["MODEL.WEIGHTS", os.path.join(cfg.OUTPUT_DIR, "student.pth")])
    image = cv2.imread(str(next((devkit / "JPEGImages").iterdir())))
    found = DefaultPredictor(cfg)(image)
    assert set(found) == {"instances", "sem_seg"}
    assert found["instances"].image_size == found["sem_seg"].shape[1:] == image.shape[:2]
    assert found["sem_seg"].shape[0] == 9
    assert torch.isfinite(found["instances"].pred_boxes.tensor).all()


def test_a_detector_gives_its_weights_to_a_network_with_one_head_more(joint_cfg, tiny_cfg):
    detector = tiny_cfg(folder="detector")
    train(detector)
    weights = os.path.join(detector.OUTPUT_DIR, "student.pth")
    given = torch.load(weights, weights_only=True)["model"]
    model = start(joint_cfg("MODEL.WEIGHTS", weights)).model
    state = model.state_dict()
    assert {name.split(".")[1] for name in state.keys() - given.keys()} == {"seg"}
    for name, value in given.items():
        assert torch.equal(state[name], value), name


def test_a_network_that_only_segments_is_distilled(tiny_cfg, two_teachers_cfg, card):
    name = card["name"]
    cfg = two_teachers_cfg(
        "DATASETS.TASK_BATCHES", [], "DATASETS.TRAIN", [f"{name}_seg2", f"{name}_det_unlabeled"],
        "DATASETS.TEST", [f"{name}_seg_test"],
        "MODEL.DISTILLATION.PATHS", [
            {"TYPE": "FeatureMSE", "TEACHER_ID": 1},
            {"TYPE": "SoftTarget", "STUDENT": "heads.seg", "TEACHER_ID": 1},
        ],
    )  # fmt: skip
    trainer = train(two_tasks(cfg, ["seg"]))
    latest = trainer.storage.latest()
    assert latest["loss_sem_seg"][0] > 0 and latest["loss_kd_mse"][0] > 0
    assert trainer._last_eval_results["sem_seg"]["mIoU"] >= 0


@pytest.mark.parametrize("aggregation", ["adaptive", "mgda"])
def test_every_task_has_a_teacher_of_its_own(two_teachers_cfg, aggregation):
    trainer = train(two_teachers_cfg("MODEL.DISTILLATION.AGGREGATION.NAME", aggregation))
    latest = trainer.storage.latest()
    for path in ("det", "soft", "seg"):
        assert latest[f"path_loss/{path}"][0] > 0
    assert (latest["images/det"][0] <= 4, latest["images/seg"][0]) == (True, 2)


def test_two_tasks_of_real_photographs_from_two_cards(
    repository, shared_data, tmp_path, monkeypatch, tiny_cfg, forget_registered
):
    if not (shared_data / "coco128").is_dir():
        pytest.skip("no coco128")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shared_data))
    cards = [tmp_path / "cards" / f"{name}.yaml" for name in ("coco128", "coco128_masks")]
    cards[0].parent.mkdir()
    for file in cards:
        file.write_text((repository / "datasets" / "cards" / file.name).read_text())
    arguments = ["partial", "--card", str(cards[0]), "--split", "train"]
    split = runpy.run_path(str(repository / "tools" / "split.py"))
    assert split["main"]([*arguments, "--out", str(tmp_path / "cards" / "coco128_lists")]) == 0
    register_cards(cards)
    cfg = tiny_cfg(
        "DATASETS.TRAIN", [], "DATASETS.TEST", ["coco128_det"],
        "DATASETS.TASK_BATCHES", [
            {"TASK": "det", "TRAIN": ["coco128_det"]},
            {"TASK": "seg", "TRAIN": ["coco128_masks_seg"], "IMS_PER_BATCH": 2},
        ],
        "MODEL.DENSE_HEAD.NUM_CLASSES", 80, "MODEL.SEMANTIC_FPN_HEAD.IGNORE_VALUE", 0,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"SEMANTIC_FPN_HEAD.NUM_CLASSES is 9, .*has 201 classes"):
        Trainer(two_tasks(cfg))
    trainer = train(two_tasks(cfg, classes=201))
    latest = trainer.storage.latest()
    assert all(latest[loss][0] > 0 for loss in ("loss_cls", "loss_box_reg", "loss_sem_seg"))
    assert latest["images/seg"][0] == 2
    assert "bbox" in trainer._last_eval_results


def main(folder: str, rank: int) -> None:
    with process_group(folder, rank):
        trainer = train_on_two_ranks(os.path.join(folder, "job.yaml"), rank)
        names = ["images/det", "images/seg", "loss_sem_seg", "path_weight/seg"]
        state = {
            "parameters": dict(trainer.model.module.named_parameters()),
            "latest": {n: trainer.storage.latest()[n][0] for n in names} if rank == 0 else {},
        }
        torch.save(state, os.path.join(folder, f"rank{rank}.pth"))


@pytest.mark.parametrize("aggregation", ["adaptive", "mgda"])
def test_two_ranks_train_both_tasks_with_both_teachers(two_teachers_cfg, tmp_path, aggregation):
    cfg = two_teachers_cfg(
        "MODEL.DISTILLATION.AGGREGATION.NAME", aggregation, "DATASETS.TEST", [],
        "MODEL.MULTITASK.GRADIENTS", "mgda" if aggregation == "mgda" else "sum",
    )  # fmt: skip
    (tmp_path / "job.yaml").write_text(cfg.dump())
    os.makedirs(cfg.OUTPUT_DIR)
    first, second = run_on_two_ranks(__file__, tmp_path)
    for name, value in first["parameters"].items():
        assert torch.equal(value, second["parameters"][name]), name
    assert first["latest"]["images/seg"] == 2, "of both ranks together"
    assert first["latest"]["images/det"] <= 4
    assert first["latest"]["loss_sem_seg"] > 0


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
