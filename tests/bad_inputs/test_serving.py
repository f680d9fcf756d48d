"""What drawing and the search of path weights are given: refused before any network is loaded."""

import numpy as np
import pytest
import torch
from PIL import Image

from bad_inputs.entry import check_refusal

DRAW = {"--config-file": "student.yaml", "--weights": "teacher.pth", "--output": "out"}
TUNE = {"--config-file": "distilled.yaml", "--search": "random", "--trials": "1"}


@pytest.fixture
def no_network(monkeypatch):
    """Building a network is an error."""

    def fail(*_):
        raise AssertionError("the network is built before the mistake is found")

    monkeypatch.setattr("multas.engine.inference.build_model", fail)
    monkeypatch.setattr("multas.engine.trainer.DefaultTrainer.build_model", fail)


def arguments(options: dict, changes: dict) -> list[str]:
    return [word for pair in (options | changes).items() for word in pair]


def spoil(world) -> None:
    """Further files for the tables below."""
    (world / "nothing").mkdir()
    (world / "folder.png").mkdir()
    world.write("empty.png", b"")
    world.write("text.png", "no image")
    world.write("notes.txt", "no image")
    world.write("half.jpg", next((world / "coco" / "images").iterdir()).read_bytes()[:30])
    world.write("bad/one.jpg", "no image")
    Image.new("RGB", (8, 8)).save(world / "twice.png")
    (world / "dead").symlink_to("nowhere")
    (world / "taken.png").mkdir()
    Image.new("RGB", (8, 8)).save(world / "taken.bmp")
    Image.new("RGB", (8, 8)).save(world / "twice.bmp")
    Image.fromarray(np.ones((8, 8), np.float32)).save(world / "deep.tif")
    world.write("a_file", "text")
    torch.save({"model": {"backbone.stem.weight": torch.zeros(3)}}, world / "foreign.pth")
    world.write("torn.pth", (world / "teacher.pth").read_bytes()[:1000])
    stock = {"MODEL": {"META_ARCHITECTURE": "RetinaNet"}, "_BASE_": "student.yaml"}
    world.write("stretched.yaml", stock | {"INPUT": {"SQUARE_SIZE": 64}})
    world.write("cropped.yaml", stock | {"INPUT": {"CENTER_CROP_TEST": 64}})
    world.write("negative.yaml", {"_BASE_": "student.yaml", "INPUT": {"SQUARE_SIZE": -64}})


