"""docs/serving.md: its snippets run."""

import re
import shutil
from dataclasses import fields
from pathlib import Path

import cv2
import pytest
import torch
import yaml

import predict
from deploy.conftest import picture
from documents import blocks, command, text
from multas.deploy import Description
from multas.deploy.description_file import read_description

FILE = "docs/serving.md"


@pytest.fixture
def served(two_tasks, tmp_path, monkeypatch):
    """What the snippets name, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for folder in ("run", "images"):
        (tmp_path / folder).mkdir()
    (tmp_path / "run" / "config.yaml").write_text(two_tasks.cfg.dump())
    torch.save({"model": two_tasks.model.state_dict()}, "run/student.pth")
    shutil.copy(two_tasks.file, "student.onnx")
    shutil.copy(two_tasks.file, "detector.onnx")
    for file in ("street.jpg", "images/a.png"):
        cv2.imwrite(file, picture(60, 80))
    return tmp_path


@pytest.mark.parametrize("number", range(len(blocks("python", FILE))))
def test_snippets_run(number, served, capsys):
    names: dict = {}
    exec(blocks("python", FILE)[number], names)
    found = names["found"]
    assert len(found.scores) > 0
    assert (len(capsys.readouterr().out.splitlines()) == len(found.scores)) == (number == 1)


def test_the_first_command_runs(served, monkeypatch):
    script = "tools/predict.py"
    monkeypatch.setattr("sys.argv", [script, *command(script, file=FILE)])
    predict.main()
    assert (served / "found" / "a.png").is_file()


def test_the_described_detector_is_right(served):
    (block,) = blocks("yaml", FILE)
    Path("detector.yaml").write_text(block)
    file, description = read_description("detector.yaml")
    assert file == "detector.onnx" and description.labels == {0: 2, 7: 0}
    rows = "".join(re.findall(r"^\| (`.*?) \|", text(FILE), re.MULTILINE)) + block
    told = set(re.findall(r"\w+", rows)) | {"min_size", "max_size"}
    own = {f.name for f in fields(Description)} - {"center_crop", "version"}
    assert own <= told and yaml.safe_load(block).keys() <= own | {"file"}
