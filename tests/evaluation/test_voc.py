import logging
import pathlib
import time

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_voc_instances
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.structures import BoxMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multas.evaluation import VOCDetectionEvaluator
from multas.util.errors import UserError

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "multas"
CLASSES = ["ant", "bee", "cat", "dog", "elk"]


def random_scene(rng, images, classes, *, objects=4, detections=12, digits=2, difficult=0.2):
    """Objects per image, and predictions: noisy copies, duplicates and random boxes."""
    truth, predictions = [], []
    for number in range(images):
        count = rng.integers(0, objects + 1)
        corner = rng.integers(1, 60, (count, 2))
        boxes = np.concatenate([corner, corner + rng.integers(0, 50, (count, 2))], axis=1)
        labels = rng.integers(0, len(classes), count)
        hard = rng.random(count) < difficult
        truth.append(
            [(classes[c], d, *b) for c, d, b in zip(labels, hard, boxes.tolist(), strict=True)]
        )
        guesses = rng.integers(0, detections + 1)
        corner = rng.uniform(0, 60, (guesses, 2))
        found = np.concatenate([corner, corner + rng.uniform(1, 50, (guesses, 2))], axis=1)
        names = rng.integers(0, len(classes), guesses)
        if count:
            copies = rng.random(guesses) < 0.7
            source = rng.integers(0, count, guesses)
            noisy = boxes[source] - [1, 1, 0, 0] + rng.normal(0, 2, (guesses, 4)).round(1)
            found[copies], names[copies] = noisy[copies], labels[source][copies]
        scores = rng.random(guesses).round(digits)
        predictions.append(
            (f"{number:06d}", names, scores.astype(np.float32), found.astype(np.float32))
        )
    return truth, predictions


@pytest.mark.parametrize("year", [2007, 2012])
def test_reference_values(make_devkit, run_evaluator, year):
    case = np.load(GOLDEN / f"voc_map_{year}.npz")
    names = [f"class{number}" for number in range(case["out_ap"].shape[1])]
    images = int(max(case["in_gt_image"].max(), case["in_det_image"].max())) + 1
    objects = [[] for _ in range(images)]
    # The class numbers of the reference may start at 1.
    base = int(min(case["in_gt_class"].min(), case["in_det_class"].min()))
    for image, label, hard, box in zip(
        case["in_gt_image"],
        case["in_gt_class"],
        case["in_gt_difficult"],
        case["in_gt_boxes"],
        strict=True,
    ):
        objects[image].append((names[label - base], hard, *box.tolist()))
    # The reference shifts all four corners by one, Detectron2 the upper left one only.
    boxes = case["in_det_boxes"] + [0, 0, 1, 1]
    predictions = []
    for image in range(images):
        rows = case["in_det_image"] == image
        predictions.append(
            (
                f"{image:06d}",
                case["in_det_class"][rows] - base,
                case["in_det_score"][rows],
                boxes[rows],
            )
        )
    thresholds = case["in_iou_thresholds"]
    devkit = make_devkit(objects, names, int(case["in_year"]))
    evaluator = VOCDetectionEvaluator(devkit, thresholds, report_thresholds=thresholds)
    results = run_evaluator(evaluator, predictions)["bbox"]
    assert results["AP"] == pytest.approx(100 * float(case["out_map"]), abs=1e-9)
    assert results["AP50"] == pytest.approx(100 * float(case["out_ap50"]), abs=1e-9)
    assert results["AP75"] == pytest.approx(100 * float(case["out_ap75"]), abs=1e-9)
    for number, name in enumerate(names):
        expected = 100 * case["out_ap"][:, number]
        assert results[f"AP-{name}"] == pytest.approx(expected.mean(), abs=1e-9)
        for threshold, value in zip(thresholds, expected, strict=True):
            key = f"AP{100 * threshold:g}-{name}"
            assert results[key] == pytest.approx(value, abs=1e-9), key


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 8),
    detections=st.integers(0, 60),
    digits=st.sampled_from([0, 1, 5]),
    difficult=st.sampled_from([0.0, 0.3, 1.0]),
    year=st.sampled_from([2007, 2012]),
)
def test_equals_detectron2(
    make_devkit, run_evaluator, seed, images, detections, digits, difficult, year
):
    scene = random_scene(
        np.random.default_rng(seed),
        images,
        CLASSES,
        detections=detections,
        digits=digits,
        difficult=difficult,
    )
    name = make_devkit(scene[0], CLASSES, year)
    with np.errstate(invalid="ignore"):
        expected = run_evaluator(PascalVOCDetectionEvaluator(name), scene[1])["bbox"]
    actual = run_evaluator(VOCDetectionEvaluator(name), scene[1])["bbox"]
    for key, value in expected.items():
        # Detectron2's area metric is undefined if a class has detections but no object.
        if np.isfinite(value):
            assert actual[key] == pytest.approx(value, abs=1e-9)
        else:
            assert year == 2012
    assert all(np.isfinite(value) for value in actual.values())


