"""Own data in one command: parts of the data, configs that fit them, and a length that fits."""

import io
import json
import logging
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from layouts import PHOTO, coco, lay_out
from multas.data import make_toy
from multas.data.looking.find import find_cards
from multas.distillation.aggregation.build import build_aggregator
from multas.engine import load_config
from multas.engine.comparison.data import load_data, validation_set
from multas.util.annotation import LABELS
from multas.util.errors import UserError
from multas.util.screen import Screen
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
from own_data.parts import ENOUGH as ENOUGH_TO_CHOOSE
from own_data.recipe import RATE, TEACHER_RATE, write_configs
from own_data.stamp import held, removed_if_refused


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_toy(tmp_path_factory.mktemp("devkit"), train=20, val=4, test=4)


@pytest.fixture
def cards(root, request):
    """``cards(task, ..., splits)``: one card for each task of the same images."""

    def make(*tasks, splits=("train",)):
        ids = {"train": "Main/train", "val": "Main/val", "test": "Main/test"}
        name = f"job{abs(hash(request.node.nodeid)) % 10**8}"
        return [
            {"name": f"{name}_{task}", "format": "voc", "root": str(root), "annotates": [task],
             "splits": {split: ids[split] for split in splits},
             "classes": yaml.safe_load(Path("datasets/cards/toy.yaml").read_text())["classes"]}
            for task in tasks
        ]  # fmt: skip

    return make


def ids(*names):
    return {record["image_id"] for name in names for record in DatasetCatalog.get(name)}


