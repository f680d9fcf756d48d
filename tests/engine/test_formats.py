"""Data of any format goes through training and evaluation by its card alone."""

import os
import shutil

import pytest
import torch
import yaml
from detectron2.modeling import build_model

from training import train


@pytest.fixture
def register(tmp_path):
    """``register(content)``: opts that register a card alone."""

    def build(content, *others):
        path = tmp_path / f"{content['name']}.yaml"
        path.write_text(yaml.safe_dump(content))
        return ["DATASETS.CARDS", [str(path), *map(str, others)]]

    return build


def test_coco_data_of_80_classes(tiny_cfg, register, shared_data, repository):
    card = yaml.safe_load((repository / "datasets" / "cards" / "coco128.yaml").read_text())
    # The smaller of the two slices, to train and to test on.
    cards = register(card | {"name": "slice", "root": str(shared_data / "coco128")})
    cfg = tiny_cfg(
        *cards, "DATASETS.TRAIN", ["slice_train"], "DATASETS.TEST", ["slice_train"],
        "MODEL.DENSE_HEAD.NUM_CLASSES", 80, "MODEL.DENSE_HEAD.SCORE_THRESH_TEST", 0.0,
        "SOLVER.MAX_ITER", 2,
    )  # fmt: skip
    results = train(cfg)._last_eval_results["bbox"]
    assert {"AP", "AP50", "AP-person", "AP-toothbrush"} <= results.keys()
    assert os.path.isfile(os.path.join(cfg.OUTPUT_DIR, "student.pth"))


def test_a_plain_folder_is_distilled_beside_annotated_images(
    tiny_cfg, register, card, card_file, devkit, tmp_path
):
    folder = tmp_path / "photos"
    folder.mkdir()
    for image in sorted((devkit / "JPEGImages").iterdir())[:4]:
        shutil.copy(image, folder / f"photo{image.name}")
    cards = register({"name": "plain", "format": "images", "root": str(folder)}, card_file)
    teacher, weights = tmp_path / "teacher.yaml", tmp_path / "teacher.pth"
    teacher.write_text(tiny_cfg().dump())
    torch.save({"model": build_model(tiny_cfg()).state_dict()}, weights)
    cfg = tiny_cfg(
        *cards, "DATASETS.TRAIN", [f"{card['name']}_half", "plain_all"], "SOLVER.MAX_ITER", 2,
        "MODEL.META_ARCHITECTURE", "Distiller",
        "MODEL.DISTILLATION.PATHS", [{"TYPE": "SoftDetection"}],
        "MODEL.DISTILLATION.TEACHER.CONFIG_FILE", str(teacher),
        "MODEL.DISTILLATION.TEACHER.WEIGHTS", str(weights),
    )  # fmt: skip
    assert train(cfg).storage.latest()["loss_kd_soft"][0] > 0
