"""What the splits of cards have, with all their faults, and what they have in common."""

import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from bad_inputs.broken_images import truncate
from multas.data.inspection import choose_images, inspect_cards
from multas.data.overlaps import count_alike, find_alike, loose_images, shared_images


@pytest.fixture
def inspect(tmp_path):
    """``inspect(*cards, fast=False)``: the splits of the contents of cards, by name."""

    def run(*cards: dict, fast: bool = False) -> dict:
        files = []
        for card in cards:
            files.append(str(tmp_path / f"{card['name']}.yaml"))
            (tmp_path / f"{card['name']}.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
        return {split.name: split for split in inspect_cards(files, fast=fast)}

    return run


@pytest.fixture
def toy(small_toy, toy_card, tmp_path):
    """A copy of the embedded set, and a card with train, val and test of it."""
    root = shutil.copytree(small_toy, tmp_path / "toy")
    parts = {name: f"Main/{name}" for name in ("train", "val", "test")}
    return root, {**toy_card, "root": str(root), "splits": parts}


def ids(root, part: str) -> list[str]:
    return (root / "ImageSets" / "Main" / f"{part}.txt").read_text().split()


def test_every_fault_of_every_split_is_found(toy, inspect):
    root, card = toy
    (first, second), (third, *_), (fourth, *_) = (
        ids(root, "train")[:2], ids(root, "val"), ids(root, "test"),
    )  # fmt: skip
    for image_id in (first, third):
        xml = root / "Annotations" / f"{image_id}.xml"
        xml.write_text(xml.read_text().replace("<xmax>", "<xmax>9"))
    (root / "Annotations" / f"{second}.xml").unlink()
    truncate(root / "JPEGImages" / f"{fourth}.jpg")
    card["splits"] |= {"none": "Main/none"}
    found = inspect(card)
    assert [len(split.images) for split in found.values()] == [22, 5, 7, 0]
    faults = {name: dict(split.issues.faults) for name, split in found.items()}
    assert any("leaves the image" in what for what in faults["toy_train"].values())
    assert any(second in where for where in faults["toy_train"])
    assert all(third in where for where in faults["toy_val"])
    ((where, what),) = faults["toy_test"].items()
    assert fourth in where and "not a readable image" in what
    assert "no id list 'Main/none'" in faults["toy_none"]["toy_none"]
    # In haste no image is decoded.
    assert not inspect(card, fast=True)["toy_test"].issues.faults


def test_what_is_right_is_counted_and_measured(toy, inspect):
    found = inspect(toy[1])
    train, val = found["toy_train"], found["toy_val"]
    assert not any(split.issues.faults for split in found.values())
    assert train.numbers.images == len(train.images) == 24
    objects = sum(train.numbers.classes["boxes"].values())
    assert objects == len(train.sizes.objects) == train.sizes.counts.sum() > 24
    assert train.empty == 0 and train.unseen == 0
    assert train.suggestions["MODEL.DENSE_HEAD.NUM_CLASSES"].value == 8
    assert train.suggestions["INPUT.MIN_SIZE_TEST"].value == 128
    assert not val.suggestions
    shown = {a["category_id"] for record in train.shown for a in record["annotations"]}
    assert shown == set(range(8))


def test_masks_labels_and_images_without_annotations(toy, inspect, tmp_path):
    root, card = toy
    card["splits"] = {
        "seg": {"ids": "Main/val", "annotates": ["seg"]},
        "both": {"ids": "Main/test", "annotates": ["det", "seg"]},
    }
    plain = {"name": "plain", "format": "images", "root": str(root / "JPEGImages")}
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("RGB", (50, 40)).save(tmp_path / "pets" / name / "a.png")
    pets = {"name": "pets", "format": "folders", "root": str(tmp_path)}
    found = inspect(card, plain, {**pets, "splits": {"all": "pets"}})
    seg, bare, labels = found["toy_seg"], found["plain_all"], found["pets_all"]
    assert seg.numbers.annotated == {"masks": 6} and seg.masks.masks == 6
    assert seg.masks.images["background"] == 6
    share = sum(seg.masks.pixels.values()) / seg.sizes.images.prod(1).sum()
    assert 0.95 < share < 1, "outlines of objects are ignored"
    assert found["toy_both"].numbers.annotated == {"boxes": 8, "masks": 8}
    assert bare.numbers.annotated == {"not annotated": 38} and not bare.numbers.classes
    assert labels.numbers.classes == {"labels": {"cat": 1, "dog": 1}}
    assert labels.sizes.images.tolist() == [[50, 40], [50, 40]]
    assert len(labels.shown) == 2
    assert seg.suggestions["INPUT.MIN_SIZE_TEST"].reason == "no boxes to go by"


def test_cards_that_name_no_classes(tmp_path, inspect):
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.png")
    image = {"id": 1, "file_name": "a.png", "width": 60, "height": 40}
    boxes = [
        {"id": k, "image_id": 1, "category_id": 3, "bbox": [5, 5, size, 9], "iscrowd": crowd}
        for k, size, crowd in ((1, 10, 0), (2, 0, 0), (3, 20, 1))
    ]
    content = {"images": [image], "annotations": boxes, "categories": [{"id": 3, "name": "Größe"}]}
    (tmp_path / "all.json").write_text(json.dumps(content))
    card = {"name": "few", "format": "coco", "root": str(tmp_path), "splits": {"all": "all.json"}}
    split = inspect(card)["few_all"]
    assert split.numbers.classes == {"boxes": {"Größe": 1}} and split.empty == 0
    assert split.sizes.objects.tolist() == [[10, 9, 60, 40]], "without crowds"
    ((where, what),) = split.issues.faults
    assert "annotation 2 (Größe)" in where and "no area" in what


def test_images_in_two_splits_copies_and_images_of_none(toy, inspect):
    root, card = toy
    lists = root / "ImageSets" / "Main"
    train, val = ids(root, "train"), ids(root, "val")
    pictures = root / "JPEGImages"
    # One image of train is in val as well, one is copied, and one is encoded again.
    (lists / "val.txt").write_text("\n".join([*val, train[0], "copy", "again"]))
    shutil.copy(pictures / f"{train[1]}.jpg", pictures / "copy.jpg")
    Image.open(pictures / f"{train[2]}.jpg").save(pictures / "again.jpg", quality=60)
    shutil.copy(pictures / f"{train[3]}.jpg", pictures / "loose.jpg")
    for name, other in (("copy", train[1]), ("again", train[2])):
        xml = root / "Annotations" / f"{other}.xml"
        shutil.copy(xml, xml.with_stem(name))
    splits = list(inspect(card).values())
    assert shared_images(splits) == {("toy_train", "toy_val"): 1}
    assert loose_images(splits) == {str(pictures): 1}
    alike = find_alike(splits)
    pairs = {tuple(image["file_name"].split("/")[-1] for image in pair.images) for pair in alike}
    assert pairs == {(f"{train[1]}.jpg", "copy.jpg"), (f"{train[2]}.jpg", "again.jpg")}
    assert count_alike(alike, same=True) == {("toy_train", "toy_val"): 2}
    assert count_alike(alike, same=False) == {}
    assert len(find_alike(splits, fast=True)) == 1, "the copy, byte by byte"


def test_lists_within_lists_are_no_twins(toy, inspect):
    root, card = toy
    lists = root / "ImageSets" / "Main"
    train = ids(root, "train")
    (lists / "part.txt").write_text("\n".join(train[:10]))
    # A copy in train of an image in train and part is in no other split than its twin.
    shutil.copy(root / "JPEGImages" / f"{train[0]}.jpg", root / "JPEGImages" / "copy.jpg")
    shutil.copy(root / "Annotations" / f"{train[0]}.xml", root / "Annotations" / "copy.xml")
    (lists / "train.txt").write_text("\n".join([*train, "copy"]))
    card["splits"] = {"train": "Main/train", "part": "Main/part"}
    splits = list(inspect(card).values())
    assert find_alike(splits) == [] and shared_images(splits) == {("toy_part", "toy_train"): 10}


def test_a_sheet_shows_rare_classes_first():
    records = [{"n": number} for number in range(50)]
    classes = [{"common"} for _ in records]
    classes[17], classes[33] = {"common", "rare"}, {"rarest"}
    chosen, unseen = choose_images(records, classes, least=3, most=5)
    numbers = [record["n"] for record in chosen]
    assert {17, 33} <= set(numbers) and len(numbers) == 3 and not unseen
    chosen, unseen = choose_images(records, [{k} for k in range(50)], most=24)
    assert len(chosen) == 24 and unseen == 26
    assert choose_images([], []) == ([], 0)
