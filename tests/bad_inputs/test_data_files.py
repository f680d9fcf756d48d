"""Faulty files of data sets: one message that names the file and entry, and a cure."""

import io
import json
import os
import pickle
import shutil
import struct

import numpy as np
import pytest
import yaml
from PIL import Image

from bad_inputs.entry import check_refusal, run_script

NAN, INF = float("nan"), float("inf")
SKIP = "strictness: skip"


def make_splits(world, card: str, split: str = "train") -> str:
    """The message with which tools/split.py, which reads the data, refuses a card."""
    return world.refused(
        "tools/split.py", "make", "--card", card, "--split", split, "--out", "lists"
    )


def picture(mode="RGB", size=(32, 32), kind="PNG", value=7, **options) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, value if mode in "LIFPI;16" else None).save(stream, kind, **options)
    return stream.getvalue()


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


BOX = [10, 20, 30, 40]
RLE = {"size": [9, 9], "counts": "0"}
FIRST = "train.json: annotations[0]"
COCO = {
    "empty file": (lambda c: b"", "train.json is not JSON", "cut off"),
    "cut off": (lambda c: json.dumps(c)[:99], "train.json is not JSON", "cut off"),
    "Latin-1": (lambda c: '{"é": 1}'.encode("latin-1"), "line 1 is not UTF-8", "encoding UTF-8"),
    "UTF-16 without a mark": (lambda c: json.dumps(c).encode("utf-16-le"), "zero bytes", "UTF-8"),
    "results": (lambda c: c["annotations"], "train.json is a list", "COCO results", "images"),
    "a number": (lambda c: "5", "train.json: not a COCO annotation file: it holds 5"),
    "deep": (lambda c: "[" * 100_000, "train.json is not JSON", "cut off"),
    "no categories": (lambda c: {k: c[k] for k in ("images", "annotations")}, "lacks", "categor"),
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
    "file name with zero": (changed("images", 0, file_name="a\0.jpg"), "need a text", SKIP),
    "file is a folder": (changed("images", 0, file_name="."), "not a readable image (Is a dir"),
    "image id list": (changed("images", 0, id=[1]), "id is [1], need a whole number or a text"),
    "mixed ids": (changed("images", 1, id="2"), "id '2', but the first is 1", SKIP),
    "same image twice": (changed("images", 1, id=1), "image 1 (", "is listed twice", SKIP),
    "no annotation id": (changed("annotations", 0, id=...), FIRST, "lacks the key 'id'", SKIP),
    "repeated id": (changed("annotations", 1, id=10), "id 10 is that of annotations[0], too", SKIP),
    "no image_id": (changed("annotations", 0, image_id=...), FIRST, "lacks the key 'image_id'"),
    "unknown image": (changed("annotations", 0, image_id="1"), "there is no image '1'", SKIP),
    "no category_id": (changed("annotations", 0, category_id=...), FIRST, "'category_id'", SKIP),
    "category_id table": (changed("annotations", 0, category_id={}), "category_id is {}, need"),
    "unknown category": (changed("annotations", 0, category_id=9), "unknown category id 9", SKIP),
    "no bbox": (changed("annotations", 0, bbox=...), FIRST, "lacks the key 'bbox'", SKIP),
    "bbox of three": (changed("annotations", 0, bbox=[1, 2, 3]), "need four finite numbers", SKIP),
    "bbox of five": (changed("annotations", 0, bbox=[*BOX, 5]), "need four finite numbers", SKIP),
    "bbox of texts": (changed("annotations", 0, bbox=["1"] * 4), "need four finite numbers", SKIP),
    "bbox table": (changed("annotations", 0, bbox={"x": 1}), "need four finite numbers", SKIP),
    "bbox NaN": (changed("annotations", 0, bbox=[NAN, 1, 2, 3]), FIRST, "four finite", SKIP),
    "bbox infinite": (changed("annotations", 0, bbox=[1, 1, INF, 3]), FIRST, "four finite", SKIP),
    "bbox huge": (changed("annotations", 0, bbox=[1, 1, 10**400, 3]), FIRST, "four finite", SKIP),
    "bbox flat": (changed("annotations", 0, bbox=[1, 1, 0, 3]), "has no area", SKIP),
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
    "bbox of no width": (changed("annotations", 0, bbox=[9, 9, 1e-9, 9]), "has no area", SKIP),
    "name of no encoding": (changed("categories", 0, name="\ud800"), "need a text", SKIP),
    "name of two lines": (changed("categories", 0, name="a\nb"), "name is 'a\\nb', need a text"),
    "category id text": (changed("categories", 1, id="2"), "id '2', but the first is 1", SKIP),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "parts"), [(v[0], v[1:]) for v in COCO.values()], ids=COCO)
