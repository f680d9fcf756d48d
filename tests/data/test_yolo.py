"""YOLO's format: label files, data.yaml, and what is wrong with them."""

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from hypothesis import given
from hypothesis import strategies as st

from image_files import HEIGHT, WIDTH, write_image
from multas.data import DatasetError, register_card
from multas.data.formats.yolo_labels import convert_line, parse_line
from multas.util.errors import UserError
from perfect_predictions import perfect_predictions

CLASSES = ["cat", "dog"]
SQUARE = "1 0.5 0.5 0.5 0.4\n"  # from (10, 9) to (30, 21) in images of 40 x 30


@pytest.fixture
def yolo(tmp_path):
    """``yolo(labels, **keys)`` writes images/train and labels/train and loads them as pets_train.

    A label that is None has no file.
    """

    def load(labels, suffix="", folder="images/train", **keys):
        for name, text in labels.items():
            write_image(tmp_path / folder / f"{name}.png")
            if text is not None:
                file = tmp_path / folder.replace("images", "labels") / f"{name}.txt"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(text if isinstance(text, bytes) else text.encode())
        card = {"name": "pets", "format": "yolo", "root": str(tmp_path), "classes": CLASSES}
        register_card({**card, "splits": {"train": folder}, **keys})
        return DatasetCatalog.get(f"pets_train{suffix}")

    return load


def boxes(record):
    return [(entry["category_id"], *np.round(entry["bbox"], 4)) for entry in record["annotations"]]


def test_boxes_are_pixels_and_an_image_without_labels_has_no_object(yolo):
    labels = {"a": SQUARE + "\n0 0.25 0.5 0.5 1\n", "b": "", "c": None}
    records = yolo(labels)
    assert [record["image_id"] for record in records] == [f"images/train/{x}" for x in "abc"]
    assert boxes(records[0]) == [(1, 10, 9, 30, 21), (0, 0, 0, 20, 30)]
    assert [record["annotations"] for record in records[1:]] == [[], []]
    metadata = MetadataCatalog.get("pets_train")
    assert (metadata.thing_classes, metadata.evaluator_type) == (CLASSES, "coco")


def test_unfinished_labels_are_no_background(yolo):
    records = yolo({"a": SQUARE, "b": "", "c": None}, only_complete=True)
    assert [record["image_id"][-1] for record in records] == ["a", "b"]
    assert MetadataCatalog.get("pets_train").left_out == {"images with no label file": 1}


def test_unlabelled_splits_open_no_label(yolo):
    records = yolo({"a": "nonsense", "b": "\0"}, "_unlabeled")
    assert [record.keys() for record in records] == [
        {"file_name", "image_id", "height", "width"}
    ] * 2


def test_polygons_give_boxes_and_outlines(yolo):
    (record,) = yolo({"a": "0 0.25 0.2 0.75 0.2 0.75 1.001\n"})
    assert boxes(record) == [(0, 10, 6, 30, 30)]
    assert np.allclose(record["annotations"][0]["segmentation"], [[10, 6, 30, 6, 30, 30]])


def test_texts_of_any_system(yolo):
    windows, marked = SQUARE.replace("\n", "\r\n").encode(), "\ufeff" + SQUARE
    tabs = SQUARE.replace(" ", "\t").replace("1", "1.0")
    records = yolo({"a b": windows, "ä": marked, "c": tabs})
    assert [boxes(record) for record in records] == [[(1, 10, 9, 30, 21)]] * 3


def test_boxes_that_leave_the_image_are_cut(yolo, caplog):
    (record,) = yolo({"a": "0 0 0.5 0.5 0.5\n"})
    assert boxes(record) == [(0, 0, 7.5, 10, 22.5)]
    assert "boxes that leave the image end at its border (1 place)" in caplog.text


@given(
    corners=st.tuples(*[st.integers(0, side - 1) for side in (WIDTH, HEIGHT)]),
    sides=st.tuples(st.integers(1, WIDTH), st.integers(1, HEIGHT)),
)
def test_what_is_written_is_read(corners, sides):
    size = np.array([WIDTH, HEIGHT])
    low, high = np.array(corners), np.minimum(np.add(corners, sides), size)
    centre, extent = (low + high) / 2 / size, (high - low) / size
    words = " ".join(["1", *(f"{value:.6f}" for value in (*centre, *extent))]).split()
    annotation, is_cut = convert_line(*parse_line(words, 2), (WIDTH, HEIGHT))
    assert np.allclose(annotation["bbox"], [*low, *high], atol=1e-3) and not is_cut


