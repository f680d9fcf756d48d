"""The numbers that a training logs about its data."""

import numpy as np
from detectron2.data.catalog import Metadata

from multas.data.dataset_dicts import TrainingSet
from multas.data.pseudo_labels import PseudoLabels
from multas.data.statistics import BOX, LABEL, PSEUDO, count, describe

METADATA = Metadata(name="pets", thing_classes=["cat", "dog", "cow"])
LABELS = PseudoLabels(
    boxes={"b": [{"category_id": 1}, {"category_id": 1}], "c": [], "elsewhere": [{}]},
    dropped={"b": {"below the threshold": 3, "beyond TOPK": 0}, "elsewhere": {"beyond TOPK": 9}},
)
DICTS = [
    {"image_id": "a", "annotations": [{"category_id": 0}, {"category_id": 2, "iscrowd": 1}]},
    {"image_id": "b"},
    {"image_id": "c"},
    {"image_id": "d"},
]


def test_every_image_and_box_is_counted_once():
    numbers = count(TrainingSet("pets", DICTS, 5), METADATA, LABELS)
    assert (numbers.images, numbers.annotated) == (4, {BOX: 1, PSEUDO: 2, "not annotated": 1})
    assert numbers.classes == {
        BOX: {"cat": 1, "dog": 0, "cow": 0},
        PSEUDO: {"cat": 0, "dog": 2, "cow": 0},
    }
    assert numbers.left_out == {
        "crowds": 1,
        "images without objects (DATALOADER.FILTER_EMPTY_ANNOTATIONS)": 5,
        "images without a pseudo-box, which count as background": 1,
        "pseudo-boxes below the threshold": 3,
    }


def test_images_that_are_skipped_are_not_annotated():
    labels = PseudoLabels(LABELS.boxes, "skip", {}, LABELS.dropped)
    numbers = count(TrainingSet("pets", DICTS, 0), METADATA, labels)
    assert numbers.annotated == {BOX: 1, PSEUDO: 1, "not annotated": 2}
    assert numbers.left_out["images without a pseudo-box, which count as not annotated"] == 1


def test_labels_masks_and_own_annotations():
    metadata = Metadata(name="x", label_classes=["red", "blue"], annotation_keys=("count", "label"))
    dicts = [{"label": 1, "count": 0.5}, {"sem_seg_file_name": "m.png"}, {"pixels": np.ones(3)}]
    numbers = count(TrainingSet("x", dicts, 0), metadata, PseudoLabels())
    assert numbers.annotated == {"labels": 1, "count": 1, "masks": 1, "not annotated": 1}
    assert numbers.classes == {LABEL: {"red": 0, "blue": 1}}
    assert numbers.left_out == {}


def test_what_a_card_left_out_is_told():
    metadata = Metadata(name="x", left_out={"faulty images or objects": 2})
    text = describe([count(TrainingSet("x", [{}], 0), metadata, PseudoLabels())], "Images:")
    assert "x: 2 faulty images or objects" in text


def test_the_tables():
    sets = [
        count(TrainingSet("pets", DICTS, 5), METADATA, LABELS),
        count(TrainingSet("more", DICTS[:1], 0), METADATA, LABELS),
    ]
    lines = describe(sets, "Images:").splitlines()
    assert lines[:6] == [
        "Images:",
        "| data set   |   images |   with boxes |   with pseudo-boxes |   not annotated |",
        "|:-----------|---------:|-------------:|--------------------:|----------------:|",
        "| pets       |        4 |            1 |                   2 |               1 |",
        "| more       |        1 |            1 |                   0 |               0 |",
        "| all        |        5 |            2 |                   2 |               1 |",
    ]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[6:10]]
    assert cells[0] == ["class", "boxes", "pseudo-boxes"] * 2
    assert cells[2:] == [["cat", "2", "0", "cow", "0", "0"], ["dog", "0", "2", "all", "2", "2"]]
    assert lines[10:12] == ["Left out:", "  pets: 5 images without objects "
                            "(DATALOADER.FILTER_EMPTY_ANNOTATIONS)"]  # fmt: skip


def test_classes_without_names_are_numbers():
    numbers = count(TrainingSet("x", DICTS[:1], 0), Metadata(name="x"), PseudoLabels())
    assert numbers.classes == {BOX: {"0": 1}}
