"""Faulty data in COCO format: found when loaded, reported together or left out."""

import itertools
import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator

from image_files import HEIGHT, WIDTH, write_image
from multas.data import DatasetError, register_card


def write_coco(root, *, annotations, images=None, categories=((3, "cat"), (7, "dog"))):
    for number in (1, 2, 3):
        write_image(root / "images" / f"{number:03d}.jpg")
    if images is None:
        images = [(number, f"{number:03d}.jpg", WIDTH, HEIGHT) for number in (1, 2, 3)]
    content = {
        "images": [
            dict(zip(("id", "file_name", "width", "height"), i, strict=True)) for i in images
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for number, (image, category, box) in enumerate(annotations, start=1)
        ],
        "categories": [{"id": i, "name": name} for i, name in categories],
    }
    (root / "train.json").write_text(json.dumps(content))


def coco_card(root, **keys):
    splits = {"train": {"json": "train.json", "images": "images"}}
    return {"name": "mini", "format": "coco", "root": str(root), "splits": splits, **keys}


BOX = [2, 3, 10, 8]


def test_coco_faults_are_reported_together(tmp_path):
    write_coco(
        tmp_path,
        annotations=[
            (1, 3, BOX),
            (1, 3, [2, 3, 0, 8]),
            (2, 7, [35, 3, 10, 8]),
            (2, 9, BOX),
            (8, 3, BOX),
        ],
        images=[
            (1, "001.jpg", WIDTH, HEIGHT),
            (2, "002.jpg", WIDTH, HEIGHT),
            (3, "003.jpg", HEIGHT, WIDTH),
            (4, "004.jpg", WIDTH, HEIGHT),
            (5, "001.jpg", WIDTH, HEIGHT),
            (6, "001.png", WIDTH, HEIGHT),
        ],
    )
    register_card(coco_card(tmp_path, classes=["cat", "dgo"]))
    with pytest.raises(DatasetError) as error:
        DatasetCatalog.get("mini_train")
    for expected in (
        "has no category 'dgo', did you mean dog?",
        "category 'dog' is not among the card's classes",
        "001.jpg: annotation 2 (cat): box x 2, y 3, w 0, h 8 has no area",
        "002.jpg: annotation 4: unknown category id 9",
        "annotation 5: there is no image 8",
        "003.jpg: listed as 30x40, but the image is 40x30",
        "004.jpg: not a readable image",
        "image 5 (001.jpg) is listed twice",
        "image 6 (001.png) has the id of 001.jpg",
    ):
        assert expected in str(error.value), expected
    register_card(coco_card(tmp_path, name="lenient", strictness="skip"))
    records = DatasetCatalog.get("lenient_train")
    assert [record["image_id"] for record in records] == [1]  # 2 has only a faulty box
    assert len(records[0]["annotations"]) == 1


def test_coco_boxes_outside_are_found_but_rounding_is_not_a_fault(tmp_path):
    write_coco(tmp_path, annotations=[(1, 3, [35, 3, 5.01, 8]), (2, 3, [35, 3, 10, 8])])
    register_card(coco_card(tmp_path))
    with pytest.raises(DatasetError, match="1 issue\n") as error:
        DatasetCatalog.get("mini_train")
    assert "002.jpg: annotation 2 (cat)" in str(error.value) and "leaves" in str(error.value)