def test_coco(world, spoil, parts):
    world.write("coco/train.json", spoil(world.read("coco/train.json")))
    check_refusal(make_splits(world, "coco.yaml"), "coco", *parts)


@pytest.mark.parametrize("counts", ["0", "\x10~", "0P", [1, 2], [-1, 5], 5, ["a"]])
def test_coco_run_lengths(world, counts):
    content = world.read("coco/train.json")
    size = [content["images"][0]["height"], content["images"][0]["width"]]
    content["annotations"][0]["segmentation"] = {"size": size, "counts": counts}
    world.write("coco/train.json", content)
    parts = "annotation 10 (cat)", "broken counts", str(size[0] * size[1]), SKIP
    check_refusal(make_splits(world, "coco.yaml"), *parts)


LISTS = {
    "Latin-1": ("000000\nétoile\n".encode("latin-1"), "line 2 is not UTF-8", "encoding UTF-8"),
    "binary": (b"a\0b", "zero bytes", "encoding UTF-8"),
    "odd UTF-16": (b"\xff\xfea", "is not UTF-16", "encoding UTF-8"),
    "space": ("my image\n", "my image: no image of this id in", SKIP),
    "mark": ("\ufefflost\n", "\n  lost: no image of this id in", SKIP),
    "extension": ("000000.jpg\n", "ids have no extension, write 000000", SKIP),
    "twice": ("000000\n000001\r\n000000\r\n", "line 3: 000000 is listed twice (line 1)", SKIP),
    "outside": ("../../coco/images/x\n", "no image of this id in", SKIP),
    "folder": ("JPEGImages/000000.jpg\n", "ids have no folder, write 000000", SKIP),
    "Windows": ("C:\\JPEGImages\\000000.jpg\n", "ids have no folder, write 000000", SKIP),
    "empty": ("\n", "own.txt has no id; write one on each line"),
}


@pytest.mark.parametrize(("content", "parts"), [(v[0], v[1:]) for v in LISTS.values()], ids=LISTS)
def test_id_lists(world, content, parts):
    world.write("own.txt", content)
    card = {**world.read("devkit.yaml"), "splits": {"train": "own"}}
    world.write("devkit.yaml", card)
    check_refusal(make_splits(world, "devkit.yaml"), *parts)


XML = "<annotation><object><name>{}</name>{}<bndbox>{}</bndbox></object></annotation>"
CORNERS = "<xmin>1</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>9</ymax>"
VOC = {
    "unknown encoding": ("<?xml version='1.0' encoding='klingon'?><annotation/>", "UTF-8"),
    "multi-byte": ("<?xml version='1.0' encoding='big5'?><annotation/>", "encoding UTF-8"),
    "wrong bytes": (b"<annotation>\xe9</annotation>", "not an XML file"),
    "empty": ("", "not an XML file"),
    "HTML": ("<html><body/></html>", "its first tag is <html>, not <annotation>"),
    "entities": ("<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>", "not an XML"),
    "no name": (XML.format("", "", CORNERS.format(9)), "object 0 has no name"),
    "unknown class": (XML.format("tringle", "", CORNERS.format(9)), "class not among the card's"),
    "no box": (XML.format("cup", "", ""), "object 0 has no complete <bndbox>"),
    "text": (XML.format("cup", "", CORNERS.format("x")), "object 0 has no complete <bndbox>"),
    "NaN": (XML.format("{}", "", CORNERS.format("nan")), "box 1,1,nan,9 has no area"),
    "infinite": (XML.format("{}", "", CORNERS.format("inf")), "box 1,1,inf,9 leaves the image"),
    "inverted": (XML.format("{}", "", CORNERS.format("-3")), "box 1,1,-3,9 has no area"),
    "flat": (XML.format("{}", "", CORNERS.format(1)), "box 1,1,1,9 has no area"),
    "flag": (XML.format("cup", "<difficult>no</difficult>", CORNERS.format(9)), "need 0 or 1"),
    "two boxes": (XML.format("cup", "", CORNERS.format(9) + "</bndbox><bndbox>"), "several"),
    "two names": (XML.format("cup", "<name>owl</name>", CORNERS.format(9)), "several <name>"),
    "size with a point": ("<annotation><size><width>9.0</width><height>8.0</height></size>"
                          "</annotation>", "says 9x8, but the image is"),
    "size": ("<annotation><size><width>0</width><height>0</height></size></annotation>", "0x0"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "part"), VOC.values(), ids=VOC)
