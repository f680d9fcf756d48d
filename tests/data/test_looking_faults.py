"""What no data set is found in, and what is said of it; and the roles of splits by their names."""

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from image_files import write_image
from layouts import BOX, PHOTO, RECTANGLE, coco, labelme, mask, photos, voc
from multas.data import DatasetError, read_card
from multas.data.looking.find import find_cards
from multas.data.looking.roles import role_of, roles
from multas.util.errors import UserError

NUMBERS = itertools.count()


WRONG = {
    "empty": ({}, "has no data set: it has no images", "What is found by looking"),
    "nothing known": ({"a.csv": "1,2"}, "it has no images", "format: voc"),
    "XML without images": ({"Annotations/a.xml": voc("cat")}, "no folder has images of these"),
    "COCO without images": ({"train.json": coco(["a.jpg"])}, "a.jpg, are nowhere in"),
    "two devkits": (
        {**photos("{}/JPEGImages/a.jpg", "VOC2007", "VOC2012"),
         **{f"{y}/Annotations/a.xml": voc("cat") for y in ("VOC2007", "VOC2012")}},
        "several VOC devkits: VOC2007, VOC2012"),
    "two files of the same": (
        {**photos("{}.jpg", "a"), "v1.json": coco(["a.jpg"]), "v2.json": coco(["a.jpg"])},
        "v1.json and v2.json have the same images"),
    "two cards": (
        {f"{n}.yaml": {"name": n, "format": "images", "root": "."} for n in "ab"},
        "has several cards: a.yaml, b.yaml"),
    "two data.yaml": (
        {f"{n}.yaml": {"train": "x", "names": ["a"]} for n in "ab"},
        "several files like data.yaml: a.yaml, b.yaml"),
    "masks of very many colours": (
        {**photos("images/{}.jpg", "a"), "masks/a.png": PHOTO}, "no data set: 2 images in"),
    "a folder for each image": (
        {**photos("{}/images/x.png", *"ab"), **{f"{x}/masks/{x}.png": mask(255) for x in "ab"}},
        "has no data set: 4 images in a/images, a/masks"),
    "JSON of another tool": (
        {**photos("{}.jpg", "a"), "a.json": {"shapes": []}}, "no data set: 1 images in .; 1 .json"),
    "LabelMe without images": ({"a.json": labelme(RECTANGLE)}, "no folder has images of these"),
    "LabelMe without objects": (
        {**photos("{}.jpg", "a"), "a.json": labelme()}, "the JSON files in", "have no object"),
    "LabelMe and VOC": (
        {**photos("{}.jpg", "a"), "a.json": labelme(RECTANGLE), "a.xml": voc("cat")},
        "can be read as VOC and as LabelMe"),
    "two folders of masks": (
        {**photos("images/{}.jpg", "a"), "labels/a.png": mask(1), "masks/a.png": mask(1)},
        "labels and masks both have masks of the images in images"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "parts"), [(v[0], v[1:]) for v in WRONG.values()], ids=WRONG)
def test_what_cannot_be_read_is_told_with_a_cure(lay, files, parts):
    folder = lay({"notes.md": "x", **files})
    with pytest.raises(UserError) as error:
        find_cards(folder)
    for part in parts:
        assert part in str(error.value)


def test_a_place_that_is_no_folder(tmp_path):
    with pytest.raises(UserError, match="does not exist; name a folder of data"):
        find_cards(tmp_path / "nowhere")
    write_image(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"is no card \(\.yaml\)"):
        find_cards(tmp_path / "a.png")
    (tmp_path / "bad.yaml").write_text("name: x")
    with pytest.raises(DatasetError, match="key 'format' is missing"):
        find_cards(tmp_path / "bad.yaml")


FILES = st.dictionaries(
    st.tuples(
        st.sampled_from(["", "train/", "val/", "images/", "labels/", "masks/", "images/train/"]),
        st.sampled_from("ab"),
        st.sampled_from([".png", ".txt", ".xml", ".json", ".yaml"]),
    ).map("".join),
    st.sampled_from([
        PHOTO, BOX, "", "{", "0 x", voc("cat"), voc(), coco(["a.png"]), coco(["b.png", "x.png"]),
        labelme(RECTANGLE), labelme(), labelme(None), {"version": 1, "shapes": [{"label": []}]},
        {"images": [1], "annotations": None}, {"names": ["cat"], "train": "images"}, [],
        {"names": {0: "cat", 2: "x"}, "nc": 7, "train": "."},
        {"name": "c", "format": "images", "root": "."},
    ]),
    max_size=8,
)  # fmt: skip


@given(files=FILES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_whatever_lies_there_is_read_or_refused(lay, files):
    folder = lay({}, name=str(next(NUMBERS)))
    folder.mkdir()
    for path, content in files.items():
        if path.endswith(".png"):
            lay({path: mask(1) if isinstance(content, list) else PHOTO}, name=folder.name)
        elif content is not PHOTO:
            lay({path: content}, name=folder.name)
    try:
        cards, notes = find_cards(folder)
    except UserError as error:
        assert str(folder) in str(error) or "a card" in str(error)
    else:
        assert all(read_card(card).splits for card in cards) and notes


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("train", "train"), ("instances_train2017", "train"), ("trainval", "train"),
        ("train_val", "train"), ("valid", "val"), ("VAL", "val"), ("validation-set", "val"),
        ("images/test", "test"), ("testing", "test"), ("unlabeled2017", "unlabeled"),
        ("all", ""), ("latest", ""), ("half", ""), ("training", "train"),
    ],
)  # fmt: skip
def test_roles_of_names(name, role):
    assert role_of(name) == role


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("train val test trainval half half2", (["train"], ["val"], ["test"], [])),
        ("trainval test", (["trainval"], [], ["test"], [])),
        ("half half2 quarter test", (["half"], [], ["test"], ["half2"])),
        ("all", (["all"], [], [], [])),
        ("train2017 val2017", (["train2017"], ["val2017"], [], [])),
        ("train both_train seg_val det_val", (["train"], ["seg_val", "det_val"], [], [])),
        ("a b unlabeled", (["a", "b"], [], [], ["unlabeled"])),
    ],
)  # fmt: skip
def test_roles_of_cards(names, expected):
    card = {"format": "voc", "splits": {name: f"Main/{name}" for name in names.split()}}
    assert tuple(roles(card).values()) == expected
