"""Finding out what a folder has: layouts as tools write them, and as users leave them."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from layouts import BOX, coco, mask, photos, sizes, texts, voc
from multas.data import register_card
from multas.data.looking.find import find_card, find_cards
from multas.data.looking.roles import roles
from multas.util.errors import UserError

VOC = {
    "devkit": (
        {**photos("JPEGImages/{}.jpg", *"abc"), "Annotations/a.xml": voc("dog"),
         "Annotations/b.xml": voc("cat"), "Annotations/c.xml": voc(),
         "ImageSets/Main/train.txt": "a\nb\n", "ImageSets/Main/val.txt": "c\n",
         "ImageSets/Main/dog_train.txt": "a 1\nb -1\n", "ImageSets/Layout/train.txt": "a\n",
         "ImageSets/Half/trainval.txt": "a\n", "README.txt": "three pets\n"},
        {"train": "Main/train", "val": "Main/val", "half": "Half/trainval"},
        {"train": (2, 2), "val": (1, 1), "half": (1, 1)}),
    "flat": (
        {**photos("{}.jpg", "a b", "ü"), "a b.xml": voc("cat"), "ü.xml": voc("dog")},
        {"all": {}}, {"all": (2, 2)}),
    "partly labelled": (
        {**photos("JPEGImages/{}.jpg", *"abcd"), "Annotations/a.xml": voc("dog"),
         "Annotations/b.xml": voc("cat")},
        {"all": {"only_complete": True}, "unlabeled": {"annotates": [], "without": ["all"]}},
        {"all": (2, 2), "unlabeled": (2, 0)}),
    "a folder for each split": (
        {**photos("train/{}.jpg", *"ab"), "train/a.xml": voc("dog"), "train/b.xml": voc("cat"),
         **photos("valid/{}.jpg", "c"), "valid/c.xml": voc("cat")},
        {"train": {"images": "train", "annotations": "train"},
         "val": {"images": "valid", "annotations": "valid"}},
        {"train": (2, 2), "val": (1, 1)}),
    "a test list without labels": (
        {**photos("JPEGImages/{}.jpg", *"abc"), "Annotations/a.xml": voc("dog", "cat"),
         "ImageSets/Main/train.txt": "a\n", "ImageSets/Main/test.txt": "b\nc\n"},
        {"train": "Main/train", "test": {"ids": "Main/test", "annotates": []}},
        {"train": (1, 1), "test": (2, 0)}),
}  # fmt: skip


@pytest.mark.parametrize(("files", "splits", "numbers"), VOC.values(), ids=VOC)
def test_voc(lay, files, splits, numbers):
    folder = lay(files)
    (card,), notes = find_cards(folder)
    assert (card["name"], card["format"], card["root"]) == ("my_set", "voc", str(folder))
    assert card["classes"] == ["cat", "dog"]
    assert card["splits"] == splits
    assert sizes(card) == numbers
    assert any("VOC's XML files" in note for note in notes)
    assert not any("passed over" in note for note in notes)


def test_lists_of_images_that_are_not_here_are_told(lay):
    files = VOC["devkit"][0] | {"ImageSets/Main/val.txt": "c\nd\ne\n"}
    (card,), notes = find_cards(lay(files))
    assert card["splits"].keys() == {"train", "half", "unlabeled"}
    told = "list ImageSets/Main/val.txt is passed over: of its 3 lines, 1 name images that are here"
    assert told in notes
    files["ImageSets/Main/val.txt"] = "c.jpg\nb.jpg\n"
    _, notes = find_cards(lay(files))
    told = "val.txt is passed over: of its 2 lines, 0 name images that are here; ids have no exten"
    assert any(told in note for note in notes)


COCO = {
    "COCO's own": (
        {**photos("train2017/{}.jpg", "1", "2"), **photos("val2017/{}.jpg", "1"),
         "annotations/instances_train2017.json": coco(["1.jpg", "2.jpg"]),
         "annotations/instances_val2017.json": coco(["1.jpg"]),
         "annotations/captions_val2017.json": coco(["1.jpg"], annotations=[{"caption": "a cat"}]),
         "annotations/person_keypoints_val2017.json": coco(["1.jpg"])},
        {"train": (2, 2), "val": (1, 1)}),
    "Roboflow": (
        {**photos("train/{}.jpg", "a", "b"), **photos("valid/{}.jpg", "a"),
         "train/_annotations.coco.json": coco(["a.jpg", "b.jpg"]),
         "valid/_annotations.coco.json": coco(["a.jpg"])},
        {"train": (2, 2), "val": (1, 1)}),
    "one folder of images": (
        {**photos("images/{}.jpg", *"abcd"), "train.json": coco(["a.jpg", "b.jpg"]),
         "test.json": coco(["c.jpg"]), "all.json": coco(["a.jpg", "b.jpg", "c.jpg"])},
        {"train": (2, 2), "test": (1, 1), "unlabeled": (1, 0)}),
    "Label Studio": (
        {**photos("images/{}.jpg", "a"), "result.json": coco(["images/a.jpg"])},
        {"all": (1, 1)}),
    "images to be labelled": (
        {**photos("train2017/{}.jpg", "a"), **photos("unlabeled2017/{}.jpg", "b", "c"),
         "annotations/instances_train2017.json": coco(["a.jpg"]),
         "annotations/image_info_unlabeled2017.json": {"images": coco(["b.jpg"])["images"]}},
        {"train": (1, 1), "unlabeled": (1, 0)}),
    "files of other images": (
        {**photos("val2017/{}.jpg", "a"), "annotations/instances_val2017.json": coco(["a.jpg"]),
         "annotations/instances_train2017.json": coco(["x.jpg"]), "package.json": {"name": "x"},
         "broken.json": "{"},
        {"val": (1, 1)}),
}  # fmt: skip


@pytest.mark.parametrize(("files", "numbers"), COCO.values(), ids=COCO)
def test_coco(lay, files, numbers):
    (card,), notes = find_cards(lay(files))
    assert (card["format"], card["classes"]) == ("coco", ["cat", "dog"])
    assert sizes(card) == numbers
    assert "only" not in card and any("is COCO's, its" in note for note in notes)


def test_categories_that_differ_or_are_groups(lay):
    files = {**photos("images/{}.jpg", "a", "b"), "val.json": coco(["b.jpg"], ["dog"])}
    groups = [{"id": 0, "name": "pets", "supercategory": "none"}]
    table = [*groups, *({**c, "supercategory": "pets"} for c in coco([])["categories"])]
    card = find_card(lay({**files, "train.json": {**coco(["a.jpg"]), "categories": table}}))
    assert card["classes"] == ["pets", "cat", "dog"] and card["only"] == ["cat", "dog"]
    assert sizes(card) == {"train": (1, 1), "val": (1, 1)}
    own = [DatasetCatalog.get(f"my_set_{split}")[0]["annotations"] for split in ("train", "val")]
    assert [objects[0]["category_id"] for objects in own] == [0, 1]
    assert MetadataCatalog.get("my_set_val").thing_classes == ["cat", "dog"]


YOLO = {
    "data.yaml": (
        {**photos("images/train/{}.jpg", *"ab"), "labels/train/a.txt": BOX,
         **photos("images/val/{}.jpg", *"cd"), "labels/val/c.txt": BOX,
         "data.yaml": {"train": "images/train", "val": "images/val", "test": "images/test",
                       "names": ["cat", "dog"]}},
        {"train": "images/train", "val": "images/val"}, {"train": (2, 2), "val": (2, 2)}),
    "one folder for all, as in Ultralytics' coco128": (
        {**photos("images/a/{}.jpg", *"ab"), **texts("labels/a/{}.txt", *"ab"),
         "coco128.yaml": {"train": "images/a", "val": "images/a", "names": ["cat", "dog"]}},
        {"train": "images/a"}, {"train": (2, 2)}),
    "Roboflow": (
        {**photos("train/images/{}.jpg", *"ab"), **texts("train/labels/{}.txt", *"ab"),
         **photos("test/images/{}.jpg", "c"),
         "data.yaml": {"train": "../train/images", "test": "../test/images", "nc": 2,
                       "names": ["cat", "dog"]}},
        {"train": "train/images", "test": {"files": "test/images", "annotates": []}},
        {"train": (2, 2), "test": (1, 0)}),
    "paths of Colab": (
        {**photos("train/images/{}.jpg", *"ab"), **texts("train/labels/{}.txt", *"ab"),
         "data.yaml": {"train": "/content/pets/train/images", "val": "/content/pets/valid/images",
                       "names": {0: "cat", 1: "dog"}}},
        {"train": "train/images"}, {"train": (2, 2)}),
    "no data.yaml": (
        {**photos("images/train/x/{}.jpg", "a"), "labels/train/x/a.txt": BOX,
         **photos("images/train/y/{}.jpg", "a"), "labels/train/y/a.txt": BOX,
         **photos("images/val/{}.jpg", "c"), "labels/val/c.txt": BOX,
         "labels/classes.txt": "cat\ndog\n", "classes.txt": "cat\ndog\n"},
        {"train": "images/train", "val": "images/val"}, {"train": (2, 2), "val": (1, 1)}),
    "text beside the image": (
        {**photos("{}.png", "a", "b"), "a.txt": BOX, "b.txt": "1 0.5 0.5 0.2 0.2\n",
         "classes.txt": "cat\ndog\n"},
        {"all": "."}, {"all": (2, 2)}),
    "hardly begun": (
        {**photos("images/{}.jpg", *"abcd"), "labels/a.txt": BOX, "obj.names": "cat\ndog\n"},
        {"all": {"files": "images", "only_complete": True},
         "unlabeled": {"files": "images", "annotates": [], "without": ["all"]}},
        {"all": (1, 1), "unlabeled": (3, 0)}),
}  # fmt: skip


@pytest.mark.parametrize(("files", "splits", "numbers"), YOLO.values(), ids=YOLO)
def test_yolo(lay, files, splits, numbers):
    (card,), _ = find_cards(lay(files))
    assert (card["name"], card["format"], card["classes"]) == ("my_set", "yolo", ["cat", "dog"])
    assert card["splits"] == splits
    assert sizes(card) == numbers


def test_numbers_without_names(lay):
    card, notes = find_cards(lay({**photos("{}.jpg", "a"), "a.txt": "2 0.5 0.5 0.1 0.1\n"}))
    assert card[0]["classes"] == ["class_0", "class_1", "class_2"]
    assert any("nothing names the classes" in note for note in notes)


MASKS = {
    "values alone": (
        {**photos("images/{}.jpg", *"abc"), "masks/a.png": mask(1), "masks/b.png": mask(2, 255)},
        {"classes": ["background", "class_1", "class_2"],
         "splits": {"all": {"only_complete": True},
                    "unlabeled": {"annotates": [], "without": ["all"]}}},
        {"all": (2, 2), "unlabeled": (1, 0)}),
    "black and white": (
        {**photos("train/{}.jpg", "a"), "train_masks/a_mask.png": mask(255)},
        {"classes": ["background", "object"], "threshold": 128, "mask_suffix": "_mask"},
        {"train": (1, 1)}),
    "black and white, of any kind": (
        {**photos("images/{}.png", *"abc"), "masks/a.jpg": mask(*[255] * 9),
         "masks/b.png": np.stack([mask(255)] * 3, axis=-1), "masks/c.png": mask(0)},
        {"classes": ["background", "object"], "threshold": 128}, {"all": (3, 3)}),
    "CamVid": (
        {**photos("train/{}.png", "1"), **photos("test/{}.png", "1"), "trainannot/1.png": mask(2),
         "testannot/1.png": mask(1, 1, 2, 1)},
        {"splits": {"train": {"images": "train", "masks": "trainannot"},
                    "test": {"images": "test", "masks": "testannot"}}},
        {"train": (1, 1), "test": (1, 1)}),
    "names beside them": (
        {**photos("img/train/{}.png", "1"), "ann/train/1.png": mask(1, 2),
         **photos("img/val/{}.png", "1"), "ann/val/1.png": mask(2), "classes.txt": "wall\ndoor\n"},
        {"classes": ["background", "wall", "door"]},
        {"train": (1, 1), "val": (1, 1)}),
    "CVAT's names, lists": (
        {**photos("JPEGImages/{}.jpg", *"ab"), "SegmentationClass/a.png": mask(1),
         "SegmentationClass/b.png": mask(0), "SegmentationObject/a.png": mask(1),
         "SegmentationObject/b.png": mask(0), "ImageSets/Segmentation/train.txt": "a\n",
         "ImageSets/Segmentation/val.txt": "b\n",
         "labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndoor:9,9,9::\n"},
        {"classes": ["background", "door"], "splits": {"train": "Segmentation/train",
                                                       "val": "Segmentation/val"}},
        {"train": (1, 1), "val": (1, 1)}),
    "gaps": (
        {**photos("images/{}.jpg", "a"), "masks/a.png": mask(7, 11),
         "masks/categories.json": [{"value": 0, "name": "unlabeled"}, {"value": 7, "name": "road"},
                                   {"value": 11, "name": "wall"}]},
        {"classes": {0: "unlabeled", 7: "road", 11: "wall"}, "only": ["road", "wall"],
         "ignore_label": 0},
        {"all": (1, 1)}),
    "sub-folders": (
        {**photos("images/{}/1.jpg", *"xy"), **{f"labels/{x}/1.png": mask(1) for x in "xy"}},
        {"classes": ["background", "object"], "images": "images", "masks": "labels"},
        {"all": (2, 2)}),
}  # fmt: skip


@pytest.mark.parametrize(("files", "keys", "numbers"), MASKS.values(), ids=MASKS)
def test_masks(lay, files, keys, numbers):
    (card,), notes = find_cards(lay(files))
    assert card["format"] == "masks"
    assert {key: card.get(key) for key in keys} == keys, notes
    assert sizes(card) == numbers


def test_masks_beside_few_boxes(lay):
    files = {f"annotations/trimaps/{x}.png": mask(1, 2, 1) for x in "abc"}
    files |= {f"annotations/xmls/{x}.xml": voc("cat") for x in "ab"}
    (boxes, masks), _ = find_cards(lay({**photos("images/{}.jpg", *"abcd"), **files}))
    assert (boxes["images"], masks["masks"]) == ("images", "annotations/trimaps")
    assert sizes(boxes) == {"all": (2, 2), "unlabeled": (2, 0)}
    assert sizes(masks) == {"all": (3, 3)}


def test_boxes_and_masks_take_two_cards_with_the_same_splits(lay):
    photographs = photos("images/{}.jpg", *"abcde")
    files = {
        "annotations/train.json": coco(["a.jpg", "b.jpg"]),
        "annotations/val.json": coco(["c.jpg", "d.jpg"]),
        **{f"masks/{name}.png": mask(1, 2) for name in "abc"},
    }
    folder = lay({**photographs, **files})
    (boxes, masks), _ = find_cards(folder)
    assert (boxes["name"], masks["name"]) == ("my_set", "my_set_masks")
    assert masks["classes"] == ["background", "cat", "dog"]
    assert sizes(boxes) == {"train": (2, 2), "val": (2, 2), "unlabeled": (1, 0)}
    assert sizes(masks) == {"train": (2, 2), "val": (1, 1)}
    with pytest.raises(
        UserError, match=r"boxes and masks.*my_set \(coco\), my_set_masks \(masks\)"
    ):
        find_card(folder)


def test_a_group_of_the_name_of_its_class_does_not_count(lay):
    content = coco(["a.jpg"])  # as Roboflow writes it for a project called cat
    content["categories"] = [{"id": 0, "name": "cat", "supercategory": "none"},
                             {"id": 1, "name": "cat", "supercategory": "cat"}]  # fmt: skip
    card = find_card(lay({**photos("{}.jpg", "a"), "all.json": content}))
    assert (card["classes"], "only" in card) == (["cat"], False)
    assert sizes(card) == {"all": (1, 1)}
    assert not hasattr(MetadataCatalog.get(f"{card['name']}_all"), "json_file")


def test_file_names_of_windows(lay):
    files = {**photos("images/{}.jpg", "a", "sub/b", "c"),
             "train.json": coco(["images\\a.jpg", "images\\sub\\b.jpg"]),
             "val.json": coco(["images\\c.jpg"])}  # fmt: skip
    card = find_card(lay(files))
    assert sizes(card) == {"train": (2, 2), "val": (1, 1)}
    # The files are the lists of their images, too.
    unlabeled = DatasetCatalog.get(f"{card['name']}_train_unlabeled")
    assert [record["image_id"] for record in unlabeled] == ["a", "b"]


def test_folders_with_capitals(lay):
    files = {**photos("Images/train/{}.jpg", "a"), **texts("Labels/train/{}.txt", "a")}
    card = find_card(lay(files))
    assert (card["format"], sizes(card)) == ("yolo", {"train": (1, 1)})


def test_a_data_yaml_whose_lists_lead_nowhere_is_looked_beside(lay):
    files = {**photos("images/train/{}.jpg", "a", "b"), **texts("labels/train/{}.txt", "a", "b"),
             "train.txt": "data/images/train/a.jpg\ndata/images/train/b.jpg\n",
             "data.yaml": {"train": "train.txt", "names": {0: "cat"}, "path": "."}}  # fmt: skip
    (card,), notes = find_cards(lay(files))
    assert (card["classes"], sizes(card)) == (["cat"], {"train": (2, 2)})
    assert any("data/images/train/a.jpg of train.txt is not there" in note for note in notes)


def test_names_of_classes_that_come_twice_are_told(lay):
    files = {**photos("{}.jpg", "a"), **texts("{}.txt", "a"), "classes.txt": "cat\ncat\n"}
    (card,), notes = find_cards(lay(files))
    assert card["classes"] == ["class_0"]
    assert any(
        "classes.txt is passed over: it has the class cat more than once" in n for n in notes
    )


def test_names_of_classes_by_darknet(lay):
    files = {**photos("train/{}.jpg", "a"), **texts("train/{}.txt", "a"),
             "train/_darknet.labels": "cat\ndog\n"}  # fmt: skip
    assert find_card(lay(files))["classes"] == ["cat", "dog"]


def test_links_that_are_not_followed_are_named(lay, tmp_path):
    lay({**photos("images/{}.jpg", "a"), **texts("labels/{}.txt", "a")}, "elsewhere")
    folder = lay({"classes.txt": "cat\n"})
    for name in ("images", "labels"):
        (folder / name).symlink_to(tmp_path / "elsewhere" / name)
    with pytest.raises(UserError, match=r"it has no images.*not followed: images, labels"):
        find_cards(folder)


def test_other_images_are_named_not_taken(lay):
    files = {**photos("train/{}.jpg", "a"), "train/a.txt": BOX, **photos("plots/{}.png", "p")}
    (card,), notes = find_cards(lay(files))
    assert list(card["splits"]) == ["train"]
    assert any("plots has 1 images without annotations, which are passed over" in n for n in notes)


def test_a_card_or_a_file_may_be_named(lay):
    files = {
        **photos("images/{}.jpg", "a"), "labels/a.txt": BOX, "a.xml": voc("dog"),
        "annotations/train.json": coco(["a.jpg"]),
        "coco8.yaml": {"train": "images", "names": ["cat"]},
        "own/my.yaml": {"name": "own", "format": "images", "root": "."},
    }  # fmt: skip
    folder = lay(files)
    with pytest.raises(UserError) as error:
        find_cards(folder)
    assert "can be read as VOC and as COCO and as YOLO" in str(error.value).replace("\n", " ")
    assert find_card(folder / "annotations" / "train.json")["format"] == "coco"
    yolo = find_card(folder / "coco8.yaml")
    assert (yolo["name"], yolo["format"], yolo["root"]) == ("coco8", "yolo", str(folder))
    own = {"name": "own", "format": "images", "root": str(folder / "own")}
    assert find_card(folder / "own") == find_card(folder / "own" / "my.yaml") == own


@pytest.mark.parametrize("name", ["bccd", "chess", "coco128", "nuclei"])
def test_real_data(shared_data, name):
    if not (shared_data / name).is_dir():
        pytest.skip(f"no {name}")
    cards, _ = find_cards(shared_data / name)
    assert len(cards) == (2 if name in ("coco128", "nuclei") else 1)
    assert roles(cards[0])["train"] == ["train"] and roles(cards[0])["val"] == ["val"]
    assert all(len(card["splits"]) >= 2 and register_card(card) for card in cards)
