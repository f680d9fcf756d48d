"""The student that is handed out is the better one on val; a link leads to it."""

import math
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from PIL import Image

from multas.engine.comparison.runs import read_runs
from own_data import job as job_module
from own_data.choice import figures_on_val
from own_data.data import prepare
from own_data.job import Job
from own_data.recipe import write_configs


@pytest.fixture
def choose(tmp_path, monkeypatch):
    """``choose(figures)``: the stage that a job chooses, by figures on validation sets."""
    monkeypatch.setattr(job_module, "read_runs", lambda folders: folders)
    cfg = CfgNode({"DATASETS": {"TEST": ("cells_test",)}, "MODEL": {"MULTITASK": {"TASKS": []}}})
    monkeypatch.setattr(Job, "config", lambda self, stage: cfg)
    for stage in ("supervised", "distilled"):
        (tmp_path / stage).mkdir()

    def chosen(figures, *more):
        cfg.MODEL.MULTITASK.TASKS = ["det", *more]
        monkeypatch.setattr(job_module, "figures_on_val", lambda *_: figures)
        return Job(tmp_path, tmp_path).choose()

    return chosen


@pytest.mark.parametrize(
    ("figures", "wanted"),
    [
        ({"AP on cells_val": (30.0, 31.0)}, "distilled"),
        ({"AP on cells_val": (31.0, 30.0)}, "supervised"),
        # Of two tasks it is the sum that counts.
        ({"AP on cells_val": (31.0, 30.0), "mIoU on masks_val": (50.0, 52.0)}, "distilled"),
        ({}, "distilled"),
        ({"AP on cells_val": (math.nan, math.nan)}, "distilled"),
    ],
)
def test_the_better_one_on_val_is_chosen(choose, tmp_path, capsys, figures, wanted):
    choice = choose(figures)
    assert choice.stage == wanted
    assert (tmp_path / "student").resolve() == tmp_path / wanted
    assert f"[choice] {choice.sentence}\n" == capsys.readouterr().out
    start, _, why = choice.sentence.partition(": ")
    assert start == f"The student that is handed out is the {wanted} one"
    told = [
        f"{name} {first:.2f} (supervised) and {second:.2f} (distilled)"
        for name, (first, second) in figures.items()
    ]
    assert why == ("; ".join(told) or "there is no val split to choose on") + "."


@pytest.mark.parametrize("splits", [("train", "val", "test"), ("train", "test")])
def test_students_are_compared_on_val_alone(tmp_path, splits):
    """Each of two students takes all images for one class; there are more of the second in val."""
    for split in splits:
        for number in range(4):
            is_second = number > 0 if split == "val" else number > 1
            file = tmp_path / split / ("dog" if is_second else "cat") / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (60 * number, 0, 0)).save(file)
    card = {"name": "pets", "format": "folders", "root": str(tmp_path), "annotates": ["cls"],
            "splits": {split: split for split in splits}}  # fmt: skip
    job = Job(tmp_path / "configs", tmp_path / "out")
    data = prepare([card], tmp_path / "data")
    write_configs(data, job.configs, job.output, size="nano", seed=1, iterations=2)
    for number, stage in enumerate(("supervised", "distilled")):
        cfg = job.config(stage)
        model = build_model(cfg)
        for name, parameter in model.named_parameters():
            if "linear" in name:
                parameter.data = torch.eye(2)[number] if "bias" in name else 0 * parameter
        Path(job.folder(stage)).mkdir(parents=True)
        Path(job.folder(stage), "config.yaml").write_text(cfg.dump())
        torch.save({"model": model.state_dict()}, job.weights(stage))
    first, second = read_runs([job.folder("supervised"), job.folder("distilled")])
    known = "val" in splits
    wanted = {"accuracy on pets_val": (25.0, 75.0)} if known else {}
    assert figures_on_val(first, second, ["pets_test"]) == wanted
    wanted = {name: pair[::-1] for name, pair in wanted.items()}
    assert figures_on_val(second, first, ["pets_test"]) == wanted


def test_with_masks_it_is_the_supervised_one_if_nothing_tells(choose):
    assert choose({}, "seg").stage == "supervised"
    assert choose({"mIoU on masks_val": (50.0, 52.0)}, "seg").stage == "distilled"


def test_the_link_follows_the_choice_and_no_folder_is_replaced(choose, tmp_path):
    choose({"AP": (0.0, 1.0)})
    choose({"AP": (1.0, 0.0)})
    assert (tmp_path / "student").resolve() == tmp_path / "supervised"
    (tmp_path / "student").unlink()
    (tmp_path / "student").mkdir()
    assert choose({"AP": (0.0, 1.0)}).stage == "distilled"
    assert not (tmp_path / "student").is_symlink()
