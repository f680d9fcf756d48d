"""Own data in one command: configs that fit the data, and a length that fits the minutes."""

import json
import shutil
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from multas.distillation.aggregation.build import build_aggregator
from multas.engine import load_config
from multas.util.errors import UserError
from own_data import budget
from own_data.budget import (
    ENOUGH,
    FEWEST,
    FILES,
    PER_IMAGE,
    PROBED,
    SMALLEST,
    START,
    Pace,
    TooLittleTime,
    fitted_iterations,
    fitted_size,
    images_apart,
    seconds_of_rest,
)
from own_data.data import prepare
from own_data.job import Job
from own_data.recipe import RATE, TEACHER_RATE, write_configs
from own_data.stamp import held, removed_if_refused


@pytest.mark.parametrize("tasks", [("det",), ("seg",), ("det", "seg")])
def test_configs_fit_the_data_and_each_other(cards, tmp_path, tasks):
    data = prepare(cards(*tasks), tmp_path / "data", Fraction(1, 2))
    configs = tmp_path / "configs"
    write_configs(data, configs, tmp_path / "run", size="nano", seed=5, iterations=40)
    files = {file.stem: file for file in configs.iterdir()}
    assert bool(files.pop("thresholds", None)) == ("det" in tasks)
    cfgs = {name: load_config(str(file)) for name, file in files.items()}
    assert set(cfgs) == {"base", "teacher", "supervised", "distilled"}
    sizes = {
        name: sum(p.numel() for p in build_model(cfgs[name]).parameters())
        for name in ("teacher", "supervised")
    }
    assert sizes["supervised"] < sizes["teacher"]
    for key in ("ANCHOR_GENERATOR", "PIXEL_MEAN", "PIXEL_STD"):
        assert cfgs["teacher"].MODEL[key] == cfgs["distilled"].MODEL[key]
    for name, cfg in cfgs.items():
        assert (
            cfg.SEED == 5
            and cfg.SOLVER.MAX_ITER == 40
            and list(cfg.MODEL.MULTITASK.TASKS) == [*tasks]
        )
        assert list(cfg.DATASETS.TEST) == [task.test for task in data]
        assert str(tmp_path / "run" / ("" if name == "base" else name)) == cfg.OUTPUT_DIR
    distilled = cfgs["distilled"]
    assert distilled.MODEL.META_ARCHITECTURE == "Distiller"
    assert len(distilled.MODEL.DISTILLATION.PATHS) == len(tasks)
    assert bool(distilled.DATASETS.PSEUDO_LABELS.FILES) == ("det" in tasks)
    trained = repr([distilled.DATASETS.TRAIN, distilled.DATASETS.TASK_BATCHES])
    assert all(name in trained for name in data[0].unlabeled)
    assert trained.count("_unlabeled") == len(data[0].unlabeled), "once for all tasks"
    assert not any(name in repr(cfgs["supervised"].DATASETS) for name in data[0].unlabeled)
    anchors = distilled.MODEL.ANCHOR_GENERATOR
    assert "det" not in tasks or {len(x) for x in (*anchors.SIZES, *anchors.ASPECT_RATIOS)} == {1}
    assert ("det" in tasks) == distilled.MODEL.GFL_HEAD.WEIGHT_BY_SCORE
    assert not cfgs["supervised"].MODEL.GFL_HEAD.WEIGHT_BY_SCORE


@pytest.mark.parametrize("tasks", [("det",), ("det", "seg")])
@pytest.mark.parametrize(("labels", "factor"), [(Fraction(1, 2), 0), (Fraction(1, 4), 3.0)])
def test_half_of_the_images_of_a_distillation_are_annotated(cards, tmp_path, tasks, labels, factor):
    data = prepare(cards(*tasks), tmp_path / "data", labels)
    write_configs(data, tmp_path, tmp_path / "run", size="nano", seed=1, iterations=4)
    found = load_config(str(tmp_path / "distilled.yaml")).DATASETS.TRAIN_REPEAT_FACTOR
    assert found == ([[data[0].labeled[0], factor]] if factor else [])
    assert not load_config(str(tmp_path / "supervised.yaml")).DATASETS.TRAIN_REPEAT_FACTOR


