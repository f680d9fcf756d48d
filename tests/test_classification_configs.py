"""The recipes of paper B's classification: complete, with its networks and schedules, and each row
trains on the embedded set."""

from functools import cache

import pytest
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from multas.data import make_toy_classes, register_card
from multas.distillation import Distiller
from multas.engine import Trainer, load_config
from multas.engine.checks.classes import check_classes
from shipped import REPOSITORY, rows
from tiny_recipe import as_shipped

TABLES = [f"configs/adaptive/{name}.yaml" for name in ("table2", "table3", "figure2")]
# data/row -> its address
ROWS = {address.partition("#")[2]: address for table in TABLES for address in rows(table)}
PATHS = {"at", "st", "nst", "l2", "fm", "sr", "ofd"}


@pytest.fixture(autouse=True)
def working_directory(monkeypatch):
    """Relative paths in configs start at the root of the repository."""
    monkeypatch.chdir(REPOSITORY)


@cache
def loaded(row: str) -> CfgNode:
    return load_config(ROWS[row])


# What the recipes say


@pytest.mark.parametrize(
    ("data", "batch", "epochs", "steps", "gamma"),
    [
        ("cifar10", 128, 200, (100, 150), 0.1),
        ("cifar100", 128, 200, (60, 120, 160), 0.2),
        ("imagenet200", 256, 100, (30, 60, 90), 0.1),
        ("imagenet1k", 256, 100, (30, 60, 90), 0.1),
    ],
)
def test_schedules_are_the_papers(data, batch, epochs, steps, gamma):
    for row in ("student", "teacher", "adaptive"):
        solver = loaded(f"{data}/{row}").SOLVER
        assert (batch, 0.1, gamma) == (solver.IMS_PER_BATCH, solver.BASE_LR, solver.GAMMA)
        assert (epochs, steps) == (solver.EPOCHS, solver.STEPS_EPOCHS)


def test_the_rate_is_whole_from_the_start_and_falls_at_the_steps():
    cfg = loaded("toy/student").clone()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    scheduler = Trainer.build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        rates.append(optimizer.param_groups[0]["lr"] / cfg.SOLVER.BASE_LR)
        optimizer.step()
        scheduler.step()
    changes = [i for i in range(1, len(rates)) if rates[i] != rates[i - 1]]
    assert changes == list(cfg.SOLVER.STEPS)
    assert [rates[0], *(rates[i] for i in changes)] == pytest.approx([1, 0.2, 0.04])


@pytest.mark.parametrize(
    ("row", "count", "channels"),
    [
        # Counted with the reference implementation of the paper.
        ("student", 11_220_132, [64, 128, 256, 512]),
        ("teacher", 23_705_252, [256, 512, 1024, 2048]),
    ],
)
def test_networks_of_cifar_100_have_the_references_size(row, count, channels):
    cfg = loaded(f"cifar100/{row}").clone()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
        features = model.eval().backbone(torch.zeros(1, 3, 32, 32))
    assert sum(p.numel() for p in model.parameters()) == count
    shapes = [tuple(feature.shape[1:]) for feature in features.values()]
    assert shapes == [(c, s, s) for c, s in zip(channels, (32, 16, 8, 4), strict=True)]


def test_z_is_trained_like_the_network():
    """What the published numbers were made with: weight decay and momentum on z, no bound."""
    cfg = loaded("cifar100/adaptive")
    aggregation = cfg.MODEL.DISTILLATION.AGGREGATION
    assert aggregation.Z_WEIGHT_DECAY == cfg.SOLVER.WEIGHT_DECAY == cfg.SOLVER.WEIGHT_DECAY_NORM
    assert "Z_MOMENTUM" not in aggregation and aggregation.MAX_WEIGHTED_LOSS == 0


def test_another_number_of_classes_is_found_before_training(tiny):
    cfg = tiny("toy/student", "MODEL.LINEAR_HEAD.NUM_CLASSES", 9)
    with pytest.raises(ValueError, match=r"LINEAR_HEAD.NUM_CLASSES is 9, but .* has 8 classes"):
        check_classes(build_model(cfg), cfg.DATASETS.TEST)


# What the recipes do


