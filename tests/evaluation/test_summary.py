"""One table for all tasks, data sets and models."""

import numpy as np

from multas.evaluation.summary import results_message

VOC = {"AP": 31.25, "AP50": 50.0, "AP_area": 31.25, "AP-dog": 40.0, "AP-cat": 22.5, "AP50-dog": 1.0}
BOTH = {"bbox": VOC, "sem_seg": {"mIoU": np.float64(50), "IoU-sky": 1.0}}


def lines(results, final="student"):
    title, *rest = str(results_message(results, final, "Evaluation:")).splitlines()
    assert title == "Evaluation:"
    return [line.split() for line in rest]


def test_a_task_has_a_line_for_each_model_and_the_classes_of_the_final_one():
    assert lines({"student": BOTH, "teacher": {"bbox": {"AP": 40}}}) == [
        ["bbox", "AP", "AP50"],
        ["student", "31.25", "50.00"],
        ["teacher", "40.00", "-"],
        ["AP", "of", "classes:", "dog", "40.0,", "cat", "22.5"],
        ["sem_seg", "mIoU"],
        ["student", "50.00"],
    ]


def test_several_data_sets_are_named():
    table = lines({"ema": {"voc_val": BOTH, "toy_val": {"bbox": {"AP": 1.0}}}}, "ema")
    assert table[0] == ["voc_val", "bbox", "AP", "AP50"]
    assert table[-2:] == [["toy_val", "bbox", "AP"], ["ema", "1.00"]]


def test_of_many_classes_the_best_and_the_worst_are_shown():
    figures = {"AP": 50.0} | {f"AP-k{i}": float(i) for i in range(1000)}
    table = lines({"student": {"bbox": figures}})
    best = "k999 999.0, k998 998.0, k997 997.0, k996 996.0, k995 995.0"
    words = f"AP of classes: {best}, …, k4 4.0, k3 3.0, k2 2.0, k1 1.0, k0 0.0"
    assert [word for line in table[2:] for word in line] == words.split()
    assert all(len(" ".join(line)) <= 100 for line in table)


def test_nothing_evaluated_is_an_empty_table():
    assert lines({"student": {}}) == []
