"""Faulty data in VOC and mask format: found when loaded, reported together or left out."""

import os

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from image_files import HEIGHT, WIDTH, write_image
from multas.data import DatasetError, register_card
from multas.data.formats.mask_files import read_mask, voc_palette
from multas.data.formats.voc import box_fault
from multas.data.image_files import index_images
from multas.data.issues import DatasetIssues
from multas.util.voc_xml import read_voc_xml


def write_mask(file, values, size=(WIDTH, HEIGHT)):
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[0, : len(values)] = values
    image = Image.fromarray(pixels)
    image.putpalette(voc_palette())
    image.save(file)


def write_xml(file, objects, size=(WIDTH, HEIGHT)):
    file.parent.mkdir(parents=True, exist_ok=True)
    keys = ("xmin", "ymin", "xmax", "ymax")
    entries = "".join(
        f"<object><name>{name}</name><bndbox>"
        + "".join(f"<{key}>{value}</{key}>" for key, value in zip(keys, box, strict=True))
        + "</bndbox></object>"
        for name, *box in objects
    )
    width, height = size
    file.write_text(
        f"<annotation><size><width>{width}</width><height>{height}</height></size>"
        f"{entries}</annotation>"
    )


class Devkit:
    """A VOC folder with one good image, "good", to which tests add faulty ones."""

    def __init__(self, root):
        self.root = root
        self.ids = []
        self.add("good", [("cat", 1, 1, WIDTH, HEIGHT)], mask=[1])

    def add(self, image_id, objects, mask=None):
        write_image(self.root / "JPEGImages" / f"{image_id}.jpg")
        write_xml(self.root / "Annotations" / f"{image_id}.xml", objects)
        if mask is not None:
            write_mask(self.root / "SegmentationClass" / f"{image_id}.png", mask)
        self.ids.append(image_id)

    def load(self, strictness, **keys):
        """The records by image id (skip) or the message of the error (stop)."""
        name = f"kit{strictness}"
        file = self.root / "ImageSets" / "Main" / "train.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(self.ids))
        card = {"name": name, "format": "voc", "root": str(self.root), "classes": ["cat", "dog"]}
        card |= {"splits": {"train": "Main/train"}, "strictness": strictness, **keys}
        register_card({key: value for key, value in card.items() if value is not None})
        if strictness == "skip":
            return {r["image_id"]: r for r in DatasetCatalog.get(f"{name}_train")}
        with pytest.raises(DatasetError) as error:
            DatasetCatalog.get(f"{name}_train")
        return str(error.value)


@pytest.fixture
def kit(tmp_path):
    return Devkit(tmp_path / "kit")


def test_all_faults_are_reported_together_with_file_names(kit):
    kit.add("unknown", [("cat", 1, 1, 5, 5), ("dgo", 1, 1, 5, 5)])
    kit.add("outside", [("cat", 1, 1, 5, 5), ("cat", 30, 20, 41, 30), ("dog", 0, 3, 5, 5)])
    kit.add("flat", [("cat", 1, 1, 5, 5), ("dog", 5, 7, 9, 7)])
    kit.add("sized", [("cat", 1, 1, 5, 5)])
    write_xml(kit.root / "Annotations" / "sized.xml", [], size=(HEIGHT, WIDTH))
    kit.add("broken", [])
    (kit.root / "Annotations" / "broken.xml").write_text("<annotation>")
    kit.add("nobox", [])
    (kit.root / "Annotations" / "nobox.xml").write_text(
        "<annotation><object><name>cat</name></object></annotation>"
    )
    kit.add("unannotated", [])
    (kit.root / "Annotations" / "unannotated.xml").unlink()
    kit.add("unreadable", [])
    (kit.root / "JPEGImages" / "unreadable.jpg").write_text("?")
    kit.ids += ["missing", "good"]
    message = kit.load("stop")
    for expected in (
        "train.txt: line 11: good is listed twice (line 1)",
        "unknown.xml: object 1 (dgo): class not among the card's, did you mean dog?",
        "outside.xml: object 1 (cat): box 30,20,41,30 leaves the image of 40x30",
        "outside.xml: object 2 (dog): box 0,3,5,5 leaves",
        "flat.xml: object 1 (dog): box 5,7,9,7 has no area",
        "sized.xml: says 30x40, but the image is 40x30",
        "broken.xml: not an XML file",
        "nobox.xml: object 0 has no complete <bndbox>",
        "unannotated.xml: missing or unreadable (No such file or directory)",
        "unreadable.jpg: not a readable image",
        "missing: no image of this id in",
        "11 issues",
        "`strictness: skip`",
    ):
        assert expected in message, expected
    records = kit.load("skip")
    kept = {name: len(record["annotations"]) for name, record in records.items()}
    assert kept == {"good": 1, "unknown": 1, "outside": 1, "flat": 1}