@pytest.fixture(scope="module")
def card(tmp_path_factory) -> dict:
    """The card of the embedded set, pointed at a tiny one."""
    root = make_toy_classes(tmp_path_factory.mktemp("tiny") / "set", train=16, val=8, test=8)
    content = yaml.safe_load((REPOSITORY / "datasets/cards/toy_classes.yaml").read_text())
    return {**content, "name": "tinyclasses", "root": str(root), "strictness": "skip"}


@pytest.fixture
def tiny(card, tiny_recipe, tmp_path):
    """``tiny(row)``: a recipe on the tiny set, narrow, for two iterations at 32 px."""
    register_card(card)

    def build(row: str, *opts) -> CfgNode:
        crop = as_shipped(ROWS[row]).INPUT.CENTER_CROP_TEST
        return tiny_recipe(
            ROWS[row],
            "DATASETS.TRAIN", ["tinyclasses_train"],
            "DATASETS.TEST", ["tinyclasses_test"],
            "INPUT.MIN_SIZE_TRAIN", [32],
            "INPUT.MIN_SIZE_TEST", 36 if crop else 32,
            "INPUT.CENTER_CROP_TEST", 32 if crop else 0,
            "SOLVER.IMS_PER_BATCH", 4,
            "SOLVER.STEPS", [1],
            *opts,
            output=tmp_path / "run",
        )  # fmt: skip

    return build


def path_names(row: str) -> set[str]:
    """What the name of a recipe says of its paths: AT and ST, unless it names others."""
    named = set(row.split("_")) & PATHS
    return named or {"at", "st"}


@pytest.mark.parametrize(
    "row", sorted(row.removeprefix("toy/") for row in ROWS if row.startswith("toy/"))
)
def test_every_row_trains_for_two_iterations(row, tiny):
    cfg = tiny(f"toy/{row}")
    trainer = Trainer(cfg)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    with EventStorage() as storage:
        for _ in range(2):
            trainer._trainer.run_step()
            trainer.scheduler.step()
            storage.step()
        assert torch.isfinite(torch.tensor(storage.latest()["total_loss"][0]))
    moved = [not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
    if row in ("student", "teacher"):
        assert not isinstance(trainer.model, Distiller)
        return
    distillation = trainer.model.distillation
    assert {path for path, _ in distillation.labels} == path_names(row)
    layerwise = "layerwise" in row
    stages = len({"at", "nst"} & path_names(row))
    assert len(distillation.names) == len(path_names(row)) + (3 * stages if layerwise else 0)
    hook = trainer.path_weights
    assert (hook.gradients is not None) == (row == "multiobjective")
    if row.startswith("adaptive"):
        assert (hook.aggregator.z != 0).all()
        groups = trainer.optimizer.param_groups
        own = next(g for g in groups if g["params"][0] is hook.aggregator.z)
        assert (own["weight_decay"], own["momentum"]) == (1e-4, 0.9)


@pytest.mark.parametrize("data", ["cifar10", "cifar100", "imagenet200", "imagenet1k"])
def test_the_networks_of_every_data_set_fit_the_paths(data, tiny):
    for row in ("adaptive_layerwise_at_st_nst_l2", "adaptive_ofd_sr", "adaptive"):
        if f"{data}/{row}" not in ROWS:
            continue
        cfg = tiny(f"{data}/{row}")
        model = Trainer.build_model(cfg).train()
        with EventStorage():
            losses = model(next(iter(Trainer.build_train_loader(cfg))))
        assert torch.isfinite(torch.stack([*losses.task.values(), *losses.paths])).all()


def test_a_whole_run_reports_errors_and_agreement(tiny, tmp_path):
    trainer = Trainer(tiny("imagenet1k/adaptive"))
    trainer.resume_or_load(resume=False)
    trainer.train()
    results = trainer._last_eval_results
    assert results["classification"].keys() == {
        "top1_error", "top5_error", "top1_agreement_error", "top5_agreement_error",
        "teacher_top1_error",
    }  # fmt: skip
    taught = results["teacher"]["classification"]
    assert taught["top1_error"] == results["classification"]["teacher_top1_error"]
    student = torch.load(tmp_path / "run" / "student.pth", weights_only=True)
    assert student["model"].keys() == trainer.model.state_dict().keys()
