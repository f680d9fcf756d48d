"""Files of pseudo-labels: written, read, thresholded, and joined to what is not annotated."""

import json
import os

import pytest
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode
from hypothesis import given
from hypothesis import strategies as st

from multas.data import MultasMapper
from multas.data.pseudo_label_files import (
    Header,
    file_sha256,
    read_pseudo_labels,
    save_pseudo_labels,
)
from multas.data.pseudo_labels import PseudoLabels, load_pseudo_labels
from plain_config import plain_config

CLASSES = ["cat", "dog"]


def box(image_id, score, category_id=0):
    return {"image_id": image_id, "category_id": category_id, "bbox": [1.0, 2.0, 3.0, 4.0],
            "score": score}  # fmt: skip


BOXES = [box("a", 0.4), box("a", 0.9, 1), box("a", 0.6), box("b", 0.3, 1)]


@pytest.fixture
def write(tmp_path):
    """``write(boxes, image_ids, name)``: a file of pseudo-labels."""

    def build(boxes=BOXES, image_ids=("a", "b", "c"), name="labels.json", classes=CLASSES):
        header = Header("set_unlabeled", list(classes), list(image_ids), 0.2, 0)
        path = str(tmp_path / name)
        save_pseudo_labels(path, header, boxes)
        return path

    return build


def scores(labels):
    return {image_id: [b["score"] for b in boxes] for image_id, boxes in labels.boxes.items()}


def test_a_file_is_read_as_it_was_written(write, tmp_path):
    header, annotations = read_pseudo_labels(write())
    assert (header.dataset, header.classes, header.image_ids) == (
        "set_unlabeled", CLASSES, ["a", "b", "c"]
    )  # fmt: skip
    assert annotations == BOXES
    assert os.listdir(tmp_path) == ["labels.json"], "no partial file is left"


def test_boxes_come_best_first_in_detectron2s_form(write):
    labels = load_pseudo_labels([write()], CLASSES)
    assert scores(labels) == {"a": [0.9, 0.6, 0.4], "b": [0.3], "c": []}
    assert labels.boxes["a"] is not labels.boxes["a"]  # copies, of memory that workers share
    best = labels.boxes["a"][0]
    assert best["bbox_mode"] == BoxMode.XYWH_ABS
    assert (best["category_id"], best["pseudo"], best["iscrowd"]) == (1, 1, 0)


def test_global_threshold_and_number_of_boxes(write):
    path = write()
    assert scores(load_pseudo_labels([path], CLASSES, score_thresh=0.6)) == {
        "a": [0.9, 0.6], "b": [], "c": []
    }  # fmt: skip
    assert scores(load_pseudo_labels([path], CLASSES, topk=1)) == {"a": [0.9], "b": [0.3], "c": []}


def test_thresholds_of_classes_come_on_top_of_the_global_one(write):
    path = write()
    kept = load_pseudo_labels([path], CLASSES, class_score_thresh=[0.5, 0.0])
    assert scores(kept) == {"a": [0.9, 0.6], "b": [0.3], "c": []}
    kept = load_pseudo_labels([path], CLASSES, class_score_thresh=[0.0, 0.95], score_thresh=0.5)
    assert scores(kept) == {"a": [0.6], "b": [], "c": []}
    with pytest.raises(ValueError, match="has 3 thresholds, but there are 2 classes"):
        load_pseudo_labels([path], CLASSES, class_score_thresh=[0.1, 0.2, 0.3])


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 1), st.integers(0, 1)), max_size=20),
    st.floats(0, 1),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.integers(0, 5),
)
def test_every_selection_agrees_with_a_plain_count(tmp_path_factory, rows, low, by_class, topk):
    path = str(tmp_path_factory.mktemp("labels") / "labels.json")
    boxes = [box(image_id, score, k) for image_id, score, k in rows]
    save_pseudo_labels(path, Header("x", CLASSES, ["a", "b"], 0.0, 0), boxes)
    labels = load_pseudo_labels(
        [path], CLASSES, score_thresh=low, class_score_thresh=by_class, topk=topk
    )
    for image_id in "ab":
        passing = [s for i, s, k in rows if i == image_id and s >= low and s >= by_class[k]]
        expected = sorted(passing, reverse=True)
        assert scores(labels)[image_id] == (expected[:topk] if topk else expected)


def test_several_files_add_up_unless_they_overlap(write):
    first = write([box("a", 0.5)], ["a"], "first.json")
    second = write([box("b", 0.6)], ["b"], "second.json")
    labels = load_pseudo_labels([first, second], CLASSES)
    assert scores(labels) == {"a": [0.5], "b": [0.6]}
    third = write([], ["c", "a"], "third.json")
    with pytest.raises(ValueError, match=r"image 'a' is labelled in .*first.*again in .*third"):
        load_pseudo_labels([first, second, third], CLASSES)
    with pytest.raises(ValueError, match="lists the image 'a' twice"):
        load_pseudo_labels([write([], ["a", "a"], "twice.json")], CLASSES)


def test_other_classes_are_an_error(write):
    with pytest.raises(ValueError, match=r"made for the classes \['cat', 'dog'\]"):
        load_pseudo_labels([write()], ["dog", "cat"])


