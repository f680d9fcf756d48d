"""What a job learns from, chooses and tests on: the parts of its data."""

import io
import logging
import shutil
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from detectron2.data import DatasetCatalog
from PIL import Image

from layouts import PHOTO, coco, lay_out
from multas.data.looking.find import find_cards
from multas.engine import load_config
from multas.engine.comparison.data import load_data, validation_set
from multas.util.annotation import LABELS
from multas.util.errors import UserError
from multas.util.screen import Screen
from own_data.data import prepare
from own_data.parts import ENOUGH_TO_CHOOSE
from own_data.recipe import write_configs


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


def test_all_splits_to_train_on_are_used(cards, devkit, tmp_path):
    (card,) = cards("det", splits=())
    card["splits"] = _lists(devkit, tmp_path, day=range(8), night=range(8, 14), dawn=range(14, 18))
    (data,) = prepare([card], tmp_path)
    own = [name.removeprefix(f"{card['name']}_") for name in (*data.labeled, data.test)]
    assert own == ["day_labeled", "night", "dawn", "day_test"]
    sizes = {name: len(data.records[name]) for name in (*data.labeled, data.test)}
    assert list(sizes.values()) == [4, 6, 4, 4]  # a fifth of all, from the largest
    every = [record["file_name"] for records in data.records.values() for record in records]
    assert len(every) == len(set(every)) == 18


def test_a_share_of_the_labels_is_one_of_each_split_to_train_on(cards, devkit, tmp_path):
    (card,) = cards("det", splits=())
    card["splits"] = _lists(devkit, tmp_path, day=range(8), night=range(8, 16), val=range(16, 18))
    (data,) = prepare([card], tmp_path, Fraction(1, 4))
    assert [len(data.records[name]) for name in data.labeled] == [2, 2]
    assert [len(data.records[name]) for name in data.unlabeled] == [6, 6]
    assert data.test.endswith("_val")


def test_splits_with_images_of_others_are_not_learned_from(cards, devkit, tmp_path, caplog):
    (card,) = cards("det", splits=())
    card["splits"] = _lists(
        devkit,
        tmp_path,
        fold1_train=range(4),
        fold2_train=range(2, 8),
        leak_train=[9, 10],
        val=[9],
    )
    (data,) = prepare([card], tmp_path)
    assert [name.removeprefix(f"{card['name']}_") for name in data.labeled] == ["fold2_train"]
    assert "fold1_train is not learned from" in caplog.text
    assert "leak_train is not learned from" in caplog.text


def test_splits_of_one_image_are_not_divided(cards, devkit, tmp_path):
    (card,) = cards("det", splits=())
    card["splits"] = _lists(devkit, tmp_path, one=[1], two=[2])
    with pytest.raises(UserError, match=r"none of its splits to train on \(2\) has two images"):
        prepare([card], tmp_path)


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """Folders of images of two classes; of each folder it is known how many images it has."""
    devkit, picture = tmp_path_factory.mktemp("pets"), io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    for split, number in {"day": ENOUGH_TO_CHOOSE, "night": 20, "val": 12, "test": 12}.items():
        for name in ("cat", "dog"):
            (devkit / split / name).mkdir(parents=True)
            for i in range(number // 2):
                (devkit / split / name / f"{i}.png").write_bytes(picture.getvalue())
    return devkit


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


def test_of_very_many_images_only_so_many_are_chosen_on(pets, tmp_path, monkeypatch):
    monkeypatch.setattr("own_data.parts.POOL", 100)
    card = {"name": "pets", "format": "folders", "root": str(pets), "annotates": ["cls"]}
    (data,) = prepare([{**card, "splits": {"day": "day", "test": "test"}}], tmp_path)
    assert [len(own) for own in of_task(data)] == [190, 0, 10, 12]


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
    cards, devkit, tmp_path, monkeypatch, pair, labels, enough
):
    monkeypatch.setattr("own_data.parts.ENOUGH_TO_CHOOSE", enough)
    monkeypatch.setattr("own_data.data.ENOUGH_TO_CHOOSE", enough)
    made = cards("det", "seg", splits=())
    for card, splits in zip(made, pair, strict=True):
        (folder := tmp_path / card["name"]).mkdir()
        card["splits"] = _lists(devkit, folder, **{s: range(*own) for s, own in splits.items()})
    tasks = [of_task(task) for task in prepare(made, tmp_path / "data", labels, seed=1)]
    learned = set.union(*(own[0] for own in tasks))
    for own in tasks:
        assert learned.isdisjoint(own[2] | own[3])
        assert own[0] and own[3] and own[1].isdisjoint(own[0] | own[2] | own[3])
        assert not own[2] & own[3]
    for own, splits in zip(tasks, pair, strict=True):
        number = sum(end - start for start, end in splits.values())
        assert len(own[3]) > number / 5 - 1
        if "test" not in splits and pair[0].keys() == pair[1].keys():  # no image is lost
            assert len(set.union(*own)) == number


def test_what_is_tested_on_is_not_learned_from(cards, devkit, tmp_path, caplog):
    (card,) = cards("det", splits=())
    card["splits"] = _lists(devkit, tmp_path, trainval=range(12), val=range(8, 12))
    (data,) = prepare([card], tmp_path)
    learned, _, val, test = of_task(data)
    assert (len(learned), len(val), len(test)) == (8, 0, 4) and learned.isdisjoint(test)
    assert "4 images are not learned from, but tested or chosen on" in caplog.text


@pytest.mark.parametrize("taken", ["val", "test", "labeled", "rest"])
def test_a_part_takes_the_name_of_no_split(cards, devkit, tmp_path, monkeypatch, taken):
    """Such as val without annotations, whose images are to be learned from."""
    monkeypatch.setattr("own_data.parts.ENOUGH_TO_CHOOSE", 8)
    monkeypatch.setattr("own_data.data.ENOUGH_TO_CHOOSE", 8)
    (card,) = cards("det", splits=())
    lists = _lists(devkit, tmp_path, all=range(16), bare=range(16, 20))
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


def _lists(devkit, folder, **splits):
    """Lists of images of the toy, by the numbers of its training images."""
    ids = (devkit / "ImageSets/Main/train.txt").read_text().split()
    for name, numbers in splits.items():
        (folder / f"{name}.txt").write_text("".join(f"{ids[number]}\n" for number in numbers))
    return {name: str(folder / name) for name in splits}


@pytest.mark.parametrize("splits", [{"all": range(8)}, {"a": range(4), "b": range(4, 8)}])
def test_faults_are_told_once(cards, devkit, tmp_path, splits):
    (card,) = cards("det", splits=())
    card |= {"splits": _lists(devkit, tmp_path, **splits), "strictness": "skip"}
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