def test_voc(world, content, part):
    card = world.read("devkit.yaml")
    ids = (world / "devkit/ImageSets/Half/trainval.txt").read_text().split()
    if isinstance(content, str):
        content = content.replace("{}", card["classes"][0])
    world.write(f"devkit/Annotations/{ids[0]}.xml", content)
    message = make_splits(world, "devkit.yaml", "half")
    check_refusal(message, f"{ids[0]}.xml", part, SKIP)


IMAGES = {
    "text": (b"no image", "not a readable image (unknown format)"),
    "empty": (b"", "not a readable image"),
    "32-bit float": (picture("F", kind="TIFF"), "32-bit values (mode F)", "8 or 16 bits"),
    "32-bit": (picture("I", kind="TIFF"), "32-bit values (mode I)", "8 or 16 bits"),
    "LAB": (picture("LAB", kind="TIFF"), "mode LAB", "save it as RGB"),
    "bomb": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II5B", 10**6, 10**6, 8, 2, 0, 0, 0)
             + b"\0\0\0\0", "not a readable image"),
    "cut header": (picture(kind="JPEG")[:30], "not a readable image"),
    "strip": (picture(size=(5000, 1)), "is 5000x1, of which nothing is left", "crop it"),
    "program": (picture(kind="EPS"), "is a PostScript program; save it as PNG"),
    "other size": (picture(size=(3, 4)), "listed as", "but the image is 3x4"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "parts"), [(v[0], v[1:]) for v in IMAGES.values()], ids=IMAGES)
def test_images(world, content, parts):
    name = world.read("coco/train.json")["images"][0]["file_name"]
    world.write(f"coco/images/{name}", content)
    check_refusal(make_splits(world, "coco.yaml"), name, *parts, SKIP)


def test_an_image_that_is_a_broken_link(world):
    name = world.read("coco/train.json")["images"][0]["file_name"]
    (world / "coco/images" / name).unlink()
    (world / "coco/images" / name).symlink_to("nowhere")
    check_refusal(make_splits(world, "coco.yaml"), name, "No such file", SKIP)


def mask_of(values) -> bytes:
    if isinstance(values, bytes):
        return values
    stream = io.BytesIO()
    Image.fromarray(np.asarray(values)).save(stream, "PNG")
    return stream.getvalue()


MASKS = {
    "all void": (lambda shape: np.full(shape, 255, np.uint8), "every pixel has the ignore label"),
    "beyond": (lambda shape: np.full(shape, 77, np.uint8), "values [77] are beyond the 9 classes"),
    "16 bits": (lambda shape: np.full(shape, 300, np.uint16), "has values 300 … 300", "0 … 255"),
    "colours": (lambda shape: np.zeros((*shape, 3), np.uint8), "has mode RGB", "class indices"),
    "JPEG": (lambda shape: picture("L", shape[::-1], "JPEG"), "is a JPEG file", "save it as PNG"),
    "size": (lambda shape: np.zeros((3, 4), np.uint8), "is 4x3, but the image is"),
}


@pytest.mark.parametrize(("values", "parts"), [(v[0], v[1:]) for v in MASKS.values()], ids=MASKS)
def test_masks(world, values, parts):
    file = sorted((world / "masks/masks").iterdir())[0]
    width, height = Image.open(file).size
    world.write(f"masks/masks/{file.name}", mask_of(values((height, width))))
    check_refusal(make_splits(world, "masks.yaml"), file.name, *parts, SKIP)