@pytest.mark.parametrize("labels", [Fraction(1), Fraction(1, 4)])
def test_missing_splits_are_drawn_once_for_all_tasks(cards, tmp_path, labels):
    det, seg = prepare(cards("det", "seg"), tmp_path, labels, seed=3)
    assert det.task == "det" and seg.task == "seg" and det.classes != seg.classes
    for task in (det, seg):
        parts = [ids(*task.labeled), ids(task.test), ids(*task.unlabeled)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 20
        assert len(parts[1]) == 4 and len(parts[0]) == labels * 16 and task.val == ""
    assert ids(*det.labeled) == ids(*seg.labeled) and ids(det.test) == ids(seg.test)
    withheld = [record for name in det.unlabeled for record in DatasetCatalog.get(name)]
    assert not any("annotations" in record for record in withheld)
    card = yaml.safe_load(det.card.read_text())
    assert Path(card["splits"]["labeled"]["ids"] + ".txt").is_file()


@pytest.mark.parametrize(
    ("splits", "val", "test"),
    [(("train", "val"), "", "_val"), (("train", "val", "test"), "_val", "_test")],
)
def test_splits_that_are_there_are_used(cards, tmp_path, splits, val, test):
    (task,) = prepare(cards("det", splits=splits), tmp_path)
    name = task.card.stem
    assert task.labeled == (f"{name}_train",) and task.unlabeled == ()
    assert task.val == (f"{name}{val}" if val else "") and task.test == f"{name}{test}"


def test_all_splits_to_train_on_are_used(cards, root, tmp_path):
    (card,) = cards("det", splits=())
    card["splits"] = _lists(root, tmp_path, day=range(8), night=range(8, 14), dawn=range(14, 18))
    (data,) = prepare([card], tmp_path)
    own = [name.removeprefix(f"{card['name']}_") for name in (*data.labeled, data.test)]
    assert own == ["day_labeled", "night", "dawn", "day_test"]
    sizes = {name: len(data.records[name]) for name in (*data.labeled, data.test)}
    assert list(sizes.values()) == [4, 6, 4, 4]  # a fifth of all, from the largest
    every = [record["file_name"] for records in data.records.values() for record in records]
    assert len(every) == len(set(every)) == 18


def test_a_share_of_the_labels_is_one_of_each_split_to_train_on(cards, root, tmp_path):
    (card,) = cards("det", splits=())
    card["splits"] = _lists(root, tmp_path, day=range(8), night=range(8, 16), val=range(16, 18))
    (data,) = prepare([card], tmp_path, Fraction(1, 4))
    assert [len(data.records[name]) for name in data.labeled] == [2, 2]
    assert [len(data.records[name]) for name in data.unlabeled] == [6, 6]
    assert data.test.endswith("_val")


def test_splits_with_images_of_others_are_not_learned_from(cards, root, tmp_path, caplog):
    (card,) = cards("det", splits=())
    card["splits"] = _lists(
        root, tmp_path, fold1_train=range(4), fold2_train=range(2, 8), leak_train=[9, 10], val=[9]
    )
    (data,) = prepare([card], tmp_path)
    assert [name.removeprefix(f"{card['name']}_") for name in data.labeled] == ["fold2_train"]
    assert "fold1_train is not learned from" in caplog.text
    assert "leak_train is not learned from" in caplog.text


def test_splits_of_one_image_are_not_divided(cards, root, tmp_path):
    (card,) = cards("det", splits=())
    card["splits"] = _lists(root, tmp_path, one=[1], two=[2])
    with pytest.raises(UserError, match=r"none of its splits to train on \(2\) has two images"):
        prepare([card], tmp_path)


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """Folders of images of two classes; of each folder it is known how many images it has."""
    root, picture = tmp_path_factory.mktemp("pets"), io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    for split, number in {"day": ENOUGH_TO_CHOOSE, "night": 20, "val": 12, "test": 12}.items():
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(number // 2):
                (root / split / name / f"{i}.png").write_bytes(picture.getvalue())
    return root


@pytest.mark.parametrize(
    ("splits", "labels", "sizes"),
    [
        # What is tested on, chosen on, learned from, and without labels.
        ("day test", Fraction(1), (12, 20, 180, 0)),
        ("day val", Fraction(1), (12, 20, 180, 0)),
        ("day val test", Fraction(1), (12, 12, 200, 0)),
        ("day", Fraction(1), (40, 0, 160, 0)),  # 160 are too few to choose on a part of them
        ("day night", Fraction(1), (44, 0, 176, 0)),
        ("day test", Fraction(1, 2), (12, 0, 100, 100)),
        ("day night test", Fraction(1), (12, 20, 200, 0)),
    ],
)
def test_some_of_many_images_are_chosen_on(pets, tmp_path, splits, labels, sizes):
    name = f"pets_{splits.replace(' ', '_')}_{labels.denominator}"
    card = {"name": name, "format": "folders", "root": str(pets), "annotates": ["cls"]}
    (data,) = prepare([{**card, "splits": {s: s for s in splits.split()}}], tmp_path, labels)
    named = [[data.test], [data.val] if data.val else [], data.labeled, data.unlabeled]
    files = [[r["file_name"] for n in own for r in data.records[n]] for own in named]
    assert tuple(map(len, files)) == sizes
    assert len({file for own in files for file in own}) == sum(sizes)
    # The student that is handed out is chosen on it.
    write_configs([data], tmp_path / "c", tmp_path / "out", size="nano", seed=1, iterations=1)
    cfg = load_config(str(tmp_path / "c" / "supervised.yaml"))
    assert validation_set(cfg, load_data(data.test), LABELS) == data.val
    if data.val:
        labels = [r["label"] for r in data.records[data.val]]
        assert labels.count(0) == labels.count(1)


def test_images_of_two_tasks_are_chosen_on_once(pets, tmp_path):
    card = {"format": "folders", "root": str(pets), "annotates": ["cls"]}
    splits = {"day": "day", "test": "test"}
    tasks = prepare([{**card, "name": f"pets_{n}", "splits": splits} for n in "ab"], tmp_path)
    one, two = ({r["file_name"] for r in task.records[task.val]} for task in tasks)
    assert one == two and len(one) == 20
    with_val = {**card, "name": "with_val", "splits": {**splits, "val": "val"}}
    one, two = prepare([with_val, {**card, "name": "without", "splits": splits}], tmp_path)
    assert (one.val, two.val) == ("with_val_val", "")
    assert len(two.annotated) == len(one.annotated) == ENOUGH_TO_CHOOSE


def of_task(task):
    """The images that a task learns from, whose labels are withheld, it chooses and tests on."""
    names = task.labeled, task.withheld, [task.val] if task.val else [], [task.test]
    return [{r["file_name"] for name in own for r in task.records[name]} for own in names]


PAIRS = {
    # The lists of images of two cards: of their splits the numbers of the images.
    "the same": [{"all": (0, 18)}] * 2,
    "splits of other names": [{"all": (0, 18)}, {"train": (0, 18)}],
    "few of many": [{"all": (0, 18)}, {"all": (0, 8)}],
    "many of few": [{"all": (0, 8)}, {"all": (0, 18)}],
    "some in common": [{"all": (0, 12)}, {"all": (6, 18)}],
    "none in common": [{"all": (0, 9)}, {"all": (9, 18)}],
    "one has a test": [{"train": (0, 12), "test": (12, 18)}, {"all": (0, 18)}],
    "the other has a test": [{"all": (0, 18)}, {"train": (0, 12), "test": (12, 18)}],
    "tested on images of the other": [
        {"train": (0, 12), "test": (12, 18)}, {"train": (6, 18), "test": (0, 6)}],
    "val of one": [{"train": (0, 8), "val": (8, 12), "test": (12, 18)}, {"all": (4, 18)}],
}  # fmt: skip


@pytest.mark.parametrize("labels", [Fraction(1), Fraction(1, 2)])
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("enough", [8, 1000])
def test_no_task_learns_from_what_another_is_tested_on(
    cards, root, tmp_path, monkeypatch, pair, labels, enough
):
    monkeypatch.setattr("own_data.parts.ENOUGH", enough)
    monkeypatch.setattr("own_data.data.ENOUGH", enough)
    made = cards("det", "seg", splits=())
    for card, splits in zip(made, pair, strict=True):
        (folder := tmp_path / card["name"]).mkdir()
        card["splits"] = _lists(root, folder, **{s: range(*own) for s, own in splits.items()})
    tasks = [of_task(task) for task in prepare(made, tmp_path / "data", labels, seed=1)]
    learned = set.union(*(own[0] for own in tasks))
    for own in tasks:
        assert learned.isdisjoint(own[2] | own[3])
        assert own[0] and own[3] and own[1].isdisjoint(own[0] | own[2] | own[3])
        assert not own[2] & own[3]
    for own, splits in zip(tasks, pair, strict=True):
        if "test" not in splits and pair[0].keys() == pair[1].keys():  # no image is lost
            assert len(set.union(*own)) == sum(end - start for start, end in splits.values())


def test_what_is_tested_on_is_not_learned_from(cards, root, tmp_path, caplog):
    (card,) = cards("det", splits=())
    card["splits"] = _lists(root, tmp_path, trainval=range(12), val=range(8, 12))
    (data,) = prepare([card], tmp_path)
    learned, _, val, test = of_task(data)
    assert (len(learned), len(val), len(test)) == (8, 0, 4) and learned.isdisjoint(test)
    assert "4 images are not learned from, but tested or chosen on" in caplog.text


@pytest.mark.parametrize("taken", ["val", "test", "labeled", "rest"])
def test_a_part_takes_the_name_of_no_split(cards, root, tmp_path, monkeypatch, taken):
    """Such as val without annotations, whose images are to be learned from."""
    monkeypatch.setattr("own_data.parts.ENOUGH", 8)
    monkeypatch.setattr("own_data.data.ENOUGH", 8)
    (card,) = cards("det", splits=())
    lists = _lists(root, tmp_path, all=range(16), bare=range(16, 20))
    card["splits"] = {"train": lists["all"], taken: {"ids": lists["bare"], "annotates": []}}
    (data,) = prepare([card], tmp_path, Fraction(1, 2) if taken == "rest" else Fraction(1))
    bare = ids(f"{card['name']}_{taken}_unlabeled")
    assert len(bare) == 4 and f"{card['name']}_{taken}_unlabeled" in data.unlabeled
    every = [
        ids(*own) for own in (data.labeled, data.unlabeled, [data.val or data.test], [data.test])
    ]
    assert not bare & (every[0] | every[2] | every[3])
    assert len(set.union(*every)) == 20


def test_images_that_differ_by_their_extension_are_divided(pets, tmp_path):
    shutil.copytree(pets / "night", tmp_path / "mixed")
    for file in (tmp_path / "mixed").glob("*/[0-3].png"):
        Image.open(file).convert("RGB").save(file.with_suffix(".jpg"))
    (data,) = prepare(find_cards(tmp_path / "mixed").cards, tmp_path / "data")
    files = [r["file_name"] for records in data.records.values() for r in records]
    assert len(set(files)) == len(files) == 28


def _lists(root, folder, **splits):
    """Lists of images of the toy, by the numbers of its training images."""
    ids = (root / "ImageSets/Main/train.txt").read_text().split()
    for name, numbers in splits.items():
        (folder / f"{name}.txt").write_text("".join(f"{ids[number]}\n" for number in numbers))
    return {name: str(folder / name) for name in splits}


@pytest.mark.parametrize("splits", [{"all": range(8)}, {"a": range(4), "b": range(4, 8)}])
def test_faults_are_told_once(cards, root, tmp_path, splits):
    (card,) = cards("det", splits=())
    card |= {"splits": _lists(root, tmp_path, **splits), "strictness": "skip"}
    with open(tmp_path / f"{list(splits)[-1]}.txt", "a") as file:
        file.write("no_such_image\n")
    log, stream = logging.getLogger("multas"), io.StringIO()
    log.addHandler(screen := Screen(stream))
    try:
        prepare([card], tmp_path)
    finally:
        log.removeHandler(screen)
    assert stream.getvalue().count("no_such_image") == 1


def test_unlabelled_images_beside_those_of_a_coco_file(tmp_path):
    images = {f"images/{name}.jpg": PHOTO for name in "abcdefghijkl"}
    content = coco([f"{name}.jpg" for name in "abcdefghij"])
    folder = lay_out(tmp_path / "beside_coco", {**images, "boxes.json": content})
    (data,) = prepare(find_cards(folder).cards, tmp_path / "data")
    assert [len(data.records[name]) for name in data.labeled] == [8]
    assert len(data.records[data.test]) == 2
    (unlabeled,) = data.unlabeled
    assert sorted(Path(r["file_name"]).stem for r in data.records[unlabeled]) == ["k", "l"]


def test_nothing_to_train_on_is_said(cards, tmp_path):
    with pytest.raises(UserError, match=r"its splits \(test\)"):
        prepare(cards("det", splits=("test",)), tmp_path)


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


def test_the_value_of_pixels_without_annotation_is_that_of_the_card(cards, root, tmp_path):
    own = tmp_path / "devkit"
    shutil.copytree(root, own)
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