def test_lists_folders_and_other_places(yolo, tmp_path):
    yolo({"a": SQUARE, "b": SQUARE})
    write_image(tmp_path / "more" / "c.png")
    (tmp_path / "more" / "c.txt").write_text(SQUARE)
    (tmp_path / "boxes" / "more").mkdir(parents=True)
    (tmp_path / "boxes" / "more" / "c.txt").write_text("0 0.5 0.5 1 1")
    (tmp_path / "list.txt").write_text("./images/train/b.png\n\nmore/c.png\r\n")
    (tmp_path / "few.txt").write_text("images/train/a\n")
    splits = {
        "list": "list.txt",
        "both": ["images/train", "more"],
        "few": {"files": ["images", "more"], "ids": "few"},
        "below": {"images": "images/train"},
        "boxes": {"files": "more", "labels": "boxes"},
    }
    card = {"name": "p", "format": "yolo", "root": str(tmp_path), "classes": CLASSES}
    register_card({**card, "splits": splits})
    found = {name: DatasetCatalog.get(f"p_{name}") for name in splits}
    ids = {name: [r["image_id"] for r in records] for name, records in found.items()}
    assert ids["list"] == ["images/train/b", "more/c"]
    assert ids["both"] == ["images/train/a", "images/train/b", "more/c"]
    assert (ids["few"], ids["below"]) == (["images/train/a"], ["a", "b"])
    assert all(boxes(r) == [(1, 10, 9, 30, 21)] for r in [*found["both"], *found["below"]])
    assert boxes(found["boxes"][0]) == [(0, 0, 0, 40, 30)]


@pytest.mark.parametrize("names", [CLASSES, {1: "dog", 0: "cat"}], ids=["list", "table"])
@pytest.mark.parametrize(
    ("path", "train"),
    [(None, "images/train"), (".", "../images/train"), ("/content/drive/pets", "images/train")],
    ids=["beside", "Roboflow", "elsewhere"],
)
def test_a_data_yaml_is_a_card(yolo, tmp_path, names, path, train):
    yolo({"a": SQUARE})
    folder = tmp_path / "my pets"
    folder.mkdir()
    (tmp_path / "images").rename(folder / "images")
    (tmp_path / "labels").rename(folder / "labels")
    content = {"path": path, "train": train, "val": train, "test": None, "nc": 2, "names": names}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    assert register_card(folder / "data.yaml")[::2] == ["my_pets_train", "my_pets_val"]
    (record,) = DatasetCatalog.get("my_pets_train")
    assert boxes(record) == [(1, 10, 9, 30, 21)]
    assert MetadataCatalog.get("my_pets_train").thing_classes == CLASSES


def test_paths_of_a_data_yaml_may_start_at_the_folder_of_all_data(yolo, tmp_path, monkeypatch):
    yolo({"a": SQUARE}, folder="pets/images")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    file = tmp_path / "configs" / "pets8.yaml"
    file.parent.mkdir()
    content = {"path": "pets", "train": ["images"], "names": CLASSES, "kpt_shape": [2, 3]}
    file.write_text(yaml.safe_dump(content))
    (tmp_path / "pets/labels/a.txt").write_text(f"{SQUARE.strip()} 0.1 0.2 2 0 0 0")
    register_card(file)
    assert boxes(DatasetCatalog.get("pets8_train")[0]) == [(1, 10, 9, 30, 21)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": "cat"}, "`names` is 'cat', need the names of the classes"),
        ({"names": ["cat", True]}, "classes has True, need a text; if it is meant as one, put it"),
        ({"train": [3]}, "`train` has 3, need the path of a folder"),
        ({"path": 3}, "`path` is 3, need a text"),
        ({"kpt_shape": 3}, "kpt_shape is 3, need two whole numbers"),
    ],
)
def test_a_wrong_data_yaml_is_refused(yolo, tmp_path, change, message):
    yolo({"a": SQUARE})
    content = {"train": "images/train", "names": CLASSES, **change}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(DatasetError) as error:
        register_card(tmp_path / "data.yaml")
    assert message in str(error.value) and "data.yaml" in str(error.value)