CARDS = {
    "name table": ({"name": {"a": 1}}, "name has {'a': 1}, need a text"),
    "name of a list": ({"name": ["a"]}, "name has ['a'], need a text", "quotes"),
    "name yes": ({"name": True}, "name has True, need a text", "quotes"),
    "name that leaves": ({"name": "../../x"}, "name '../../x' must consist of letters"),
    "name absolute": ({"name": "/elsewhere"}, "name '/elsewhere' must consist of letters, digits"),
    "name of a space": ({"name": "my data"}, "name 'my data' must consist of letters, digits"),
    "name empty": ({"name": ""}, "name '' must consist of letters, digits"),
    "name hidden": ({"name": ".x"}, "begin with a letter or digit"),
    "no name": ({"name": None}, "key 'name' is missing"),
    "format": ({"format": "vok"}, "format is 'vok'; choose from", "voc"),
    "format list": ({"format": ["voc"]}, "choose from", "voc"),
    "no format": ({"format": None}, "key 'format' is missing"),
    "root list": ({"root": ["a"]}, "root has ['a'], need a text"),
    "root number": ({"root": 1.5}, "root has 1.5, need a text"),
    "root nowhere": ({"root": "nowhere"}, "root 'nowhere' is not a folder, tried", "correct"),
    "root of nobody": ({"root": "~nobody7/x"}, "root '~nobody7/x' is not a folder", "correct"),
    "root a file": ({"root": "devkit.yaml"}, "is not a folder", "correct `root`"),
    "root with zero": ({"root": "a\0b"}, "a zero byte or half a character; remove it"),
    "ignore_label text": ({"ignore_label": "x"}, "ignore_label 'x', need a whole number"),
    "ignore_label half": ({"ignore_label": 1.5}, "ignore_label 1.5, need a whole number"),
    "ignore_label yes": ({"ignore_label": True}, "ignore_label True, need a whole number"),
    "ignore_label large": ({"ignore_label": 300}, "ignore_label 300", "0 to 255"),
    "classes text": ({"classes": "cup"}, "classes must be a list of names, got 'cup'"),
    "classes table": ({"classes": {1: "cup"}}, "classes must be a list of names"),
    "classes yes": ({"classes": ["yes", True]}, "classes has True, need a text", "quotes"),
    "classes list": ({"classes": [["cup"]]}, "classes has ['cup'], need a text"),
    "classes twice": ({"classes": ["cup", "cup"]}, "classes lists cup twice"),
    "classes blank": ({"classes": ["cup", " "]}, "classes has ' ', need a text of one line"),
    "classes lines": ({"classes": ["cup", "a\nb"]}, "classes has 'a\\nb', need a text of one line"),
    "annotates nothing": ({"annotates": []}, "annotates is empty; drop it", "_unlabeled"),
    "classes empty": ({"classes": []}, "classes is empty", "leave"),
    "strictness": ({"strictness": "skp"}, "strictness is 'skp'; choose from stop, skip"),
    "strictness yes": ({"strictness": True}, "strictness is 'True'; choose from stop, skip"),
    "splits list": ({"splits": ["half"]}, "`splits` must be a table like {train: Main/train}"),
    "splits text": ({"splits": "half"}, "`splits` must be a table like {train: Main/train}"),
    "splits empty": ({"splits": {}}, "`splits` must be a table like {train: Main/train}"),
    "split list": ({"splits": {"half": ["a", "b"]}}, "ids has ['a', 'b'], need a text"),
    "split name": ({"splits": {"../x": "Main/train"}}, "must consist of letters, digits"),
    "split no": ({"splits": {False: "Main/train"}}, "name has False, need a text", "quotes"),
    "split key": ({"splits": {"half": {"idz": "x"}}}, "split 'half': unknown key 'idz'", "'ids'"),
    "no list": ({"splits": {"half": "Main/trian"}}, "no id list 'Main/trian', tried"),
    "split taken": ({"splits": {"a_unlabeled": "x"}}, "names ending in _unlabeled"),
    "no ids": ({"splits": {"half": None}}, "needs a list of ids, like Main/train"),
    "year text": ({"year": "x"}, "year 'x', need a whole number"),
    "year half": ({"year": 2007.5}, "year 2007.5, need a whole number"),
    "year other": ({"year": 2010}, "year 2010, choose 2007", "2012"),
    "only_complete": ({"only_complete": "no"}, "only_complete 'no', choose true or false"),
    "images list": ({"images": ["a"]}, "images has ['a'], need a text"),
    "images nowhere": ({"images": "nowhere"}, "no image folder", "correct `root` or `images`"),
    "annotates": ({"annotates": ["dets"]}, "annotates ['dets']", "can give ['det', 'seg']"),
    "annotates table": ({"annotates": {"det": 1}}, "annotates has {'det': 1}, need a text"),
    "unknown key": ({"clases": ["a"]}, "unknown key 'clases'", "Did you mean 'classes'"),
    "key of another": ({"json": "x"}, "format voc has no use for `json` (coco have), drop it"),
}  # fmt: skip


