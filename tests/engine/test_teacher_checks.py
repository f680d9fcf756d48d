"""Warnings about teachers that would ruin a student, before they do."""

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from multas.data.loader import Index
from multas.engine.checks.teachers import check_teacher_statistics
from multas.util.errors import UserError
from training import PATHS, different, learned, start, train

KEY = "MODEL.DISTILLATION"


@pytest.fixture
def sound_cfg(distilled_cfg):
    """``sound_cfg(KEY, VALUE, ...)``: a distillation whose teacher has seen its images."""

    def build(*opts, spoil=lambda norm: None, **options):
        cfg = distilled_cfg(*opts, **options)
        trainer = start(distilled_cfg("SOLVER.IMS_PER_BATCH", 8, folder="stage"))
        weights = cfg.MODEL.DISTILLATION.TEACHER.WEIGHTS
        (teacher,) = trainer.model.distillation.teachers
        network = type(teacher).from_config(cfg.MODEL.DISTILLATION.TEACHER, cfg).model
        norms = {n: m for n, m in network.named_modules() if isinstance(m, _BatchNorm)}
        for norm in norms.values():
            norm.momentum = None  # a mean over all batches
            norm.reset_running_stats()
        dataset = trainer._trainer.data_loader.dataset
        images = [{"image": dataset[Index(i, i)]["image"]} for i in range(8)]
        network.train()
        with torch.no_grad():
            network.raw_outputs(images)
        for norm in norms.values():
            spoil(norm)
        torch.save({"model": network.state_dict()}, weights)
        return cfg

    return build


def too_small(norm: nn.Module) -> None:
    """The statistics of a teacher whose features explode."""
    norm.running_var *= 0.1


def test_a_sound_teacher_is_passed_over(sound_cfg, caplog):
    cfg = sound_cfg()
    caplog.clear()  # the teacher had random weights before
    with caplog.at_level("WARNING", "multas"):
        start(cfg)
    assert "BatchNorm" not in caplog.text


@pytest.mark.parametrize("precision", ["", "bfloat16"])
def test_broken_statistics_are_told_with_teacher_layer_numbers_and_paths(
    sound_cfg, caplog, precision
):
    cfg = sound_cfg(f"{KEY}.TEACHER.PRECISION", precision, spoil=too_small)
    caplog.clear()
    with caplog.at_level("WARNING", "multas"):
        train(cfg)
    start_up = [r.getMessage() for r in caplog.records if "running statistics" in r.getMessage()]
    (message,) = start_up
    weights = cfg.MODEL.DISTILLATION.TEACHER.WEIGHTS
    for part in ("Teacher 0", weights, "its layer '", "at, mse, soft",
                 "PRECISE_BN", "momentum"):  # fmt: skip
        assert part in message
    assert "raw loss" in caplog.text and "Path 'mse' of teacher 0" in caplog.text


def test_statistics_that_are_too_large_are_told_as_well(sound_cfg, caplog):
    cfg = sound_cfg(spoil=lambda norm: norm.running_var.mul_(1e6))
    caplog.clear()
    with caplog.at_level("WARNING", "multas"):
        start(cfg)
    assert "running statistics" in caplog.text


def test_the_check_changes_nothing_of_the_run(sound_cfg, monkeypatch):
    with_check = train(sound_cfg("SOLVER.MAX_ITER", 2))
    monkeypatch.setattr("multas.engine.preflight.check_teacher_statistics", lambda *_: None)
    without = train(sound_cfg("SOLVER.MAX_ITER", 2))
    assert different(learned(with_check), learned(without)) == []
    fresh, state = start(sound_cfg()), torch.get_rng_state()
    check_teacher_statistics(fresh.model, fresh._trainer.data_loader)
    assert torch.equal(state, torch.get_rng_state())


def test_a_teacher_without_statistics_or_that_follows_the_student_is_left_alone(
    distilled_cfg, monkeypatch
):
    def fail(*_):
        raise AssertionError

    monkeypatch.setattr("multas.engine.checks.teachers._compare", fail)
    cfg = distilled_cfg(f"{KEY}.TEACHER.CONFIG_FILE", "", f"{KEY}.TEACHER.WEIGHTS", "",
                        f"{KEY}.TEACHER.EMA_DECAY", 0.9)  # fmt: skip
    start(cfg)


def test_batch_norms_are_folded_when_training_begins_and_not_before(sound_cfg):
    trainer = start(sound_cfg())
    stem = trainer.model.distillation.teachers[0].model.backbone.bottom_up.stem.conv1
    assert isinstance(stem.norm, _BatchNorm)
    trainer.before_train()
    assert stem.norm is None


@pytest.mark.parametrize(("weight", "warned"), [(1e9, True), (1.0, False)])
def test_fixed_weights_are_part_of_the_scale_of_a_loss(sound_cfg, caplog, weight, warned):
    path = {"TYPE": "FeatureMSE", "STUDENT": "backbone", "WEIGHT": weight}
    cfg = sound_cfg(f"{KEY}.PATHS", [path], f"{KEY}.AGGREGATION.NAME", "hand_tuned",
                    "SOLVER.MAX_ITER", 2, "SOLVER.BASE_LR", 1e-20)  # fmt: skip
    with caplog.at_level("WARNING", "multas"):
        train(cfg)
    messages = [r.getMessage() for r in caplog.records if "raw loss" in r.getMessage()]
    assert len(messages) == warned
    for part in ("'mse' of teacher 0", "WEIGHT", "1e+09") if warned else ():
        assert part in messages[0]


def test_a_distiller_without_paths_says_that_it_trains_plainly(distilled_cfg, caplog):
    none = [f"{KEY}.PATHS", [], f"{KEY}.TEACHER.CONFIG_FILE", "", f"{KEY}.TEACHER.WEIGHTS", "",
            "DATASETS.TRAIN", distilled_cfg().DATASETS.TRAIN[:1]]  # fmt: skip
    with caplog.at_level("WARNING", "multas"):
        train(distilled_cfg(*none, "SOLVER.MAX_ITER", 1))
    assert caplog.text.count("PATHS is empty and no teacher is named") == 1


@pytest.mark.parametrize("named", ["file", "mean teacher", "second"])
def test_a_teacher_without_paths_is_refused(distilled_cfg, named):
    nothing = [f"{KEY}.TEACHER.CONFIG_FILE", "", f"{KEY}.TEACHER.WEIGHTS", ""]
    opts = {
        "file": [],
        "mean teacher": [*nothing, f"{KEY}.TEACHER.EMA_DECAY", 0.9],
        "second": [*nothing, f"{KEY}.MORE_TEACHERS", [{"CONFIG_FILE": "second.yaml"}]],
    }
    with pytest.raises(UserError, match=rf"{KEY}.PATHS is empty, so that the teacher .*TYPE:"):
        start(distilled_cfg(f"{KEY}.PATHS", [], *opts[named]))


def test_layers_of_the_paths_are_those_that_are_compared(sound_cfg, caplog):
    cfg = sound_cfg(f"{KEY}.PATHS", PATHS[:1], spoil=too_small)
    caplog.clear()
    with caplog.at_level("WARNING", "multas"):
        start(cfg)
    assert "its layer 'backbone.bottom_up.res" in caplog.text
    assert "The path at would teach" in caplog.text
