"""VEDAI: both layouts of its annotations, what counts as a fault, and AP at 10 and 25 % overlap."""

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

import split
from multas.data import DatasetError, register_card
from multas.data.formats.base import Source
from multas.data.formats.vedai import CLASSES, Vedai, parse_object, read_whole_file
from multas.data.issues import DatasetIssues
from multas.evaluation.build import build_evaluator
from plain_config import plain_config

SIZE = 64
TRAIN = [f"{i:08d}" for i in range(8)]
TEST = [f"{i:08d}" for i in range(8, 12)]
NAMES = ["car", "truck", "tractor", "camping car", "van", "other", "pickup", "boat"]


def corners(x: float, y: float) -> tuple[list[float], list[float]]:
    """A vehicle turned by 45 degrees around (x, y), in a box of 20 by 20 pixels."""
    return [x, x + 10, x, x - 10], [y - 10, y, y + 10, y]


def own_line(number, x, y, contained=1) -> str:
    xs, ys = corners(x, y)
    return " ".join(map(str, [x, y, 0.785, number, contained, 0, *xs, *ys]))


def whole_line(image_id, number, x, y, contained=1) -> str:
    xs, ys = corners(x, y)
    words = [image_id, f"{x:.6f}", f"{y:.6f}", 0.785, *xs, *ys, f"{number:03d}", contained, 0]
    return " ".join(map(str, words))


def objects_of(image_id: str) -> list[tuple[int, int, int, int]]:
    """(class number, x, y, contained) of an image: one object of the card's and, every other time,
    a plane."""
    index = int(image_id)
    numbers = [number for number, name in CLASSES.items() if name in NAMES]
    planes = [(31, 20, 20, 1)] if index % 2 else []
    return [(numbers[index % len(numbers)], 12 + 4 * index, 50, 1), *planes]


def make_vedai(root, whole: bool = False, size: int = 512):
    """Writes a VEDAI of twelve images, with an annotation file per image or one for all."""
    images, annotations = root / f"Vehicules{size}", root / f"Annotations{size}"
    images.mkdir(parents=True)
    annotations.mkdir()
    for image_id in TRAIN + TEST:
        for number, suffix in enumerate(("co", "ir")):
            pixels = np.full((SIZE, SIZE, 3), 100 * number, np.uint8)
            Image.fromarray(pixels).save(images / f"{image_id}_{suffix}.png")
        if not whole:
            lines = [own_line(*entry) for entry in objects_of(image_id)]
            (annotations / f"{image_id}.txt").write_text("\n".join(lines) + "\n")
    if whole:
        lines = [whole_line(i, *entry) for i in TRAIN + TEST for entry in objects_of(i)]
        (annotations / f"annotation{size}.txt").write_text("\n".join(lines))
    (annotations / "fold01.txt").write_text("\n".join(TRAIN) + "\n")
    (annotations / "fold01test.txt").write_text("\n".join(TEST) + "\n")
    return root


@pytest.fixture
def root(tmp_path):
    return make_vedai(tmp_path / "VEDAI")


@pytest.fixture
def card(repository, root):
    """The repository's card at a tiny VEDAI, without its tolerance of faults."""
    content = yaml.safe_load((repository / "datasets/cards/vedai.yaml").read_text())
    return {**content, "root": str(root), "strictness": "stop"}


def load(card: dict, part: str = "trainval", **changes) -> list[dict]:
    register_card({**card, **changes})
    return DatasetCatalog.get(f"{changes.get('name', 'vedai')}_{part}")


def rewrite(root, image_id: str, *lines: str) -> None:
    (root / "Annotations512" / f"{image_id}.txt").write_text("\n".join(lines))


def test_a_line_of_the_distributed_file_is_read(tmp_path):
    file = tmp_path / "annotation1024.txt"
    file.write_text(
        "00000000 580.697942 1009.223279 3.012318 554 605 607 558 1004 996 1016 1021 002 1 0\n"
    )
    (words,) = read_whole_file(file)["00000000"]
    entry = parse_object(words)
    assert (entry.name, entry.box, entry.contained) == ("truck", (554, 996, 607, 1021), True)