def test_annotated_as_empty_differs_from_all_boxes_faulty(kit):
    kit.add("empty", [])
    kit.add("faulty", [("cat", 3, 3, 3, 3)])
    kit.add("other", [("bird", 1, 1, 5, 5)])
    records = kit.load("skip")
    assert records["empty"]["annotations"] == []
    assert records["other"]["annotations"] == []  # nothing of the wanted classes
    assert "faulty" not in records  # an object is there, so it is no background


def test_masks_are_checked_and_a_box_annotation_survives_a_faulty_mask(kit):
    kit.add("beyond", [("cat", 1, 1, 5, 5)], mask=[1, 3, 255])
    kit.add("sized", [("cat", 1, 1, 5, 5)])
    write_mask(kit.root / "SegmentationClass" / "sized.png", [1], size=(9, 9))
    kit.add("coloured", [("cat", 1, 1, 5, 5)])
    write_image(kit.root / "SegmentationClass" / "coloured.png")
    kit.add("none", [("cat", 1, 1, 5, 5)])
    message = kit.load("stop", annotates=["det", "seg"])
    for expected in (
        "beyond.png: values [3] are beyond the 3 classes",
        "sized.png: is 9x9, but the image is 40x30",
        "coloured.png: has mode RGB, need one channel",
        "none: no mask of this id in",
    ):
        assert expected in message, expected
    records = kit.load("skip", annotates=["det", "seg"])
    assert len(records) == 5 and all("annotations" in record for record in records.values())
    with_mask = {name for name, record in records.items() if "sem_seg_file_name" in record}
    assert with_mask == {"good"}


def test_masks_that_show_nothing(kit, caplog):
    write_mask(kit.root / "SegmentationClass" / "good.png", [255])
    kit.add("void", [("cat", 1, 1, 5, 5)], mask=[])
    Image.new("L", (WIDTH, HEIGHT), 255).save(kit.root / "SegmentationClass" / "void.png")
    with caplog.at_level("WARNING"):
        assert set(kit.load("skip", annotates=["seg"])) == {"good"}
    assert "void.png: every pixel has the ignore label 255" in caplog.text
    assert "no mask has another value than 0 and the ignore label 255" in caplog.text


def test_an_unreadable_folder_is_named(kit, monkeypatch):
    def scandir(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError) as error:
        index_images(kit.root / "JPEGImages")
    assert error.value.filename.endswith("JPEGImages")


def test_of_two_files_with_one_id_the_first_counts(kit, caplog):
    write_image(kit.root / "JPEGImages" / "good.png", size=(3, 3))
    with caplog.at_level("WARNING"):
        assert set(kit.load("skip")) == {"good"}
    assert "of files with one id the first counts (1 place)" in caplog.text
    assert "good.jpg and good.png" in caplog.text


def test_without_boxes_images_with_faulty_masks_are_left_out(kit):
    kit.add("beyond", [("cat", 1, 1, 5, 5)], mask=[3])
    assert set(kit.load("skip", annotates=["seg"])) == {"good"}


