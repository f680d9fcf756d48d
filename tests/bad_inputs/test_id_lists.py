"""Faulty lists of ids and splits that cannot be made, and lists that are right in any encoding."""

import shutil

import pytest
import yaml

from bad_inputs.entry import cases, check_refusal
from bad_inputs.world import SKIP

LISTS = {
    "Latin-1": ("000000\nétoile\n".encode("latin-1"), "line 2 is not UTF-8", "encoding UTF-8"),
    "binary": (b"a\0b", "zero bytes", "encoding UTF-8"),
    "odd UTF-16": (b"\xff\xfea", "is not UTF-16", "encoding UTF-8"),
    "space": ("my image\n", "my image: no image of this id in", SKIP),
    "mark": ("\ufefflost\n", "\n  lost: no image of this id in", SKIP),
    "extension": ("000000.jpg\n", "ids have no extension, write 000000", SKIP),
    "twice": ("000000\n000001\r\n000000\r\n", "line 3: 000000 is listed twice (line 1)", SKIP),
    "outside": ("../../coco/images/x\n", "../../coco/images/x: no image of this id in", SKIP),
    "folder": (
        "JPEGImages/000000.jpg\n",
        "\n  JPEGImages/000000.jpg: no",
        "ids have no folder, write 000000",
        SKIP,
    ),
    "Windows": (
        "C:\\JPEGImages\\000000.jpg\n",
        "\n  C:\\JPEGImages\\000000.jpg: no",
        "ids have no folder, write 000000",
        SKIP,
    ),
    "empty": ("\n", "own.txt has no id; write one on each line"),
}


@cases("content", LISTS)
def test_id_lists(world, content, parts):
    world.write("own.txt", content)
    card = {**world.read("devkit.yaml"), "splits": {"train": "own"}}
    world.write("devkit.yaml", card)
    check_refusal(world.make_splits("devkit.yaml"), *parts)


COCO_LISTS = {
    "no JSON": ("{", "own.json is not JSON", "cut off"),
    "a list": ("[]", "own.json: not a COCO file, it has no list `images`"),
    "no name": ('{"images": [{"id": 1}]}', "own.json: images[0] has no text `file_name`"),
    "lost": ('{"images": [{"file_name": "x.jpg"}]}', "\n  x: no image of this id in", SKIP),
    "twice": ('{"images": [{"file_name": "000000.png"}, {"file_name": "000000.jpg"}]}',
              "own.json: image 1: 000000 is listed twice (image 0)", SKIP),
    "empty": ('{"images": []}', "own.json has no id"),
}  # fmt: skip


@cases("content", COCO_LISTS)
def test_coco_files_as_lists(world, content, parts):
    world.write("own.json", content)
    card = {**world.read("devkit.yaml"), "splits": {"train": "own.json"}}
    world.write("devkit.yaml", card)
    check_refusal(world.make_splits("devkit.yaml"), *parts)


SPLIT = ["make", "--card", "devkit.yaml", "--split", "half", "--out", "lists"]
TOOL = {
    "split": ([*SPLIT[:4], "hafl", *SPLIT[5:]], "--split hafl", "Did you mean 'half'?"),
    "name": (["make", "--split", "tiny_hafl", "--out", "x"], "--split names 'tiny_hafl'", "regist"),
    "fraction": ([*SPLIT, "--fractions", "1/0"], "--fractions", "denominator 0"),
    "fraction word": (
        [*SPLIT, "--fractions", "half"],
        "argument --fractions: invalid fraction value: 'half'",
    ),
    "fraction large": (
        [*SPLIT, "--fractions", "2"],
        "fractions must",
        "between 0 and 1, got [Fraction(2, 1)]",
    ),
    "fraction twice": (
        [*SPLIT, "--fractions", "1/2", "0.5"],
        "fractions must differ",
        "Fraction(1, 2), Fraction(1, 2)",
    ),
    "fraction small": ([*SPLIT, "--fractions", "1/1000"], "is 0: no such split can be made"),
    "seed": ([*SPLIT, "--seed", "-1"], "--seed", "whole number from 0 on"),
    "tasks": (
        ["partial", *SPLIT[1:], "--tasks", "a", "a"],
        "tasks must have names of their own",
        "got ['a', 'a']",
    ),
    "nested": (["partial", *SPLIT[1:], "--nested", "1"], "nested parts be 2 or more", "and [1]"),
    "out": ([*SPLIT[:-1], "devkit.yaml"], "devkit.yaml/Half: Not a directory"),
    "part": ([*SPLIT, "--part", "../../x"], "--part", "'../../x' is no name of a file"),
    "task": (["partial", *SPLIT[1:], "--tasks", "../x"], "--tasks", "'../x' is no name of a file"),
    "task empty": (["partial", *SPLIT[1:], "--tasks", ""], "--tasks", "'' is no name of a file"),
    "check": (["check", "coco"], "no lists like Half/trainval.txt", "coco"),
    "check nowhere": (["check", "nowhere"], "no lists like Half/trainval.txt", "nowhere"),
    "check test": (["check", "devkit", "--test", "Hlf/test"], "no list 'Hlf/test', known are"),
}


@cases("argv", TOOL)
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
    argv = ["--card", "devkit.yaml", "--split", "train", "--fractions", "1/3", "--out", "x"]
    world.run("tools/split.py", "make", *argv)
    listed = (world / "x/66.6667pct/trainval.txt").read_text().splitlines()
    listed += (world / "x/33.3333pct/trainval.txt").read_text().splitlines()
    assert sorted(listed) == sorted(names)
