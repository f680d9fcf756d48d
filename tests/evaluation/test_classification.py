import logging
import pathlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multas.evaluation import ClassificationEvaluator
from multas.evaluation.classification import rank_of_class

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "adaptive"


def run(scores, labels=None, teacher=None):
    evaluator = ClassificationEvaluator("set")
    for row in range(len(scores)):
        record = {"image_id": row}
        output = {"scores": torch.as_tensor(scores[row])}
        if labels is not None:
            record["label"] = labels[row]
        if teacher is not None:
            output["teacher_scores"] = torch.as_tensor(teacher[row])
        evaluator.process([record], [output])
    return evaluator.evaluate()


def test_reference_values():
    case = np.load(GOLDEN / "agreement.npz")
    results = run(case["in_student_scores"], case["in_labels"], case["in_teacher_scores"])
    results = results["classification"]
    assert results["top1_error"] == pytest.approx(float(case["out_top1_err"]), abs=1e-5)
    assert results["top1_error"] == pytest.approx(100 - float(case["out_acc_top1"]), abs=1e-5)
    assert results["top5_error"] == pytest.approx(100 - float(case["out_acc_top5"]), abs=1e-5)
    assert results["top1_agreement_error"] == pytest.approx(
        float(case["out_top1_agr_err"]), abs=1e-5
    )
    assert results["top1_agreement_error"] == pytest.approx(
        100 - float(case["out_agree_top1"]), abs=1e-5
    )
    assert results["top5_agreement_error"] == pytest.approx(
        100 - float(case["out_agree_top5"]), abs=1e-5
    )
    teacher = case["in_teacher_scores"].argmax(1) == case["in_labels"]
    assert results["teacher_top1_error"] == pytest.approx(100 - 100 * teacher.mean())


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_rank_is_the_place_in_a_stable_descending_sort(seed, classes):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (6, classes)).astype(float)
    targets = rng.integers(0, classes, 6)
    expected = [
        sorted(range(classes), key=lambda k, row=row: (-row[k], k)).index(target)
        for row, target in zip(scores, targets, strict=True)
    ]
    assert rank_of_class(scores, targets).tolist() == expected


def test_a_diverged_model_is_never_right():
    scores = np.full((2, 3), np.nan)
    results = run(scores, [0, 1], np.eye(3)[:2])["classification"]
    assert results["top1_error"] == results["top5_error"] == 100.0
    assert results["top1_agreement_error"] == 100.0
    assert results["teacher_top1_error"] == 0.0


def test_a_student_agrees_with_itself():
    scores = np.random.default_rng(0).normal(size=(20, 7))
    results = run(scores, teacher=scores)["classification"]
    assert results == {"top1_agreement_error": 0.0, "top5_agreement_error": 0.0}


def test_without_a_teacher_there_is_no_agreement():
    assert set(run(np.eye(8), list(range(8)))["classification"]) == {"top1_error", "top5_error"}


def test_images_without_label_do_not_count():
    results = run(np.eye(3), [0, None, 0])["classification"]
    assert results["top1_error"] == 50.0


def test_nothing_to_evaluate_is_said(caplog):
    evaluator = ClassificationEvaluator("set")
    evaluator.process([{"label": 0}], [{"instances": None}])
    with caplog.at_level(logging.WARNING):
        assert evaluator.evaluate() == {}
    assert "nothing to evaluate" in caplog.text


def test_reset_forgets():
    evaluator = ClassificationEvaluator("set")
    evaluator.process([{"label": 0}], [{"scores": torch.tensor([0.0, 1.0])}])
    evaluator.reset()
    evaluator.process([{"label": 1}], [{"scores": torch.tensor([0.0, 1.0])}])
    assert evaluator.evaluate()["classification"]["top1_error"] == 0.0


def test_impossible_labels_and_teachers_are_named():
    with pytest.raises(ValueError, match="label 3"):
        run(np.eye(3), [3, 0, 0])
    with pytest.raises(ValueError, match=r"3 classes.*4"):
        run(np.eye(3), teacher=np.eye(4))