def test_many_equal_scores_rank_as_in_detectron2(make_devkit, run_evaluator):
    truth, predictions = random_scene(
        np.random.default_rng(3), 60, CLASSES, detections=80, digits=1
    )
    name = make_devkit(truth, CLASSES)
    expected = run_evaluator(PascalVOCDetectionEvaluator(name), predictions)["bbox"]
    actual = run_evaluator(VOCDetectionEvaluator(name), predictions)["bbox"]
    for key, value in expected.items():
        assert actual[key] == pytest.approx(value, abs=1e-9)


def simple_devkit(make_devkit, year=2007):
    objects = [[("ant", 0, 11, 11, 20, 20)], [("bee", 1, 1, 1, 10, 10)]]
    return make_devkit(objects, CLASSES, year)


EXACT = ("000000", [0], np.float32([0.9]), np.float32([[10, 10, 20, 20]]))
NOTHING = ("000001", [], np.float32([]), np.zeros((0, 4), np.float32))


def test_low_thresholds_get_keys_but_stay_out_of_the_mean(make_devkit, run_evaluator):
    name = simple_devkit(make_devkit)
    # IoU 16 / (100 + 16 - 16): above 0.1 and below 0.25.
    corner = ("000000", [0], np.float32([0.9]), np.float32([[10, 10, 14, 14]]))
    evaluator = VOCDetectionEvaluator(name, report_thresholds=(0.1, 0.25, 0.5), metric="area")
    results = run_evaluator(evaluator, [corner, NOTHING])["bbox"]
    assert results["AP10-ant"] == 100.0
    assert results["AP25-ant"] == results["AP50-ant"] == results["AP"] == 0.0
    assert results["AP10"] == 100.0 / len(CLASSES)
    assert "AP75" not in results
    results = run_evaluator(VOCDetectionEvaluator(name, (0.1, 0.25)), [corner, NOTHING])["bbox"]
    assert results["AP-ant"] == 50.0


def test_both_flavours_are_reported_and_the_year_names_one(make_devkit, run_evaluator):
    truth, predictions = random_scene(np.random.default_rng(5), 12, CLASSES)
    old, new = (
        run_evaluator(VOCDetectionEvaluator(make_devkit(truth, CLASSES, year)), predictions)["bbox"]
        for year in (2007, 2012)
    )
    assert old["AP"] == old["AP_11pt"] == new["AP_11pt"]
    assert new["AP"] == new["AP_area"] == old["AP_area"]
    assert old["AP50"] == old["AP50_11pt"] != old["AP50_area"]
    undated = VOCDetectionEvaluator(make_devkit(truth, CLASSES, None))
    assert run_evaluator(undated, predictions) == {"bbox": new}


def test_absent_classes_count_as_zero_or_are_skipped(make_devkit, run_evaluator, caplog):
    name = simple_devkit(make_devkit)
    with caplog.at_level(logging.WARNING):
        results = run_evaluator(VOCDetectionEvaluator(name), [EXACT, NOTHING])["bbox"]
    assert "'bee', 'cat', 'dog', 'elk'" in caplog.text
    assert results["AP"] == pytest.approx(20.0)
    assert results["AP-bee"] == 0.0
    skipping = VOCDetectionEvaluator(name, skip_absent_classes=True)
    results = run_evaluator(skipping, [EXACT, NOTHING])["bbox"]
    assert results["AP"] == pytest.approx(100.0)
    assert "AP-bee" not in results