def test_what_is_no_such_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"DATASETS\.PSEUDO_LABELS\.FILES"):
        load_pseudo_labels([str(tmp_path / "missing.json")], CLASSES)
    broken = tmp_path / "broken.json"
    broken.write_text('{"header": ')
    with pytest.raises(ValueError, match="is not JSON"):
        load_pseudo_labels([str(broken)], CLASSES)
    broken.write_text(json.dumps({"boxes": []}))
    with pytest.raises(ValueError, match="'header' and 'annotations'"):
        load_pseudo_labels([str(broken)], CLASSES)
    with pytest.raises(ValueError, match=r"EMPTY is 'drop'; choose from background, skip"):
        load_pseudo_labels([], CLASSES, empty="drop")


def test_pseudo_labels_join_unannotated_images_alone(write):
    labels = load_pseudo_labels([write()], CLASSES)
    joined = labels.join({"image_id": "b"})
    assert joined["annotations"] == labels.boxes["b"]
    for sample in ({"image_id": "a", "annotations": []}, {"image_id": "z"}, {}):
        assert labels.join(sample) == sample


@pytest.mark.parametrize(("empty", "annotated"), [("background", True), ("skip", False)])
def test_an_image_without_a_box_left_counts_as_the_key_says(write, empty, annotated):
    labels = load_pseudo_labels([write()], CLASSES, score_thresh=0.5, empty=empty)
    for image_id in ("b", "c"):
        joined = labels.join({"image_id": image_id})
        assert ("annotations" in joined) == annotated
        assert joined.get("annotations", []) == []
    assert len(labels.join({"image_id": "a"})["annotations"]) == 2


def test_without_labels_nothing_joins():
    assert PseudoLabels().join({"image_id": "a"}) == {"image_id": "a"}


def test_the_keys_reach_the_training_mapper_alone(write):
    MetadataCatalog.get("pets").thing_classes = CLASSES
    cfg = plain_config("DATASETS.TRAIN", ("pets",))
    options = cfg.DATASETS.PSEUDO_LABELS
    options.FILES = (write(),)
    options.SCORE_THRESH, options.TOPK, options.EMPTY = 0.35, 1, "skip"
    options.CLASS_SCORE_THRESH = [0.0, 0.95]
    labels = MultasMapper(cfg, is_train=True).pseudo_labels
    assert scores(labels) == {"a": [0.6], "b": [], "c": []}
    assert labels.empty == "skip"
    assert MultasMapper(cfg, is_train=False).pseudo_labels.boxes == {}


def test_hash_of_a_file(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    assert file_sha256(str(file)).startswith("ba7816bf8f01cfea")


def image(image_id, file="", **annotations):
    name = file or f"{image_id}.jpg"
    return {"image_id": image_id, "file_name": name, "width": 10, "height": 8, **annotations}


def test_files_that_fit_the_images_are_accepted(write):
    labels = load_pseudo_labels([write()], CLASSES)
    labels.check([image("a"), image("b", annotations=[]), image("z")], ["set_unlabeled"])
    PseudoLabels().check([image("a")], ["set"])


@pytest.mark.parametrize(
    "dicts", [[image("x"), image("y")], [image("a", annotations=[]), image("y")]]
)
def test_a_file_that_labels_no_training_image_is_an_error(write, dicts):
    labels = load_pseudo_labels([write()], CLASSES)
    message = r"labels.json labels none of the unannotated .*\('other',\).*made for 'set_unlabeled'"
    with pytest.raises(ValueError, match=message):
        labels.check(dicts, ["other"])


def test_one_id_of_two_images_is_an_error(write):
    labels = load_pseudo_labels([write()], CLASSES)
    with pytest.raises(ValueError, match=r"id 'a' is that of one/a.jpg and of two/a.jpg"):
        labels.check([image("a", "one/a.jpg"), image("a", "two/a.jpg")], ["set_unlabeled"])
    twice = [image("a", "one/a.jpg"), image("a", "two/a.jpg", annotations=[])]
    labels.check(twice, ["set_unlabeled"])


@pytest.mark.parametrize(
    ("bbox", "fits"), [([1, 1, 9, 7], True), ([1, 1, 9.9, 7], True), ([1, 1, 9, 8.5], False)]
)
def test_boxes_outside_the_image_are_those_of_another(write, bbox, fits):
    labels = load_pseudo_labels([write([box("a", 0.5) | {"bbox": bbox}])], CLASSES)
    if fits:
        return labels.check([image("a")], ["set_unlabeled"])
    with pytest.raises(ValueError, match=r"box of the id 'a' leaves the image a.jpg"):
        labels.check([image("a")], ["set_unlabeled"])


def test_a_file_of_another_data_set_with_the_same_ids_is_warned_of(write, caplog):
    load_pseudo_labels([write()], CLASSES).check([image("a")], ["other"])
    assert "was made for 'set_unlabeled', not for one of ('other',)" in caplog.text


@pytest.mark.parametrize("category_id", [-1, 2])
def test_a_category_that_is_no_class_is_an_error(write, category_id):
    path = write([box("a", 0.5, category_id)])
    with pytest.raises(ValueError, match=f"category_id {category_id} is none of 0 to 1"):
        load_pseudo_labels([path], CLASSES)


def test_a_training_set_without_class_names_is_an_error(write):
    opts = ["DATASETS.TRAIN", ("nameless_folder",), "DATASETS.PSEUDO_LABELS.FILES", (write(),)]
    with pytest.raises(ValueError, match=r"nameless_folder.*none of them has class names"):
        MultasMapper(plain_config(*opts), is_train=True)
