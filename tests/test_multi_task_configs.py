"""Tables 5 and 6: every row builds, trains and has the losses that its name promises."""

from pathlib import Path

import pytest
import torch
from detectron2.utils.events import EventStorage

from multas.data.task_batches import parse_task_batches
from multas.distillation import unwrap
from multas.engine import Trainer
from multas.engine.path_weights import PathWeights
from shipped import row_of
from test_configs import (  # noqa: F401  (fixtures)
    MULTI_TASK,
    card,
    loaded,
    tiny,
    working_directory,
)

SAMPLES = [
    f"configs/limited-data/{row}"
    for row in (
        "table5.yaml#toy/teacher_seg2",
        "table5.yaml#voc/det2_defeat_from_all_seg",
        "table6.yaml#toy/multi_task",
        "table6.yaml#voc/multi_task_self_trained_pdf",
    )
]


def wanted_losses(name: str) -> tuple[set[str], set[str]]:
    """Paths, and losses on annotations, of a row."""
    words = set(name.split("_"))
    paths = words & {"mse", "pdf", "defeat"} | ({"soft"} if "trained" in words else set())
    boxes, masks = {"loss_cls", "loss_box_reg"}, {"loss_sem_seg"}
    if name.startswith("teacher_"):
        return paths, masks
    return paths, boxes | masks if name.startswith("multi_task") else boxes


@pytest.mark.parametrize("file", [a for a in MULTI_TASK if row_of(a)[0] == "toy"])
def test_every_row_builds_and_trains_for_two_iterations(file, tiny):  # noqa: F811
    cfg = tiny(file)
    model = Trainer.build_model(cfg).train()
    if unwrap(model)[1] is not None:
        PathWeights(cfg, model)
    optimizer = Trainer.build_optimizer(cfg, model)
    batches = iter(Trainer.build_train_loader(cfg))
    with EventStorage():
        for _ in range(2):
            losses = model(next(batches))
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
    assert all(torch.isfinite(loss) for loss in losses.values())
    paths, own = wanted_losses(row_of(file)[1])
    assert {name.split("_")[2] for name in losses if name.startswith("loss_kd_")} == paths
    assert {name for name in losses if not name.startswith("loss_kd_")} == own
    if "self_trained" in file:
        assert losses["loss_cls"] == losses["loss_box_reg"] == 0, "no box is read"
    if "loss_sem_seg" in own:
        assert losses["loss_sem_seg"] > 0
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("file", SAMPLES)
def test_a_row_runs_from_the_first_hook_to_the_last(file, tiny):  # noqa: F811
    trainer = Trainer(tiny(file))
    trainer.resume_or_load(resume=False)
    trainer.train()
    name = row_of(file)[1]
    tasks = {"bbox", "sem_seg"} if name.startswith("multi_task") else {"bbox"}
    wanted = {"sem_seg"} if name.startswith("teacher_") else tasks
    assert set(trainer._last_eval_results) >= wanted
    assert (Path(trainer.cfg.OUTPUT_DIR) / "student.pth").is_file()
    if name.startswith("multi_task"):
        latest = trainer.storage.latest()
        assert (
            latest["images/seg"][0] == trainer.cfg.SOLVER.IMS_PER_BATCH * trainer.cfg.INPUT.COPIES
        )


def test_multi_task_rows_have_disjoint_annotations():
    for file in (a for a in MULTI_TASK if "multi_task" in a):
        det, seg = loaded(file).DATASETS.TASK_BATCHES
        assert (det["TASK"], seg["TASK"]) == ("det", "seg")
        assert all("seg" not in name for name in det["TRAIN"])
        assert all(name.endswith("_seg") for name in seg["TRAIN"])


def test_batches_with_masks_have_one_size_where_the_reference_implementation_has():
    for teacher in ("seg", "seg2", "all_seg"):
        cfg = loaded(f"configs/limited-data/table5.yaml#voc/teacher_{teacher}")
        assert cfg.INPUT.SQUARE_SIZE == 320 and not cfg.INPUT.MULTI_SCALE.SIZES
    for row, sizes in (("multi_task", 0), ("multi_task_init", 0), ("multi_task_self_trained", 3)):
        cfg = loaded(f"configs/limited-data/table6.yaml#voc/{row}")
        det, seg = (batch.cfg.INPUT.MULTI_SCALE.SIZES for batch in parse_task_batches(cfg, 0))
        assert (len(det), len(seg)) == (3, sizes)


@pytest.mark.parametrize("mode", ["separate", "mixed", "alternate"])
def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(mode, tiny, tmp_path):  # noqa: F811
    opts = ["SOLVER.MAX_ITER", 5, "SOLVER.CHECKPOINT_PERIOD", 3, "DATASETS.TASK_MODE", mode]
    weights = []
    for folder, stops in (("whole", [5]), ("parts", [3, 5])):
        for stop in stops:
            cfg = tiny("configs/limited-data/table6.yaml#toy/multi_task", *opts)
            cfg.defrost()
            cfg.OUTPUT_DIR = str(tmp_path / folder)
            (tmp_path / folder).mkdir(exist_ok=True)
            torch.manual_seed(cfg.SEED)
            trainer = Trainer(cfg)
            trainer.resume_or_load(resume=True)
            trainer.max_iter = stop
            trainer.train()
        weights.append(torch.load(tmp_path / folder / "student.pth", weights_only=True)["model"])
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_wrong_data_for_a_task_is_found_before_training(tiny, card):  # noqa: F811
    file = "configs/limited-data/table6.yaml#toy/multi_task"
    name = card["name"]
    seg = {"TASK": "seg", "TRAIN": [f"{name}_seg"], "OPTS": ["INPUT.RANDOM_FLIP", "none"]}
    for split in ("seg", "det_unlabeled"):
        wrong = [{"TASK": "det", "TRAIN": [f"{name}_{split}"]}, seg]
        with pytest.raises(ValueError, match=r"TASK_BATCHES\[0\].*annotated for the task 'det'"):
            Trainer(tiny(file, "DATASETS.TASK_BATCHES", wrong))
    cfg = tiny(file, "MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.NUM_CLASSES", 8,
               "MODEL.RETINANET.IN_FEATURES", ["p3", "p4", "p5"])  # fmt: skip
    with pytest.raises(ValueError, match="for a MultiTaskNetwork, but RetinaNet"):
        Trainer(cfg)
    right = [{"TASK": "det", "TRAIN": [f"{name}_det"]}, seg]
    trainer = Trainer(tiny(file, "DATASETS.TASK_BATCHES", right))
    assert len(trainer.data_loader.loaders[1].dataset.mapper.augmentations) == 1
    assert len(trainer.data_loader.loaders[0].dataset.mapper.augmentations) == 2
