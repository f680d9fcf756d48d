"""The student that is handed out is the better one on val; a link leads to it."""

import math

import pytest
from detectron2.config import CfgNode

from own_data import job as job_module
from own_data.job import Job


@pytest.fixture
def choose(tmp_path, monkeypatch):
    """``choose(figures)``: the stage that a job chooses, by figures on validation sets."""
    monkeypatch.setattr(job_module, "read_runs", lambda folders: folders)
    monkeypatch.setattr(
        Job, "config", lambda self, stage: CfgNode({"DATASETS": {"TEST": ("cells_test",)}})
    )
    for stage in ("supervised", "distilled"):
        (tmp_path / stage).mkdir()

    def chosen(figures):
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
    assert choose(figures) == wanted
    assert (tmp_path / "student").resolve() == tmp_path / wanted
    said = capsys.readouterr().out
    assert all(name in said for name in figures) and f": {wanted} (" in said
    assert figures or "no val split" in said


def test_the_link_follows_the_choice_and_no_folder_is_replaced(choose, tmp_path):
    choose({"AP": (0.0, 1.0)})
    choose({"AP": (1.0, 0.0)})
    assert (tmp_path / "student").resolve() == tmp_path / "supervised"
    (tmp_path / "student").unlink()
    (tmp_path / "student").mkdir()
    assert choose({"AP": (0.0, 1.0)}) == "distilled"
    assert not (tmp_path / "student").is_symlink()
