"""The recipes of Tables 1, 4 and 5 of "Adaptive Distillation": detection and segmentation."""

import pytest
import torch
import yaml
from detectron2.config import CfgNode

import multas.data
from multas.distillation import Distiller
from multas.engine import Trainer
from own_data import recipe
from shipped import REPOSITORY, row_of, rows
from tiny_recipe import as_shipped

DETECTION = "configs/adaptive/table5.yaml"
SEGMENTATION = "configs/adaptive/table4.yaml"
ALL = rows(DETECTION) + rows(SEGMENTATION)
TOY = rows(DETECTION, "toy") + rows(SEGMENTATION, "toy")
AGGREGATIONS = ("hand_tuned", "multiobjective", "equal", "adaptive")


# Rows beyond the paper, all of Feats_P and Box.
BEYOND = {
    "adaptive_light_feats_p": "adaptive",
    "multiobjective_mean_feats_p": "mgda",
    "adaptive_budget_feats_p": "adaptive",
    "adaptive_budget_decay_feats_p": "adaptive",
    "fading_feats_p": "fading",
    "uw_so_feats_p": "uw_so",
    "imtl_l_feats_p": "imtl_l",
    "gradient_ratio_feats_p": "gradient_ratio",
    "gradient_similarity_feats_p": "gradient_similarity",
    "dto_feats_p": "dto",
    "hand_tuned_dot_feats_p": "hand_tuned",
    "hand_tuned_feats_p_tenth": "hand_tuned",
    "hand_tuned_feats_p_tenfold": "hand_tuned",
}


def expected(file: str) -> tuple[set[str], str]:
    """Names of the paths of a row, and its aggregation; nothing for a network without a teacher."""
    row = row_of(file)[1]
    if row in ("teacher", "student"):
        return set(), ""
    if row.startswith("single_"):
        return {row.removeprefix("single_")}, "single"
    if row in BEYOND:
        return {"feats_p", "box"}, BEYOND[row]
    how = next(name for name in AGGREGATIONS if row.startswith(name))
    paths = {"at", "st"} if SEGMENTATION in file else {"box", row.removeprefix(f"{how}_")}
    return paths, "mgda" if how == "multiobjective" else how


@pytest.fixture(autouse=True)
def working_directory(monkeypatch):
    """Relative paths in configs start at the root of the repository."""
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture(scope="module")
def card(tmp_path_factory) -> str:
    """A card of the embedded set's format, of a tiny set."""
    root = multas.data.make_toy(tmp_path_factory.mktemp("devkit"), train=8, val=2, test=2)
    content = yaml.safe_load((REPOSITORY / "datasets" / "cards" / "toy.yaml").read_text())
    multas.data.register_card({**content, "name": "tinydense", "root": str(root)})
    return "tinydense"


@pytest.fixture
def tiny(card, tiny_recipe, tmp_path):
    """``tiny(file)``: a recipe on the tiny set, narrow, for two iterations."""

    def build(file: str) -> CfgNode:
        part = "both_" if SEGMENTATION in file else ""
        return tiny_recipe(
            file,
            "DATASETS.TRAIN", [f"{card}_{part}train"],
            "DATASETS.TEST", [f"{card}_{part}test"],
            "SOLVER.WARMUP_ITERS", 0,
            output=tmp_path / "run",
        )  # fmt: skip

    return build


@pytest.mark.parametrize("file", ALL)
def test_a_row_is_what_its_name_says(file):
    cfg = as_shipped(file)
    table, data = file.partition("#")[0], row_of(file)[0]
    paths, aggregation = expected(file)
    if not paths:
        assert cfg.MODEL.META_ARCHITECTURE != "Distiller"
        return
    options = cfg.MODEL.DISTILLATION
    assert aggregation == options.AGGREGATION.NAME
    names = {entry.get("NAME", entry["TYPE"]) for entry in options.PATHS}
    long = {"at": "AttentionTransfer", "st": "SoftTarget"}
    assert names == {long.get(name, name) for name in paths}
    student = as_shipped(f"{table}#{data}/student")
    assert student.MODEL.META_ARCHITECTURE == options.STUDENT
    assert cfg.MODEL.WEIGHTS == student.MODEL.WEIGHTS
    own = {"MOMENTUM_DELTA": 0.075} if row_of(file)[1] == "hand_tuned_dot_feats_p" else {}
    assert {**student.SOLVER, **own} == cfg.SOLVER


def test_schedules_are_those_of_the_paper():
    solver = as_shipped(f"{DETECTION}#cityscapes/student").SOLVER
    assert (solver.EPOCHS, *solver.STEPS_EPOCHS) == (64, 56)
    assert (solver.BASE_LR, solver.IMS_PER_BATCH) == (0.01, 8)
    solver = as_shipped(f"{DETECTION}#coco/student").SOLVER
    assert (solver.EPOCHS, *solver.STEPS_EPOCHS) == (12, 8, 11)
    assert (solver.BASE_LR, solver.IMS_PER_BATCH) == (0.02, 8)
    for data in ("cityscapes", "ade20k"):
        cfg = as_shipped(f"{SEGMENTATION}#{data}/student")
        assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH) == (80000, 8)
        assert cfg.INPUT.CROP.SIZE == [512, 1024]


