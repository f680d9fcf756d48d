"""Studies: what their files say, and the page that is made of them."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml
from detectron2.structures import BoxMode

from multas.data import make_toy
from multas.data.looking.find import find_cards
from multas.util.errors import UserError
from own_data.data import prepare
from studies import page as page_module
from studies import results, study
from studies.neighbour import write_data
from studies.study import Cell, names, read_study

SMALL = """
title: Small
about: Two rows.
data: [toy]
tasks: [det]
labels: [1/2, 1]
seeds: 2
size: nano
iterations: 2
opts: {TEST.EVALUATOR: coco}
rows:
  teacher: {config: teacher}
  student: {config: supervised, opts: {MODEL.TIMM.PRETRAINED: ""}}
  + pseudo-labels:
    config: distilled
    opts: {MODEL.META_ARCHITECTURE: MultiTaskNetwork}
    versus: student
    only: {labels: [1/2]}
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "FOLDER", tmp_path / "evidence")
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence" / "small.yaml").write_text(SMALL)
    return read_study("small")


def test_cells_of_the_first_seed_come_first(small):
    assert [cell.name for cell in small.cells()] == [
        "toy-1of2-seed1", "toy-1of1-seed1", "toy-1of2-seed2", "toy-1of1-seed2"
    ]  # fmt: skip
    assert list(small.rows_of(Cell("toy", Fraction(1), 1))) == ["teacher", "student"]
    assert list(small.rows_of(Cell("toy", Fraction(1, 2), 1)))[-1] == "+ pseudo-labels"


def test_a_row_may_be_for_some_data_or_shares_only(small):
    file = study.FOLDER / "small.yaml"
    for only, half, whole in (
        ("{data: [toy], labels: [1]}", False, True),
        ("{labels: [1/2]}", True, False),
        ("{data: [cells]}", False, False),
    ):
        file.write_text(f"{SMALL}  other: {{config: yolo, only: {only}}}\n")
        rows = [
            read_study("small").rows_of(Cell("toy", share, 1))
            for share in (Fraction(1, 2), Fraction(1))
        ]
        assert ["other" in own for own in rows] == [half, whole]


@pytest.mark.parametrize(
    ("wrong", "right", "message"),
    [
        ("config: supervised", "config: pupil", "config is one of teacher, supervised, distilled"),
        ("config: supervised", "config: choice", "choose_from are two rows of a choice"),
        ("versus: student", "choose_from: [teacher, student]", "are two rows of a choice"),
        ("versus: student", "versus: pupil", "versus names no row, but 'pupil'"),
        ("only: {labels: [1/2]}", "only: {label: [1]}", "only names data and labels, not label"),
        ("seeds: 2", "seed: 2", "seed"),
        ("seeds: 2", "seeds: 2\nsplit: train", "split is test or val, not 'train'"),
        ("labels: [1/2, 1]", "labels: [half]", "half"),
    ],
)
def test_a_mistake_in_a_study_is_named(small, wrong, right, message):
    file = study.FOLDER / "small.yaml"
    file.write_text(SMALL.replace(wrong, right))
    with pytest.raises(UserError, match=message) as caught:
        read_study("small")
    assert "small.yaml" in str(caught.value)


def test_an_unknown_study_is_answered_with_those_there_are(small):
    with pytest.raises(UserError, match="no study smal; choose from small"):
        read_study("smal")


def entry(row, seed, ap, spread=0.5):
    random = np.random.default_rng(seed)
    samples = (ap + spread * random.normal(size=200)).round(2).tolist()
    return {"data": "toy", "labels": "1/2", "seed": seed, "row": row, "images": 8, "seconds": 90,
            "iterations": 2, "config": "0", "AP": ap, "AP50": 0, "AP75": 0,
            "resampled": samples}  # fmt: skip


def test_the_page_tells_means_differences_and_missing_seeds(small, monkeypatch):
    known = [
        entry("student", 1, 20.0),
        entry("student", 2, 22.0),
        entry("+ pseudo-labels", 1, 25.0),
    ]
    text = page_module.section(small, known)
    table, differences = text[-2:]
    assert "21.0 ± 1.4" in table and "25.0 (1)" in table and "50 % (8)" in table
    assert "1.5" in table.splitlines()[-1]
    # The samples of one seed have the same noise in both rows, which drops out.
    assert "**+5.0 (+5.0 … +5.0)**" in differences


def test_the_page_is_that_of_the_results():
    assert page_module.PAGE.read_text() == page_module.page()
    for name in names():
        own = read_study(name)
        for result in results.read_results(own):
            assert result["iterations"] == own.length_of(own.rows[result["row"]])


def test_yolo_is_given_the_boxes_that_ours_learn_from(tmp_path, forget_registered):
    root = make_toy(tmp_path / "toy", train=6, val=1, test=1)
    card = yaml.safe_load(Path("datasets/cards/toy.yaml").read_text())
    content = {"name": "study_toy", "format": "voc", "root": str(root), "annotates": ["det"],
               "splits": {"train": "Main/train", "test": "Main/test"},
               "classes": card["classes"]}  # fmt: skip
    (task,) = prepare([content], tmp_path / "job", Fraction(1, 2), seed=1)
    cards, _ = find_cards(write_data(task, tmp_path / "yolo"))
    (written,) = prepare([cards[0] | {"name": "study_yolo"}], tmp_path / "back")
    assert written.classes == task.classes

    def boxes(records):
        return [
            [(a["category_id"], *np.round(BoxMode.convert(a["bbox"], a["bbox_mode"],
              BoxMode.XYXY_ABS), 3)) for a in record["annotations"]]
            for record in records
        ]  # fmt: skip

    given = sorted(boxes(r for name in written.records for r in written.records[name]))
    assert given == sorted(boxes(task.annotated)) and len(given) == 3


@pytest.mark.slow
def test_a_study_runs_and_goes_on(tmp_path):
    make_toy(tmp_path / "data" / "toy", train=8, val=2, test=4)
    file = tmp_path / "small.yaml"
    file.write_text(SMALL.replace("[1/2, 1]", "[1/2]").replace("seeds: 2", "seeds: 1"))
    command = [sys.executable, "tools/evidence.py", str(file), "--data", str(tmp_path / "data"),
               "--pretrained", "none", "--output", str(tmp_path / "output")]  # fmt: skip
    first, again = (
        subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in "ab"
    )
    assert "1 cells, 0 of them" in first and "1 cells, 1 of them" in again
    found = {result["row"]: result for result in results.read_results(read_study(str(file)))}
    assert set(found) == {"teacher", "student", "+ pseudo-labels"}
    assert all(len(result["resampled"]) == 200 for result in found.values())
    assert "pseudo-labels" in first and "| toy" in first
