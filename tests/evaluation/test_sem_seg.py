import json
import logging
import pathlib

import numpy as np
import pytest
import torch
from detectron2.evaluation import SemSegEvaluator
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from multas.evaluation import SemanticSegmentationEvaluator
from multas.evaluation.sem_seg import confusion_matrix, resize_labels, segmentation_metrics

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "multas"


@pytest.fixture
def make_label_set(tmp_path, register):
    """Write label maps (None: not annotated) and register them; returns name and inputs."""

    def make(maps, num_classes):
        records = []
        for number, labels in enumerate(maps):
            record = {"file_name": f"{number}.jpg", "image_id": number}
            if labels is not None:
                record["sem_seg_file_name"] = str(tmp_path / f"{number}.png")
                Image.fromarray(labels.astype(np.uint8)).save(record["sem_seg_file_name"])
            records.append(record)
        classes = [f"class{number}" for number in range(num_classes)]
        name = register(
            lambda: records, stuff_classes=classes, ignore_label=255, evaluator_type="sem_seg"
        )
        return name, records

    return make


def as_scores(prediction, num_classes):
    """(K, H, W) logits whose largest entry is the predicted class."""
    one_hot = torch.nn.functional.one_hot(torch.as_tensor(prediction).long(), num_classes)
    return one_hot.permute(2, 0, 1).float()


def run(evaluator, inputs, outputs):
    evaluator.reset()
    evaluator.process(inputs, outputs)
    return evaluator.evaluate()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("seg_miou_*.npz")), ids=lambda path: path.stem)
def test_reference_values(path, make_label_set):
    case = np.load(path)
    classes = int(case["in_num_classes"])
    confusion = confusion_matrix(case["in_pred"], case["in_gt"], classes, int(case["in_ignore"]))
    np.testing.assert_array_equal(confusion, case["out_confusion"])

    name, records = make_label_set(list(case["in_gt"]), classes)
    outputs = [{"sem_seg": as_scores(prediction, classes)} for prediction in case["in_pred"]]
    results = run(SemanticSegmentationEvaluator(name), records, outputs)["sem_seg"]
    for key, expected in (
        ("mIoU", "out_miou_percent"),
        ("mACC", "out_mean_acc_percent"),
        ("pACC", "out_pixel_acc_percent"),
        ("fwIoU", "out_fwiou_percent"),
    ):
        assert results[key] == pytest.approx(float(case[expected]), abs=1e-9)


def test_equals_detectron2_where_every_class_occurs(make_label_set):
    rng = np.random.default_rng(0)
    maps = list(rng.integers(0, 5, (4, 12, 9)))
    maps[0][:4] = 255
    name, records = make_label_set(maps, 5)
    outputs = [{"sem_seg": torch.as_tensor(rng.random((5, 12, 9)))} for _ in maps]
    expected = run(SemSegEvaluator(name), records, outputs)["sem_seg"]
    actual = run(SemanticSegmentationEvaluator(name), records, outputs)["sem_seg"]
    for key, value in actual.items():
        assert value == pytest.approx(float(expected[key]), abs=1e-9)
    assert len(actual) == 4 + 2 * 5


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_metrics_equal_naive_counts(seed, classes):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, 40)
    truth[rng.random(40) < 0.2] = 255
    truth[0] = 0
    prediction = rng.integers(0, classes, 40)
    figures, per_class = segmentation_metrics(confusion_matrix(prediction, truth, classes, 255))
    valid = truth != 255
    present = sorted(set(truth[valid]))
    ious = [
        100
        * np.sum(valid & (truth == k) & (prediction == k))
        / np.sum(valid & ((truth == k) | (prediction == k)))
        for k in present
    ]
    accuracies = [100 * np.mean(prediction[truth == k] == k) for k in present]
    assert figures["mIoU"] == pytest.approx(np.mean(ious))
    assert figures["mACC"] == pytest.approx(np.mean(accuracies))
    assert figures["pACC"] == pytest.approx(100 * np.mean((prediction == truth)[valid]))
    np.testing.assert_allclose(per_class["IoU"][present], ious)


