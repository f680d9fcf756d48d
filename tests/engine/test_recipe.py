"""The training recipe as a whole: everything at once, exactly resumable, without annotations."""

import os
import shutil

import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from multas.engine import Trainer
from training import start

RECIPE = [
    "SOLVER.EMA.ENABLED", True, "SOLVER.EMA.RAMP", 2.0,
    "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineToFloorLR", "SOLVER.WARMUP_FACTOR", 0.1,
    "SOLVER.WARMUP_ITERS", 3, "SOLVER.MAX_ITER", 10,
    "SOLVER.EARLY_STOPPING.ENABLED", True, "SOLVER.EARLY_STOPPING.PERIOD", 3,
    "SOLVER.EARLY_STOPPING.START", 0.0,
    "INPUT.AUGMENTATION", "single_shot", "INPUT.SQUARE_SIZE", 64, "INPUT.COPIES", 2,
    "INPUT.MULTI_SCALE.SIZES", [64, 96], "INPUT.MULTI_SCALE.FINAL_FRACTION", 0.2,
]  # fmt: skip


def assert_same_products(one: Trainer, other: Trainer):
    for name in ("student.pth", "student_raw.pth", "model_best.pth"):
        a, b = (
            torch.load(os.path.join(t.cfg.OUTPUT_DIR, name), weights_only=True)["model"]
            for t in (one, other)
        )
        assert a.keys() == b.keys()
        assert [k for k in a if not torch.equal(a[k], b[k])] == [], name


def test_the_whole_recipe_resumes_to_the_same_bits(tiny_cfg, card):
    opts = [*RECIPE, "SOLVER.EARLY_STOPPING.DATASET", f"{card['name']}_val"]
    whole = start(tiny_cfg(*opts, folder="whole"))
    sizes = []
    whole.model.register_forward_pre_hook(
        lambda model, args: (
            sizes.append((len(args[0]), args[0][0]["image"].shape[1])) if model.training else None
        )
    )
    whole.train()
    assert {count for count, _ in sizes} == {8}, "two copies of four images"
    assert {size for _, size in sizes[:8]} == {64, 96}
    assert [size for _, size in sizes[8:]] == [64, 64]

    cfg = tiny_cfg(*opts, "SOLVER.CHECKPOINT_PERIOD", 4, folder="parts")
    first = start(cfg)

    def interrupt():
        if first.iter == 6:
            raise InterruptedError

    first._hooks[-1].after_step = interrupt
    with pytest.raises(InterruptedError):
        first.train()
    torch.rand(5)
    second = start(cfg, resume=True)
    assert second.start_iter == 4
    second.train()
    assert_same_products(whole, second)
    courses = [t._product.early_stopping.progress for t in (whole, second)]
    assert courses[0] == courses[1]
    assert courses[0].best_iteration >= 0
    assert second._last_eval_results.keys() >= {"student", "ema", "best", "bbox"}


def test_a_student_learns_when_no_annotation_file_exists(tiny_cfg, card, devkit, tmp_path):
    root = tmp_path / "devkit"
    shutil.copytree(devkit, root)
    content = {**card, "name": "bare", "root": str(root)}
    card_file = tmp_path / "bare.yaml"
    card_file.write_text(yaml.safe_dump(content))
    teacher_cfg = tiny_cfg("MODEL.RESNETS.RES2_OUT_CHANNELS", 8)
    config, file = tmp_path / "teacher.yaml", tmp_path / "teacher.pth"
    config.write_text(teacher_cfg.dump())
    torch.save({"model": build_model(teacher_cfg).state_dict()}, file)
    for folder in ("Annotations", "SegmentationClass"):
        shutil.rmtree(root / folder)
        (root / folder).mkdir()
    cfg = tiny_cfg(
        *RECIPE, "SOLVER.EARLY_STOPPING.ENABLED", False,
        "DATASETS.CARDS", [str(card_file)], "DATASETS.TRAIN", ["bare_half_unlabeled"],
        "DATASETS.TEST", [],
        "MODEL.META_ARCHITECTURE", "Distiller",
        "MODEL.DISTILLATION.TEACHER.CONFIG_FILE", str(config),
        "MODEL.DISTILLATION.TEACHER.WEIGHTS", str(file),
        "MODEL.DISTILLATION.PATHS", [{"TYPE": "SoftDetection"}],
    )  # fmt: skip
    try:
        trainer = start(cfg)
        before = {k: v.clone() for k, v in trainer.model.named_parameters()}
        trainer.train()
        after = dict(trainer.model.named_parameters())
        changed = [k for k in before if not torch.equal(before[k], after[k])]
        assert any("heads.det" in name for name in changed)
    finally:
        for name in [n for n in DatasetCatalog.list() if n.startswith("bare_")]:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
