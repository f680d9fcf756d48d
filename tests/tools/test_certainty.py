"""Differences and orders with their intervals, from made-up numbers and boxes."""

import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multas.evaluation.resampling import SAMPLES
from reproduction.certainty import (
    Difference,
    agreement,
    difference,
    is_by_image,
    resampled_of,
    samples_of,
)
from reproduction.execution import states_of
from reproduction.kept import keep, read_kept
from reproduction.report import Setting, write_report
from reproduction.results import Result, read_result
from reproduction.rows import rows_of
from reproduction.run import Run
from reproduction.tables import read_tables

SEEDS = (1, 2, 3)


@pytest.fixture
def results(tmp_path, fabricate):
    """``results(table, key, numbers)``: rows by name, with these TEST FIXTURE numbers by seed."""

    def make(table: str, key: str, numbers: dict[str, list[float]], scale: str = "small"):
        found = {}
        for row in rows_of(read_tables()[table], scale):
            if row.column.startswith("embedded source"):
                continue
            folders = [tmp_path / f"{row.name}-{seed}" for seed in SEEDS]
            pairs = zip(SEEDS, folders, strict=True)
            runs = [Run(row.address, seed, (), folder, (), 60) for seed, folder in pairs]
            for run, value in zip(runs, numbers.get(row.name, []), strict=False):
                fabricate(run, **{key: value})
            found[row.name] = read_result(row, runs, states_of(runs))
        return found

    return make


def detect(run: Run, shift: float, score: float) -> None:
    """Leave what COCO's evaluation leaves: one object an image, found ``shift`` px beside it."""
    folder = run.folder / "inference" / "toy_test"
    folder.mkdir(parents=True)
    random = np.random.default_rng(7)
    corners = random.uniform(0, 50, (12, 2)).tolist()
    truth = {
        "images": [{"id": i, "width": 100, "height": 100} for i in range(12)],
        "categories": [{"id": 1, "name": "disc"}],
        "annotations": [
            {"id": i + 1, "image_id": i, "category_id": 1, "bbox": [x, y, 40, 40], "area": 1600,
             "iscrowd": 0} for i, (x, y) in enumerate(corners)
        ],
    }  # fmt: skip
    found = [
        {"image_id": i, "category_id": 1, "bbox": [x + shift * (i % 4), y, 40, 40], "score": score}
        for i, (x, y) in enumerate(corners)
    ]
    (folder / "toy_test_coco_format.json").write_text(json.dumps(truth))
    (folder / "coco_instances_results.json").write_text(json.dumps(found))
    config = {"MODEL": {"DEVICE": "cpu"}, "TEST": {"DETECTIONS_PER_IMAGE": 100}}
    (run.folder / "config.yaml").write_text(json.dumps(config))


def test_without_images_an_interval_is_over_seeds_alone(results):
    rows = results("B5", "bbox__AP", {"student": [20, 22, 21], "adaptive_feats_p": [22, 24, 23]})
    found = difference(rows["adaptive_feats_p"], rows["student"], "mAP")
    assert found == Difference(2, 2, 2, 1, 3) and found.verdict == "better"
    assert not is_by_image(rows["student"], "mAP")
    assert samples_of(rows["student"], "mAP", SEEDS).shape == (3, SAMPLES)


def test_a_difference_that_changes_its_sign_is_not_decided(results):
    rows = results("B5", "bbox__AP", {"student": [20, 22, 21], "fading_feats_p": [21, 19, 23]})
    found = difference(rows["fading_feats_p"], rows["student"], "mAP")
    assert found is not None and found.low < 0 < found.high and 0 < found.probability < 1
    assert found.verdict == "not decided"


def test_two_seeds_decide_nothing(results):
    rows = results("B5", "bbox__AP", {"student": [20, 22], "fading_feats_p": [30, 32]})
    found = difference(rows["fading_feats_p"], rows["student"], "mAP")
    assert found is not None and found.low > 0 and found.seeds == 2
    assert found.verdict == "not decided"


def test_rows_without_a_difference_are_not_decided(results):
    rows = results("B5", "bbox__AP", {"student": [20, 22, 21], "fading_feats_p": [20, 22, 21]})
    found = difference(rows["fading_feats_p"], rows["student"], "mAP")
    assert found == Difference(0, 0, 0, 0.5, 3) and found.verdict == "not decided"


def test_a_lower_error_is_better(results):
    errors = {"student": [20.0, 21.0, 22.0], "adaptive": [18.0, 18.0, 18.0]}
    rows = results("B2", "classification__top1_error", errors, "tiny")
    found = difference(rows["adaptive"], rows["student"], "top-1 error")
    assert found is not None and found.mean == 3 and found.verdict == "better"
    assert difference(rows["equal"], rows["student"], "top-1 error") is None


@given(st.lists(st.tuples(*[st.floats(0, 50)] * 2), min_size=3, max_size=3))
@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_difference_turned_round_is_its_negative(results, pairs):
    first, second = ([pair[i] for pair in pairs] for i in (0, 1))
    rows = results("B1", "bbox__AP", {"student": first, "single_box": second})
    there = difference(rows["single_box"], rows["student"], "mAP")
    back = difference(rows["student"], rows["single_box"], "mAP")
    assert there is not None and back is not None
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))
    assert there.probability == pytest.approx(1 - back.probability)


def of_paper(results, sign: float) -> list[Result]:
    """The rows of Table 1, with numbers in the paper's order or its reverse."""
    rows = rows_of(read_tables()["B1"], "small")
    numbers = {row.name: [sign * row.paper["mAP"] + s for s in SEEDS] for row in rows}
    return list(results("B1", "bbox__AP", numbers).values())