@pytest.mark.parametrize(("keys", "parts"), [(v[0], v[1:]) for v in CARDS.values()], ids=CARDS)
def test_cards(world, keys, parts):
    world.write("devkit.yaml", {**world.read("devkit.yaml"), **keys})
    check_refusal(make_splits(world, "devkit.yaml", "half"), "card devkit.yaml", *parts)


CARD_FILES = {
    "empty": (b"", "is not a table of keys"),
    "list": (b"- a\n", "is not a table of keys"),
    "Latin-1": ("# Où\nname: été\n".encode("latin-1"), "line 1 is not UTF-8", "encoding UTF-8"),
    "binary": (b"\0\1\2", "zero bytes", "encoding UTF-8"),
    "no YAML": (b"name: [a\n", "devkit.yaml, line 2", "expected ',' or ']'"),
    "tab": (b"name: a\n\troot: b\n", "devkit.yaml, line 2", "cannot start any token"),
    "no date": (b"name: 2020-02-30\n", "day is out of range", "Put texts in quotes"),
    "code": (b"name: !!python/object/apply:os.system ['touch owned']\n", "line 1: the tag",
             "would run Python code and is refused"),
    "deep": (b"[" * 50_000, "nested too deeply", "Correct its brackets"),
    "key twice": (b"name: a\nroot: b\nname: c\n", "line 3: the key 'name' is given twice"),
    "split twice": (b"name: a\nsplits:\n  x: a\n  x: b\n", "line 4: the key 'x' is given twice"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "parts"), [(v[0], v[1:]) for v in CARD_FILES.values()], ids=CARD_FILES
)
def test_card_files(world, content, parts):
    world.write("devkit.yaml", content)
    check_refusal(make_splits(world, "devkit.yaml", "half"), "card devkit.yaml", *parts)


def test_cards_that_are_no_files(world):
    check_refusal(make_splits(world, "nowhere.yaml"), "nowhere.yaml cannot be read", "No such file")
    check_refusal(make_splits(world, "devkit"), "devkit cannot be read", "Is a directory")


def test_train_net_names_file_and_entry(world):
    world.write("devkit.yaml", {**world.read("devkit.yaml"), "name": "../../x"})
    check_refusal(world.train(), "card devkit.yaml: name '../../x' must consist of letters")
    world.write("coco/train.json", added("categories", {"id": 3, "name": "cat"})(
        world.read("coco/train.json")))  # fmt: skip
    opts = "DATASETS.CARDS", "('coco.yaml',)", "DATASETS.TRAIN", "('tinycoco_train',)"
    opts += "DATASETS.TEST", "()"
    argv = "--config-file", "student.yaml", *opts
    status, errors = run_script("train_net.py", *argv, folder=world.folder)
    assert status == 2 and "Traceback" not in errors
    check_refusal(errors, "train.json: categories[2]: name 'cat' is that of categories[0]", SKIP)
    assert not (world / "run" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("labels", "parts"),
    [
        ("a.png cup\na.png cup\n", ("line 2: a.png is listed twice",)),
        ("a.png\n", ("line 1: unknown class '' of a.png",)),
        ("a.png cpu\n", ("line 1: unknown class 'cpu'", "did you mean cup?")),
        ("\nb.png cup\n", ("line 2: no image b.png in",)),
        ("\u00e9 cup\n".encode("latin-1"), ("not a readable list of labels", "UTF-8")),
    ],
)
def test_lists_of_labels(world, labels, parts):
    world.write("birds/images/a.png", picture())
    world.write("birds/labels.txt", labels)
    splits = {"train": {"images": "images", "labels": "labels.txt"}}
    world.write("birds.yaml", {"name": "birds", "format": "folders", "root": "birds",
                               "classes": ["cup", "owl"], "splits": splits})  # fmt: skip
    check_refusal(make_splits(world, "birds.yaml"), "labels.txt", *parts)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("1 2 3", "object 0: has 3 numbers instead of 14"),
        ("1 1 0 1 1 0 " + "x " * 8, "object 0: could not convert string to float: 'x'"),
        ("1 1 0 1 1 0 " + "nan " * 8, "object 0: not all numbers are finite"),
        ("1 1 0 3 1 0 " + "5 " * 8, "object 0: unknown class number 3"),
        ("1 1 0 1 1 0 " + "5 " * 8, "has no area in the image of 32x32"),
        ("é".encode("latin-1"), "a.txt: line 1 is not UTF-8"),
    ],
)
def test_vedai(world, line, part):
    world.write("vedai/Vehicules512/a_co.png", picture())
    world.write("vedai/Annotations512/a.txt", line)
    world.write("vedai.yaml", {"name": "sky", "format": "vedai", "root": "vedai",
                               "splits": {"train": {}}})  # fmt: skip
    check_refusal(make_splits(world, "vedai.yaml"), "a.txt", part, SKIP)