@pytest.mark.parametrize(("labels", "batch"), [(Fraction(1, 2), 8), (Fraction(1, 4), 4)])
def test_the_rate_follows_the_batch_that_few_images_fill(cards, tmp_path, labels, batch):
    data = prepare(cards("det"), tmp_path / "data", labels)
    write_configs(data, tmp_path, tmp_path / "run", size="nano", seed=1, iterations=4)
    solver = load_config(str(tmp_path / "base.yaml")).SOLVER
    assert (batch, RATE * batch / 8) == (solver.IMS_PER_BATCH, solver.BASE_LR)


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_pretrained_teacher_has_a_rate_of_its_own(cards, tmp_path, pretrained):
    data = prepare(cards("det"), tmp_path / "data")
    given = ("hub", "hub") if pretrained else ("", "")
    write_configs(
        data, tmp_path, tmp_path / "run", size="nano", seed=1, iterations=4, pretrained=given
    )
    teacher, student = (
        load_config(str(tmp_path / f"{stage}.yaml")).SOLVER for stage in ("teacher", "supervised")
    )
    assert student.BASE_LR == RATE * student.IMS_PER_BATCH / 8
    own = TEACHER_RATE / RATE if pretrained else 1
    assert pytest.approx(own * student.BASE_LR) == teacher.BASE_LR and TEACHER_RATE > RATE


def test_path_weights_begin_where_they_rest_and_have_a_rate_of_their_own(cards, tmp_path):
    data = prepare(cards("det"), tmp_path / "data", Fraction(1, 2))
    write_configs(data, tmp_path, tmp_path / "run", size="nano", seed=1, iterations=4)
    cfg = load_config(str(tmp_path / "distilled.yaml"))
    aggregator = build_aggregator(cfg, ["a", "b"], [1.0, 1.0])
    weighted, _ = aggregator(torch.tensor([40.0, 0.1]))
    assert weighted.tolist() == pytest.approx([1, 1])
    (group,) = aggregator.param_groups()
    assert group["lr"] > 10 * cfg.SOLVER.BASE_LR


def test_the_value_of_pixels_without_annotation_is_that_of_the_card(cards, devkit, tmp_path):
    own = tmp_path / "devkit"
    shutil.copytree(devkit, own)
    for file in (own / "SegmentationClass").iterdir():
        labels = np.asarray(Image.open(file))
        Image.fromarray(np.where(labels == 255, 0, labels)).save(file)
    contents = [card | {"root": str(own), "ignore_label": 0} for card in cards("seg")]
    data = prepare(contents, tmp_path / "data")
    write_configs(data, tmp_path, tmp_path / "run", size="nano", seed=1, iterations=4)
    assert load_config(str(tmp_path / "base.yaml")).MODEL.SEMANTIC_FPN_HEAD.IGNORE_VALUE == 0


@pytest.mark.parametrize("spent", [0.0, 40.0])
@pytest.mark.parametrize("images", [0, 100, 10_000])
def test_the_length_fits_the_minutes(monkeypatch, images, spent):
    paces = {
        "teacher": Pace(0.3, 0.1), "supervised": Pace(0.1, 0.05), "distilled": Pace(0.2, 0.05)
    }  # fmt: skip
    monkeypatch.setattr(budget, "_pace", lambda cfg, *_: paces[cfg])
    configs = {stage: lambda weights, stage=stage: stage for stage in paces}
    apart = dict.fromkeys(paces, images)
    for minutes in (4.0 + spent / 20, 10.0, 100.0):
        start = START + spent / 2
        iterations, found = fitted_iterations(
            minutes, configs, apart, [], start=start, spent=lambda: spent
        )
        assert found == paces
        rest = FILES + PER_IMAGE * images * 0.2
        assert rest == pytest.approx(seconds_of_rest(paces, apart))
        given, rest = 60 * minutes, rest + spent
        took = iterations * 0.6 + start * len(paces)
        wanted = min(max(given - rest, 0.5 * given), 0.75 * given)
        assert took <= wanted + 1e-6 and wanted < took + 0.6 + 1e-6
        # Half of the minutes are the trainings', whatever else there is to do.
        assert took + rest <= given or took <= 0.5 * given
    with pytest.raises(UserError, match=r"too little: .*0.30 s \(teacher\)"):
        fitted_iterations(1.0, configs, apart, [])


