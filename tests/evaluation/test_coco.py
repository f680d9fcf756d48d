"""COCO's figures are those of pycocotools, compiled or not."""

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.evaluation import coco_evaluation
from pycocotools.cocoeval import COCOeval

from multas.config import add_multas_config
from multas.evaluation import build_evaluator
from multas.evaluation import coco as coco_module
from multas.evaluation.coco import QuietCOCOEvaluator, compiled

CLASSES = ["ant", "bee", "cat"]


def scene(seed, images, most):
    """Objects, and detections some of which are near to them, as make_devkit and run_evaluator
    take them."""
    rng = np.random.default_rng(seed)
    objects, found = [], []
    for number in range(images):
        count = int(rng.integers(0, most))
        corners = rng.integers(1, 60, (count, 2))
        boxes = np.concatenate([corners, corners + rng.integers(4, 30, (count, 2))], axis=1)
        labels = rng.integers(0, 2, count)  # there is no cat
        rows = zip(labels, boxes.tolist(), strict=True)
        objects.append([(CLASSES[k], int(rng.random() < 0.2), *box) for k, box in rows])
        near = np.repeat(boxes, 3, axis=0) + rng.normal(0, 2, (3 * count, 4))
        scores = rng.choice(np.linspace(0.1, 0.9, 9), 3 * count)  # some are equal
        classes = np.where(rng.random(3 * count) < 0.8, np.repeat(labels, 3), 2)
        found.append((f"{number:06d}", classes, np.float32(scores), np.float32(near)))
    return objects, found


@pytest.mark.parametrize("limit", [100, 120])
@pytest.mark.parametrize("seed", range(4))
def test_the_figures_are_the_same(make_devkit, run_evaluator, tmp_path, monkeypatch, seed, limit):
    pytest.importorskip("faster_coco_eval")
    objects, found = scene(seed, 6, 5 if seed else 60)
    name = make_devkit(objects, CLASSES)
    cfg = get_cfg()
    add_multas_config(cfg)
    cfg.OUTPUT_DIR, cfg.TEST.EVALUATOR, cfg.TEST.DETECTIONS_PER_IMAGE = str(tmp_path), "coco", limit

    def figures():
        evaluator = build_evaluator(cfg, name, str(tmp_path))
        assert isinstance(evaluator, QuietCOCOEvaluator)
        return run_evaluator(evaluator, found)["bbox"]

    with monkeypatch.context() as without:
        without.delattr(COCOeval, "evaluateImg")  # the loop of pycocotools
        ours = figures()
    monkeypatch.setattr(coco_module, "find_spec", lambda name: None)
    theirs = figures()
    assert ours.keys() == theirs.keys() and len(ours) > 6
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(value, abs=1e-9, nan_ok=True), key
    assert np.isnan(theirs["AP-cat"]) and 0 < theirs["AP"] < 100


def test_detectron2_is_left_as_it_was():
    before = coco_evaluation.COCOeval, coco_evaluation.COCOevalMaxDets
    with pytest.raises(ZeroDivisionError), compiled():
        raise ZeroDivisionError
    assert before == (coco_evaluation.COCOeval, coco_evaluation.COCOevalMaxDets)
