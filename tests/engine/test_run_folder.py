"""The folder of a run: untouched until training starts, held by one training, never shared."""

import errno
import fcntl
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import yaml
from detectron2.utils.events import EventWriter

from multas.engine import Trainer
from multas.engine.report import final_values, read_metrics
from multas.engine.run_folder import claimed_folder
from multas.util.errors import UserError
from multas.util.locks import LOCK
from training import start, train

TAKER = """
import fcntl, sys
fcntl.lockf(open(sys.argv[1], "a"), fcntl.LOCK_EX | fcntl.LOCK_NB)
"""


def names(folder) -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


def test_a_trainer_writes_nothing_before_it_trains(tiny_cfg):
    cfg = tiny_cfg()
    Trainer(cfg).resume_or_load(resume=False)
    assert not os.path.exists(cfg.OUTPUT_DIR)


def test_a_training_needs_no_resume_or_load(tiny_cfg):
    cfg = tiny_cfg("SOLVER.MAX_ITER", 1, "DATASETS.TEST", [])
    Trainer(cfg).train()
    assert {"config.yaml", "metrics.json", "student.pth"} <= names(cfg.OUTPUT_DIR)


def test_log_and_config_are_whole(tiny_cfg, train_net):
    cfg = tiny_cfg("SOLVER.MAX_ITER", 1, "DATASETS.TEST", [])
    train_net(cfg)
    log = (Path(cfg.OUTPUT_DIR) / "log.txt").read_text()
    parts = ["Environment info", "Running with full config", "Model:", "Starting training"]
    assert [log.count(part) for part in parts] == [1] * 4
    assert sorted(parts, key=log.index) == parts
    written = yaml.safe_load((Path(cfg.OUTPUT_DIR) / "config.yaml").read_text())
    given = yaml.safe_load(cfg.dump())
    assert len(written["MODEL"].pop("CLASSES")["DET"]) == 8 and given["MODEL"].pop("CLASSES")
    assert written == given


def test_a_former_run_is_set_aside_and_nothing_mixes(tiny_cfg):
    cfg = tiny_cfg("SOLVER.MAX_ITER", 3, "SOLVER.CHECKPOINT_PERIOD", 2)
    folder = Path(cfg.OUTPUT_DIR)
    train(cfg)
    (folder / "notes.txt").write_text("mine")
    written = names(folder)
    assert {"metrics.json", "model_0000001.pth", "student.pth"} <= written
    cfg.SOLVER.MAX_ITER = 1
    train(cfg)
    assert names(folder / "former_1") == written - {"notes.txt", LOCK}
    assert (folder / "notes.txt").read_text() == "mine"
    assert max(read_metrics(str(folder))) == 1
    assert not (folder / "model_0000001.pth").exists()
    with claimed_folder(cfg, resumes=False):
        assert names(folder) == {"notes.txt", LOCK, "config.yaml", "former_1", "former_2"}


def test_a_run_that_is_resumed_stays(tiny_cfg):
    cfg = tiny_cfg()
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir()
    (folder / "metrics.json").write_text("{}")
    with claimed_folder(cfg, resumes=True):
        assert names(folder) == {"metrics.json", "config.yaml", LOCK}


