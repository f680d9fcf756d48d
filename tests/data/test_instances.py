"""Masks that number the objects of an image: their boxes, found by looking, and their faults."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from image_files import HEIGHT, WIDTH
from layouts import lay_out, mask, photos, sizes
from multas.data import register_card
from multas.data.formats.instances import read_boxes
from multas.data.looking.find import find_cards
from multas.data.mapper import MultasMapper
from multas.util.errors import UserError

RECORD = {"width": WIDTH, "height": HEIGHT}


@pytest.fixture
def lay(tmp_path):
    return lambda files: lay_out(tmp_path / "data", files)


def boxes_in(name):
    return [[a["bbox"] for a in record["annotations"]] for record in DatasetCatalog.get(name)]


LAYOUTS = {
    "Penn-Fudan": (
        {**photos("PNGImages/{}.png", "a", "b", "c"), "PedMasks/a_mask.png": mask(1, 2, 3),
         "PedMasks/b_mask.png": mask(0, 1), "PedMasks/c_mask.png": mask(0),
         "Annotation/a.txt": "# Compatible with PASCAL Annotation Version 1.00"},
        {"all": (3, 3)}, [[[3, 5, 9, 6], [3, 6, 9, 7], [3, 7, 9, 8]], [[3, 6, 9, 7]], []]),
    "splits, some images without a mask": (
        {**photos("train/images/{}.png", "a", "b"), **photos("val/images/{}.png", "c"),
         "train/masks/a.png": mask(1, 1, 2), "val/masks/c.png": mask(1, 2)},
        {"train": (1, 1), "val": (1, 1), "unlabeled": (1, 0)}, [[[3, 5, 9, 7], [3, 7, 9, 8]]]),
    "beside their images": (
        {**photos("{}.png", "a", "b"), "a_mask.png": mask(1, 2), "b_mask.png": mask(1)},
        {"all": (2, 2)}, [[[3, 5, 9, 6], [3, 6, 9, 7]], [[3, 5, 9, 6]]]),
}  # fmt: skip


@pytest.mark.parametrize(("files", "numbers", "boxes"), LAYOUTS.values(), ids=LAYOUTS)
def test_boxes_and_masks_are_found_by_looking(lay, files, numbers, boxes):
    cards, notes = find_cards(lay(files))
    assert [card["format"] for card in cards] == ["instances", "masks"]
    annotated = [{s for s, n in sizes(card).items() if n[0]} - {"unlabeled"} for card in cards]
    assert annotated[0] == annotated[1]
    assert any("around the objects that masks number: object" in note for note in notes)
    assert sizes(cards[0]) == numbers
    name = f"{cards[0]['name']}_{next(iter(numbers))}"
    assert boxes_in(name) == boxes
    assert MetadataCatalog.get(name).thing_classes == ["object"]
    mapper = MultasMapper(is_train=True, augmentations=[], image_format="RGB")
    instances = mapper(DatasetCatalog.get(name)[0])["instances"]
    assert instances.gt_boxes.tensor.tolist() == boxes[0]
    assert set(instances.gt_classes.tolist()) == {0}


@given(st.lists(st.integers(1, 2**16 - 1), max_size=5, unique=True), st.data())
def test_a_box_encloses_the_pixels_of_its_number(tmp_path_factory, numbers, data):
    bits = 8 if all(number < 255 for number in numbers) and data.draw(st.booleans()) else 16
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8 if bits == 8 else np.uint16)
    for number in numbers:  # a later one may hide an earlier one
        (y0, y1), (x0, x1) = (
            sorted(data.draw(st.lists(st.integers(0, side), min_size=2, max_size=2, unique=True)))
            for side in (HEIGHT, WIDTH)
        )
        pixels[y0:y1, x0:x1] = number
    file = tmp_path_factory.mktemp("mask") / "a.png"
    Image.fromarray(pixels).save(file)
    seen = sorted(set(np.unique(pixels).tolist()) - {0})
    boxes = read_boxes(file, RECORD, 255)
    assert len(boxes) == len(seen)
    for number, (x0, y0, x1, y1) in zip(seen, boxes, strict=True):
        ys, xs = np.nonzero(pixels == number)
        assert (x0, y0, x1, y1) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_the_ignore_label_is_no_object_in_8_bits(tmp_path):
    for dtype, found in ((np.uint8, 1), (np.uint16, 2)):
        Image.fromarray(mask(1, 255).astype(dtype)).save(tmp_path / "a.png")
        assert len(read_boxes(tmp_path / "a.png", RECORD, 255)) == found


def test_an_object_may_fill_the_image(tmp_path):
    Image.fromarray(np.full((HEIGHT, WIDTH), 5, np.uint8)).save(tmp_path / "a.png")
    assert read_boxes(tmp_path / "a.png", RECORD, 255) == [[0, 0, WIDTH, HEIGHT]]


WRONG = {
    "none": ({}, {}, "a: no mask of this id in .*masks"),
    "colours": ({"masks/a.png": np.zeros((HEIGHT, WIDTH, 3), np.uint8)}, {},
                r"a\.png: has mode RGB, need one channel .*the numbers of objects"),
    "size": ({"masks/a.png": mask(1)[1:]}, {}, rf"is {WIDTH}x{HEIGHT - 1}, but the image is"),
    "below 0": ({"masks/a.tif": -np.ones((HEIGHT, WIDTH), np.int32)}, {},
                r"a\.tif: has the value -1, but objects are numbered from 1"),
    "damaged": ({"masks/a.png": "text"}, {}, "unknown format"),
    "two classes": ({"masks/a.png": mask(1)}, {"classes": ["a", "b"]}, "the name of its one class"),
    "no folder": ({"masks/a.png": mask(1)}, {"masks": "other"}, "no mask folder .*other"),
    "no key": ({"masks/a.png": mask(1)}, {"masks": []}, "format instances needs `masks`"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "keys", "told"), WRONG.values(), ids=WRONG)
def test_faults_are_told(lay, files, keys, told):
    root = lay({**photos("images/{}.jpg", "a"), "masks/b.png": mask(1), **files})
    card = {"name": "cells", "format": "instances", "root": str(root), "images": "images",
            "masks": "masks", "classes": ["cell"], "splits": {"all": {}}}  # fmt: skip
    with pytest.raises(UserError, match=told):
        register_card(card | keys)
        DatasetCatalog.get("cells_all")


def test_images_without_a_mask_may_be_left_out(lay):
    root = lay({**photos("images/{}.jpg", "a", "b"), "masks/b_m.png": mask(1)})
    card = {"name": "cells", "format": "instances", "root": str(root), "images": "images",
            "masks": "masks", "mask_suffix": "_m", "classes": ["cell"], "only_complete": True,
            "splits": {"all": {}}}  # fmt: skip
    register_card(card)
    assert boxes_in("cells_all") == [[[3, 5, 9, 6]]]
    assert [r["image_id"] for r in DatasetCatalog.get("cells_all_unlabeled")] == ["a", "b"]


def test_masks_whose_values_cover_everything_are_classes(lay):
    """As the trimaps of Oxford Pets: 1 inside, 2 outside, 3 between."""
    trimap = 2 + mask(1, 1, 1, 1)
    trimap[6:8, 4:8] = 1
    files = {**photos("images/{}.png", "a", "b"), "masks/a.png": trimap, "masks/b.png": trimap}
    (card,), notes = find_cards(lay(files))
    assert card["classes"] == ["background", "class_1", "class_2", "class_3"]
    assert any("the values of the masks, 1, 2, 3: write classes.txt" in note for note in notes)