def test_detections_of_absent_classes_stay_finite(make_devkit, run_evaluator):
    name = simple_devkit(make_devkit, year=2012)
    stray = ("000001", [3, 1], np.float32([0.9, 0.8]), np.float32([[0, 0, 9, 9], [0, 0, 10, 10]]))
    results = run_evaluator(VOCDetectionEvaluator(name), [EXACT, stray])["bbox"]
    assert results["AP-dog"] == results["AP-bee"] == 0.0
    assert results["AP"] == pytest.approx(20.0)


def test_no_detection_at_all_is_zero(make_devkit, run_evaluator):
    name = simple_devkit(make_devkit)
    results = run_evaluator(VOCDetectionEvaluator(name), [NOTHING])["bbox"]
    assert set(results.values()) == {0.0}


def test_outputs_of_another_task_are_passed_over(make_devkit, caplog):
    evaluator = VOCDetectionEvaluator(simple_devkit(make_devkit))
    evaluator.process([{"image_id": "000000"}], [{"sem_seg": None}])
    with caplog.at_level(logging.WARNING):
        assert evaluator.evaluate() == {}
    assert "instances" in caplog.text


def test_files_are_read_once_and_only_to_evaluate(make_devkit, run_evaluator, tmp_path):
    name = simple_devkit(make_devkit)
    evaluator = VOCDetectionEvaluator(name)
    files = sorted((pathlib.Path(MetadataCatalog.get(name).dirname) / "Annotations").iterdir())
    first = files[0].read_text()
    files[0].unlink()
    with pytest.raises(FileNotFoundError, match=r"000000\.xml"):
        run_evaluator(evaluator, [EXACT, NOTHING])
    files[0].write_text(first)
    results = run_evaluator(evaluator, [EXACT, NOTHING])
    for path in files:
        path.unlink()
    assert run_evaluator(evaluator, [EXACT, NOTHING]) == results


def test_broken_annotation_file_is_named(make_devkit, run_evaluator):
    name = simple_devkit(make_devkit)
    path = pathlib.Path(MetadataCatalog.get(name).dirname) / "Annotations" / "000001.xml"
    path.write_text("<annotation><object><name>ant</name></object></annotation>")
    with pytest.raises(ValueError, match=r"000001\.xml.*bndbox"):
        run_evaluator(VOCDetectionEvaluator(name), [EXACT])


def test_image_of_another_data_set_is_an_error(make_devkit, run_evaluator):
    with pytest.raises(UserError, match="000099"):
        run_evaluator(VOCDetectionEvaluator(simple_devkit(make_devkit)), [("000099", *EXACT[1:])])