def test_oriented_vehicles_become_upright_boxes(card):
    records = load(card)
    assert [record["image_id"] for record in records] == TRAIN
    assert records[1]["file_name"].endswith("Vehicules512/00000001_co.png")
    assert (records[1]["width"], records[1]["height"]) == (SIZE, SIZE)
    expected = {
        "category_id": NAMES.index("truck"),
        "bbox": [6.0, 40.0, 26.0, 60.0],
        "bbox_mode": BoxMode.XYXY_ABS,
        "difficult": 0,
        "truncated": 0,
    }
    assert records[1]["annotations"] == [expected]  # the plane is not among the card's classes
    assert MetadataCatalog.get("vedai_trainval").thing_classes == NAMES


def test_both_layouts_say_the_same(card, tmp_path):
    other = make_vedai(tmp_path / "other", whole=True)
    whole = load(card, name="whole", root=str(other))
    for own, one in zip(load(card), whole, strict=True):
        assert own["annotations"] == one["annotations"]


def test_an_images_own_file_counts_where_there_is_one(card, root):
    (root / "Annotations512" / "annotation512.txt").write_text(
        f"{whole_line(TRAIN[0], 9, 30, 30)}\n{whole_line(TRAIN[1], 9, 30, 30)}\n"
    )
    (root / "Annotations512" / f"{TRAIN[0]}.txt").unlink()
    names = [NAMES[record["annotations"][0]["category_id"]] for record in load(card)]
    assert names[:3] == ["van", "truck", "tractor"]


def test_boxes_end_at_the_border_of_the_image(card, root):
    rewrite(root, TRAIN[0], own_line(1, 4.5, 60, contained=0))
    (entry,) = load(card)[0]["annotations"]
    assert entry["bbox"] == [0, 50, 14.5, 64]
    assert entry["truncated"] == 1


def test_an_empty_file_annotates_an_image_as_empty(card, root):
    rewrite(root, TRAIN[0])
    rewrite(root, TRAIN[1], own_line(31, 20, 20))
    assert [record["annotations"] for record in load(card)[:2]] == [[], []]


def test_without_classes_there_are_all_eleven(card):
    records = load(card, classes=None)
    assert MetadataCatalog.get("vedai_trainval").thing_classes == list(CLASSES.values())
    assert sum(len(record["annotations"]) for record in records) == 8 + 4


def test_the_infrared_images_and_the_other_resolution(card, root):
    make_vedai(root, size=1024)
    (record, *_) = load(card, name="infrared", suffix="_ir")
    assert record["file_name"].endswith("Vehicules512/00000000_ir.png")
    places = {"images": "Vehicules1024", "annotations": "Annotations1024"}
    (record, *_) = load(card, name="large", **places)
    assert record["file_name"].endswith("Vehicules1024/00000000_co.png")
    assert record["image_id"] == TRAIN[0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["30 30 001 1 0"], "object 0: has 5 numbers instead of 14"),
        ([own_line(1, 30, 30), own_line(3, 30, 30)], "object 1: unknown class number 3"),
        ([own_line(1, 300, 30)], "car, box 290,20,310,40 has no area in the image of 64x64"),
        ([own_line(1, 30, 30).replace("20", "2O")], "could not convert string to float: '2O'"),
        ([own_line(1, float("nan"), 30)], "not all numbers are finite"),
    ],
)
def test_faulty_lines_are_reported_by_file(card, root, lines, message):
    rewrite(root, TRAIN[2], *lines)
    with pytest.raises(DatasetError) as error:
        load(card)
    assert "1 issue\n" in str(error.value)
    assert f"Annotations512/{TRAIN[2]}.txt: " in str(error.value)
    assert message in str(error.value)


