"""The key ``only`` of a card: chosen classes, in every format and for every evaluator."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import own_format  # noqa: F401  # registers the format boxtable
from image_files import HEIGHT, WIDTH, write_image
from multas.data import DatasetError, MultasMapper, register_card
from multas.data.chosen_classes import choose_names
from multas.data.dataset_dicts import load_training_sets
from multas.data.pseudo_labels import PseudoLabels
from multas.data.statistics import count, describe
from multas.data.toy.scene import CLASSES
from multas.evaluation.sem_seg import SemanticSegmentationEvaluator
from multas.evaluation.voc import VOCDetectionEvaluator
from perfect_predictions import perfect_masks, perfect_predictions

ONLY = ["star", "disc"]  # of the embedded set, in another order


def loaded(card, split):
    names = register_card(card)
    assert f"{card['name']}_{split}" in names
    name = f"{card['name']}_{split}"
    return DatasetCatalog.get(name), MetadataCatalog.get(name)


def objects(records, metadata):
    """The names and boxes of all objects."""
    return [
        (record["image_id"], metadata.thing_classes[entry["category_id"]], entry["bbox"])
        for record in records for entry in record["annotations"]
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(small_toy):
    """The objects of all classes in toy_test."""
    card = {"name": "whole", "format": "voc", "root": str(small_toy), "classes": list(CLASSES)}
    return objects(*loaded({**card, "splits": {"test": "Main/test"}}, "test"))


@pytest.mark.parametrize("classes", [list(CLASSES), None], ids=["listed", "found"])
def test_voc(toy_card, whole, classes):
    records, metadata = loaded({**toy_card, "classes": classes, "only": ONLY}, "test")
    assert metadata.thing_classes == ONLY and len(records) == 8
    assert objects(records, metadata) == [item for item in whole if item[1] in ONLY]
    (what,) = metadata.left_out
    assert what.startswith("objects of classes that `only` does not name (")
    assert metadata.left_out[what] == len(whole) - len(objects(records, metadata)) > 0
    evaluator = VOCDetectionEvaluator("toy_test", skip_absent_classes=True)
    assert perfect_predictions(evaluator, "toy_test")["AP50"] == pytest.approx(100)
    assert metadata.get("dirname")  # the evaluator has read the files


def test_the_summary_has_what_was_left_out(toy_card, whole):
    _, metadata = loaded({**toy_card, "only": ONLY}, "test")
    (data,) = load_training_sets(["toy_test"], filter_empty=True)
    numbers = count(data, metadata, PseudoLabels())
    assert set(numbers.classes["boxes"]) == set(ONLY)
    text = describe([numbers], "Images:")
    assert f"toy_test: {sum(c not in ONLY for _, c, _ in whole)} objects of classes that" in text
    assert data.num_empty == 8 - len({i for i, c, _ in whole if c in ONLY})


def test_masks_of_voc_have_the_background_for_other_classes(toy_card, small_toy):
    records, metadata = loaded({**toy_card, "only": ONLY}, "both_test")
    assert metadata.stuff_classes == ["background", *ONLY]
    mapper = MultasMapper(is_train=True, augmentations=[], image_format="BGR")
    found = set()
    for record in records:
        sample = mapper(record)
        mask = np.asarray(Image.open(small_toy / f"SegmentationClass/{record['image_id']}.png"))
        for new, name in enumerate(ONLY, start=1):
            assert ((sample["sem_seg"].numpy() == new) == (mask == 1 + CLASSES.index(name))).all()
        found |= set(np.unique(sample["sem_seg"]).tolist())
        assert "sem_seg_values" not in sample
    assert found <= {0, 1, 2, 255} and found > {0}
    evaluator = SemanticSegmentationEvaluator("toy_both_test", distributed=False)
    scores = perfect_masks(evaluator, "toy_both_test")
    assert scores["mIoU"] == pytest.approx(100)
    assert {key for key in scores if key.startswith("IoU-")} <= {
        "IoU-background", "IoU-star", "IoU-disc"
    }  # fmt: skip


def test_the_evaluator_knows_the_masks_before_anything_is_loaded(toy_card):
    register_card({**toy_card, "classes": None, "only": ONLY})
    with pytest.raises(ValueError, match="stuff_classes"):
        SemanticSegmentationEvaluator("toy_seg_test", distributed=False)
    DatasetCatalog.get("toy_seg_test")
    evaluator = SemanticSegmentationEvaluator("toy_seg_test", distributed=False)
    assert perfect_masks(evaluator, "toy_seg_test")["pACC"] == pytest.approx(100)


@pytest.fixture
def coco(tmp_path):
    """A card of COCO's: a cat, a dog and, without an area, a cow; and one image of a cow."""
    for name in "ab":
        write_image(tmp_path / f"{name}.png")
    boxes = {
        "a": [(1, [1, 2, 10, 10]), (2, [5, 5, 20, 20]), (3, [5, 5, 0, 0])],
        "b": [(3, [0] * 4)],
    }
    annotations = [
        {"id": 10 * number + category, "image_id": number, "category_id": category, "bbox": box,
         "area": box[2] * box[3], "iscrowd": 0}
        for number, own in enumerate(boxes.values()) for category, box in own
    ]  # fmt: skip
    content = {
        "images": [
            {"id": i, "file_name": f"{name}.png", "width": WIDTH, "height": HEIGHT}
            for i, name in enumerate("ab")
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": n} for i, n in enumerate(["cat", "dog", "cow"], start=1)],
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    card = {"name": "pets", "format": "coco", "root": str(tmp_path)}
    return {**card, "splits": {"train": "train.json"}}


@pytest.mark.parametrize("only", [["dog", "cat"], ["cat", "dog"], ["dog"]])
def test_coco_and_faults_of_others(coco, tmp_path, only):
    records, metadata = loaded({**coco, "only": only}, "train")
    assert [len(record["annotations"]) for record in records] == [len(only), 0]
    names = [metadata.thing_classes[e["category_id"]] for e in records[0]["annotations"]]
    assert sorted(names) == sorted(only) and metadata.thing_classes == only
    evaluator = COCOEvaluator("pets_train", ("bbox",), output_dir=str(tmp_path))
    assert perfect_predictions(evaluator, "pets_train")["AP"] == pytest.approx(100)


@pytest.mark.parametrize("classes", [None, ["cat", "dog", "cow"]])
def test_a_class_that_is_not_there_is_an_error_with_the_nearest_name(coco, classes):
    with pytest.raises(DatasetError, match=r"`only` names 'kat'. Did you mean 'cat'\?"):
        loaded({**coco, "classes": classes, "only": ["kat"]}, "train")


@pytest.mark.parametrize(
    ("only", "message"),
    [("cat", "only must be a list"), ([], "only is empty"), (["a", "a"], "only lists a twice")],
)
def test_wrong_choices(coco, only, message):
    with pytest.raises(DatasetError, match=message):
        register_card({**coco, "only": only})


def test_a_file_without_a_chosen_class_is_no_fault_where_the_card_has_the_classes(coco, tmp_path):
    content = json.loads((tmp_path / "train.json").read_text())
    content["categories"] = content["categories"][1:]
    content["annotations"] = [e for e in content["annotations"] if e["category_id"] == 2]
    (tmp_path / "val.json").write_text(json.dumps(content))
    classes = ["cow", "dog", "cat"]
    card = {**coco, "splits": {"val": "val.json"}, "classes": classes}
    records, metadata = loaded({**card, "only": ["cat", "dog"]}, "val")
    assert [e["category_id"] for e in records[0]["annotations"]] == [1]
    assert metadata.thing_classes == ["cat", "dog"]


def test_yolo_and_vedai(tmp_path):
    write_image(tmp_path / "y" / "a.png")
    (tmp_path / "y" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n1 9 9 9 9\n2 0.5 0.5 0.1 0.1\n")
    card = {"name": "y", "format": "yolo", "root": str(tmp_path / "y"), "splits": {"all": "."}}
    records, metadata = loaded({**card, "classes": ["a", "b", "c"], "only": ["c", "a"]}, "all")
    assert [e["category_id"] for e in records[0]["annotations"]] == [1, 0]
    assert list(metadata.left_out.values()) == [1]
    write_image(tmp_path / "v" / "Vehicules512" / "00000001_co.png")
    (tmp_path / "v" / "Annotations512").mkdir()
    rows = ["9 9 0 1 1 0 5 15 15 5 5 5 15 15", "9 9 0 2 1 0 -9 -5 -5 -9 5 5 15 15"]
    (tmp_path / "v" / "Annotations512" / "00000001.txt").write_text("\n".join(rows))
    card = {"name": "v", "format": "vedai", "root": str(tmp_path / "v"), "splits": {"all": {}}}
    records, metadata = loaded({**card, "only": ["car"]}, "all")
    assert [e["category_id"] for e in records[0]["annotations"]] == [0]
    assert list(metadata.left_out.values()) == [1]  # a truck without area


def test_class_folders(tmp_path):
    for name in ("cat/a", "cat/b", "cow/a", "dog/a"):
        write_image(tmp_path / f"{name}.png")
    card = {"name": "f", "format": "folders", "root": str(tmp_path), "splits": {"all": "."}}
    records, metadata = loaded({**card, "only": ["dog", "cat"]}, "all")
    assert [r["label"] for r in records] == [1, 1, 0]
    assert metadata.label_classes == ["dog", "cat"]
    assert metadata.left_out == {"images of classes that `only` does not name (cow 1)": 1}
    bare = DatasetCatalog.get("f_all_unlabeled")
    assert [r["image_id"] for r in bare] == ["cat/a", "cat/b", "dog/a"]


def test_a_format_of_the_user_s_own(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("a,cat,0,0,9,9\na,dog,0,0,5,5\n")
    card = {"name": "own", "format": "boxtable", "root": str(tmp_path), "splits": {"all": "t.csv"}}
    records, metadata = loaded({**card, "only": ["dog"]}, "all")
    assert [(e["category_id"], e["bbox"]) for e in records[0]["annotations"]] == [(0, [0, 0, 5, 5])]
    assert metadata.left_out == {"objects of classes that `only` does not name (cat 1)": 1}


@pytest.mark.parametrize(
    ("classes", "ignore_label", "only", "expected", "values"),
    [
        (["background", "a", "b"], 255, ["b"], ["background", "b"], [0, 0, 1, 255]),
        (["road", "a", "b"], 255, ["b", "road"], ["background", "b", "road"], [2, 0, 1, 255]),
        (["unlabeled", "a", "b"], 0, ["b"], ["unlabeled", "background", "b"], [0, 1, 2, 1]),
        ({0: "background", 2: "b", 255: "a"}, 254, ["a"], ["background", "a"], [0, 0, 0, 1]),
        ({0: "background", 1: "a", 2: "b"}, 1, ["b"], ["background", "a", "b"], [0, 1, 2, 0]),
    ],
    ids=["background", "no background", "unlabelled", "0 and 255", "in the middle"],
)  # fmt: skip
def test_masks(tmp_path, classes, ignore_label, only, expected, values):
    write_image(tmp_path / "images" / "a.png", size=(2, 2))
    old = np.array([[0, 1], [2, 255]], np.uint8)
    if ignore_label == 0 or ignore_label == 1:
        old[1, 1] = 2
        values = [*values[:3], values[2]]
    if 255 in classes:
        old[0, 1] = 0
    (tmp_path / "masks").mkdir()
    Image.fromarray(old).save(tmp_path / "masks" / "a.png")
    card = {"name": "m", "format": "masks", "root": str(tmp_path), "images": "images"}
    card |= {"masks": "masks", "classes": classes, "ignore_label": ignore_label, "only": only}
    (record,), metadata = loaded({**card, "splits": {"all": {}}}, "all")
    assert (metadata.stuff_classes, metadata.ignore_label) == (expected, ignore_label)
    read = metadata.read_sem_seg(record["sem_seg_file_name"])
    assert read.reshape(-1).tolist() == values
    mapper = MultasMapper(is_train=True, augmentations=[], image_format="BGR")
    assert mapper(record)["sem_seg"].reshape(-1).tolist() == values


@pytest.mark.parametrize("only", [None, ["cell"]])
def test_black_and_white_masks(tmp_path, only):
    gray = np.array([[0, 127, 128], [255, 40, 200]], np.uint8)
    for number, pixels in enumerate((gray, np.stack([gray] * 3, axis=-1), gray.astype(np.uint16))):
        write_image(tmp_path / "images" / f"{number}.png", size=(3, 2))
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "masks" / f"{number}.png")
    card = {"name": "m", "format": "masks", "root": str(tmp_path), "images": "images", "only": only}
    card |= {"masks": "masks", "classes": ["none", "cell"], "threshold": 128}
    records, metadata = loaded({**card, "splits": {"all": {}}}, "all")
    mapper = MultasMapper(is_train=True, augmentations=[], image_format="BGR")
    for record in records:
        expected = [[0, 0, 1], [1, 0, 1]]
        assert metadata.read_sem_seg(record["sem_seg_file_name"]).tolist() == expected
        assert mapper(record)["sem_seg"].tolist() == expected
    assert metadata.stuff_classes[1:] == ["cell"]
    card["name"] = "three"
    with pytest.raises(DatasetError, match="with `threshold` there are two classes"):
        loaded({**card, "classes": ["a", "b", "cell"], "splits": {"all": {}}}, "all")


@given(
    names=st.lists(st.sampled_from(["background", "void", *"abcdefg"]), min_size=1, unique=True),
    chosen=st.data(),
    ignore_label=st.sampled_from([0, 1, 3, 5, 254, 255, -1]),
)
def test_every_value_of_masks_becomes_one_of_the_classes(names, chosen, ignore_label):
    only = chosen.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    new = choose_names({"stuff_classes": names}, only, ignore_label, "card")
    values = new["read_sem_seg"].table
    assert len(values) == 256
    for value, name in enumerate(names):
        if value == ignore_label:
            assert values[value] == ignore_label
        elif name in only:
            assert new["stuff_classes"][values[value]] == name
        else:
            assert new["stuff_classes"][values[value]] in ("background", "void")
    assert max(set(values) - {ignore_label}) < len(new["stuff_classes"])
    assert ignore_label not in [values[v] for v in range(256) if v != ignore_label]


def test_another_choice_is_another_data_set(toy_card):
    register_card({**toy_card, "only": ONLY})
    with pytest.raises(DatasetError, match="registered already"):
        register_card(toy_card)