def test_the_users_own_files_are_no_former_run(tiny_cfg):
    cfg = tiny_cfg()
    folder = Path(cfg.OUTPUT_DIR)
    for name in ("model_zoo.pth", "students.txt", "events.csv", "former_1/model_final.pth"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    before = names(folder)
    with claimed_folder(cfg, resumes=False):
        assert names(folder) == before | {"config.yaml", LOCK}


@pytest.mark.parametrize(
    ("key", "name", "value"),
    [
        ("MODEL.WEIGHTS", "model_final.pth", "{}"),
        ("MODEL.DISTILLATION.TEACHER.WEIGHTS", "student.pth", "{}"),
        ("MODEL.DISTILLATION.MORE_TEACHERS", "model_best.pth", '[{{"WEIGHTS": "{}"}}]'),
        ("DATASETS.PSEUDO_LABELS.FILES", "inference/coco.json", '["{}"]'),
    ],
)
def test_a_run_whose_files_the_new_one_reads_is_not_moved(tiny_cfg, key, name, value):
    cfg = tiny_cfg()
    file = Path(cfg.OUTPUT_DIR) / name
    file.parent.mkdir(parents=True)
    file.write_text("")
    cfg.merge_from_list([key, value.format(file)])
    with pytest.raises(UserError, match=rf"{key}.*{file}.*--resume"), claimed_folder(cfg, False):
        pass
    assert names(cfg.OUTPUT_DIR) == {name.split("/")[0]}


@pytest.mark.parametrize("resumes", [True, False])
def test_a_second_training_in_a_folder_is_refused(tiny_cfg, holder, resumes):
    cfg = tiny_cfg()
    process = holder(cfg.OUTPUT_DIR)
    (Path(cfg.OUTPUT_DIR) / "metrics.json").write_text("")
    said = rf"OUTPUT_DIR {cfg.OUTPUT_DIR} is in use.*process 7 on elsewhere.*another OUTPUT_DIR"
    with pytest.raises(UserError, match=said), claimed_folder(cfg, resumes):
        pass
    assert names(cfg.OUTPUT_DIR) == {LOCK, "metrics.json"}
    # Its child lives on.
    process.kill()
    process.wait()
    with claimed_folder(cfg, resumes):
        pass


def test_a_file_system_without_locks_is_warned_of(tiny_cfg, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    cfg = tiny_cfg()
    with claimed_folder(cfg, False):
        assert "config.yaml" in names(cfg.OUTPUT_DIR)
    assert "without locks" in caplog.text


def test_a_run_counts_as_evaluated_only_after_its_last_iteration(tiny_cfg):
    cfg = tiny_cfg("SOLVER.MAX_ITER", 4, "TEST.EVAL_PERIOD", 2)
    folder = Path(cfg.OUTPUT_DIR)
    train(cfg)
    assert "bbox/AP" in final_values(str(folder))
    lines = (folder / "metrics.json").read_text().splitlines(keepends=True)
    assert any("bbox/AP" in line for line in lines[:-1])
    (folder / "metrics.json").write_text("".join(lines[:-1]))
    assert final_values(str(folder)) == {}
    assert final_values(str(folder / "nowhere")) == {}


def test_a_run_that_is_evaluated_again_says_so_of_the_same_iteration(tiny_cfg):
    cfg = tiny_cfg("SOLVER.MAX_ITER", 2)
    train(cfg)
    before = read_metrics(cfg.OUTPUT_DIR)
    assert train(cfg, resume=True).start_iter == 2
    assert read_metrics(cfg.OUTPUT_DIR) == before


@pytest.mark.parametrize("where", ["run_step", "test"])
def test_after_an_error_nothing_is_held(tiny_cfg, monkeypatch, where):
    def fail(*_):
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(Trainer, where, fail)
    cfg = tiny_cfg("SOLVER.MAX_ITER", 2, "DATALOADER.NUM_WORKERS", 1)
    trainer = start(cfg)
    next(trainer._trainer._data_loader_iter)
    assert multiprocessing.active_children()
    writer = mock.Mock(spec=EventWriter)
    trainer._writers._build = lambda: [writer]
    with pytest.raises(RuntimeError, match="unforeseen"):
        trainer.train()
    assert multiprocessing.active_children() == []
    assert writer.write.called and writer.close.called
    other = [sys.executable, "-c", TAKER, os.path.join(cfg.OUTPUT_DIR, LOCK)]
    assert subprocess.run(other).returncode == 0


def test_the_student_is_saved_before_the_last_evaluation_fails(tiny_cfg, monkeypatch):
    def fail(*_):
        raise OSError("broken image")

    cfg = tiny_cfg("SOLVER.EMA.ENABLED", True)
    monkeypatch.setattr(Trainer, "test", fail)
    with pytest.raises(OSError, match="broken image"):
        train(cfg)
    assert {"student.pth", "student_raw.pth", "model_final.pth"} <= names(cfg.OUTPUT_DIR)
