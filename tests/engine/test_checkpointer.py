"""Checkpoints are whole, and a run goes on from the newest intact one."""

import os
import zipfile
from argparse import Namespace

import pytest
import torch

from multas.engine import setup
from multas.engine.checkpoint_files import LAST, newest_intact, read_checkpoint
from multas.engine.checkpointer import find_checkpoint
from multas.engine.contract import check_same_run
from training import different, interrupt, learned, start, train


def checkpoint(folder, name, iteration):
    content = {"model": {"w": torch.rand(1000)}, "trainer": {}, "iteration": iteration}
    torch.save(content, folder / name)
    (folder / LAST).write_text(name)


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of iterations 1, 3 and 5, the last one called final."""
    for name, iteration in [("model_0000001.pth", 1), ("model_0000003.pth", 3)]:
        checkpoint(tmp_path, name, iteration)
    checkpoint(tmp_path, "model_final.pth", 5)
    return tmp_path


def newest(folder):
    """The name of the newest one, and what is said of the others."""
    found = newest_intact(str(folder))
    return os.path.basename(found.path), "; ".join(found.faults)


def test_the_last_one_is_taken_without_a_word(folder):
    assert newest(folder) == ("model_final.pth", "")
    (folder / LAST).write_text("model_0000001.pth\n")
    assert newest(folder) == ("model_0000001.pth", ""), "a user may go back on purpose"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "last_checkpoint is missing"),
        (b"", "last_checkpoint is empty"),
        (b"model_0000009.pth", "model_0000009.pth does not exist"),
        (b"\xff\x00\x01", "is not called .pth"),
    ],
)
def test_without_a_record_the_newest_is_taken(folder, content, fault):
    os.remove(folder / LAST) if content is None else (folder / LAST).write_bytes(content)
    name, faults = newest(folder)
    assert name == "model_final.pth" and fault in faults
    checkpoint(folder, "model_0000012.pth", 12)
    os.remove(folder / LAST)
    assert newest(folder)[0] == "model_0000012.pth", "a run may have been prolonged"


def spoilt(file, how):
    content = bytearray(file.read_bytes())
    if how == "bit":
        content[len(content) // 2] ^= 1
    file.write_bytes(content[: {"bit": None, "half": len(content) // 2, "empty": 0}[how]])


@pytest.mark.parametrize("how", ["half", "bit", "empty"])
def test_a_damaged_one_is_named_and_the_next_is_taken(folder, how):
    spoilt(folder / "model_final.pth", how)
    name, faults = newest(folder)
    assert name == "model_0000003.pth" and faults.startswith("model_final.pth is ")
    spoilt(folder / "model_0000003.pth", "half")
    assert newest(folder)[0] == "model_0000001.pth"
    spoilt(folder / "model_0000001.pth", how)
    with pytest.raises(ValueError, match=r"model_final.pth is .*3.pth is .*1.pth is .*Put back"):
        newest(folder)


def test_any_length_that_was_written_is_told_from_the_whole(folder):
    whole = (folder / "model_final.pth").read_bytes()
    for length in range(0, len(whole), 97):
        (folder / "model_final.pth").write_bytes(whole[:length])
        assert newest(folder)[0] == "model_0000003.pth", length


def test_without_any_checkpoint_a_run_begins(tmp_path):
    assert newest(tmp_path / "none") == newest(tmp_path) == ("", "")
    torch.save({"model": {}}, tmp_path / "model_best.pth")
    torch.save({"model": {}}, tmp_path / "student.pth")
    assert newest(tmp_path) == ("", "")


@pytest.mark.parametrize("name", ["../model_final.pth", "/model.pth", "a/b.pth", "..", "."])
def test_a_record_names_nothing_outside_of_its_folder(folder, name):
    (folder / LAST).write_text(name)
    with pytest.raises(ValueError, match=r"last_checkpoint names .*not in this folder"):
        newest(folder)


def test_what_is_not_called_pth_is_never_opened(folder):
    # Detectron2 unpickles what is called .pkl.
    (folder / "model_final.pth").rename(folder / "x.pkl")
    (folder / LAST).write_text("x.pkl")
    assert newest(folder) == ("model_0000003.pth", "x.pkl is not called .pth")


def test_a_run_goes_on_from_the_one_before_a_damaged_one(distilled_cfg, caplog):
    opts = ["SOLVER.MAX_ITER", 6, "DATASETS.TEST", []]
    whole = train(distilled_cfg(*opts, folder="whole"))
    cfg = distilled_cfg(*opts, "SOLVER.CHECKPOINT_PERIOD", 1, folder="parts")
    interrupt(start(cfg), 3)
    path = os.path.join(cfg.OUTPUT_DIR, "model_0000002.pth")
    os.truncate(os.path.join(cfg.OUTPUT_DIR, "model_0000003.pth"), 5000)
    trainer = start(cfg, resume=True)
    assert f"model_0000003.pth is damaged (BadZipFile); {path} is taken instead" in caplog.text
    assert trainer.start_iter == 3
    trainer.train()
    assert different(learned(trainer), learned(whole)) == []
    assert not [name for name in os.listdir(cfg.OUTPUT_DIR) if name.endswith(".partial")]


def test_a_checkpoint_is_verified_and_read_once(tiny_cfg, tmp_path, own_log, monkeypatch):
    cfg = tiny_cfg("SOLVER.MAX_ITER", 1, "DATASETS.TEST", [])
    train(cfg)
    (tmp_path / "job.yaml").write_text(cfg.dump())
    verified, read = [], []
    verify, load = zipfile.ZipFile.testzip, torch.load

    def testzip(archive):
        verified.append(archive.filename)
        return verify(archive)

    def reading(file, *args, mmap=False, **kwargs):
        if not mmap:
            read.append(file)
        return load(file, *args, mmap=mmap, **kwargs)

    monkeypatch.setattr(zipfile.ZipFile, "testzip", testzip)
    monkeypatch.setattr(torch, "load", reading)
    args = {"config_file": str(tmp_path / "job.yaml"), "opts": [], "eval_only": False}
    assert start(setup(Namespace(**args, resume=True)), resume=True).start_iter == 1
    path = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    assert verified.count(path) == read.count(path) == 1


def test_a_checkpoint_says_what_it_depends_on(distilled_cfg):
    cfg = distilled_cfg("DATASETS.TEST", [])
    train(cfg)
    contract = read_checkpoint(find_checkpoint(cfg.OUTPUT_DIR))["contract"]
    assert contract["MODEL.DISTILLATION.PATHS"] == ["at", "mse", "soft"]
    assert contract["DATASETS.TRAIN, images"].startswith("16 images")


def test_a_longer_schedule_is_told_and_any_other_key_refused():
    old = {"SOLVER.MAX_ITER": 3, "SOLVER.GAMMA": 0.1, "A.NEW.KEY": 1}
    told = check_same_run("model.pth", old, old | {"SOLVER.MAX_ITER": 6})
    assert told == ["SOLVER.MAX_ITER: 3 in the checkpoint, 6 now"]
    with pytest.raises(ValueError, match=r"SOLVER.GAMMA: 0.1 in the checkpoint, 0.5 now\n"):
        check_same_run("model.pth", old, old | {"SOLVER.GAMMA": 0.5})
    fewer = {key: value for key, value in old.items() if key != "SOLVER.GAMMA"}
    check_same_run("model.pth", old, fewer)  # Its default is 0.1.
    with pytest.raises(ValueError, match=r"A.NEW.KEY: 1 in the checkpoint, not set now"):
        check_same_run("model.pth", old, {})


def test_best_weights_that_are_damaged_are_named_before_training(tiny_cfg, card):
    key = "SOLVER.EARLY_STOPPING"
    cfg = tiny_cfg(
        f"{key}.ENABLED", True, f"{key}.DATASET", f"{card['name']}_val", f"{key}.PERIOD", 1,
        f"{key}.START", 0.0, f"{key}.RULE", "never", "SOLVER.MAX_ITER", 6,
        "SOLVER.CHECKPOINT_PERIOD", 1,
    )  # fmt: skip
    interrupt(start(cfg), 2)
    os.truncate(os.path.join(cfg.OUTPUT_DIR, "model_best.pth"), 100)
    with pytest.raises(ValueError, match=r"model_best.pth, the best .* is damaged .*Put back"):
        start(cfg, resume=True)