@pytest.mark.parametrize(
    "arguments",
    [
        {"iou_thresholds": (50, 75)},
        {"iou_thresholds": ()},
        {"report_thresholds": (1.0,)},
        {"metric": "12pt"},
    ],
)
def test_wrong_arguments_are_named(make_devkit, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        VOCDetectionEvaluator(simple_devkit(make_devkit), **arguments)


def test_data_set_without_classes_is_an_error(register):
    with pytest.raises(ValueError, match="thing_classes"):
        VOCDetectionEvaluator(register(list))


def test_dataset_dicts_give_the_figures_of_the_files(make_devkit, register, run_evaluator):
    truth, predictions = random_scene(np.random.default_rng(7), 20, CLASSES, difficult=0.0)
    name = make_devkit(truth, CLASSES)
    files = run_evaluator(VOCDetectionEvaluator(name), predictions)
    same = register(lambda: DatasetCatalog.get(name), thing_classes=CLASSES, year=2007)
    dicts = run_evaluator(VOCDetectionEvaluator(same), predictions)
    assert files["bbox"]["AP"] > 1
    assert dicts == files


def test_dataset_dicts_without_devkit(register, run_evaluator):
    def annotation(category, **extra):
        return {
            "bbox": [10, 10, 10, 10],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": category,
            **extra,
        }

    records = [
        {"image_id": 1, "annotations": [annotation(0), annotation(1, iscrowd=1)]},
        {"image_id": 2, "annotations": [annotation(2, difficult=1)]},
        {"image_id": 3},
    ]
    name = register(lambda: records, thing_classes=CLASSES[:3])
    box = np.float32([[10, 10, 20, 20]] * 3)
    scores = np.float32([0.9, 0.8, 0.7])
    predictions = [(number, [0, 1, 2], scores, box) for number in (1, 2)]
    evaluator = VOCDetectionEvaluator(name, metric="area", skip_absent_classes=True)
    annotated = run_evaluator(evaluator, predictions)["bbox"]
    assert list(annotated)[-1].endswith("-ant")
    assert annotated["AP"] == pytest.approx(100.0)
    # Predictions for an image without annotation do not count.
    unannotated = (3, [0], np.float32([1.0]), box[:1])
    assert run_evaluator(evaluator, [unannotated, *predictions])["bbox"] == annotated


def compare_speed(make_devkit, run_evaluator, images, detections):
    """Seconds of Detectron2's evaluator and of ours on the same predictions, files included."""
    names = [f"class{number}" for number in range(20)]
    truth, predictions = random_scene(
        np.random.default_rng(0), images, names, objects=6, detections=detections, digits=6
    )
    name = make_devkit(truth, names)
    seconds, results = [], []
    for kind in (PascalVOCDetectionEvaluator, VOCDetectionEvaluator):
        evaluator = kind(name)
        start = time.perf_counter()
        results.append(run_evaluator(evaluator, predictions)["bbox"])
        seconds.append(time.perf_counter() - start)
    for key, value in results[0].items():
        assert results[1][key] == pytest.approx(value, abs=1e-9)
    return seconds


def test_at_least_five_times_as_fast_as_detectron2(make_devkit, run_evaluator):
    theirs, ours = compare_speed(make_devkit, run_evaluator, images=300, detections=80)
    assert theirs > 5 * ours, f"Detectron2 {theirs:.2f} s, ours {ours:.2f} s"


@pytest.mark.slow
def test_at_least_five_times_as_fast_on_a_full_size_set(make_devkit, run_evaluator):
    theirs, ours = compare_speed(make_devkit, run_evaluator, images=5000, detections=80)
    print(f"Detectron2 {theirs:.2f} s, ours {ours:.2f} s, ratio {theirs / ours:.1f}")
    assert theirs > 5 * ours, f"Detectron2 {theirs:.2f} s, ours {ours:.2f} s"


def test_real_annotations_give_the_figures_of_detectron2(shared_data, register, run_evaluator):
    root, names = str(shared_data / "bccd"), ["RBC", "WBC", "Platelets"]
    name = register(
        lambda: load_voc_instances(root, "test", names),
        thing_classes=names,
        dirname=root,
        split="test",
        year=2012,
    )
    rng = np.random.default_rng(0)
    predictions = []
    for record in DatasetCatalog.get(name):
        boxes = np.array([item["bbox"] for item in record["annotations"]], dtype=np.float32)
        boxes = np.repeat(boxes.reshape(-1, 4), 3, axis=0)
        boxes += rng.normal(0, 8, boxes.shape).astype(np.float32)
        classes = [item["category_id"] for item in record["annotations"] for _ in range(3)]
        scores = rng.random(len(boxes)).astype(np.float32)
        predictions.append((record["image_id"], classes, scores, boxes))
    expected = run_evaluator(PascalVOCDetectionEvaluator(name), predictions)["bbox"]
    actual = run_evaluator(VOCDetectionEvaluator(name), predictions)["bbox"]
    assert expected["AP"] > 1
    for key, value in expected.items():
        assert actual[key] == pytest.approx(value, abs=1e-9)
