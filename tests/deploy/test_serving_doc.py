"""docs/serving.md: its snippets run, its commands and keys exist."""

import re
import shlex
import shutil
from dataclasses import fields
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from detectron2.config import get_cfg

import predict
from deploy.conftest import picture
from multas.config import add_multas_config
from multas.deploy import Description
from multas.deploy.description_file import read_description

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = (REPOSITORY / "docs" / "serving.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


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


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_snippets_run(number, served, capsys):
    names: dict = {}
    exec(blocks("python")[number], names)
    found = names["found"]
    assert len(found.scores) > 0
    assert (len(capsys.readouterr().out.splitlines()) == len(found.scores)) == (number == 1)


def commands() -> list[list[str]]:
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


def test_commands_name_scripts_and_the_first_runs(served, monkeypatch):
    scripts = {line[1] for line in commands()}
    assert {"tools/predict.py", "tools/pseudo_label.py", "train_net.py"} <= scripts
    missing = {s for s in scripts if not (REPOSITORY / s).is_file()}
    assert missing <= {"tools/export.py"}
    first = next(line for line in commands() if line[1] == "tools/predict.py")
    monkeypatch.setattr("sys.argv", first[1:])
    predict.main()
    assert (served / "found" / "a.png").is_file()


def test_the_described_detector_is_right(served):
    (block,) = blocks("yaml")
    Path("detector.yaml").write_text(block)
    file, description = read_description("detector.yaml")
    assert file == "detector.onnx" and description.labels == {0: 2, 7: 0}
    rows = "".join(re.findall(r"^\| (`.*?) \|", TEXT, re.MULTILINE)) + block
    told = set(re.findall(r"\w+", rows)) | {"min_size", "max_size"}
    own = {f.name for f in fields(Description)} - {"center_crop", "version"}
    assert own <= told and yaml.safe_load(block).keys() <= own | {"file"}


def test_keys_exist():
    cfg = get_cfg()
    add_multas_config(cfg)
    keys = set(re.findall(r"`([A-Z_]+(?:\.[A-Z_]+)+)", TEXT))
    assert len(keys) > 3
    for key in keys:
        node = cfg
        for part in key.split("."):
            assert part in node, key
            node = node[part]
