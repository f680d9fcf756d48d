"""One table for all tasks, data sets and models."""

import numpy as np

from multas.evaluation.summary import results_table

BOTH = {"bbox": {"AP": 31.25, "AP-dog": 40.0}, "sem_seg": {"mIoU": np.float64(50), "IoU-sky": 1.0}}


def lines(table):
    return [[cell.strip() for cell in x.strip("│").split("│")] for x in table.splitlines()]


def test_tasks_are_rows_and_models_columns():
    table = lines(results_table({"student": BOTH, "teacher": {"bbox": {"AP": 40}}}))
    assert table[1] == ["task", "metric", "student", "teacher"]
    assert table[3:-1] == [["bbox", "AP", "31.25", "40.00"], ["sem_seg", "mIoU", "50.00", "-"]]


def test_several_data_sets_have_a_column():
    table = lines(results_table({"ema": {"voc_val": BOTH, "toy_val": {"bbox": {"AP": 1.0}}}}))
    assert table[1] == ["data set", "task", "metric", "ema"]
    assert table[3][0] == "voc_val"
    assert table[-2] == ["toy_val", "bbox", "AP", "1.00"]


def test_nothing_evaluated_is_an_empty_table():
    assert "student" in results_table({"student": {}})
