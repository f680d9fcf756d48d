"""Faulty COCO files: one message that names the file and entry, and a cure."""

import json

import pytest

from bad_inputs.entry import cases, check_refusal
from bad_inputs.world import SKIP


def changed(table: str, number: int, **values):
    """Set keys of an entry of a COCO file; the value ... drops the key."""

    def spoil(content):
        entry = content[table][number]
        entry.update(values)
        for key in [key for key, value in values.items() if value is ...]:
            del entry[key]
        return content

    return spoil


def added(table: str, entry):
    """Append an entry to a table of a COCO file."""

    def spoil(content):
        content[table].append(entry)
        return content

    return spoil


def replaced(table: str, value):
    """Replace a table of a COCO file."""
    return lambda content: {**content, table: value}


NAN, INF = float("nan"), float("inf")
BOX = [10, 20, 30, 40]
RLE = {"size": [9, 9], "counts": "0"}
FIRST = "train.json: annotations[0]"
COCO = {
    "empty file": (lambda c: b"", "train.json is not JSON", "line 1 column 1", "cut off"),
    "cut off": (lambda c: json.dumps(c)[:99], "train.json is not JSON", "cut off"),
    "Latin-1": (lambda c: '{"é": 1}'.encode("latin-1"), "line 1 is not UTF-8", "encoding UTF-8"),
    "UTF-16 without a mark": (lambda c: json.dumps(c).encode("utf-16-le"), "zero bytes", "UTF-8"),
    "results": (lambda c: c["annotations"], "train.json is a list", "COCO results", "images"),
    "a number": (lambda c: "5", "train.json: not a COCO annotation file: it holds 5"),
    "deep": (lambda c: "[" * 100_000, "train.json is not JSON", "cut off"),
    "no categories": (lambda c: {k: c[k] for k in ("images", "annotations")},
                      "lacks the table(s) categories"),
    "images table": (replaced("images", {}), "`images` must be a list of entries, it is {}"),
    "annotations null": (replaced("annotations", None), "`annotations` must be a list", "None"),
    "categories text": (replaced("categories", "cat"), "`categories` must be a list", "'cat'"),
    "entry no table": (added("images", 7), "images[3]: must be a table of keys, it is 7", SKIP),
    "entry list": (added("annotations", []), "annotations[6]: must be a table", "it is []"),
    "category text": (added("categories", "owl"), "categories[2]: must be a table", "'owl'"),
    "no image id": (changed("images", 0, id=...), "images[0]: lacks the key 'id'", SKIP),
    "no file name": (changed("images", 1, file_name=...), "images[1]: lacks the key 'file_name'"),
    "no width": (changed("images", 0, width=...), "images[0]: lacks the key 'width'", SKIP),
    "width text": (changed("images", 0, width="64"), "width is '64', need a number of pixels"),
    "width zero": (changed("images", 0, width=0), "width is 0, need a number of pixels", SKIP),
    "file name number": (changed("images", 0, file_name=5), "file_name is 5, need a text", SKIP),
    "file name empty": (changed("images", 0, file_name=""), "file_name is '', need a text", SKIP),
    "file name with zero": (changed("images", 0, file_name="a\0.jpg"),
                            "file_name is 'a\\x00.jpg'", SKIP),
    "file is a folder": (changed("images", 0, file_name="."), "not a readable image (Is a dir"),
    "image id list": (changed("images", 0, id=[1]), "id is [1], need a whole number or a text"),
    "mixed ids": (changed("images", 1, id="2"), "images[1]: id '2', but the first is 1", SKIP),
    "same image twice": (changed("images", 1, id=1), "image 1 (", "is listed twice", SKIP),
    "no annotation id": (changed("annotations", 0, id=...), FIRST, "lacks the key 'id'", SKIP),
    "repeated id": (changed("annotations", 1, id=10), "id 10 is that of annotations[0], too", SKIP),
    "no image_id": (changed("annotations", 0, image_id=...), FIRST, "lacks the key 'image_id'"),
    "unknown image": (changed("annotations", 0, image_id="1"), "there is no image '1'", SKIP),
    "no category_id": (changed("annotations", 0, category_id=...), FIRST, "'category_id'", SKIP),
    "category_id table": (changed("annotations", 0, category_id={}), "category_id is {}, need"),
    "unknown category": (changed("annotations", 0, category_id=9), "unknown category id 9", SKIP),
    "no bbox": (changed("annotations", 0, bbox=...), FIRST, "lacks the key 'bbox'", SKIP),
    "bbox of three": (changed("annotations", 0, bbox=[1, 2, 3]), FIRST,
                      "is [1, 2, 3], need four finite", SKIP),
    "bbox of five": (changed("annotations", 0, bbox=[*BOX, 5]), "40, 5], need four finite", SKIP),
    "bbox of texts": (changed("annotations", 0, bbox=["1"] * 4), "'1'], need four finite", SKIP),
    "bbox table": (changed("annotations", 0, bbox={"x": 1}), "{'x': 1}, need four finite", SKIP),
    "bbox NaN": (changed("annotations", 0, bbox=[NAN, 1, 2, 3]),
                 "nan, 1, 2, 3], need four finite", SKIP),
    "bbox infinite": (changed("annotations", 0, bbox=[1, 1, INF, 3]),
                      "[1, 1, inf, 3], need four finite", SKIP),
    "bbox huge": (changed("annotations", 0, bbox=[1, 1, 10**400, 3]), "[1, 1, 1000",
                  "four finite", SKIP),
    "bbox flat": (changed("annotations", 0, bbox=[1, 1, 0, 3]), "w 0, h 3 has no area", SKIP),
    "bbox outside": (changed("annotations", 0, bbox=[1, 1, 999, 3]), "leaves the image of", SKIP),
    "iscrowd": (changed("annotations", 0, iscrowd="no"), "iscrowd is 'no', need 0 or 1", SKIP),
    "polygon flat": (changed("annotations", 0, segmentation=[1, 2, 3, 4, 5, 6]), "lists of finite"),
    "polygon NaN": (changed("annotations", 0, segmentation=[[NAN] * 6]), "lists of finite", SKIP),
    "polygon texts": (changed("annotations", 0, segmentation=[["1"] * 6]), "lists of finite", SKIP),
    "polygon short": (changed("annotations", 0, segmentation=[[1, 2]]), "three or more corners"),
    "segmentation text": (changed("annotations", 0, segmentation="x"), "list of polygons, or run"),
    "RLE without size": (changed("annotations", 0, segmentation={"counts": "0"}), "and size"),
    "RLE size": (changed("annotations", 0, segmentation=RLE), "has size [9, 9], but the image has"),
    "no category name": (changed("categories", 0, name=...), "categories[0]: lacks the key 'name'"),
    "category number": (changed("categories", 0, name=3), "name is 3, need a text", SKIP),
    "name repeated": (changed("categories", 1, name="cat"), "name 'cat' is that of categories[0]"),
    "category id repeated": (changed("categories", 1, id=1), "id 1 is that of categories[0]", SKIP),
    "key twice": (lambda c: json.dumps(c)[:-1] + ', "images": []}', "key 'images' is there twice"),
    "fractions": (lambda c: {**c, "annotations": [{**a, "bbox": [0.1, 0.1, 0.5, 0.5]}
                                                  for a in c["annotations"]]},
                  "fractions of the image's size", "must be x, y, width and height in pixels"),
    "bbox of no width": (changed("annotations", 0, bbox=[9, 9, 1e-9, 9]),
                         "w 1e-09, h 9 has no area", SKIP),
    "name of no encoding": (changed("categories", 0, name="\ud800"),
                            "name is '\\ud800', need a text", SKIP),
    "name of two lines": (changed("categories", 0, name="a\nb"), "name is 'a\\nb', need a text"),
    "category id text": (changed("categories", 1, id="2"), "[1]: id '2', but the first is 1", SKIP),
}  # fmt: skip


@cases("spoil", COCO)
def test_coco(world, spoil, parts):
    world.write("coco/train.json", spoil(world.read("coco/train.json")))
    check_refusal(world.make_splits("coco.yaml"), "coco", *parts)


@pytest.mark.parametrize("counts", ["0", "\x10~", "0P", [1, 2], [-1, 5], 5, ["a"]])
def test_coco_run_lengths(world, counts):
    content = world.read("coco/train.json")
    size = [content["images"][0]["height"], content["images"][0]["width"]]
    content["annotations"][0]["segmentation"] = {"size": size, "counts": counts}
    world.write("coco/train.json", content)
    parts = "annotation 10 (cat)", "broken counts", str(size[0] * size[1]), SKIP
    check_refusal(world.make_splits("coco.yaml"), *parts)
