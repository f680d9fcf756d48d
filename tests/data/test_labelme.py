"""LabelMe's format: JSON files beside images, found by looking or named by a card."""

import itertools
import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import BoxMode
from hypothesis import given
from hypothesis import strategies as st

from image_files import HEIGHT, WIDTH, write_image
from layouts import RECTANGLE, coco, labelme, photos, shape, sizes
from multas.data import DatasetError, register_card
from multas.data.formats.labelme_shapes import convert_shapes, object_faults
from multas.data.looking.find import find_cards
from perfect_predictions import perfect_predictions

SIZE = (WIDTH, HEIGHT)
BOX = (2, 3, 20, 13)  # of RECTANGLE
TRIANGLE = ((10, 6), (30, 6), (30, 25.5))
POINTS = st.tuples(*[st.floats(0, side) for side in SIZE])
# Two low corners and two extents of at least a pixel.
BOXES = st.tuples(
    *[st.floats(0, side - 1) for side in SIZE], *[st.floats(1, side) for side in SIZE]
).map(lambda v: (v[0], v[1], min(v[0] + v[2], WIDTH), min(v[1] + v[3], HEIGHT)))


@pytest.fixture
def parts(tmp_path):
    """``parts(files, **keys)`` writes images and JSON files and loads them as parts_all.

    The name of each file is that of an image; one that is None has no file.
    """

    def load(files, suffix="", **keys):
        for name, content in files.items():
            write_image(tmp_path / f"{name}.png")
            if content is not None:
                text = content if isinstance(content, str) else json.dumps(content)
                (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")
        card = {"name": "parts", "format": "labelme", "root": str(tmp_path)}
        register_card({**card, "splits": {"all": {}}, **keys})
        return DatasetCatalog.get(f"parts_all{suffix}")

    return load


def boxes(record):
    return [(entry["category_id"], *np.round(entry["bbox"], 4)) for entry in record["annotations"]]


def box_of(*shapes):
    """The box of an object of some shapes, which must have no fault."""
    numbered = list(enumerate(shapes))
    assert object_faults(numbered, SIZE) == []
    return convert_shapes(numbered, 0, SIZE)["bbox"]


KINDS = {
    "rectangle": (RECTANGLE, BOX),
    "rectangle of four corners": (shape("rectangle", (2, 3), (20, 3), (20, 13), (2, 13)), BOX),
    "polygon": (shape("polygon", *TRIANGLE), (10, 6, 30, 25.5)),
    "polygon of old files": (shape(None, *TRIANGLE), (10, 6, 30, 25.5)),
    "circle": (shape("circle", (20, 15), (23, 11)), (15, 10, 25, 20)),
    "circle at the border": (shape("circle", (1, 15), (1, 18)), (0, 12, 4, 18)),
    "mask": (shape("mask", (2, 3), (19, 12), mask="iVBORw0KGgo="), BOX),
    "mask at the border": (shape("mask", (30, 20), (39, 29)), (30, 20, 40, 30)),
    "turned": (shape("oriented_rectangle", (9, -3), (15, 3), (9, 9), (3, 3)), (3, 0, 15, 9)),
    "turned elsewhere": (shape("rotation", (9, 1), (15, 7), (9, 13), (3, 7)), (3, 1, 15, 13)),
}


@pytest.mark.parametrize(("drawn", "box"), KINDS.values(), ids=KINDS)
def test_boxes_of_all_kinds(parts, drawn, box):
    (record,) = parts({"a": labelme(drawn)})
    (entry,) = record["annotations"]
    assert entry["bbox"] == list(box) and entry["bbox_mode"] == BoxMode.XYXY_ABS
    assert (entry["category_id"], entry["difficult"], entry["truncated"]) == (0, 0, 0)
    assert ("segmentation" in entry) == (drawn["shape_type"] in (None, "polygon"))


@given(box=BOXES)
def test_corners_of_a_rectangle_come_in_any_order(box):
    x1, y1, x2, y2 = box
    drawn = [((x1, y1), (x2, y2)), ((x2, y2), (x1, y1)), ((x1, y2), (x2, y1)), ((x2, y1), (x1, y2))]
    assert [box_of(shape("rectangle", *corners)) for corners in drawn] == [list(box)] * 4


@given(points=st.lists(POINTS, min_size=1), box=BOXES)
def test_the_box_of_a_polygon_is_the_least_around_its_points(points, box):
    corners = np.array([*points, box[:2], box[2:]])
    found = box_of(shape("polygon", *corners.tolist()))
    assert np.all(corners >= found[:2]) and np.all(corners <= found[2:])
    assert all(value in corners[:, i % 2] for i, value in enumerate(found))


@given(own=st.lists(BOXES, min_size=1, max_size=4))
def test_the_box_of_a_group_is_the_union_of_its_shapes(own):
    drawn = [shape("rectangle", box[:2], box[2:]) for box in own]
    whole = [*np.min(own, axis=0)[:2], *np.max(own, axis=0)[2:]]
    assert box_of(*drawn) == whole
    assert box_of(*reversed(drawn)) == whole


@given(centre=POINTS, angle=st.floats(0, 2 * np.pi), radius=st.floats(1, 50))
def test_a_circle_is_the_same_by_any_point_on_it(centre, angle, radius):
    on_it = np.add(centre, radius * np.array([np.cos(angle), np.sin(angle)])).tolist()
    expected = np.clip([np.subtract(centre, radius), np.add(centre, radius)], 0, SIZE)
    assert np.allclose(box_of(shape("circle", centre, on_it)), expected.reshape(-1))


def test_shapes_of_a_label_and_a_group_are_one_object(parts):
    other = ((0, 20), (5, 20), (5, 29))
    drawn = [
        shape("polygon", *TRIANGLE, group_id=7),
        shape("polygon", *other, group_id=7),
        shape("polygon", *other, group_id=8),
        shape("polygon", *other, group_id=7, label="dog"),
        shape("polygon", *TRIANGLE),
        shape("rectangle", (0, 0), (3, 3), group_id=8),
    ]
    (record,) = parts({"a": labelme(*drawn)})
    assert boxes(record) == [
        (0, 0, 6, 30, 29), (0, 0, 0, 5, 29), (1, 0, 20, 5, 29), (0, 10, 6, 30, 25.5)
    ]  # fmt: skip
    outlines = [entry.get("segmentation") for entry in record["annotations"]]
    first, second = [[value for point in own for value in point] for own in (TRIANGLE, other)]
    # A rectangle tells no outline, and half of one would be wrong.
    assert outlines == [[first, second], None, [second], [first]]


def test_classes_are_the_sorted_labels_of_all_splits(parts, tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"{name}\n")
    line = shape("line", (0, 0), (9, 9), label="ant")
    files = {
        "a": labelme(shape("rectangle", (2, 3), (20, 13), label="zebra"), line),
        "b": labelme(RECTANGLE, shape("rectangle", (0, 0), (9, 9), label="_background_")),
        "c": labelme(shape("rectangle", (0, 0), (9, 9), label="of no split")),
    }
    (record,) = parts(files, splits={"all": "a", "val": "b"})
    assert boxes(record) == [(1, *BOX)]
    assert MetadataCatalog.get("parts_all").thing_classes == ["cat", "zebra"]
    assert MetadataCatalog.get("parts_all").evaluator_type == "coco"


def test_what_is_no_object_is_counted(parts, caplog):
    drawn = [
        shape("line", (0, 0), (9, 9)),
        shape("points", (0, 0), (9, 9)),
        shape("point", (99, 99), label="nose"),
        shape("rectangle", (0, 0), (9, 9), label="__ignore__"),
        shape("linestrip", (0, 0), label="_background_"),
    ]
    (record,) = parts({"a": labelme(*drawn)}, classes=["cat"])
    assert record["annotations"] == []
    assert "lines and points are no objects and are passed over (3 places)" in caplog.text
    assert "__ignore__ and _background_ are passed over (2 places)" in caplog.text
    assert "shapes[2] (nose)" in caplog.text


def test_objects_of_other_classes_are_left_out_and_counted_once(parts):
    dogs = [shape("polygon", *points, label="dog", group_id=1) for points in (TRIANGLE, ((1, 1),))]
    (record,) = parts({"a": labelme(RECTANGLE, *dogs)}, classes=["dog", "cat"], only=["cat"])
    assert boxes(record) == [(0, *BOX)]
    (count,) = MetadataCatalog.get("parts_all").left_out.items()
    assert count == ("objects of classes that `only` does not name (dog 1)", 1)


def test_an_image_without_a_file_is_a_fault(parts):
    with pytest.raises(DatasetError, match=r"1 issue\n.*c\.json: missing or unreadable"):
        parts({"a": labelme(RECTANGLE), "b": labelme(), "c": None})


def test_a_file_without_shapes_is_background_and_no_file_may_be_left_out(parts):
    records = parts({"a": labelme(RECTANGLE), "b": labelme(), "c": None}, only_complete=True)
    assert [(r["image_id"], boxes(r)) for r in records] == [("a", [(0, *BOX)]), ("b", [])]
    assert MetadataCatalog.get("parts_all").left_out == {"images with no JSON file": 1}


def test_unlabelled_splits_open_no_file(parts):
    records = parts({"a": "nonsense", "b": None}, "_unlabeled")
    assert [r.keys() for r in records] == [{"file_name", "image_id", "height", "width"}] * 2


FAULTS = {
    "cut off": ('{"shapes": [', "a.json: is not JSON (", "was it cut off?"),
    "another file": ({"images": []}, "a.json: has no list `shapes`, as LabelMe writes it"),
    "a table of shapes": ({"shapes": {}}, "has no list `shapes`"),
    "a list": ("[]", "has no list `shapes`"),
    "another size": (
        labelme(RECTANGLE, imageWidth=80), "a.json: says 80x30, but the image is 40x30"),
    "size in words": (labelme(imageHeight="30"), "says 40x'30', but the image is 40x30"),
    "no table": (labelme(3), "a.json: shapes[0]: must be a table of keys, it is 3"),
    "no label": (labelme({"points": []}), "shapes[0]: lacks the key 'label'"),
    "label of two lines": (labelme({**RECTANGLE, "label": "a\nb"}), "label is 'a\\nb', need a"),
    "odd group": (labelme({**RECTANGLE, "group_id": [1]}), "group_id is [1], need a whole number"),
    "unknown label": (
        labelme({**RECTANGLE, "label": "cta"}),
        "a.json: shapes[0] (cta): label not among the card's classes, did you mean cat?"),
    "unknown kind": (
        labelme(shape("rectangel", (0, 0), (9, 9))),
        "shapes[0] (cat): unknown shape_type 'rectangel'. Did you mean 'rectangle'? Choose from"),
    "kind in a list": (labelme(shape(["mask"], (0, 0), (9, 9))), "unknown shape_type"),
    "no points": (labelme({"label": "cat"}), "shapes[0] (cat): lacks the key 'points'"),
    "not finite": (
        labelme(shape("rectangle", (0, 0), (float("nan"), 9))),
        "points is [[0, 0], [nan, 9]], need a list of points [x, y] of finite numbers"),
    "infinite": (labelme(shape("rectangle", (0, 0), (float("inf"), 9))), "of finite numbers"),
    "three values": (labelme(shape("rectangle", (0, 0, 0), (9, 9, 9))), "of finite numbers"),
    "two corners": (
        labelme(shape("polygon", (0, 0), (9, 9))), "polygon has 2 points, need 3 or more"),
    "one corner": (
        labelme(shape("rectangle", (0, 0))), "rectangle has 1 points, need 2 or 4"),
    "one point": (labelme(shape("circle", (9, 9))), "circle has 1 points, need 2"),
    "no area": (
        labelme(shape("rectangle", (3, 3), (3, 9))), "box x 3, y 3, w 0, h 6 has no area"),
    "no radius": (labelme(shape("circle", (3, 3), (3, 3))), "box x 3, y 3, w 0, h 0 has no area"),
    "outside": (
        labelme(shape("polygon", (0, 0), (9, 0), (9, 31.5))),
        "box x 0, y 0, w 9, h 31.5 leaves the image of 40x30"),
    "beyond": (labelme(shape("rectangle", (40, 0), (41, 9))), "box x 40, y 0, w 0, h 9 has no"),
    "circle beyond": (labelme(shape("circle", (60, 9), (61, 9))), "box x 40, y 8, w 0, h 2 has no"),
    "in a group": (
        labelme({**RECTANGLE, "group_id": 1}, shape("polygon", (0, 0), group_id=1)),
        "shapes[1] (cat): polygon has 1 points"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "messages"), [(v[0], v[1:]) for v in FAULTS.values()], ids=FAULTS
)
def test_faults_name_the_file_and_say_what_is_wrong(parts, content, messages):
    with pytest.raises(DatasetError) as error:
        parts({"a": content, "b": labelme(RECTANGLE)}, classes=["cat", "dog"])
    assert "1 issue\n" in str(error.value)
    for message in messages:
        assert message in str(error.value)


def test_points_that_are_rounded_may_leave_the_image_by_a_pixel(parts):
    drawn = shape("polygon", (-0.6, 3), (9, 3), (9, 30.7))
    (record,) = parts({"a": labelme(drawn)})
    assert boxes(record) == [(0, 0, 3, 9, 30)]
    assert record["annotations"][0]["segmentation"] == [[0, 3, 9, 3, 9, 30]]


def test_an_image_of_faulty_shapes_alone_is_no_background(parts):
    bad = shape("rectangle", (3, 3), (3, 9))
    files = {"a": labelme(bad), "b": labelme(bad, RECTANGLE), "c": labelme({}), "d": "{"}
    records = parts(files, strictness="skip")
    assert [(r["image_id"], boxes(r)) for r in records] == [("b", [(0, *BOX)])]


def test_another_name_of_the_image_is_remarked(parts, caplog):
    names = {"a": "a.jpg", "b": "..\\x\\b.png", "c": "../x/IMG_7.png", "d": None, "e": 3}
    files = {name: labelme(RECTANGLE, imagePath=path) for name, path in names.items()}
    assert len(parts(files)) == 5
    text = "`imagePath` has another name, the image of this name counts (1 place)"
    assert text in caplog.text and "c.json" in caplog.text


def test_copies_of_an_object_are_remarked(parts, caplog):
    (record,) = parts({"a": labelme(RECTANGLE, RECTANGLE)})
    assert boxes(record) == [(0, *BOX)] * 2
    assert "objects that are annotated twice" in caplog.text


def test_old_files_tell_no_size_and_no_kind(parts):
    old = {"flags": {}, "shapes": [{"label": "cat", "points": TRIANGLE}], "imagePath": "a.png"}
    (record,) = parts({"a": old})
    assert boxes(record) == [(0, 10, 6, 30, 25.5)]


def test_files_in_a_folder_of_their_own(parts, tmp_path):
    write_image(tmp_path / "photos" / "day 1" / "ü.png")
    (tmp_path / "json" / "day 1").mkdir(parents=True)
    (tmp_path / "json" / "day 1" / "ü.json").write_text(json.dumps(labelme(RECTANGLE)))
    (record,) = parts({}, images="photos", annotations="json")
    assert (record["image_id"], boxes(record)) == ("day 1/ü", [(0, *BOX)])


def test_the_coco_evaluator_scores_the_ground_truth_100(parts, tmp_path):
    parts({"a": labelme(RECTANGLE, shape("polygon", *TRIANGLE)), "b": labelme()})
    evaluator = COCOEvaluator("parts_all", ("bbox",), output_dir=str(tmp_path))
    assert perfect_predictions(evaluator, "parts_all")["AP"] == pytest.approx(100)


DOG = labelme(shape("circle", (20, 15), (23, 11), label="dog"))
CAT = labelme(RECTANGLE, imagePath="a.jpg")
LAYOUTS = {
    "flat": (
        {**photos("{}.jpg", "a", "b"), "a.json": CAT, "b.json": DOG},
        {"all": {}}, {}, {"all": (2, 2)}),
    "partly labelled": (
        {**photos("{}.jpg", *"abcd"), "a.json": CAT, "b.json": DOG, "c.json": labelme()},
        {"all": {"only_complete": True}, "unlabeled": {"annotates": [], "without": ["all"]}}, {},
        {"all": (3, 3), "unlabeled": (1, 0)}),
    "a folder for each split": (
        {**photos("train/{}.jpg", "a", "b"), "train/a.json": CAT, "train/b.json": DOG,
         **photos("val/{}.jpg", "a"), "val/a.json": CAT},
        {"train": {"images": "train"}, "val": {"images": "val"}}, {},
        {"train": (2, 2), "val": (1, 1)}),
    "folders beside": (
        {**photos("images/{}.jpg", "a", "b"), "annotations/a.json": CAT, "annotations/b.json": DOG},
        {"all": {}}, {"images": "images", "annotations": "annotations"}, {"all": (2, 2)}),
    "folders beside, a list": (
        {**photos("images/{}.jpg", "a", "b"), "json/a.json": CAT, "json/b.json": DOG,
         "train.txt": "a\n", "val.txt": "b\n"},
        {"train": "train", "val": "val"}, {"images": "images", "annotations": "json"},
        {"train": (1, 1), "val": (1, 1)}),
    "labels of splits": (
        {**photos("images/train/{}.jpg", "a", "b"), "labels/train/a.json": CAT,
         "labels/train/b.json": DOG, **photos("images/val/{}.jpg", "a"), "labels/val/a.json": CAT},
        {"train": {"images": "images/train", "annotations": "labels/train"},
         "val": {"images": "images/val", "annotations": "labels/val"}}, {},
        {"train": (2, 2), "val": (1, 1)}),
    "splits of both": (
        {**photos("train/images/{}.jpg", "a", "b"), "train/json/a.json": CAT,
         "train/json/b.json": DOG, **photos("val/{}.jpg", "a"), "val/a.json": CAT},
        {"train": {"images": "train/images", "annotations": "train/json"},
         "val": {"images": "val", "annotations": "val"}}, {},
        {"train": (2, 2), "val": (1, 1)}),
    "other JSON files": (
        {**photos("{}.jpg", "a", "b"), "a.json": CAT, "b.json": DOG, "package.json": {"name": "x"},
         "runs/args.json": {"version": 3, "shapes": 4}, "broken.json": "{"},
        {"all": {}}, {}, {"all": (2, 2)}),
    "a folder without labels": (
        {**photos("train/{}.jpg", "a", "b"), "train/a.json": CAT, "train/b.json": DOG,
         **photos("unlabeled/{}.jpg", "x", "y")},
        {"train": {"images": "train"}, "unlabeled": {"images": "unlabeled", "annotates": []}}, {},
        {"train": (2, 2), "unlabeled": (2, 0)}),
}  # fmt: skip


@pytest.mark.parametrize(("files", "splits", "keys", "numbers"), LAYOUTS.values(), ids=LAYOUTS)
def test_looking(lay, files, splits, keys, numbers):
    folder = lay(files)
    (card,), notes = find_cards(folder)
    head = {"name": "my_set", "format": "labelme", "root": str(folder), "classes": ["cat", "dog"]}
    assert card == {**head, **keys, "splits": splits}
    assert sizes(card) == numbers
    assert any("has LabelMe's JSON files of images in" in note for note in notes)
    assert not any("is passed over" in note for note in notes)


def test_coco_files_and_other_json_are_not_taken_for_labelme(lay):
    files = {**photos("images/{}.jpg", "a"), "images/a.json": {"exif": {}, "version": 2}}
    (card,), _ = find_cards(lay({**files, "train.json": coco(["a.jpg"])}))
    assert (card["format"], sizes(card)) == ("coco", {"train": (1, 1)})


NUMBERS = itertools.count()
DRAWN = st.dictionaries(
    st.tuples(st.sampled_from(["train", "val"]), st.sampled_from("abc")),
    st.lists(st.tuples(st.sampled_from(["cat", "dog"]), BOXES), max_size=3, unique=True),
    min_size=1,
).filter(lambda drawn: any(drawn.values()))


@given(drawn=DRAWN)
def test_what_is_drawn_is_found_and_read(tmp_path_factory, drawn):
    root = tmp_path_factory.mktemp("drawn")
    for (split, name), objects in drawn.items():
        write_image(root / split / f"{name}.png")
        shapes = [shape("rectangle", box[2:], box[:2], label=label) for label, box in objects]
        (root / split / f"{name}.json").write_text(json.dumps(labelme(*shapes)))
    (card,), _ = find_cards(root)
    card["name"] = f"drawn_{next(NUMBERS)}"
    register_card(card)
    assert card["classes"] == sorted({label for own in drawn.values() for label, _ in own})
    assert card["splits"].keys() == {split for split, _ in drawn}
    for split in card["splits"]:
        records = DatasetCatalog.get(f"{card['name']}_{split}")
        read = {
            (split, record["image_id"]): [
                (card["classes"][entry["category_id"]], tuple(entry["bbox"]))
                for entry in record["annotations"]
            ]
            for record in records
        }
        assert read == {key: own for key, own in drawn.items() if key[0] == split}