class _Touch:
    def __reduce__(self):
        return os.mkdir, ("owned",)


@pytest.mark.parametrize("part", ["train", "test"])
def test_cifar_runs_no_code_of_its_pickles(world, part):
    folder = "cifar-10-batches-py"
    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"]
    for name in names:
        world.write(f"{folder}/{name}", pickle.dumps(_Touch()))
    world.write("cifar.yaml", {"name": "small", "format": "cifar10", "root": folder,
                               "splits": {"train": part}})  # fmt: skip
    message = make_splits(world, "cifar.yaml")
    check_refusal(message, "lacks files of cifar10, or they are damaged", "unpack https://")


SPLIT = ["make", "--card", "devkit.yaml", "--split", "half", "--out", "lists"]
TOOL = {
    "split": ([*SPLIT[:4], "hafl", *SPLIT[5:]], "--split hafl", "Did you mean 'half'?"),
    "name": (["make", "--split", "tiny_hafl", "--out", "x"], "--split names 'tiny_hafl'", "regist"),
    "fraction": ([*SPLIT, "--fractions", "1/0"], "--fractions", "denominator 0"),
    "fraction word": ([*SPLIT, "--fractions", "half"], "--fractions", "half"),
    "fraction large": ([*SPLIT, "--fractions", "2"], "fractions must", "between 0 and 1"),
    "fraction twice": ([*SPLIT, "--fractions", "1/2", "0.5"], "fractions must differ"),
    "fraction small": ([*SPLIT, "--fractions", "1/1000"], "is 0: no such split can be made"),
    "seed": ([*SPLIT, "--seed", "-1"], "--seed", "whole number from 0 on"),
    "tasks": (["partial", *SPLIT[1:], "--tasks", "a", "a"], "tasks must have names of their own"),
    "nested": (["partial", *SPLIT[1:], "--nested", "1"], "nested parts be 2 or more"),
    "out": ([*SPLIT[:-1], "devkit.yaml"], "devkit.yaml"),
    "part": ([*SPLIT, "--part", "../../x"], "--part", "'../../x' is no name of a file"),
    "task": (["partial", *SPLIT[1:], "--tasks", "../x"], "--tasks", "'../x' is no name of a file"),
    "task empty": (["partial", *SPLIT[1:], "--tasks", ""], "--tasks", "'' is no name of a file"),
    "check": (["check", "coco"], "no lists like Half/trainval.txt", "coco"),
    "check nowhere": (["check", "nowhere"], "no lists like Half/trainval.txt", "nowhere"),
    "check test": (["check", "devkit", "--test", "Hlf/test"], "no list 'Hlf/test', known are"),
}


@pytest.mark.parametrize(("argv", "parts"), [(v[0], v[1:]) for v in TOOL.values()], ids=TOOL)
def test_split_tool(world, argv, parts):
    check_refusal(world.refused("tools/split.py", *argv), *parts)


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\t\n"])
def test_ids_with_spaces_and_accents_are_read_in_any_encoding(world, encoding, end):
    names = ["my image", "\u00e9toile 2", "\u00e9toile 1"]
    source = sorted((world / "devkit/JPEGImages").iterdir())[0]
    for name in names:
        shutil.copy(source, world / f"devkit/JPEGImages/{name}.jpg")
        shutil.copy(
            world / f"devkit/Annotations/{source.stem}.xml",
            world / f"devkit/Annotations/{name}.xml",
        )
    world.write("own.txt", "".join(name + end for name in names).encode(encoding))
    card = {**world.read("devkit.yaml"), "splits": {"train": "own"}}
    world.write("devkit.yaml", yaml.safe_dump(card, allow_unicode=True).encode(encoding))
    argv = ["make", "--card", "devkit.yaml", "--split", "train", "--fractions", "1/3", "--out", "x"]
    status, errors = run_script("tools/split.py", *argv, folder=world.folder)
    assert status == 0, errors
    listed = (world / "x/66.6667pct/trainval.txt").read_text().splitlines()
    listed += (world / "x/33.3333pct/trainval.txt").read_text().splitlines()
    assert sorted(listed) == sorted(names)
