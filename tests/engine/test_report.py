"""Reading the metrics that runs, also killed and resumed ones, left behind."""

import json

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from multas.data import register_cards
from multas.engine.report import (
    contact_sheet,
    last_values,
    plot_paths,
    read_metrics,
    training_seconds,
)


@pytest.fixture
def killed_and_resumed(tmp_path):
    """Killed in the middle of a line behind iteration 39, resumed from 19."""
    first = [
        {"iteration": 19, "time": 1.0, "total_loss": 5.0, "path_loss/a": 2.0, "path_weight/a": 1.0},
        {"iteration": 39, "time": 9.0, "total_loss": 4.0, "path_loss/a": 2.0, "path_weight/a": 0.9},
    ]
    second = [
        {"iteration": 39, "time": 2.0, "total_loss": 3.0, "path_loss/a": 1.0, "path_weight/a": 0.8},
        {"iteration": 59, "time": 0.5, "total_loss": 2.0, "path_loss/a": 1.0, "path_weight/a": 0.7},
        {"iteration": 59, "bbox/AP": 7.0},
    ]
    lines = [*map(json.dumps, first), '{"iteration": 59, "total_l' + json.dumps(second[0])]
    lines += [*map(json.dumps, second[1:]), '{"iteration": 79']
    (tmp_path / "metrics.json").write_text("\n".join(lines))
    return str(tmp_path)


def test_the_last_word_on_each_iteration_counts(killed_and_resumed):
    records = read_metrics(killed_and_resumed)
    assert [records[i]["total_loss"] for i in (19, 39, 59)] == [5.0, 3.0, 2.0]
    latest = last_values(killed_and_resumed)
    assert (latest["total_loss"], latest["bbox/AP"]) == (2.0, 7.0)


def test_every_iteration_costs_its_time_once(killed_and_resumed):
    assert training_seconds(killed_and_resumed) == pytest.approx(20 * 1.0 + 20 * 2.0 + 20 * 0.5)


def test_the_paths_are_drawn(killed_and_resumed, tmp_path):
    plot_paths(killed_and_resumed, str(tmp_path / "paths.png"))
    assert (tmp_path / "paths.png").stat().st_size > 1000


@pytest.mark.parametrize("outlined", [0, 1, 99])
def test_images_are_drawn_with_outlines_of_none_some_or_all_objects(tiny_cfg, tmp_path, outlined):
    cfg = tiny_cfg()
    register_cards(cfg.DATASETS.CARDS)
    (known,) = cfg.DATASETS.TEST
    records = []
    for record in DatasetCatalog.get(known)[:2]:
        objects = [dict(own) for own in record["annotations"]]
        for own in objects[:outlined]:
            x0, y0, x1, y1 = own["bbox"]
            own["segmentation"] = [[x0, y0, x1, y0, x1, y1]]
        records.append({**record, "annotations": objects})
    assert max(len(record["annotations"]) for record in records) > 1
    name = f"{known}_outlined_{outlined}"
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(thing_classes=MetadataCatalog.get(known).thing_classes)
    weights = str(tmp_path / "student.pth")
    torch.save({"model": build_model(cfg).state_dict()}, weights)
    contact_sheet({"student": (cfg, weights)}, name, str(tmp_path / "sheet.png"), count=2)
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