@pytest.mark.parametrize(
    "file", [x for x in ALL if expected(x)[1] == "adaptive" and row_of(x)[1] not in BEYOND]
)
def test_z_is_trained_like_the_network(file):
    """As in the code that the tables were made with."""
    cfg = as_shipped(file)
    aggregation = cfg.MODEL.DISTILLATION.AGGREGATION
    assert aggregation.Z_WEIGHT_DECAY == cfg.SOLVER.WEIGHT_DECAY
    assert "Z_MOMENTUM" not in aggregation and aggregation.MAX_WEIGHTED_LOSS == 0


@pytest.mark.parametrize("row", ["student", "teacher", "adaptive_feats_p"])
@pytest.mark.parametrize(("data", "start"), [("cityscapes", "coco"), ("small", "source")])
def test_cityscapes_starts_from_a_run_on_coco_and_small_from_the_source_set(row, data, start):
    cfg = as_shipped(f"{DETECTION}#{data}/{row}")
    other = as_shipped(f"{DETECTION}#{start}/{'teacher' if row == 'teacher' else 'student'}")
    assert f"{other.OUTPUT_DIR}/student.pth" == cfg.MODEL.WEIGHTS
    assert not set(cfg.DATASETS.TRAIN) & set(other.DATASETS.TRAIN)


@pytest.mark.parametrize("file", [x for x in ALL if row_of(x)[0] in ("small", "source")])
def test_small_rows_differ_from_tiny_ones_in_width_start_and_schedule(file):
    data, row = row_of(file)
    cfg = as_shipped(file)
    assert cfg.TEST.EVALUATOR == "coco" and cfg.SOLVER.AMP.ENABLED == "auto"
    assert cfg.SOLVER.MAX_ITER > 1000 and bool(cfg.MODEL.WEIGHTS) is (data == "small")
    if row in BEYOND or row in ("equal_feats_p", "single_cross"):
        return
    tiny = as_shipped(f"{DETECTION}#toy/{row}")
    assert cfg.MODEL.DISTILLATION.PATHS == tiny.MODEL.DISTILLATION.PATHS
    assert cfg.MODEL.GFL_HEAD == tiny.MODEL.GFL_HEAD
    narrower = 1.5 if row == "teacher" else 2
    assert narrower * cfg.MODEL.RESNETS.RES2_OUT_CHANNELS == tiny.MODEL.RESNETS.RES2_OUT_CHANNELS
    if data == "small":
        assert cfg.DATASETS == tiny.DATASETS


def test_ill_set_weights_are_ten_times_off():
    rows = ("hand_tuned_feats_p_tenth", "hand_tuned_feats_p", "hand_tuned_feats_p_tenfold")
    alphas = [as_shipped(f"{DETECTION}#small/{row}").MODEL.DISTILLATION.ALPHA for row in rows]
    assert alphas == [0.1, 1.0, 10.0]


def test_small_scale_has_the_default_of_own_data():
    light = as_shipped(f"{DETECTION}#small/adaptive_light_feats_p").MODEL.DISTILLATION
    assert light.ALPHA == recipe.ALPHA
    assert recipe.AGGREGATION["NAME"] == light.AGGREGATION.NAME


# One of each network and kind of row where the data set is not the embedded one: the rest differs
# from the toy rows, which all run below, in the parts of the data set alone.
BUILT = [
    file
    for file in ALL
    if file not in TOY
    and row_of(file)[1]
    in ("teacher", "student", "adaptive", "adaptive_feats_b", "adaptive_feats_p")
]


@pytest.mark.parametrize("file", BUILT)
def test_networks_of_the_paper_build(file, tiny):
    cfg = tiny(file)
    model = Trainer.build_model(cfg)
    assert isinstance(model, Distiller) == ("adaptive" in row_of(file)[1])
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) > 0


@pytest.mark.parametrize(
    "name", ["adaptive_budget_decay", "fading", "uw_so", "imtl_l", "multiobjective_mean"]
)
def test_other_ways_to_weigh_the_same_paths_train(name, tiny):
    file = f"{DETECTION}#small/{name}_feats_p"
    paths = as_shipped(f"{DETECTION}#small/adaptive_feats_p").MODEL.DISTILLATION.PATHS
    assert paths == as_shipped(file).MODEL.DISTILLATION.PATHS
    trainer = Trainer(tiny(file))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    latest = trainer.storage.latest()
    assert {"loss_kd_feats_p", "loss_kd_box", "path_alpha", "path_weight/box"} <= latest.keys()
    assert ("loss_kd_z" in latest) == (name not in ("uw_so", "multiobjective_mean"))
    after = trainer.model.parameters()
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert sum(moved) > len(moved) / 2


@pytest.mark.parametrize("file", TOY)
def test_every_kind_of_row_trains_for_two_iterations(file, tiny):
    cfg = tiny(file)
    paths, aggregation = expected(file)
    trainer = Trainer(cfg)
    model = trainer.model
    before = [p.detach().clone() for p in model.parameters()]
    trainer.train()
    latest = trainer.storage.latest()
    losses = {name.removeprefix("loss_kd_") for name in latest if name.startswith("loss_kd_")}
    assert losses - {"z"} == paths
    assert ("z" in losses) == (aggregation == "adaptive")
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
    product = torch.load(f"{cfg.OUTPUT_DIR}/student.pth", weights_only=True)["model"]
    assert product.keys() == model.state_dict().keys()
    metric = "sem_seg/mACC" if SEGMENTATION in file else "bbox/AP50"
    assert metric in latest