def test_faults_are_left_out_where_the_card_says_so(card, root):
    rewrite(root, TRAIN[0], own_line(1, 30, 30), "30 30 001 1 0")
    rewrite(root, TRAIN[1], "30 30 001 1 0")  # not background, so the image goes, too
    (root / "Annotations512" / f"{TRAIN[2]}.txt").unlink()
    records = load(card, strictness="skip")
    assert [record["image_id"] for record in records] == [TRAIN[0], *TRAIN[3:]]
    assert len(records[0]["annotations"]) == 1


def test_missing_annotations_and_images_are_faults(root):
    (root / "Annotations512" / f"{TRAIN[0]}.txt").unlink()
    (root / "Vehicules512" / f"{TRAIN[1]}_co.png").unlink()
    issues = DatasetIssues("vedai")
    source = Source("card x", root, TRAIN, tuple(NAMES), ignore_label=255, issues=issues)
    records, _ = Vedai(name="all").load(source)
    assert [record["image_id"] for record in records] == TRAIN[2:]
    assert len(issues.lines) == 2
    assert any(
        line.endswith(f"{TRAIN[0]}.txt: missing or unreadable (No such file or directory)")
        for line in issues.lines
    )


def test_unlabeled_splits_open_no_annotation(card, root):
    (root / "Annotations512" / "annotation512.txt").write_bytes(b"\xff")
    for image_id in TRAIN:
        (root / "Annotations512" / f"{image_id}.txt").unlink()
    records = load(card, "trainval_unlabeled")
    assert [record["image_id"] for record in records] == TRAIN
    assert not any("annotations" in record for record in records)
    with pytest.raises(DatasetError, match=r"annotation512\.txt: not a readable VEDAI"):
        DatasetCatalog.get("vedai_trainval")


def test_cards_that_do_not_fit_are_refused(card, root):
    with pytest.raises(DatasetError, match=r"no class 'trucks'\. Did you mean 'truck'"):
        load(card, classes=["car", "trucks"])
    with pytest.raises(DatasetError, match="format voc has no use for `suffix`"):
        load(card, name="devkit", format="voc")
    with pytest.raises(DatasetError, match=r"no id list 'fold11', tried .*Annotations512/fold11"):
        load(card, name="folds", splits={"trainval": "fold11"})


def test_the_lists_of_halves_are_made_from_the_fold(card, root, tmp_path):
    file = tmp_path / "vedai.yaml"
    file.write_text(yaml.safe_dump(card))
    arguments = ["--split", "trainval", "--fractions", "1/2", "--out", str(root / "ImageSets")]
    assert split.main(["make", "--card", str(file), *arguments]) == 0
    halves = [DatasetCatalog.get(f"vedai_{half}") for half in ("half", "half2")]
    ids = [{record["image_id"] for record in records} for records in halves]
    assert len(ids[0]) == len(ids[1]) == 4 and ids[0] | ids[1] == set(TRAIN)


@pytest.mark.parametrize("forced", ["", "voc"])
def test_ap10_and_ap25_of_perfect_detections_are_100(card, forced):
    records = load(card, "test")
    opts = ["TEST.EVALUATOR", forced, "TEST.VOC_REPORT_THRESHOLDS", (0.1, 0.25)]
    cfg = plain_config(*opts, "TEST.VOC_SKIP_ABSENT_CLASSES", True)
    evaluator = build_evaluator(cfg, "vedai_test")
    for record in records:
        entries = record["annotations"]
        instances = Instances((SIZE, SIZE))
        instances.pred_boxes = Boxes(torch.tensor([entry["bbox"] for entry in entries]))
        instances.pred_classes = torch.tensor([entry["category_id"] for entry in entries])
        instances.scores = torch.full((len(entries),), 0.9)
        evaluator.process([record], [{"instances": instances}])
    results = evaluator.evaluate()["bbox"]
    assert results["AP10"] == results["AP25"] == results["AP"] == pytest.approx(100)
