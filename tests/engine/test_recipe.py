"""The training recipe as a whole: everything at once, exactly resumable, without annotations."""

import shutil

import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from training import copies, different, start, train_in_parts, weights_in

RECIPE = [
    "SOLVER.EMA.ENABLED", True, "SOLVER.EMA.RAMP", 2.0,
    "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineToFloorLR", "SOLVER.WARMUP_FACTOR", 0.1,
    "SOLVER.WARMUP_ITERS", 3, "SOLVER.MAX_ITER", 10,
    "SOLVER.EARLY_STOPPING.ENABLED", True, "SOLVER.EARLY_STOPPING.PERIOD", 3,
    "SOLVER.EARLY_STOPPING.START", 0.0,
    "INPUT.AUGMENTATION", "single_shot", "INPUT.SQUARE_SIZE", 64, "INPUT.COPIES", 2,
    "INPUT.MULTI_SCALE.SIZES", [64, 96], "INPUT.MULTI_SCALE.FINAL_FRACTION", 0.2,
]  # fmt: skip


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

    second = train_in_parts(tiny_cfg(*opts, "SOLVER.CHECKPOINT_PERIOD", 4, folder="parts"), last=6)
    for name in ("student.pth", "student_raw.pth", "model_best.pth"):
        assert different(*(weights_in(t.cfg, name) for t in (whole, second))) == [], name
    courses = [t._final.early_stopping.progress for t in (whole, second)]
    assert courses[0] == courses[1]
    assert courses[0].best_iteration >= 0
    assert second._last_eval_results.keys() == {"student", "ema", "bbox"}


def test_a_student_learns_when_no_annotation_file_exists(distilled_cfg, card, devkit, tmp_path):
    root = tmp_path / "devkit"
    shutil.copytree(devkit, root)
    card_file = tmp_path / "bare.yaml"
    card_file.write_text(yaml.safe_dump({**card, "name": "bare", "root": str(root)}))
    for folder in ("Annotations", "SegmentationClass"):
        shutil.rmtree(root / folder)
        (root / folder).mkdir()
    cfg = distilled_cfg(
        *RECIPE, "SOLVER.EARLY_STOPPING.ENABLED", False,
        "DATASETS.CARDS", [str(card_file)], "DATASETS.TRAIN", ["bare_half_unlabeled"],
        "DATASETS.TEST", [], "MODEL.DISTILLATION.PATHS", [{"TYPE": "SoftDetection"}],
    )  # fmt: skip
    try:
        trainer = start(cfg)
        before = copies(trainer.model.state_dict())
        trainer.train()
        changed = different(before, trainer.model.state_dict())
        assert any("heads.det" in name for name in changed)
    finally:
        for name in [n for n in DatasetCatalog.list() if n.startswith("bare_")]:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