# Options that change, what is drawn, and parts of the message.
DRAWINGS = {
    "score above 1": ({"--score-thresh": "1.5"}, "coco/images", ["--score-thresh", "from 0 to 1"]),
    "score below 0": ({"--score-thresh": "-1"}, "coco/images", ["--score-thresh", "from 0 to 1"]),
    "score nan": ({"--score-thresh": "nan"}, "coco/images", ["--score-thresh", "from 0 to 1"]),
    "score text": ({"--score-thresh": "high"}, "coco/images", ["--score-thresh", "'high'"]),
    "scale 0": ({"--scale": "0"}, "coco/images", ["--scale", "from 0.01 to 20"]),
    "scale negative": ({"--scale": "-2"}, "coco/images", ["--scale", "from 0.01 to 20"]),
    "scale infinite": ({"--scale": "inf"}, "coco/images", ["--scale", "from 0.01 to 20"]),
    "missing input": ({}, "coco/none.jpg", ["coco/none.jpg", "no such image or folder"]),
    "empty folder": ({}, "nothing", ["nothing", "no image", ".png"]),
    "empty folder of a name": ({}, "folder.png", ["folder.png", "no image"]),
    "empty image": ({}, "empty.png", ["empty.png", "is empty", "mend"]),
    "text image": ({}, "text.png", ["text.png", "not a readable image", "mend"]),
    "no image": ({}, "notes.txt", ["notes.txt", "not a readable image"]),
    "half a header": ({}, "half.jpg", ["half.jpg", "not a readable image"]),
    "broken in a folder": ({}, "bad", ["bad/one.jpg", "not a readable image"]),
    "32 bits": ({}, "deep.tif", ["deep.tif", "32-bit", "8 or 16 bits"]),
    "onto itself": ({"--output": "."}, "twice.png", ["twice.png", "overwritten", "--output"]),
    "output a file": ({"--output": "a_file"}, "twice.png", ["'a_file/twice.png' cannot", "Not a"]),
    "output in a file": ({"--output": "a_file/x"}, "twice.png", ["--output 'a_file/x/", "Not a"]),
    "output a dead link": ({"--output": "dead"}, "twice.png", ["--output 'dead/", "No such file"]),
    "picture a folder": ({"--output": "."}, "taken.bmp", ["--output 'taken.png' is a folder"]),
    "no weights": ({"--weights": "no.pth"}, "coco/images", ["no.pth", "--weights"]),
    "weights a folder": ({"--weights": "coco"}, "coco/images", ["coco", "--weights"]),
    "no config": ({"--config-file": "no.yaml"}, "coco/images", ["no.yaml"]),
    "negative square": ({"--config-file": "negative.yaml"}, "coco/images", ["SQUARE_SIZE", "-64"]),
    "stretched stock": (
        {"--config-file": "stretched.yaml"}, "coco/images",
        ["INPUT.SQUARE_SIZE is 64", "RetinaNet", "Distiller", "MODEL.DISTILLATION.STUDENT"],
    ),
    "cropped stock": (
        {"--config-file": "cropped.yaml"}, "coco/images",
        ["INPUT.CENTER_CROP_TEST is 64", "RetinaNet", "Distiller"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DRAWINGS)
def test_what_cannot_be_drawn_is_refused_before_the_network_is_built(world, no_network, case):
    spoil(world)
    changes, drawn, parts = DRAWINGS[case]
    message = world.refused("tools/visualize.py", *arguments(DRAW, changes), drawn)
    check_refusal(message, *parts)


def test_two_images_of_one_name_are_refused(world, no_network):
    spoil(world)
    message = world.refused("tools/visualize.py", *arguments(DRAW, {}), "twice.png", "twice.bmp")
    check_refusal(message, "twice.png", "twice.bmp", "different folders")


@pytest.mark.parametrize(
    ("weights", "cure"),
    [
        ("foreign.pth", "Use the config that they were trained with"),
        ("torn.pth", "Copy or download"),
    ],
)
def test_nothing_is_drawn_with_random_layers(world, weights, cure):
    spoil(world)
    check_refusal(world.draw(weights=weights), weights, cure)


def test_classes_that_are_not_those_of_the_network_are_refused(world):
    options = ["--opts", "DATASETS.CARDS", "('devkit.yaml','coco.yaml')",
               "DATASETS.TEST", "('tinycoco_train',)"]  # fmt: skip
    message = world.refused("tools/visualize.py", "coco/images", *arguments(DRAW, {}), *options)
    check_refusal(message, "MODEL.DENSE_HEAD.NUM_CLASSES is 8", "tinycoco_train", "2 classes")


def test_a_sound_call_draws(world):
    world.run("tools/visualize.py", *arguments(DRAW, {"--scale": "2"}), "coco/images")
    images = {path.stem: path for path in (world / "coco" / "images").iterdir()}
    assert {path.stem for path in (world / "out").iterdir()} == images.keys()
    for stem, path in images.items():
        drawn = np.asarray(Image.open(world / "out" / f"{stem}.png"))
        assert drawn.shape[:2] == tuple(2 * side for side in np.asarray(Image.open(path)).shape[:2])


# Options that change, KEY VALUE pairs, and parts of the message.
SEARCHES = {
    "metric of nothing": ({"--metric": "top1"}, [], ["--metric 'top1'", "bbox/AP50"]),
    "metric without task": ({"--metric": "AP50"}, [], ["--metric 'AP50'", "'bbox/AP50'"]),
    "metric of another task": ({"--metric": "sem_seg/mIoU"}, [], ["--metric 'sem_seg/mIoU'",
                                                                  "Choose from"]),
    "metric in other case": ({"--metric": "bbox/ap50"}, [], ["Did you mean 'bbox/AP50'"]),
    "metric of no class": ({"--metric": "bbox/AP-cow"}, [], ["--metric 'bbox/AP-cow'", "AP-name"]),
    "empty metric": ({"--metric": ""}, [], ["--metric ''", "Choose from"]),
    "a loss": ({"--metric": "total_loss"}, [], ["--metric 'total_loss'", "Choose from"]),
    "no average": ({"--metric": "ema/bbox/AP"}, [], ["--metric 'ema/bbox/AP'", "Choose from"]),
    "bilevel": ({"--search": "bilevel", "--metric": "AP"}, [], ["--metric 'AP'", "bbox/AP"]),
    "low 0": ({"--low": "0"}, [], ["--low", "greater than 0"]),
    "low negative": ({"--low": "-1"}, [], ["--low", "greater than 0"]),
    "high infinite": ({"--high": "inf"}, [], ["--high", "greater than 0"]),
    "low above high": ({"--low": "10", "--high": "1"}, [], ["--low is 10 and --high 1"]),
    "low is high": ({"--low": "1", "--high": "1"}, [], ["--low is 1 and --high 1"]),
    "grid 0": ({"--search": "grid", "--grid": "0"}, [], ["--grid", "greater than 0"]),
    "grid text": ({"--search": "grid", "--grid": "big"}, [], ["--grid", "'big'"]),
    "no trials": ({"--trials": "0"}, [], ["--trials", "1 or more"]),
    "part of a trial": ({"--trials": "1.5"}, [], ["--trials", "invalid int value"]),
    "unknown search": ({"--search": "best"}, [], ["--search", "grid"]),
    "no paths": ({}, ["MODEL.DISTILLATION.PATHS", "[]"], ["no distillation paths"]),
    "no distiller": ({"--config-file": "student.yaml"}, [], ["student.yaml", "no distillation"]),
    "alpha 0": ({}, ["MODEL.DISTILLATION.ALPHA", "0.0"], ["ALPHA is 0", "Raise it"]),
    "no test set": ({}, ["DATASETS.TEST", "()"], ["DATASETS.TEST", "one validation set"]),
    "two test sets": ({}, ["DATASETS.TEST", "('tiny_val','tiny_test')"], ["'tiny_test')",
                                                                          "one validation set"]),
    "unknown test set": ({}, ["DATASETS.TEST", "('tiny_tset',)"], ["DATASETS.TEST", "tiny_test"]),
    "unknown train set": ({}, ["DATASETS.TRAIN", "('tiny_haf',)"], ["DATASETS.TRAIN", "tiny_half"]),
    "no teacher": (
        {}, ["MODEL.DISTILLATION.TEACHER.WEIGHTS", "no.pth"], ["TEACHER.WEIGHTS is 'no.pth'",
                                                               "no such file"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SEARCHES)
def test_a_search_that_cannot_end_well_is_not_begun(world, no_network, case):
    pytest.importorskip("optuna")
    changes, opts, parts = SEARCHES[case]
    message = world.refused("tools/tune_paths.py", *arguments(TUNE, changes), *opts)
    check_refusal(message, *parts)


TEACHERS = {
    "a file": ([], ["teacher.yaml"]),
    "a mean teacher": (
        ["MODEL.DISTILLATION.TEACHER.CONFIG_FILE", "", "MODEL.DISTILLATION.TEACHER.WEIGHTS", "",
         "MODEL.DISTILLATION.TEACHER.EMA_DECAY", "0.9"], ["EMA_DECAY 0.9"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TEACHERS)
def test_a_teacher_without_paths_is_refused(world, case):
    opts, parts = TEACHERS[case]
    message = world.train("MODEL.DISTILLATION.PATHS", "[]", *opts, config="distilled.yaml")
    check_refusal(message, "MODEL.DISTILLATION.PATHS is empty", "TYPE", *parts)


def test_an_image_too_flat_to_be_resized_is_named(world):
    Image.new("RGB", (5000, 1)).save(world / "flat.png")
    message = world.failed("tools/visualize.py", *arguments(DRAW, {}), "flat.png")
    check_refusal(message, "flat.png of 5000x1", "Leave it out")


def test_images_may_be_one_pixel_wide(world):
    """A flipped one has a negative stride."""
    argv = ["--config-file", "student.yaml", "INPUT.MIN_SIZE_TRAIN", "[1]", "DATASETS.TEST", "()"]
    world.run("train_net.py", *argv)