def test_coco_classes_follow_the_category_ids(tmp_path):
    write_coco(tmp_path, annotations=[(1, 7, BOX)], categories=((7, "dog"), (3, "cat")))
    register_card(coco_card(tmp_path))
    records = DatasetCatalog.get("mini_train")
    metadata = MetadataCatalog.get("mini_train")
    assert metadata.thing_classes == ["cat", "dog"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    assert records[0]["annotations"][0]["category_id"] == 1
    assert [record["annotations"] for record in records[1:]] == [[], []]


def test_another_class_order_in_the_card_is_reported_and_evaluated_rightly(tmp_path):
    write_coco(tmp_path, annotations=[(1, 7, BOX), (2, 3, BOX), (2, 7, [20, 3, 9, 9])])
    register_card(coco_card(tmp_path, classes=["dog", "cat"]))
    with pytest.raises(DatasetError, match="class order: the card has 'dog' where"):
        DatasetCatalog.get("mini_train")
    register_card(coco_card(tmp_path, name="own", classes=["dog", "cat"], strictness="skip"))
    records = DatasetCatalog.get("own_train")
    assert records[0]["annotations"][0]["category_id"] == 0
    # The evaluator must name results by the card's order: "dog" is found, "cat" is not.
    import torch
    from detectron2.structures import Boxes, Instances

    output = tmp_path / "out"
    evaluator = COCOEvaluator("own_train", output_dir=str(output), use_fast_impl=False)
    evaluator.reset()
    for record in records:
        dogs = [e["bbox"] for e in record["annotations"] if e["category_id"] == 0]
        instances = Instances((HEIGHT, WIDTH))
        boxes = torch.tensor(dogs, dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances.pred_boxes = Boxes(boxes)
        instances.scores = torch.ones(len(dogs))
        instances.pred_classes = torch.zeros(len(dogs), dtype=torch.int64)
        evaluator.process([record], [{"instances": instances}])
    scores = evaluator.evaluate()["bbox"]
    assert scores["AP-dog"] == pytest.approx(100)
    assert scores["AP-cat"] == pytest.approx(0)


def test_coco_lists_select_by_file_name(tmp_path):
    write_coco(tmp_path, annotations=[(1, 3, BOX)])
    (tmp_path / "few.txt").write_text("003\n001\n")
    splits = {"few": {"json": "train.json", "images": "images", "ids": "few"}}
    register_card(coco_card(tmp_path, splits=splits))
    assert [record["image_id"] for record in DatasetCatalog.get("mini_few")] == [3, 1]
    assert [record["image_id"] for record in DatasetCatalog.get("mini_few_unlabeled")] == [3, 1]
    (tmp_path / "few.txt").write_text("009\n")
    with pytest.raises(DatasetError, match="has no image 009"):
        DatasetCatalog.get("mini_few")


def test_unlabelled_coco_reads_no_json_and_mixes_no_splits(tmp_path):
    write_coco(tmp_path, annotations=[])
    (tmp_path / "train.json").unlink()
    register_card(coco_card(tmp_path))
    assert len(DatasetCatalog.get("mini_train_unlabeled")) == 3
    splits = {s: {"json": f"{s}.json", "images": "images"} for s in ("train", "test")}
    register_card(coco_card(tmp_path, name="two", splits=splits))
    with pytest.raises(DatasetError, match="shares the folder"):
        DatasetCatalog.get("two_train_unlabeled")


def test_images_without_annotations_are_those_that_no_split_has(tmp_path):
    write_coco(tmp_path, annotations=[(1, 3, BOX)])
    for name in ("new", "newer"):
        write_image(tmp_path / "images" / f"{name}.jpg")
    (tmp_path / "images" / "newer.jpg").write_bytes(b"")
    train = {"json": "train.json", "images": "images"}
    rest = {"images": "images", "annotates": [], "without": ["train"]}
    register_card(coco_card(tmp_path, splits={"train": train, "rest": rest}, strictness="skip"))
    assert [record["image_id"] for record in DatasetCatalog.get("mini_rest")] == ["new"]
    assert MetadataCatalog.get("mini_rest").annotates == ()
    splits = {"train": train, "rest": {**rest, "without": []}}
    register_card(coco_card(tmp_path, name="two", splits=splits))
    with pytest.raises(DatasetError, match=r"leave theirs out: `without: \[train\]`"):
        DatasetCatalog.get("two_rest")


@pytest.mark.parametrize("content", ["{", "[]", '{"images": []}'])
def test_a_broken_coco_file_is_named(tmp_path, content):
    write_coco(tmp_path, annotations=[])
    (tmp_path / "train.json").write_text(content)
    register_card(coco_card(tmp_path))
    with pytest.raises(DatasetError, match=r"train\.json"):
        DatasetCatalog.get("mini_train")


def test_coco_polygons_are_kept_and_checked(tmp_path):
    write_coco(tmp_path, annotations=[(1, 3, BOX), (2, 3, BOX)])
    content = json.loads((tmp_path / "train.json").read_text())
    triangle = [2, 3, 12, 3, 12, 11]
    content["annotations"][0]["segmentation"] = [triangle, [1, 2]]
    content["annotations"][1]["segmentation"] = [[1, 2]]
    (tmp_path / "train.json").write_text(json.dumps(content))
    register_card(coco_card(tmp_path, strictness="skip"))
    records = DatasetCatalog.get("mini_train")
    assert [record["image_id"] for record in records] == [1, 3]
    assert records[0]["annotations"][0]["segmentation"] == [triangle]


def load_skipping(root, name):
    register_card(coco_card(root, name=name, strictness="skip"))
    return DatasetCatalog.get(f"{name}_train")


def test_faulty_entries_are_left_out_and_the_evaluator_does_not_read_their_file(tmp_path):
    write_coco(tmp_path, annotations=[(1, 3, BOX), (1, 7, BOX), (2, 3, BOX), (3, 3, BOX)])
    content = json.loads((tmp_path / "train.json").read_text())
    content["annotations"][1]["bbox"][0] = float("nan")
    del content["annotations"][2]["category_id"]
    content["annotations"] += [7, dict(content["annotations"][0])]
    content["images"].append(None)
    content["categories"].append({"id": 9, "name": "cat"})
    (tmp_path / "train.json").write_text(json.dumps(content))
    records = load_skipping(tmp_path, "spoilt")
    # The second image has lost its only object, and must not pass for background.
    assert [len(record["annotations"]) for record in records] == [1, 1]
    metadata = MetadataCatalog.get("spoilt_train")
    assert metadata.thing_classes == ["cat", "dog"]
    assert metadata.get("json_file") is None
    COCOEvaluator("spoilt_train", output_dir=str(tmp_path / "out"))  # writes a file of its own


@pytest.mark.parametrize("key", ["area", "iscrowd"])
def test_a_file_that_pycocotools_cannot_evaluate_is_not_handed_to_it(tmp_path, key):
    write_coco(tmp_path, annotations=[(1, 3, BOX), (2, 7, BOX)])
    content = json.loads((tmp_path / "train.json").read_text())
    del content["annotations"][1][key]
    (tmp_path / "train.json").write_text(json.dumps(content))
    register_card(coco_card(tmp_path, name=f"no_{key}"))
    assert len(DatasetCatalog.get(f"no_{key}_train")) == 3
    assert MetadataCatalog.get(f"no_{key}_train").get("json_file") is None


def test_objects_that_are_annotated_twice_stay_and_are_mentioned(tmp_path, caplog):
    write_coco(tmp_path, annotations=[(1, 3, BOX), (1, 3, BOX), (1, 7, BOX), (2, 3, BOX)])
    register_card(coco_card(tmp_path))
    with caplog.at_level("WARNING"):
        records = DatasetCatalog.get("mini_train")
    assert len(records[0]["annotations"]) == 3
    assert "annotated twice" in caplog.text and "train.json: 001.jpg" in caplog.text
    assert "002.jpg" not in caplog.text.split("annotated twice")[1].split("\n")[0]


@pytest.mark.parametrize("counts", ["list", "encoded"])
def test_run_lengths_of_all_masks_are_sound(tmp_path, counts):
    write_coco(tmp_path, annotations=[(1, 3, BOX)])
    content = json.loads((tmp_path / "train.json").read_text())
    rng = np.random.default_rng(0)
    for share in (0, 0.01, 0.3, 0.9, 1):
        mask = np.asfortranarray(rng.random((HEIGHT, WIDTH)) < share).astype(np.uint8)
        mask[5:20, 7:9] = 1
        if counts == "encoded":
            encoded = mask_util.encode(np.asfortranarray(mask))["counts"].decode()
        else:
            flat = mask.ravel(order="F").tolist()
            encoded = [0] * bool(flat[0]) + [len(list(run)) for _, run in itertools.groupby(flat)]
        content["annotations"][0]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": encoded}
        (tmp_path / "train.json").write_text(json.dumps(content))
        register_card(coco_card(tmp_path, name=f"runs{share}"))
        record = DatasetCatalog.get(f"runs{share}_train")[0]
        found = record["annotations"][0]["segmentation"]
        assert np.array_equal(mask_util.decode(found), mask)
