"""Faulty annotations and labels: one message that names file and object, and a cure."""

import os
import pickle

import pytest

from bad_inputs.entry import cases, check_refusal
from bad_inputs.world import SKIP, picture

XML = "<annotation><object><name>{}</name>{}<bndbox>{}</bndbox></object></annotation>"
CORNERS = "<xmin>1</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>9</ymax>"
VOC = {
    "unknown encoding": ("<?xml version='1.0' encoding='klingon'?><annotation/>", "klingon",
                         "UTF-8"),
    "multi-byte": ("<?xml version='1.0' encoding='big5'?><annotation/>", "multi-byte", "UTF-8"),
    "wrong bytes": (b"<annotation>\xe9</annotation>", "not an XML file", "invalid token"),
    "empty": ("", "not an XML file", "no element found"),
    "HTML": ("<html><body/></html>", "its first tag is <html>, not <annotation>"),
    "entities": ("<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
                 "undefined entity &b;"),
    "no name": (XML.format("", "", CORNERS.format(9)), "object 0 has no name"),
    "unknown class": (XML.format("tringle", "", CORNERS.format(9)), "class not among the card's"),
    "no box": (XML.format("cup", "", ""), "object 0 has no complete <bndbox>"),
    "text": (XML.format("cup", "", CORNERS.format("x")), "object 0 has no complete <bndbox>"),
    "NaN": (XML.format("{}", "", CORNERS.format("nan")), "box 1,1,nan,9 has no area"),
    "infinite": (XML.format("{}", "", CORNERS.format("inf")), "box 1,1,inf,9 leaves the image"),
    "inverted": (XML.format("{}", "", CORNERS.format("-3")), "box 1,1,-3,9 has no area"),
    "flat": (XML.format("{}", "", CORNERS.format(1)), "box 1,1,1,9 has no area"),
    "flag": (XML.format("cup", "<difficult>no</difficult>", CORNERS.format(9)), "need 0 or 1"),
    "two boxes": (XML.format("cup", "", CORNERS.format(9) + "</bndbox><bndbox>"),
                  "several <bndbox>"),
    "two names": (XML.format("cup", "<name>owl</name>", CORNERS.format(9)), "several <name>"),
    "size with a point": ("<annotation><size><width>9.0</width><height>8.0</height></size>"
                          "</annotation>", "says 9x8, but the image is"),
    "size": ("<annotation><size><width>0</width><height>0</height></size></annotation>", "0x0"),
}  # fmt: skip


@cases("content", VOC)
def test_voc(world, content, parts):
    card = world.read("devkit.yaml")
    ids = (world / "devkit/ImageSets/Half/trainval.txt").read_text().split()
    if isinstance(content, str):
        content = content.replace("{}", card["classes"][0])
    world.write(f"devkit/Annotations/{ids[0]}.xml", content)
    message = world.make_splits("devkit.yaml", "half")
    check_refusal(message, f"{ids[0]}.xml", *parts, SKIP)


LABELS = [
    ("a.png cup\na.png cup\n", "line 2: a.png is listed twice"),
    ("a.png\n", "line 1: unknown class '' of a.png"),
    ("a.png cpu\n", "line 1: unknown class 'cpu'", "did you mean cup?"),
    ("\nb.png cup\n", "line 2: no image b.png in"),
    ("\u00e9 cup\n".encode("latin-1"), "not a readable list of labels", "UTF-8"),
]


@cases("labels", LABELS)
def test_lists_of_labels(world, labels, parts):
    world.write("birds/images/a.png", picture())
    world.write("birds/labels.txt", labels)
    splits = {"train": {"images": "images", "labels": "labels.txt"}}
    world.write("birds.yaml", {"name": "birds", "format": "folders", "root": "birds",
                               "classes": ["cup", "owl"], "splits": splits})  # fmt: skip
    check_refusal(world.make_splits("birds.yaml"), "labels.txt", *parts)


VEDAI = [
    ("1 2 3", "object 0: has 3 numbers instead of 14"),
    ("1 1 0 1 1 0 " + "x " * 8, "object 0: could not convert string to float: 'x'"),
    ("1 1 0 1 1 0 " + "nan " * 8, "object 0: not all numbers are finite"),
    ("1 1 0 3 1 0 " + "5 " * 8, "object 0: unknown class number 3"),
    ("1 1 0 1 1 0 " + "5 " * 8, "has no area in the image of 32x32"),
    ("é".encode("latin-1"), "a.txt: line 1 is not UTF-8"),
]


@cases("line", VEDAI)
def test_vedai(world, line, parts):
    world.write("vedai/Vehicules512/a_co.png", picture())
    world.write("vedai/Annotations512/a.txt", line)
    world.write("vedai.yaml", {"name": "sky", "format": "vedai", "root": "vedai",
                               "splits": {"train": {}}})  # fmt: skip
    check_refusal(world.make_splits("vedai.yaml"), "a.txt", *parts, SKIP)


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
    message = world.make_splits("cifar.yaml")
    check_refusal(message, "lacks files of cifar10, or they are damaged", "unpack https://")