def test_all_faults_are_reported_by_file_and_line(yolo):
    labels = {
        "a": SQUARE,
        "b": SQUARE + "2 0.5 0.5 0.1 0.1\n-1 0.5 0.5 0.1 0.1\n0.5 0.5 0.5 0.1 0.1\n",
        "c": "0 0,5 0,5 0,1 0,1\n0 0.5 0.5 0.1\n0 0.5 0.5 0.1 0.1 0.9\ncat 0.5 0.5 0.1 0.1\n",
        "d": "0 nan 0.5 0.1 0.1\n0 0.5 0.5 0 0.1\n0 0.5 -0.3 0.1 0.1\n1 20 15 10 10\n",
        "e": "é".encode("latin-1"),
    }
    with pytest.raises(DatasetError) as error:
        yolo(labels)
    expected = [
        "b.txt: line 2: class 2, but the classes are 0 … 1",
        "b.txt: line 3: class -1, but the classes are 0 … 1",
        "b.txt: line 4: class 0.5, but the classes are 0 … 1",
        "c.txt: line 1: '0 0,5 0,5 0,1 0,1' has commas; write 0.5 with a point",
        "c.txt: line 2: has 4 columns, need 5 for a box, or 7, 9, … for a polygon",
        "c.txt: line 3: has 6 columns",
        "c.txt: line 4: could not convert string to float: 'cat'",
        "d.txt: line 1: not all numbers are finite",
        "d.txt: line 2: the box 0.5 0.5 0 0.1 has no area in the image of 40x30",
        "d.txt: line 3: -0.3 is not in 0 … 1, a fraction of the image's size",
        "d.txt: line 4: 20 is not in 0 … 1, a fraction of the image's size: are these pixels?",
        "e.txt: line 1 is not UTF-8",
    ]
    lines = str(error.value).splitlines()
    assert "12 issues" in lines[0]
    for line, part in zip(lines[1:], expected, strict=False):
        assert part in line


def test_an_image_of_faulty_boxes_alone_is_no_background(yolo):
    records = yolo({"a": "9 0.5 0.5 1 1\n", "b": SQUARE + "9 0.5 0.5 1 1\n"}, strictness="skip")
    assert [(r["image_id"][-1], boxes(r)) for r in records] == [("b", [(1, 10, 9, 30, 21)])]


def test_lines_of_lists_that_lead_nowhere_are_faults(yolo, tmp_path):
    yolo({"a": SQUARE, "b": SQUARE})
    lines = ["images/train/a.png", "images/train/x.png", "./images/train/a.png", "list.txt"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    card = {"name": "p", "format": "yolo", "root": str(tmp_path), "classes": CLASSES}
    register_card({**card, "splits": {"list": "list.txt", "none": "images/trian"}})
    with pytest.raises(DatasetError) as error:
        DatasetCatalog.get("p_list")
    text = str(error.value)
    assert "list.txt: line 2: there is no image" in text
    assert "line 3: ./images/train/a.png is listed twice (line 1)" in text
    assert "line 4: list.txt is no image" in text
    with pytest.raises(DatasetError, match="neither a folder of images nor a list of them"):
        DatasetCatalog.get("p_none")


def test_without_any_label_file_there_is_something_wrong(yolo):
    with pytest.raises(DatasetError, match=r"no image has a label file.*/labels/train/a\.txt"):
        yolo({"a": None})


def test_label_files_without_an_image_are_named(yolo, tmp_path, caplog):
    yolo({"a": SQUARE})
    caplog.clear()
    (tmp_path / "labels/train/lost.txt").write_text(SQUARE)
    (tmp_path / "labels/train/classes.txt").write_text("cat\ndog")
    DatasetCatalog.get("pets_train")
    assert "label files without an image are passed over (1 place)" in caplog.text


@pytest.mark.parametrize("text", ["", "1", "1 0.5 0.5 0.1", "1 0.1 0.1 0.2 0.2 0.3 0.3 0.4"])
def test_lines_need_a_box_or_a_polygon(text):
    with pytest.raises(UserError):
        parse_line(text.split(), 2)


def test_the_coco_evaluator_scores_the_ground_truth_100(yolo, tmp_path):
    yolo({"a": SQUARE, "b": "", "c": "0 0.25 0.2 0.75 0.2 0.75 1\n"})
    evaluator = COCOEvaluator("pets_train", ("bbox",), output_dir=str(tmp_path))
    assert perfect_predictions(evaluator, "pets_train")["AP"] == pytest.approx(100)
