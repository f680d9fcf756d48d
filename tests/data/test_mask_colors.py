"""Masks that have a colour for each class: read, found by looking, and their faults."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from image_files import HEIGHT, WIDTH
from layouts import coco, lay_out, photos, sizes
from multas.data import register_card
from multas.data.formats.mask_files import MaskValues, read_mask
from multas.data.looking.find import find_card, find_cards
from multas.data.mapper import MultasMapper
from multas.util.errors import UserError

BLACK, ROAD, CAR, VOID = (0, 0, 0), (128, 64, 128), (0, 0, 142), (255, 255, 255)


@pytest.fixture
def lay(tmp_path):
    return lambda files: lay_out(tmp_path / "data", files)


def colored(*colors, channels=3):
    """A mask with a row of pixels of each colour on black."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for row, color in enumerate(colors, start=2):
        pixels[row, 3:9] = color
    if channels == 4:
        pixels = np.dstack([pixels, np.where(pixels.any(2), 255, 0).astype(np.uint8)])
    return pixels


def numbers_of(*values):
    """The classes of such a mask, of which 0 is black."""
    numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
    for row, value in enumerate(values, start=2):
        numbers[row, 3:9] = value
    return numbers


LAYOUTS = {
    "CVAT, with lists": (
        {**photos("JPEGImages/{}.jpg", "a", "b"),
         "SegmentationClass/a.png": colored(ROAD, CAR), "SegmentationClass/b.png": colored(CAR),
         "SegmentationObject/a.png": colored((1, 2, 3)), "SegmentationObject/b.png": colored(CAR),
         "ImageSets/Segmentation/train.txt": "a\n", "ImageSets/Segmentation/val.txt": "b\n",
         "labelmap.txt": "# label:color_rgb:parts:actions\n#old:9,9,9::\nroad:128,64,128::\n"
                         "background:0,0,0::\nmy car:0,0,142::\n"},
        {"classes": ["background", "road", "my car"],
         "colors": ["#000000", "#804080", "#00008e"], "masks": "SegmentationClass"},
        {"train": (1, 1), "val": (1, 1)}, "labelmap.txt names the colours"),
    "CamVid, a table": (
        {**photos("train/{}.png", "a", "b"), **photos("val/{}.png", "c"),
         **{f"{split}_labels/{name}_L.png": colored(CAR, VOID)
            for split, name in (("train", "a"), ("train", "b"), ("val", "c"))},
         "class_dict.csv": "name,r,g,b\nVoid,255,255,255\nCar,0,0,142\nRoad,0,0,0\n"},
        {"classes": ["Car", "Road", "Void"], "colors": ["#00008e", "#000000", "#ffffff"],
         "ignore_label": 2, "mask_suffix": "_L"},
        {"train": (2, 2), "val": (1, 1)}, "class_dict.csv names the colours"),
    "colours first": (
        {**photos("images/{}.jpg", "a"), "masks/a.png": colored(CAR),
         "label_colors.txt": "0 0 142\tCar\n0 0 0\t\tSky 2\n"},
        {"classes": ["Car", "Sky 2"], "colors": ["#00008e", "#000000"]},
        {"all": (1, 1)}, "label_colors.txt names"),
    "of Supervisely, transparent": (
        {**photos("images/{}.jpg", "a"), "masks/a.png": colored(CAR, ROAD, channels=4),
         "classes.json": {"classes": [
             {"title": "road", "shape": "polygon", "color": "#804080"},
             {"title": "car", "color": "#00008E"}, {"title": "background", "color": "#000000"}]}},
        {"classes": ["background", "road", "car"], "colors": ["#000000", "#804080", "#00008e"]},
        {"all": (1, 1)}, "classes.json names"),
    "a table in JSON": (
        {**photos("images/{}.jpg", "a"), "masks/a.png": colored(CAR),
         "colors.json": {"car": [0, 0, 142], "rest": [0, 0, 0]}},
        {"classes": ["car", "rest"], "colors": ["#00008e", "#000000"]},
        {"all": (1, 1)}, "colors.json names"),
    "without names": (
        {**photos("images/{}.jpg", "a", "b"), "masks/a.png": colored(CAR),
         "masks/b.png": colored(ROAD)},
        {"classes": ["background", "color_00008e", "color_804080"],
         "colors": ["#000000", "#00008e", "#804080"]},
        {"all": (2, 2)}, "nothing names the colours of the masks, #000000, #00008e, #804080"),
    "a large file, as of boxes": (
        {**photos("images/{}.jpg", "a"), "masks/a.png": colored(CAR),
         "large.txt": "car:0,0,142::\nrest:0,0,0::\n" + " \n" * 500_001},
        {"classes": ["background", "object"]}, {"all": (1, 1)}, "nothing names"),
    "one class": (
        {**photos("images/{}.jpg", "a"), "masks/a.png": colored(CAR)},
        {"classes": ["background", "object"], "colors": ["#000000", "#00008e"]},
        {"all": (1, 1)}, "nothing names"),
    "beside their images": (
        {**photos("{}.jpg", "a", "b"), "a_mask.png": colored(CAR), "b_mask.png": colored(CAR)},
        {"classes": ["background", "object"], "mask_suffix": "_mask",
         "colors": ["#000000", "#00008e"]},
        {"all": (2, 2)}, "nothing names"),
    "numbers are read, not the same in colours": (
        {**photos("images/{}.jpg", "a"), "masks_rgb/a.png": colored(CAR),
         "masks/a.png": numbers_of(1)},
        {"classes": ["background", "object"], "masks": "masks"},
        {"all": (1, 1)}, "masks has masks of the 1 images"),
    "a table that lacks a colour": (
        {**photos("images/{}.jpg", "a"), "masks/a.png": colored(CAR, ROAD),
         "labelmap.txt": "background:0,0,0::\ncar:0,0,142::\n"},
        {"classes": ["background", "color_00008e", "color_804080"]},
        {"all": (1, 1)},
        "labelmap.txt is passed over: of the masks' colours it does not name #804080"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "keys", "numbers", "told"), LAYOUTS.values(), ids=LAYOUTS)