def test_images_that_networks_get_apart_from_their_training(cards, tmp_path):
    whole = cards("det", splits=("train", "val", "test"))
    data = prepare(whole, tmp_path / "data", Fraction(1, 4))  # 20 images, 5 of them annotated
    job = Job(tmp_path, tmp_path, formats=("onnx", "openvino"))
    own = {"supervised": 2 * 4 + 4, "distilled": 2 * 4 + 4 + 12}
    assert images_apart(data, job) == {"teacher": 2 * 4 + 15 + 4, **own}
    flips = replace(job, flip=True, formats=())
    assert images_apart(data, flips)["teacher"] == 2 * 4 + 2 * (15 + 4)
    assert images_apart(data, flips)["distilled"] == own["supervised"]
    assert images_apart(data, replace(job, teacher=("a", "b"))) == own
    named = [
        {**card, "name": f"{card['name']}_again"}
        for card in cards("det", splits=whole[0]["splits"])
    ]
    labeled = prepare(named, tmp_path / "labeled")  # nothing is left to label
    assert images_apart(labeled, job)["teacher"] == 2 * 4


@given(st.floats(1e-7, 1e-3), st.integers(4, 20), st.floats(1.0, 120.0))
def test_the_input_becomes_as_small_as_the_minutes_want_and_no_smaller(cost, steps, minutes):
    own = 32 * steps  # pixels
    size, said, fits = own, [], []

    def write(most):
        nonlocal size
        size = min(own, most or own)
        return size

    def fit(fewest):
        iterations = int(60 * minutes / (cost * size**2))
        fits.append(size)
        if iterations < fewest:
            raise TooLittleTime("too little", iterations / fewest)
        return iterations, {"teacher": Pace(cost * size**2, 0.0)}

    try:
        iterations, _, most = fitted_size(fit, write, said.append)
    except TooLittleTime:
        assert size == SMALLEST
        return
    assert iterations >= (ENOUGH if size > SMALLEST else FEWEST)
    assert most == (0 if size == own else size) and len(said) == len(fits) - 1
    larger = size + 64  # what is found may be one step below the largest that fits
    assert larger > own or 60 * minutes / (cost * larger**2) < ENOUGH


def test_a_size_that_was_given_by_hand_stays():
    def fit(fewest):
        if fewest > 60:
            raise TooLittleTime("too little", 0.6)
        return 60, {"teacher": Pace(1.0, 0.0)}

    assert fitted_size(fit, lambda most: 416, print) == (60, {"teacher": Pace(1.0, 0.0)}, 0)


def test_a_probe_that_takes_too_long_ends_early(cards, tmp_path):
    data = prepare(cards("det"), tmp_path / "data")
    write_configs(data, tmp_path, tmp_path / "run", size="nano", seed=1, iterations=PROBED)
    times = []
    for most in (1e-6, 100.0):
        cfg = load_config(str(tmp_path / "supervised.yaml"))
        folder = tmp_path / f"probe{most}"
        times += budget._pace(cfg, str(folder), data[0].records[data[0].test], most)
        records = (folder / "metrics.json").read_text().splitlines()
        assert json.loads(records[-1])["iteration"] == (1 if most < 1 else PROBED - 1)
    assert min(times) > 0


def test_a_job_leaves_no_folder_of_a_mistake_and_touches_none_of_another_job(holder, tmp_path):
    folder = tmp_path / "output" / "cells"

    def refused(message):
        with pytest.raises(UserError, match=message), held(folder), removed_if_refused(folder):
            (folder / "data").mkdir(exist_ok=True)
            raise UserError("a mistake")

    refused("a mistake")
    assert not folder.exists()
    folder.mkdir(parents=True)
    (folder / "notes.txt").touch()
    refused("a mistake")
    assert (folder / "notes.txt").is_file()
    (folder / "notes.txt").unlink()
    process = holder(str(tmp_path / "output" / "other"))
    folder = tmp_path / "output" / "other"
    refused(f"--output {folder} is in use by another job, process 7 on elsewhere")
    assert folder.is_dir() and not (folder / "data").exists()
    process.kill()
