"""Hours that are planned before anything is trained."""

import re

import pytest

from multas.config import merge_opts
from plain_config import plain_config
from reproduction.hours import Work, task_sizes, work_of
from reproduction.runs import Planner

# The rows of the table in docs/clusters.md, in its order; those of one line are alike.
LINES = [
    ["adaptive/table2.yaml#imagenet1k/teacher", "adaptive/table2.yaml#imagenet1k/adaptive"],
    ["adaptive/table2.yaml#imagenet200/adaptive", "adaptive/table2.yaml#cifar10/adaptive"],
    ["adaptive/table5.yaml#coco/teacher", "adaptive/table5.yaml#coco/adaptive_feats_p"],
    ["adaptive/table5.yaml#cityscapes/adaptive_feats_p"],
    ["adaptive/table4.yaml#cityscapes/teacher", "adaptive/table4.yaml#ade20k/teacher"],
    ["limited-data/table1.yaml#voc/half/teacher"],
    ["limited-data/table1.yaml#voc/half/self_trained"],
    ["limited-data/table6.yaml#voc/multi_task"],
]


@pytest.fixture
def planner(tmp_path, monkeypatch):
    """The planner of a machine without the papers' data."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return Planner(tmp_path / "runs")


def test_the_documented_hours_are_those_of_the_recipes(planner, repository):
    text = (repository / "docs" / "clusters.md").read_text()
    table = re.findall(r"^\| .*? \| ([\d,or ]+) \| ([\dor ]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert len(table) == len(LINES)
    for addresses, (iterations, images, hours) in zip(LINES, table, strict=True):
        works = [work_of(planner.plan(f"configs/{address}", 1)) for address in addresses]
        told = zip(iterations.replace(",", "").split(" or "), images.split(" or "), strict=True)
        assert set(works) == {Work(*map(int, pair)) for pair in told}, addresses
        assert {f"{work.hours(100):.1f}" for work in works} == {hours}, addresses


def test_mini_batches_of_one_task_in_turn_are_one_each(planner):
    address = "configs/limited-data/table6.yaml#voc/multi_task"
    turns = Planner(planner.folder, ["DATASETS.TASK_MODE", "alternate"]).plan(address, 1)
    both = work_of(planner.plan(address, 1))
    assert work_of(turns) == Work(2 * both.iterations, both.images // 2)


def test_data_that_nobody_has_counted_have_no_hours():
    cfg = plain_config(address="configs/limited-data/table1.yaml#voc/half/teacher")
    assert task_sizes("voc", cfg) == {"half": (8274, 5)}
    merge_opts(cfg, ["DATASETS.TRAIN", ["voc2007_other"]])
    with pytest.raises(KeyError):
        task_sizes("voc", cfg)
