"""Finding out what images are for by folders and names: classes, masks beside them, or nothing."""

import pytest
from detectron2.data import DatasetCatalog

from layouts import PHOTO, coco, mask, photos, sizes
from multas.data import register_card
from multas.data.looking.find import find_card, find_cards
from multas.data.looking.roles import roles
from multas.util.errors import UserError


@pytest.mark.parametrize(
    ("files", "classes", "numbers"),
    [
        (photos("{}.jpg", "cat/a", "cat/b", "dog/x/c"), ["cat", "dog"], {"all": (3, 3)}),
        (photos("{}.jpg", "train/cat/a", "train/dog/b", "val/dog/c", "unlabeled/d"), ["cat", "dog"],
         {"train": (2, 2), "val": (1, 1), "unlabeled": (1, 0)}),
        (photos("{}.jpg", "with_mask/1", "without_mask/1"), ["with_mask", "without_mask"],
         {"all": (2, 2)}),
        ({f"{s}/{c}/1.png": mask(*range(1, c + 1)) for s in ("train", "test") for c in range(9)},
         [*map(str, range(9))], {"train": (9, 9), "test": (9, 9)}),
        (photos("{}/1.jpg", "bus", "car", "train"),
         ["bus", "car", "train"], {"all": (3, 3)}),
        ({**photos("train/{}/1.jpg", "flask", "test_tube"),
          **photos("val/{}/1.jpg", "flask", "test_tube")},
         ["flask", "test_tube"], {"train": (2, 2), "val": (2, 2)}),
        ({**photos("train/{}/1.jpg", "cat", "dog"), **photos("test/{}.jpg", "1", "2")},
         ["cat", "dog"], {"train": (2, 2)}),
        ({**photos("images/{}/1.jpg", "001.Gull", "002.Tern"), "images.txt": "1 001.Gull/1.jpg\n"},
         ["001.Gull", "002.Tern"], {"all": (2, 2)}),
        ({**photos("train/n1/images/{}.JPEG", "n1_0", "n1_1"), "train/n1/n1_boxes.txt": "n1_0 1\n",
          **photos("train/n2/images/{}.JPEG", "n2_0", "n2_1"), "wnids.txt": "n1\nn2\n",
          **photos("val/images/{}.JPEG", "val_0", "val_1"), **photos("test/images/{}.JPEG", "a"),
          "test/images/b.JPEG": PHOTO,
          "val/val_annotations.txt": "val_0.JPEG\tn2\t0\t0\t9\t9\nval_1.JPEG\tn1\t0\t0\t9\t9\n"},
         ["n1", "n2"], {"train": (4, 4), "val": (2, 2)}),
    ],
    ids=["flat", "splits", "masks in faces", "drawings", "a class called train",
         "a class called test tube", "a test split without classes", "CUB", "Tiny ImageNet"],
)  # fmt: skip
def test_class_folders(lay, files, classes, numbers):
    card = find_card(lay(files))
    assert (card["format"], card["classes"]) == ("folders", classes)
    assert sizes(card) == numbers


CLASSES = photos("{}.jpg", "train/cat/1", "train/dog/1")
LISTS = {
    "of another split": ({**photos("test/{}.jpg", "1", "2"), "val.txt": "1.jpg cat\n2.jpg dog\n"},
                         {"train": (2, 2)}),
    "predictions": (
        {**photos("test/{}.jpg", "1", "2"), "submission.txt": "1.jpg cat\n2.jpg dog\n"},
        {"train": (2, 2)}),
    "beside class folders": (
        {**photos("val/{}.jpg", "cat/1", "dog/2", "3"), "val.txt": "3.jpg cat\n"},
        {"train": (2, 2), "val": (2, 2), "unlabeled": (1, 0)}),
    "of some": ({**photos("val/{}.jpg", "1", "2", "3"), "val.txt": "1.jpg cat\n3.jpg dog\n"},
                {"train": (2, 2), "val": (2, 2), "unlabeled": (1, 0)}),
}  # fmt: skip


@pytest.mark.parametrize(("files", "numbers"), LISTS.values(), ids=LISTS)
def test_lists_of_classes(lay, files, numbers):
    assert sizes(find_card(lay({**CLASSES, **files}))) == numbers


