"""What export is given: refused before anything is written."""

import sys

import pytest
import torch

from bad_inputs.entry import check_refusal

pytest.importorskip("onnx")

# Arguments that change, KEY VALUE of the config, and parts of the message.
EXPORTS = {
    "no weights": ({"--weights": "no.pth"}, [], ["no.pth", "no such file"]),
    "weights of another network": ({"--weights": "foreign.pth"}, [], ["do not fit the config"]),
    "no config": ({"--config-file": "no.yaml"}, [], ["no.yaml"]),
    "format": ({"--format": "onxx"}, [], ["'onxx'", "onnx", "openvino", "torchscript"]),
    "int8 alone": ({"--int8": None}, [], ["--int8", "--calibrate DATA_SET"]),
    "unknown set": ({"--calibrate": "tiny_tset"}, [], ["tiny_tset", "tiny_test"]),
    "unknown test set": ({"--evaluate": "tiny_tset"}, [], ["tiny_tset", "tiny_test"]),
    "negative drop": ({"--max-drop": "-1"}, [], ["--max-drop", "0 or more"]),
    "no images": ({"--images": "0"}, [], ["--images", "1 or more"]),
    "size of three": ({"--size": "3"}, [], ["--size"]),
    "size between": ({"--size": "100 130"}, [], ["--size 100 130", "multiples of", "--size 112"]),
    "size of a square": (
        {"--size": "64 64"}, ["INPUT.SQUARE_SIZE", "96"], ["--size 64 64", "96 x 96", "SQUARE_SIZE"]
    ),
    "any size of a square": (
        {"--dynamic-size": None}, ["INPUT.SQUARE_SIZE", "96"], ["--dynamic-size", "SQUARE_SIZE"]
    ),
    "size unknown": ({}, [], ["size of the input is not known", "--size HEIGHT WIDTH"]),
    "output a file": ({"--output": "a_file"}, [], ["--output", "a_file"]),
    "other classes": (
        {"--calibrate": "tinycoco_train"}, ["DATASETS.CARDS", "['devkit.yaml','coco.yaml']"],
        ["tinycoco_train", "NUM_CLASSES is 8"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "opts", "parts"), EXPORTS.values(), ids=EXPORTS)
def test_wrong_arguments(world, changes, opts, parts):
    world.write("a_file", "text")
    torch.save({"model": {"backbone.stem.weight": torch.zeros(3)}}, world / "foreign.pth")
    check_refusal(refusal(world, changes, opts), *parts)


def refusal(world, changes, opts=()):
    options = {"--config-file": "student.yaml", "--weights": "teacher.pth", "--output": "files"}
    pairs = (options | changes).items()
    words = [w for key, value in pairs for w in (key, *(value or "").split())]
    return world.refused("tools/export.py", *words, *(["--opts", *opts] if opts else []))


def test_a_missing_library_names_its_extra(world, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    message = refusal(world, {"--format": "openvino"})
    check_refusal(message, "library openvino", "pip install 'multas[openvino]'")