def test_classes_without_a_true_pixel_have_no_row(make_label_set):
    name, records = make_label_set([np.zeros((4, 4))], 3)
    prediction = np.zeros((4, 4), dtype=int)
    prediction[0] = 1
    outputs = [{"sem_seg": as_scores(prediction, 3)}]
    results = run(SemanticSegmentationEvaluator(name), records, outputs)["sem_seg"]
    assert results["mIoU"] == results["IoU-class0"] == 75.0
    assert "IoU-class1" not in results
    assert all(np.isfinite(value) for value in results.values())


def test_network_resolution_compares_at_the_size_of_the_input(make_label_set):
    labels = np.repeat(np.repeat(np.array([[0, 1], [2, 1]]), 4, 0), 4, 1)
    name, records = make_label_set([labels], 3)
    small = labels[::4, ::4]
    inputs = [{**records[0], "image": torch.zeros(3, 2, 2)}]
    outputs = [{"sem_seg": as_scores(small, 3)}]
    evaluator = SemanticSegmentationEvaluator(name, resolution="network")
    assert run(evaluator, inputs, outputs)["sem_seg"]["mIoU"] == 100.0
    resized_by_the_model = [{"sem_seg": as_scores(labels, 3)}]
    assert run(evaluator, inputs, resized_by_the_model)["sem_seg"]["mIoU"] == 100.0
    with pytest.raises(ValueError, match="SEM_SEG_RESOLUTION"):
        run(SemanticSegmentationEvaluator(name), inputs, outputs)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_labels_are_resized_as_by_torch_nearest(height, width, rows, columns):
    labels = np.arange(height * width).reshape(height, width)
    expected = torch.nn.functional.interpolate(
        torch.as_tensor(labels)[None, None].double(), size=(rows, columns), mode="nearest"
    )
    np.testing.assert_array_equal(resize_labels(labels, (rows, columns)), expected[0, 0].numpy())


def test_unannotated_images_and_other_tasks_take_no_part(make_label_set, caplog):
    name, records = make_label_set([np.ones((3, 3)), None], 2)
    wrong, right = (
        {"sem_seg": as_scores(np.zeros((3, 3)), 2)},
        {"sem_seg": as_scores(np.ones((3, 3)), 2)},
    )
    evaluator = SemanticSegmentationEvaluator(name)
    assert run(evaluator, records, [right, wrong])["sem_seg"]["mIoU"] == 100.0
    with caplog.at_level(logging.WARNING):
        assert run(evaluator, records, [{"instances": None}] * 2) == {}
        assert run(evaluator, records[1:], [right]) == {}
    assert "nothing to evaluate" in caplog.text


def test_only_ignored_pixels_give_no_figure(make_label_set):
    name, records = make_label_set([np.full((3, 3), 255)], 2)
    outputs = [{"sem_seg": as_scores(np.zeros((3, 3)), 2)}]
    assert run(SemanticSegmentationEvaluator(name), records, outputs) == {}


def test_label_outside_the_classes_names_the_file(make_label_set):
    labels = np.zeros((3, 3))
    labels[1, 1] = 7
    name, records = make_label_set([labels], 3)
    outputs = [{"sem_seg": as_scores(np.zeros((3, 3)), 3)}]
    with pytest.raises(ValueError, match=r"0\.png.*\[7\].*3 classes"):
        run(SemanticSegmentationEvaluator(name), records, outputs)


def test_predictions_and_metrics_are_written(make_label_set, tmp_path):
    name, records = make_label_set([np.ones((3, 3))], 2)
    outputs = [{"sem_seg": as_scores(np.ones((3, 3)), 2)}]
    folder = tmp_path / "out"
    run(SemanticSegmentationEvaluator(name, output_dir=str(folder)), records, outputs)
    saved = json.loads((folder / "sem_seg_predictions.json").read_text())
    assert [(item["file_name"], item["category_id"]) for item in saved] == [("0.jpg", 1)]
    assert torch.load(folder / "sem_seg_evaluation.pth", weights_only=True)["mIoU"] == 100.0


def test_wrong_arguments_are_named(make_label_set, register):
    name, _ = make_label_set([np.ones((3, 3))], 2)
    with pytest.raises(ValueError, match="resolution"):
        SemanticSegmentationEvaluator(name, resolution="half")
    with pytest.raises(ValueError, match="stuff_classes"):
        SemanticSegmentationEvaluator(register(list))