def test_an_order_is_the_papers_where_the_interval_says_so(results):
    found = agreement(of_paper(results, 1), "mAP")
    assert found is not None and (found.low, found.high) == pytest.approx((1, 1))
    assert found.verdict == "the paper's"
    found = agreement(of_paper(results, -1), "mAP")
    assert found is not None and found.verdict == "another"


def test_a_row_that_teaches_others_is_not_part_of_the_order(results):
    rows = rows_of(read_tables()["B1"], "small")
    numbers = {r.name: [r.paper["mAP"] * (not r.is_reference) + s for s in SEEDS] for r in rows}
    found = agreement(list(results("B1", "bbox__AP", numbers).values()), "mAP")
    assert found is not None and (found.low, found.high) == pytest.approx((1, 1))


def test_an_order_that_seeds_disagree_on_is_not_decided(results):
    # The first seed has the paper's order, the second its reverse.
    rows = rows_of(read_tables()["B1"], "small")
    numbers = {
        r.name: [r.paper["mAP"], 80 - r.paper["mAP"], 40 + 0.1 * i] for i, r in enumerate(rows)
    }
    found = agreement(list(results("B1", "bbox__AP", numbers).values()), "mAP")
    assert found is not None and found.low < found.high and found.verdict == "not decided"


def test_rows_that_are_not_run_have_no_order(results):
    assert agreement(list(results("B1", "bbox__AP", {}).values()), "mAP") is None


def test_boxes_are_resampled_by_image_and_kept(results):
    numbers = {"student": [50.0] * 3, "single_box": [60.0] * 3}
    rows = results("B1", "bbox__AP", numbers)
    for name, shift in (("student", 4.0), ("single_box", 2.0)):
        for run in rows[name].runs:
            detect(run, shift, 0.5)
    assert is_by_image(rows["student"], "mAP")
    student, better = (samples_of(rows[name], "mAP", SEEDS) for name in numbers)
    assert student.std() > 0.1 and (better > student).all()
    assert np.array_equal(student[0], student[1]), "the same images for all"
    kept = rows["student"].runs[0].folder / "resampled.json"
    before = kept.stat().st_mtime_ns
    assert np.array_equal(samples_of(rows["student"], "mAP", SEEDS), student)
    assert kept.stat().st_mtime_ns == before
    # The same from a file, after the folders are gone.
    runs = list(rows["student"].runs)
    file = runs[0].folder.parent / "results.json"
    keep(file, runs)
    new, kept_results = file.parent / "new", read_kept(file)
    without = [replace(r, folder=new / r.digest, kept=kept_results[r.digest]) for r in runs]
    again = replace(rows["student"], runs=tuple(without))
    assert is_by_image(again, "mAP") and resampled_of(without[0], "bbox/AP50") is None
    assert np.abs(samples_of(again, "mAP", SEEDS) - student).max() <= 0.005 + 1e-9
    one = replace(rows["student"], metrics=({"bbox/AP": 50.0, "bbox/AP50": 70.0},) * 3)
    assert not np.array_equal(samples_of(one, "mAP50", SEEDS), student)
    os.utime(kept, ns=(0, 0))
    samples_of(rows["student"], "mAP", SEEDS)
    assert kept.stat().st_mtime_ns > 0, "an evaluation that is newer"


def test_as_many_detections_of_an_image_count_as_the_model_keeps_and_at_least_100(results):
    row = results("B1", "bbox__AP", {"student": [50.0] * 3})["student"]
    # The right box comes behind so many wrong ones, and so many are kept.
    for run, (wrong, kept) in zip(row.runs, [(50, 20), (110, 20), (110, 120)], strict=True):
        detect(run, 0.0, 0.5)
        file = run.folder / "inference" / "toy_test" / "coco_instances_results.json"
        right = json.loads(file.read_text())
        others = [box | {"bbox": [90, 90, 9, 9], "score": 0.9} for box in right] * wrong
        file.write_text(json.dumps(right + others))
        (run.folder / "config.yaml").write_text(
            json.dumps({"TEST": {"DETECTIONS_PER_IMAGE": kept}})
        )
    assert (samples_of(row, "mAP", SEEDS) > 0).all(axis=1).tolist() == [True, False, True]


def test_the_report_tells_intervals_probabilities_and_what_is_not_decided(results, tmp_path):
    own = {"student": [20, 22, 21], "adaptive_feats_p": [22, 24, 23], "single_box": [19, 23, 21]}
    found = list(results("B5", "bbox__AP", own).values())
    states = states_of([run for result in found for run in result.runs])
    report = write_report(
        read_tables()["B5"], found, states, Setting("small", 3), tmp_path / "report"
    )
    lines = [[c.strip() for c in x.split("|")] for x in report.read_text().splitlines()]
    cells = {line[1]: line[2:-1] for line in lines if len(line) > 8}
    assert cells["adaptive, Feats_P and Box"] == [
        "40.90", "23.00 ± 1.00", "+2.80", "+2.00", "+2.00 … +2.00", "1.00", "better"
    ]  # fmt: skip
    assert cells["single, Box"][-1] == "not decided" and "…" in cells["single, Box"][4]
    assert cells["fading, Feats_P and Box"][1:] == ["not run", "–", "–", "–", "–", "–"]
    assert "the bootstrap is over seeds alone" in report.read_text()
    pairs = [x[1:-1] for x in lines if len(x) > 1 and re.match(r"\d\. ", x[1])]
    assert pairs == [
        ["1. student (ResNet-18)", "", "·", "-2.00"],
        ["2. single, Box", "·", "", "·"],
        ["3. adaptive, Feats_P and Box", "+2.00", "·", ""],
    ]
