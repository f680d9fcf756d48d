"""KITTI's label files, found by looking or named by a card."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given
from hypothesis import strategies as st

from image_files import HEIGHT, WIDTH, write_image
from layouts import photos, sizes
from multas.data import DatasetError, register_card
from multas.data.formats.base import cut_box
from multas.data.formats.kitti import columns_of, parse_line
from multas.data.looking.find import find_cards
from multas.util.errors import UserError

SHAPE = "1.6 1.7 3.9 -0.7 1.9 9.1 -1.6"


def line(name="Car", box="2 3 20.5 13", truncated="0.00", shape=SHAPE):
    return f"{name} {truncated} 0 -1.57 {box} {shape}\n"


@pytest.fixture
def scenes(tmp_path):
    """``scenes(files, **keys)`` writes images and label files and loads them as scenes_all.

    The name of each file is that of an image; one that is None has no file.
    """

    def load(files, suffix="", **keys):
        (tmp_path / "labels").mkdir()
        for name, content in files.items():
            write_image(tmp_path / "images" / f"{name}.png")
            if content is not None:
                (tmp_path / "labels" / f"{name}.txt").write_text(content)
        card = {"name": "scenes", "format": "kitti", "root": str(tmp_path), "images": "images",
                "labels": "labels", "splits": {"all": {}}}  # fmt: skip
        register_card({**card, **keys})
        return DatasetCatalog.get(f"scenes_all{suffix}")

    return load


def boxes(records):
    return {
        r["image_id"]: [(a["category_id"], *a["bbox"], a["truncated"]) for a in r["annotations"]]
        for r in records
    }


def test_objects_of_all_kinds(scenes):
    nothing = "-1 -1 -1 -1000 -1000 -1000 -10"
    files = {
        "a": line("Van") + line("DontCare", "1 1 9 9", "-1", nothing) + line(truncated="0.3"),
        "b": line(box=f"-0.6 1 {WIDTH + 0.4} 5") + line(shape=f"{SHAPE} 0.9"),
        "c": "",
    }
    assert boxes(scenes(files)) == {
        "a": [(1, 2, 3, 20.5, 13, 0), (0, 2, 3, 20.5, 13, 1)],
        "b": [(0, 0, 1, WIDTH, 5, 0), (0, 2, 3, 20.5, 13, 0)],
        "c": [],
    }
    assert MetadataCatalog.get("scenes_all").thing_classes == ["Car", "Van"]


def test_no_file_is_opened_for_images_alone(scenes):
    records = scenes({"a": "nothing to be read", "b": None}, "_unlabeled")
    assert [record["image_id"] for record in records] == ["a", "b"]
    assert not any("annotations" in record for record in records)


FAULTS = {
    "yolo": ("0 0.5 0.5 0.2 0.2\n", "line 1: has 5 columns, need 15: class, truncated"),
    "a number for a class": (line("3"), "line 1: begins with 3, need the name of a class"),
    "a word for a number": (line(box="2 x 20 13"), "line 1: could not convert string .* 'x'"),
    "infinite": (line(box="2 3 inf 13"), "line 1: not all numbers are finite"),
    "no area": (line() + line(box="9 3 9 13"), r"line 2 \(Car\): box 9,3,9,13 has no area"),
    "outside": (line(box="2 3 20 99"), rf"box 2,3,20,99 leaves the image of {WIDTH}x{HEIGHT}"),
    "another class": (
        line("Cra"),
        r"line 1 \(Cra\): class not among the card's, did you mean Car\?",
    ),
    "no file": (None, "b.txt: missing or unreadable"),
}


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=FAULTS)
def test_faults(scenes, text, message):
    with pytest.raises(DatasetError, match=message):
        scenes({"a": line(), "b": text}, classes=["Car"])


def test_an_image_whose_objects_all_have_faults_is_no_background(scenes, tmp_path):
    files = {"a": line(), "b": line(box="9 3 9 13"), "c": line() + line(box="9 3 9 13"), "d": None}
    records = scenes(files, strictness="skip")
    assert {name: len(own) for name, own in boxes(records).items()} == {"a": 1, "c": 1}


def test_images_without_a_file_may_be_left_out(scenes):
    records = scenes({"a": line(), "b": None}, splits={"all": {"only_complete": True}})
    assert list(boxes(records)) == ["a"]


def test_classes_can_be_chosen(scenes):
    files = {"a": line("Van") + line(), "b": line("Van", "9 3 9 13")}
    assert boxes(scenes(files, only=["Car"])) == {"a": [(0, 2, 3, 20.5, 13, 0)], "b": []}


SIDES = st.integers(3, 60)


@given(size=st.tuples(SIDES, SIDES), by=st.floats(0, 1), inner=st.floats(1, 2))
def test_a_box_is_cut_at_the_border_and_else_the_same(size, by, inner):
    width, height = size
    whole = [0, 0, width, height]
    assert cut_box((-by, -by, width + by, height + by), size) == whole
    inside = (1.0, 0.5, inner + 0.5, float(height))
    assert cut_box(inside, size) == list(inside)
    for wrong in ((-by - 1.01, 0, 1, 1), (0, 0, 1, height + 1.01 + by), (inner, 0, inner, 1)):
        with pytest.raises(UserError):
            cut_box(wrong, size)


@given(st.lists(st.sampled_from(["Car", "1", "x", "0.5", "-1", "nan"]), max_size=17))
def test_lines_are_read_or_refused(words):
    try:
        found = parse_line(words)
    except UserError:
        return
    assert len(words) in (15, 16) and found.name in ("Car", "x", "nan")
    assert found.box == tuple(map(float, words[4:8]))


LAYOUTS = {
    "KITTI": (
        {**photos("training/image_2/{}.png", "a", "b"), **photos("training/image_3/{}.png", "a"),
         "training/label_2/a.txt": line(), "training/label_2/b.txt": "",
         "training/calib/a.txt": "P0: 7.2e+02 0.0e+00\n", **photos("testing/image_2/{}.png", "c")},
        {"train": (2, 2)}),
    "TAO": (
        {**photos("images/{}.jpg", *"abc"), "labels/a.txt": line(), "labels/b.txt": line("Van")},
        {"all": (2, 2), "unlabeled": (1, 0)}),
    "lists": (
        {**photos("image_2/{}.png", *"abc"), **{f"label_2/{n}.txt": line() for n in "abc"},
         "ImageSets/train.txt": "a\nb\n", "ImageSets/val.txt": "c\n"},
        {"train": (2, 2), "val": (1, 1)}),
    "together": ({**photos("{}.png", "a"), "a.txt": line()}, {"all": (1, 1)}),
}  # fmt: skip


@pytest.mark.parametrize(("files", "numbers"), LAYOUTS.values(), ids=LAYOUTS)
def test_looking(lay, files, numbers):
    (card,), _ = find_cards(lay(files))
    assert card["format"] == "kitti" and card["classes"][0] == "Car"
    assert sizes(card) == numbers


def test_lists_of_images_of_another_folder_are_passed_over(lay):
    """As OpenPCDet has them: the images of training and testing have the same numbers."""
    numbers = ["000000", "000001", "000002"]
    files = {**photos("training/image_2/{}.png", *numbers),
             **photos("testing/image_2/{}.png", *numbers),
             **{f"training/label_2/{n}.txt": line() for n in numbers},
             "ImageSets/train.txt": "000000\n000001\n", "ImageSets/val.txt": "000002\n",
             "ImageSets/test.txt": "000000\n000001\n000002\n"}  # fmt: skip
    (card,), notes = find_cards(lay(files))
    assert sizes(card) == {"train": (2, 2), "val": (1, 1)}
    assert any("test is passed over: it is of the images of another folder" in n for n in notes)


def test_what_a_network_has_found_is_passed_over(lay):
    found = line(shape=f"{SHAPE} 0.9")
    files = {**photos("image_2/{}.png", "a", "b"), "label_2/a.txt": line(), "label_2/b.txt": line(),
             "detections/a.txt": found, "detections/b.txt": found}  # fmt: skip
    (card,), notes = find_cards(lay(files))
    assert sizes(card) == {"all": (2, 2)} and card["splits"]["all"] == {"labels": "label_2"}
    assert "detections is passed over: its objects have scores" in notes


OTHERS = {
    "no images of these names": {**photos("x/{}.png", "a"), "label_2/x.txt": line()},
    "points of faces": {
        **photos("{}.jpg", "cat/a", "dog/b"),
        "a.txt": f"cat\\a.jpg {' '.join(map(str, range(100, 114)))}\n"},
    "boxes upside down": {**photos("{}.jpg", "a"), "a.txt": line(box="2 13 20 3")},
}  # fmt: skip


@pytest.mark.parametrize("files", OTHERS.values(), ids=OTHERS)
def test_other_texts_are_not_its_own(lay, files):
    try:
        formats = [card["format"] for card in find_cards(lay(files)).cards]
    except UserError as error:
        assert "has no data set" in str(error)
    else:
        assert "kitti" not in formats


def test_without_objects_it_is_told(lay):
    text = line("DontCare", truncated="-1")
    with pytest.raises(UserError, match="label_2 have no object but DontCare"):
        find_cards(lay({**photos("image_2/{}.png", "a"), "label_2/a.txt": text}))


def test_of_a_large_text_only_the_beginning_is_read(tmp_path):
    file = tmp_path / "points.txt"
    file.write_text(line() + "\xff" * 10_000, encoding="latin-1")
    assert columns_of(file) == 15
    file.write_text("\n\n" + line(shape=f"{SHAPE} 0.5"), encoding="utf-8-sig")
    assert columns_of(file) == 16