def test_colours_are_found_by_looking(lay, files, keys, numbers, told):
    folder = lay(files)
    (card,), notes = find_cards(folder)
    assert card["format"] == "masks"
    assert keys.items() <= card.items()
    assert any(told in note for note in notes), notes
    assert sizes(card) == numbers


def test_the_network_and_the_evaluator_get_the_numbers_of_the_classes(lay):
    files, *_ = LAYOUTS["CVAT, with lists"]
    card = find_card(lay(files))
    register_card(card)
    name = f"{card['name']}_train"
    (record,) = DatasetCatalog.get(name)
    expected = numbers_of(1, 2)
    meta = MetadataCatalog.get(name)
    np.testing.assert_array_equal(meta.read_sem_seg(record["sem_seg_file_name"]), expected)
    mapper = MultasMapper(is_train=True, augmentations=[], image_format="RGB")
    np.testing.assert_array_equal(mapper(record)["sem_seg"].numpy(), expected)


def test_some_classes_of_colours(lay):
    files, *_ = LAYOUTS["CVAT, with lists"]
    card = find_card(lay(files)) | {"only": ["my car"]}
    register_card(card)
    (record,) = DatasetCatalog.get(f"{card['name']}_train")
    meta = MetadataCatalog.get(f"{card['name']}_train")
    assert meta.stuff_classes == ["background", "my car"]
    pixels = meta.read_sem_seg(record["sem_seg_file_name"])
    np.testing.assert_array_equal(pixels, numbers_of(0, 1))


@given(
    st.lists(st.integers(0, 0xFFFFFF), min_size=1, max_size=9, unique=True),
    st.data(),
)
def test_each_pixel_is_the_place_of_its_colour(tmp_path_factory, colors, data):
    places = data.draw(arrays(np.uint8, (5, 4), elements=st.integers(0, len(colors) - 1)))
    pixels = np.array(colors)[places]
    rgb = np.stack([pixels >> 16, pixels >> 8 & 255, pixels & 255], axis=2).astype(np.uint8)
    file = tmp_path_factory.mktemp("mask") / "a.png"
    Image.fromarray(rgb).save(file)
    values = MaskValues(bytes(range(256)), colors=tuple(colors))
    np.testing.assert_array_equal(read_mask(file, values), places)


WRONG = {
    "another colour": (
        {"colors": ["#000000", "#804080"]},
        r"a\.png: 6 pixels have #00008e, the colour of no class"),
    "a colour beyond all": (
        {"colors": ["#000000", "#000001"]}, r"a\.png: 6 pixels have #00008e, the colour of no"),
    "too few": ({"colors": ["#000000"]}, "`colors` has 1 colours, but `classes` has 2 names"),
    "no colour": ({"colors": ["#000000", "red"]}, "colors 'red', write it as '#ff8000'"),
    "a number of YAML": ({"colors": [0, "#804080"]}, "colors '0', write it as"),
    "twice": ({"colors": ["#00008e", "00008E"]}, "colors has a colour twice"),
    "both": ({"colors": ["#000000", "#00008e"], "threshold": 128}, "not both"),
    "none": ({}, "has mode RGB, need one channel .* for a colour of each class"),
}  # fmt: skip


@pytest.mark.parametrize(("keys", "told"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_colours_is_told(lay, keys, told):
    root = lay({**photos("images/{}.jpg", "a"), "masks/a.png": colored(CAR)})
    card = {"name": "colors", "format": "masks", "root": str(root), "images": "images",
            "masks": "masks", "classes": ["background", "car"], "splits": {"all": {}}}  # fmt: skip
    with pytest.raises(UserError, match=told):
        register_card(card | keys)
        DatasetCatalog.get("colors_all")


@pytest.mark.parametrize("panoptic", [False, True])
def test_beside_boxes_colours_without_names_are_passed_over(lay, panoptic):
    shades = [[(shade, 20 * number, 9) for shade in range(25)] for number in range(11)]
    names = [f"{i:02}" for i in range(11)]
    masks = {
        f"panoptic_train/{name}.png": colored(*(own if panoptic else [CAR]))
        for name, own in zip(names, shades, strict=True)
    }
    files = coco([f"{name}.jpg" for name in names])
    (card,), notes = find_cards(
        lay({**photos("train/{}.jpg", *names), "instances_train.json": files, **masks})
    )
    assert card["format"] == "coco"
    told = "have more than 256 colours" if panoptic else "nothing names the colours of the masks"
    assert any(note.startswith("passed over: ") and told in note for note in notes), notes


def test_a_jpeg_keeps_no_colours(lay):
    root = lay({**photos("images/{}.jpg", "a")})
    file = root / "mask.jpg"
    Image.fromarray(colored(CAR)).save(file)
    with pytest.raises(UserError, match="JPEG file, which does not keep colours"):
        read_mask(file, MaskValues(bytes(range(256)), colors=(0, 142)))


def test_smoothed_masks_are_refused(lay):
    names = ["a", "b", "c"]
    shades = [[(shade, 40 * number, 9) for shade in range(25)] for number in range(3)]
    masks = {f"masks/{n}.png": colored(*own) for n, own in zip(names, shades, strict=True)}
    with pytest.raises(UserError, match="masks in masks have more than 64 colours"):
        find_cards(lay({**photos("images/{}.jpg", *names), **masks}))
