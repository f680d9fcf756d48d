"""Faulty files of YOLO: one message that names the file and the line or key, and a cure."""

import shutil

import pytest

from bad_inputs.entry import cases, check_refusal
from bad_inputs.world import SKIP

YAML = {"train": "images", "names": ["cat", "dog"]}
LINE = "0 0.5 0.5 0.2 0.2\n"


@pytest.fixture
def yolo(world):
    """The world, in which yolo/ has images, label files and a data.yaml."""
    shutil.copytree(world / "coco" / "images", world / "yolo" / "images")
    for image in (world / "yolo" / "images").iterdir():
        world.write(f"yolo/labels/{image.stem}.txt", LINE)
    world.write("yolo/data.yaml", YAML)
    return world


LABELS = {
    "class": (b"7 0.5 0.5 0.2 0.2", "line 1: class 7, but the classes are 0", SKIP),
    "name": (b"cat 0.5 0.5 0.2 0.2", "line 1: could not convert", "'cat'; need a class number"),
    "pixels": (b"0 60 60 20 20", "line 1: 60 is not in 0", "are these pixels?"),
    "columns": (LINE.encode() + b"0 0.5 0.5 0.2", "line 2: has 4 columns, need 5 for a box"),
    "key points": (b"0 0.5 0.5 0.2 0.2 0.1 0.1 2", "has 8 columns", "`extra_columns` passes over"),
    "commas": (b"0,0.5,0.5,0.2,0.2", "has commas; write 0.5 with a point, and spaces"),
    "NaN": (b"0 nan 0.5 0.2 0.2", "line 1: not all numbers are finite"),
    "no area": (b"0 0.5 0.5 0 0.2", "the box 0.5 0.5 0 0.2 has no area in the image of"),
    "Latin-1": ("é".encode("latin-1"), "line 1 is not UTF-8", "encoding UTF-8"),
    "binary": (b"\0\1", "zero bytes", "encoding UTF-8"),
}


@cases("content", LABELS)
def test_labels(yolo, content, parts):
    file = min((yolo / "yolo" / "labels").iterdir())
    file.write_bytes(content)
    check_refusal(yolo.make_splits("yolo/data.yaml"), "yolo_train", f"labels/{file.name}", *parts)


KEYS = {
    "names": ({"names": None}, "`names` is None, need the names of the classes"),
    "numbers": ({"names": {1: "cat", 5: "dog"}}, "numbers of the classes must be 0 … 1, got 1, 5"),
    "count": ({"nc": 9}, "nc is 9, but there are 2 `names`"),
    "nowhere": ({"train": "imgs"}, "there is no imgs in", "correct `path`"),
    "no split": ({"train": None}, "has no `train`, `val` or `test`, the folders of the images"),
    "path list": ({"path": ["a"]}, "`path` is ['a'], need a text"),
}  # fmt: skip


@cases("keys", KEYS)
def test_data_yaml(yolo, keys, parts):
    yolo.write("yolo/data.yaml", {**YAML, **keys})
    check_refusal(yolo.make_splits("yolo/data.yaml"), "data.yaml", *parts)