def test_ignore_label_is_the_card_s(kit):
    kit.add("seven", [("cat", 1, 1, 5, 5)], mask=[1, 7])
    assert len(kit.load("skip", annotates=["seg"], ignore_label=7)) == 2


def test_masks_that_contradict_the_class_order_are_reported(kit):
    kit.add("a", [("cat", 1, 1, 5, 5)], mask=[1])
    kit.add("b", [("dog", 1, 1, 5, 5)], mask=[2])
    message = kit.load("stop", annotates=["det", "seg"], classes=["dog", "cat"])
    assert "3 of 3 masks show classes without a box (first good)" in message
    assert "dog, cat" in message


def test_classes_may_be_left_to_be_found(kit):
    kit.add("other", [("ant", 1, 1, 5, 5), ("bee", 1, 1, 5, 5)])
    records = kit.load("skip", classes=None)
    assert MetadataCatalog.get("kitskip_train").thing_classes == ["ant", "bee", "cat"]
    assert [entry["category_id"] for entry in records["other"]["annotations"]] == [0, 1]


def test_other_folder_names_are_keys_and_leave_voc_evaluation_to_coco(kit):
    (kit.root / "Annotations").rename(kit.root / "boxes")
    (kit.root / "JPEGImages").rename(kit.root / "photos")
    assert len(kit.load("skip", images="photos", annotations="boxes")) == 1
    assert MetadataCatalog.get("kitskip_train").evaluator_type == "coco"


def test_class_lists_of_voc_with_two_columns_are_read(kit):
    kit.ids = ["good  1"]
    assert set(kit.load("skip")) == {"good"}


def test_a_split_without_any_usable_image_is_an_error(kit):
    kit.ids = ["gone"]
    with pytest.raises(DatasetError, match=r"gone: no image of this id(?s:.*)none is left"):
        kit.load("skip")


@given(
    xmin=st.integers(-3, 45),
    ymin=st.integers(-3, 35),
    width=st.integers(-3, 45),
    height=st.integers(-3, 35),
)
def test_box_fault_agrees_with_its_definition(xmin, ymin, width, height):
    xmax, ymax = xmin + width, ymin + height
    inside = all(1 <= x <= WIDTH for x in (xmin, xmax)) and all(
        1 <= y <= HEIGHT for y in (ymin, ymax)
    )
    good = inside and width > 0 and height > 0
    assert (box_fault((xmin, ymin, xmax, ymax), (WIDTH, HEIGHT)) is None) == good


def test_boxes_that_are_no_numbers_are_faults():
    nan = float("nan")
    assert "has no area" in box_fault((nan, 1, 5, 5), (WIDTH, HEIGHT))


def test_palette_masks_yield_indices_not_brightness(tmp_path):
    write_mask(tmp_path / "a.png", [1, 2, 255])
    assert read_mask(tmp_path / "a.png")[0, :4].tolist() == [1, 2, 255, 0]
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="mode RGB"):
        read_mask(tmp_path / "b.png")


def test_palette_is_that_of_voc():
    palette = np.array(voc_palette()).reshape(256, 3)
    assert palette[[0, 1, 2, 15, 20, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]
    assert len({tuple(colour) for colour in palette}) == 256


def test_xml_flags_default_to_zero_and_size_may_be_missing(tmp_path):
    file = tmp_path / "a.xml"
    box = "<xmin>1.5</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax>"
    file.write_text(
        f"<annotation><object><name> cat </name><bndbox>{box}</bndbox></object></annotation>"
    )
    annotation = read_voc_xml(file)
    assert annotation.size is None
    assert annotation.objects[0].name == "cat"
    assert annotation.objects[0].box == (1.5, 2, 3, 4)
    assert (annotation.objects[0].difficult, annotation.objects[0].truncated) == (0, 0)


def test_issues_know_their_strictness():
    with pytest.raises(ValueError, match="data set x: strictness is 'maybe'; choose from stop"):
        DatasetIssues("x", "maybe")
    DatasetIssues("x").close()
