"""Detectron2's VOC evaluator gives what it gives on a devkit, on data of any format."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import PascalVOCDetectionEvaluator

from multas.evaluation import VOCDetectionEvaluator, build_evaluator
from multas.evaluation.build import BOX_EVALUATORS
from multas.evaluation.detectron2_voc import Detectron2VOCEvaluator
from plain_config import plain_config

CLASSES = ["ant", "bee"]


def scene(seed: int, images: int = 6) -> tuple[list, list]:
    """Objects as (class name, difficult, x1, y1, x2, y2), and predictions near to some of them."""
    rng = np.random.default_rng(seed)
    truth, predictions = [], []
    for number in range(images):
        corners = rng.integers(1, 200, (4, 2))
        boxes = np.concatenate([corners, corners + rng.integers(20, 80, (4, 2))], axis=1)
        labels = rng.integers(0, 2, 4)
        hard = rng.random(4) < 0.2
        truth.append(
            [(CLASSES[c], h, *b) for c, h, b in zip(labels, hard, boxes.tolist(), strict=True)]
        )
        found = np.float32(boxes - [1, 1, 0, 0] + rng.normal(0, 3, (4, 4)))
        scores = rng.random(4).round(2).astype(np.float32)
        predictions.append((f"{number:06d}", labels, scores, found))
    return truth, predictions


@pytest.mark.parametrize("year", [2007, 2012])
@pytest.mark.parametrize("seed", range(3))
def test_on_a_devkit_it_is_detectron2s(make_devkit, run_evaluator, seed, year):
    truth, predictions = scene(seed)
    name = make_devkit(truth, CLASSES, year)
    theirs = run_evaluator(PascalVOCDetectionEvaluator(name), predictions)
    found = run_evaluator(Detectron2VOCEvaluator(name), predictions)
    assert found == theirs and 0 < found["bbox"]["AP"] < 100
    assert run_evaluator(VOCDetectionEvaluator(name), predictions)["bbox"]["AP"] == pytest.approx(
        found["bbox"]["AP"], abs=1e-9
    )


def test_the_metric_is_a_key(make_devkit, run_evaluator):
    truth, predictions = scene(0)
    devkits = {year: make_devkit(truth, CLASSES, year) for year in (2007, 2012)}
    for metric, year in (("11pt", 2007), ("area", 2012)):
        expected = run_evaluator(PascalVOCDetectionEvaluator(devkits[year]), predictions)
        cfg = plain_config("TEST.EVALUATOR", "detectron2_voc", "TEST.VOC_METRIC", metric)
        for name in devkits.values():
            assert run_evaluator(build_evaluator(cfg, name), predictions) == expected


@pytest.mark.parametrize("evaluator", BOX_EVALUATORS)
def test_every_evaluator_takes_every_format(
    evaluator, make_devkit, register, run_evaluator, tmp_path
):
    # Neither ids nor classes are such that a VOC devkit could have them as file names.
    truth, _ = scene(0)
    devkit = make_devkit(truth, CLASSES)
    ids = [f"folder {i}/image {i}" for i in range(len(truth))]
    exact = []
    for image_id, objects in zip(ids, truth, strict=True):
        classes = [CLASSES.index(name) for name, *_ in objects]
        corners = np.float32([box for _, _, *box in objects]) - np.float32([1, 1, 0, 0])
        exact.append((image_id, classes, np.linspace(0.9, 0.8, 4, dtype=np.float32), corners))
    records = [
        {**record, "image_id": image_id}
        for record, image_id in zip(DatasetCatalog.get(devkit), ids, strict=True)
    ]
    unlabelled = {"image_id": "without annotation", "file_name": "", "height": 9, "width": 9}
    kind = "coco" if evaluator != "coco" else "pascal_voc"
    other = register(
        lambda: [*records, *([] if evaluator == "coco" else [unlabelled])],
        thing_classes=["ant/bee", "bee"],
        evaluator_type=kind,
    )
    cfg = plain_config("TEST.EVALUATOR", evaluator)
    extra = ("without annotation", [0], np.float32([0.99]), np.float32([[0, 0, 9, 9]]))
    shown = exact if evaluator == "coco" else [*exact, extra]
    results = run_evaluator(build_evaluator(cfg, other, str(tmp_path)), shown)["bbox"]
    for key in ("AP", "AP50", "AP75"):
        assert results[key] == pytest.approx(100.0)
    assert not any("devkit" in name for name in MetadataCatalog)