NO_CLASSES = {
    "a JSON file for each": (
        {**photos("{}/1.jpg", "day1", "day2"), "day1/1.json": "{}", "day2/1.json": "{}"}, ""),
    "labels of KITTI": ({**photos("image_{}/1.jpg", "2", "3"), "label_2/1.txt": "Car 0 0"}, ""),
    "a table": (
        {**photos("train/{}/1.jpg", "a", "b"), "train/_annotations.csv": "1.jpg,9,9"},
        "train/_annotations.csv: not read"),
    "other cities in each split": (
        {**photos("photos/{}/1.jpg", "train/aachen", "train/ulm", "val/jena")},
        "nothing annotates them"),
    "a folder of one image for each": (photos("{}/images/1.jpg", "a", "b"), "nothing annotates"),
    "unknown annotations beside": (
        {**photos("images/{}/1.jpg", "ulm", "jena"), "all.json": "{}"}, "nothing annotates"),
    "tables in folders": (
        {**photos("v1/images/{}.jpg", "1", "2"), **photos("v2/images/{}.jpg", "1", "2"),
         "v1/tracks.csv": "9,9\n8,8\n"}, "tracks.csv"),
    "masks in folders": (
        {**photos("gtFine/train/{}/1.png", "a", "b"), **photos("photos/train/{}/1.png", "a", "b")},
        ""),
}  # fmt: skip


@pytest.mark.parametrize(("files", "told"), NO_CLASSES.values(), ids=NO_CLASSES)
def test_folders_that_are_no_classes(lay, files, told):
    if not told:
        with pytest.raises(UserError, match="has no data set"):
            find_cards(lay(files))
        return
    (card,), notes = find_cards(lay(files))
    assert card["format"] == "images"
    assert any(told in note for note in notes)


BESIDE = {
    "of Roboflow": (
        {**photos("train/{}.jpg", "a", "b"), **photos("valid/{}.jpg", "c"),
         **{f"{name}_mask.png": mask(1, 2) for name in ("train/a", "train/b", "valid/c")},
         "train/_classes.csv": "Pixel Value, Class\n0, background\n1, car\n2, dog\n"},
        {"classes": ["background", "car", "dog"], "mask_suffix": "_mask"},
        {"train": (2, 2), "val": (1, 1)}),
    "black and white, some": (
        {**photos("{}.jpg", "a", "b", "c"),
         **{f"{name}-seg.png": 255 * mask(1) for name in ("a", "b")}},
        {"classes": ["background", "object"], "mask_suffix": "-seg", "threshold": 128},
        {"all": (2, 2)}),
}  # fmt: skip


@pytest.mark.parametrize(("files", "keys", "numbers"), BESIDE.values(), ids=BESIDE)
def test_masks_beside_their_images(lay, files, keys, numbers):
    card = find_card(lay(files))
    assert card["format"] == "masks"
    assert keys.items() <= card.items()
    assert sizes(card) == numbers
    for split in numbers:
        for record in DatasetCatalog.get(f"{card['name']}_{split}"):
            assert record["sem_seg_file_name"] != record["file_name"]


def test_unlabelled_images_are_no_masks_beside_others(lay):
    card = find_card(
        lay({**photos("{}.jpg", "a", "b"), "a_mask.png": mask(1), "b_mask.png": mask(1)})
    )
    register_card(card)
    unlabeled = DatasetCatalog.get(f"{card['name']}_all_unlabeled")
    assert [record["image_id"] for record in unlabeled] == ["a", "b"]


@pytest.mark.parametrize("names", [("cat_mask",), ("a", "a_mask")], ids=["names", "photographs"])
def test_photographs_called_masks_are_none(lay, names):
    assert find_card(lay(photos("{}.jpg", *names)))["format"] == "images"


def test_why_a_json_file_is_not_read_is_told(lay):
    content = coco(["a.jpg"])
    del content["annotations"][0]["bbox"]
    (card,), notes = find_cards(lay({**photos("{}.jpg", "a"), "all.json": content}))
    assert card["format"] == "images"
    (told,) = (note for note in notes if "all.json" in note)
    assert told.startswith("all.json is passed over") and "no boxes of classes" in told


def test_files_that_may_annotate_images_are_named(lay):
    others = {f"boxes/{i}.json": {"regions": []} for i in range(3)}
    others |= {"lists/faces.txt": "a.jpg\n", "notes.xml": "<a/>"}
    _, notes = find_cards(lay({**photos("{}.jpg", "a"), **others}))
    listed = [f"boxes/{i}.json" for i in range(3)]
    assert f"{', '.join([*listed, 'lists/faces.txt'])} and 1 more: not read" in notes


def test_images_alone_are_unlabelled(lay):
    card = find_card(lay(photos("train/{}.jpg", "a", "b")))
    assert (card["format"], sizes(card)) == ("images", {"unlabeled": (2, 0)})
    assert roles(card) == {"train": [], "val": [], "test": [], "unlabeled": ["unlabeled"]}
