"""Predictions of runs are kept, and what is made of them agrees with the evaluators."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from hypothesis import given, settings
from hypothesis import strategies as st

from multas.config import add_multas_config
from multas.data.class_names import with_class_names
from multas.data.loader import build_test_loader
from multas.engine import Trainer
from multas.engine.comparison import detection
from multas.engine.comparison import predictions as predicting
from multas.engine.comparison.classification import judge_labels
from multas.engine.comparison.data import Data, load_data
from multas.engine.comparison.detection import box_blocks, box_panels, judge_boxes
from multas.engine.comparison.differences import difference_blocks
from multas.engine.comparison.figures import Judged
from multas.engine.comparison.matching import (
    best_thresholds,
    confusion,
    kept,
    match,
    mistakes,
    precision_recall_f1,
)
from multas.engine.comparison.predictions import Predictions, predictions_of
from multas.engine.comparison.runs import read_runs
from multas.engine.comparison.segmentation import judge_masks
from multas.engine.ensemble import FlipScaleEnsemble
from multas.evaluation import ClassificationEvaluator, VOCDetectionEvaluator
from multas.evaluation.average_precision import average_precision_area, precision_recall
from multas.util.annotation import BOXES, LABELS
from multas.util.document import to_markdown
from multas.util.errors import UserError

SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture
def run_of():
    """``run_of(cfg)``: a run as train_net.py leaves it, of a network with random weights."""

    def make(cfg):
        folder = Path(cfg.OUTPUT_DIR)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(with_class_names(cfg).dump())
        torch.manual_seed(0)
        torch.save({"model": build_model(cfg).state_dict()}, folder / "student.pth")
        (run,) = read_runs([folder])
        return run

    return make


OPTS = ["MODEL.DENSE_HEAD.SCORE_THRESH_TEST", 0.0, "TEST.DETECTIONS_PER_IMAGE", 20]


def test_both_tasks_have_the_figures_of_the_trainer(joint_cfg, run_of, monkeypatch):
    run = run_of(joint_cfg(*OPTS))
    data = load_data(run.cfg.DATASETS.TEST[0])
    found = predictions_of(run, data.name, data.records)
    assert found.tasks == ("instances", "sem_seg") and len(found.image) > 20
    model = predicting.load_model(run.cfg, str(run.weights))
    for run.cfg.TEST.EVALUATOR in ("coco", "voc"):
        expected = Trainer.test(run.cfg, model)
        for judge, task in ((judge_boxes, "bbox"), (judge_masks, "sem_seg")):
            figures = judge(run.cfg, data, found, None).figures
            for name, value in expected[task].items():
                if not name.startswith("ACC-"):
                    assert figures[f"{task}/{name}"] == pytest.approx(value, nan_ok=True), name
    monkeypatch.setattr(detection, "_figures", lambda *_: pytest.fail("kept figures serve"))
    again = predictions_of(run, data.name, data.records)
    assert judge_boxes(run.cfg, data, again, None).figures["bbox/AP_area"] >= 0
    # Corrected annotations have other figures.
    corrected = Data(data.name, [r | {"annotations": r["annotations"][1:]} for r in data.records])
    with pytest.raises(pytest.fail.Exception):
        judge_boxes(run.cfg, corrected, again, None)


def test_predictions_on_mirror_images_are_those_of_the_labels(tiny_cfg, run_of):
    run = run_of(tiny_cfg(*OPTS))
    data = load_data(run.cfg.DATASETS.TEST[0])
    both = predictions_of(run, data.name, data.records, flip=True)
    model = predicting.load_model(run.cfg, str(run.weights))
    labels = FlipScaleEnsemble(model, topk=run.cfg.TEST.DETECTIONS_PER_IMAGE)
    batches = build_test_loader(run.cfg, data.records)
    outputs = [output["instances"] for batch in batches for output in labels(batch)]
    boxes = np.concatenate([output.pred_boxes.tensor.numpy() for output in outputs])
    assert np.array_equal(both.boxes, boxes)
    assert both.parameters == sum(p.numel() for p in model.parameters())
    # Both are kept, each for itself.
    alone = predictions_of(run, data.name, data.records)
    assert not np.array_equal(alone.score, both.score)
    assert predictions_of(run, data.name, data.records, flip=True).file == both.file != alone.file


def test_predictions_are_computed_once(tiny_cfg, run_of, monkeypatch, caplog):
    cfg = tiny_cfg(*OPTS)
    run, data = run_of(cfg), load_data(cfg.DATASETS.TEST[0])
    first = predictions_of(run, data.name, data.records)
    calls = []
    load = predicting.load_model
    monkeypatch.setattr(predicting, "load_model", lambda *a: calls.append(a) or load(*a))
    again = predictions_of(run, data.name, data.records)
    assert calls == [] and again.parameters == first.parameters > 0
    for key, value in vars(first).items():
        assert np.array_equal(getattr(again, key), value), key
    # Other annotations need no other predictions, other images do.
    bare = [{k: v for k, v in r.items() if k != "annotations"} for r in data.records]
    predictions_of(run, data.name, bare)
    assert calls == []
    assert len(set(predictions_of(run, data.name, data.records[:2]).image.tolist())) == 2
    assert len(calls) == 1
    folder = run.folder / "inference/predictions"
    file = max(folder.iterdir(), key=lambda f: f.stat().st_size)  # that of all images
    file.write_bytes(file.read_bytes()[:1000])
    predictions_of(run, data.name, data.records)
    assert len(calls) == 2 and "is damaged" in caplog.text
    # Those of former weights are dropped.
    torch.manual_seed(1)
    torch.save({"model": build_model(cfg).state_dict()}, run.weights)
    assert not np.array_equal(predictions_of(run, data.name, data.records).score, first.score)
    assert len(list(folder.iterdir())) == 1


def test_classes_of_images_have_the_figures_of_the_evaluator():
    rng = np.random.default_rng(0)
    name, classes = "comparison_labels", ["a", "b", "c", "d", "e", "f", "g"]
    MetadataCatalog.get(name).set(label_classes=classes, evaluator_type="classification")
    records = [{"file_name": "", "image_id": i, "label": int(rng.integers(7))} for i in range(30)]
    del records[3]["label"]
    scores = torch.from_numpy(rng.integers(0, 5, (30, 7)) / 4).softmax(1)  # some are equal
    evaluator = ClassificationEvaluator(name)
    evaluator.process(records, [{"scores": row} for row in scores])
    found = predicting._collect([predicting._on_cpu({"scores": row}) for row in scores], 1)
    result = judge_labels(None, Data(name, records), found, None)
    for key, value in evaluator.evaluate()["classification"].items():
        assert result.figures[f"classification/{key}"] == pytest.approx(value)
    assert np.isnan(result.image_scores[3]) and np.isfinite(result.image_scores).sum() == 29
    assert result.counts.sum() == 29
    accuracy = 100 * np.trace(result.counts) / 29
    assert accuracy == pytest.approx(100 - result.figures["classification/top1_error"])
    assert set(Data(name, records).tasks) == {LABELS}


def scene(seed: int, images: int = 6, classes: int = 3) -> tuple[Data, Predictions]:
    """Random objects, and detections that hit some of them."""
    rng = np.random.default_rng(seed)
    records, found = [], []
    for number in range(images):
        corner = rng.integers(0, 60, (rng.integers(0, 5), 2))
        boxes = np.concatenate([corner, rng.integers(10, 40, corner.shape)], axis=1)
        objects = [
            {"bbox": box.tolist(), "bbox_mode": 1, "category_id": int(rng.integers(classes)),
             "iscrowd": int(rng.random() < 0.1)}
            for box in boxes
        ]  # fmt: skip
        record = {"image_id": f"image{number}", "file_name": "", "annotations": objects}
        if rng.random() < 0.1:
            del record["annotations"]
        records.append(record)
        guesses = rng.integers(0, 8)
        near = boxes[rng.integers(0, len(boxes), guesses)] if len(boxes) else np.zeros((0, 4))
        near = near + rng.normal(0, 2, near.shape)
        found += [(number, int(rng.integers(classes)), rng.random(), *box) for box in near.tolist()]
    table = np.array(found).reshape(-1, 7)
    boxes = table[:, 3:].copy()
    boxes[:, 2:] += boxes[:, :2]
    nothing = np.zeros((0, 0))
    return Data("scene", records), Predictions(
        ("instances",), 0, table[:, 0].astype(np.int64), table[:, 1].astype(np.int64),
        table[:, 2].astype(np.float32), boxes.astype(np.float32), (), nothing, nothing,
    )  # fmt: skip


@settings(max_examples=20)
@given(SEEDS)
def test_thresholds_are_the_best_that_there_are(seed):
    matches = match(*scene(seed), 3)
    best = best_thresholds(matches)
    for k in range(4):
        own = matches.of(k)
        values = np.unique(matches.score[own])
        tried = [precision_recall_f1(matches, np.full(4, t), k)[2] for t in values]
        if np.isnan(best[k]):
            assert not matches.hits[own].any()
        else:
            assert precision_recall_f1(matches, best, k)[2] == max(tried)
            assert f"{best[k]:.3f}" == f"{best[k]:.4f}"[:-1], "what is printed is what is meant"


@settings(max_examples=20)
@given(SEEDS)
def test_every_object_and_every_box_is_in_the_confusion_once(seed):
    data, found = scene(seed)
    matches = match(data, found, 3)
    thresholds = best_thresholds(matches)
    counts, shown = confusion(matches, thresholds), kept(matches, thresholds)
    assert counts[:3].sum(axis=1).tolist() == matches.objects.tolist()
    assert counts[:, :3].sum() == shown.sum()
    hits = np.bincount(matches.category[shown & matches.hits], minlength=3)
    assert np.diagonal(counts)[:3].tolist() == hits.tolist() and counts[3, 3] == 0
    wrong = mistakes(matches, thresholds)
    assert (wrong >= 0).all() and len(wrong) == (data.numbers >= 0).sum()
    assert wrong.sum() == shown.sum() + matches.objects.sum() - 2 * hits.sum()


@settings(max_examples=20)
@given(SEEDS)
def test_average_precision_is_that_of_the_evaluator(seed):
    data, found = scene(seed)
    matches = match(data, found, 3)
    MetadataCatalog.get("scene").set(thing_classes=["a", "b", "c"], evaluator_type="pascal_voc")
    DatasetCatalog["scene"] = lambda: list(data.records)
    evaluator = VOCDetectionEvaluator("scene", metric="area")
    # The evaluator rounds scores and boxes as VOC's files do.
    found = Predictions(
        **vars(found) | {"boxes": found.boxes.round(1), "score": found.score.round(3)}
    )
    matches = match(data, found, 3)
    for number, record in enumerate(data.records):
        evaluator.process([record], [{"instances": found.instances(number, (100, 100))}])
    results = evaluator.evaluate()["bbox"]
    for k, name in enumerate("abc"):
        hits = matches.hits[matches.of(k)]
        area = average_precision_area(*precision_recall(hits, ~hits, matches.objects_of(k)))
        if matches.objects_of(k) and len(np.unique(found.score)) == len(found.score):
            assert 100 * area == pytest.approx(results[f"AP50-{name}"], abs=1e-6)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is not the folder of a run: it has no config\.yaml"):
        read_runs([tmp_path])


def test_runs_have_the_shortest_names_that_tell_them_apart(tiny_cfg, tmp_path):
    for name in ("a/student", "b/student", "b/teacher"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(tiny_cfg().dump())
    folders = [tmp_path / n for n in ("a/student", "b/student", "b/teacher", "a/student")]
    runs = read_runs(folders)
    assert [run.name for run in runs] == ["a/student", "b/student", "b/teacher"]
    assert "interrupted early and has no student.pth" in runs[0].faults()[0]
    record = json.dumps({"iteration": 1, "total_loss": 1.0})
    (tmp_path / "a/student/metrics.json").write_text(record)
    (run,) = read_runs(folders[:1])
    (fault,) = run.faults()
    assert run.name == "student" and "interrupted after 2 of 3 iterations" in fault
    assert set(Data("none", []).tasks) == set() and BOXES.task == "det"


def nothing_found() -> Predictions:
    return predicting._collect([], 1)


@pytest.mark.parametrize("images", [0, 3])
def test_a_set_without_objects_and_a_model_without_boxes_are_judged(images, tmp_path):
    name, classes = f"empty{images}", ["only"]
    records = [{"image_id": i, "file_name": "", "annotations": []} for i in range(images)]
    data = Data(name, records)
    MetadataCatalog.get(name).set(thing_classes=classes, evaluator_type="pascal_voc")
    DatasetCatalog[name] = lambda: records
    matches = match(data, nothing_found(), 1)
    thresholds = best_thresholds(matches)
    assert np.isnan(thresholds).all()
    assert confusion(matches, thresholds).tolist() == [[0, 0], [0, 0]]
    assert mistakes(matches, thresholds).tolist() == [0] * images
    cfg = get_cfg()
    add_multas_config(cfg)
    result = judge_boxes(cfg, data, nothing_found(), None)
    judged = Judged(BOXES, data, ["a", "b"], {"a": result, "b": result})
    blocks = [*box_blocks(judged, tmp_path), *difference_blocks(judged, box_panels, "?", tmp_path)]
    text = to_markdown(blocks, tmp_path)
    assert f"Not in {name}, and so not judged: only." in text
    assert "b is better than a on 0 of" in text
