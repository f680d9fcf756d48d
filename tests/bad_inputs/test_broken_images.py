"""Images that cannot be read, as commands meet them: before training, or where they break later."""

from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from PIL import Image

from bad_inputs.broken_images import (
    CURE,
    bomb,
    cut_png,
    empty,
    folder,
    link_to_nothing,
    lose_the_end,
    remove,
    text,
    truncate,
)
from bad_inputs.entry import cases, check_refusal
from multas.data import cards, register_card
from multas.engine import Trainer, load_config


@pytest.fixture
def plain(world):
    """``plain(spoil)``: images that are registered without a card, of which one is spoilt."""

    def register(spoil, name="plain", number=1):
        files = sorted((world / "devkit" / "JPEGImages").iterdir())
        records = []
        for file in files[:4]:
            with Image.open(file) as image:
                width, height = image.size
            sizes = {"width": width, "height": height}
            records.append({"file_name": str(file), "image_id": file.stem, **sizes,
                            "annotations": []})  # fmt: skip
        DatasetCatalog.register(name, lambda: records)
        classes = world.read("devkit.yaml")["classes"]
        MetadataCatalog.get(name).set(thing_classes=classes, evaluator_type="coco")
        spoil(files[number])
        return files[number]

    return register


KINDS = [
    (truncate, "not a readable image", "truncated"),
    (lose_the_end, "not a readable image", "truncated"),
    (cut_png, "not a readable image", "truncated"),
    (empty, "is empty"),
    (text, "not a readable image (unknown format)"),
    (bomb, "not a readable image (DecompressionBombError", "pixels"),
    (remove, "No such file"),
    (folder, "Is a directory"),
    (link_to_nothing, "No such file"),
]


@pytest.mark.parametrize("split", ["TRAIN", "TEST"])
@cases("spoil", KINDS)
def test_broken_images_are_found_before_training(world, plain, split, spoil, parts):
    file = plain(spoil)
    opts = [f"DATASETS.{split}", "('plain',)"]
    if split == "TRAIN":
        opts += ["DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False"]
    check_refusal(world.train(*opts), "'plain': 1 issue", str(file), *parts, CURE)


@pytest.mark.parametrize("spoil", [truncate, lose_the_end])
def test_broken_images_of_cards_are_found(world, spoil):
    ids = (world / "devkit" / "ImageSets" / "Half" / "trainval.txt").read_text().split()
    file = world / "devkit" / "JPEGImages" / f"{ids[1]}.jpg"
    spoil(file)
    check_refusal(world.train(), "'tiny_half': 1 issue", file.name, "truncated", CURE, "skip")


def test_a_set_for_early_stopping_is_looked_at(world, plain):
    file = plain(truncate)
    opts = ["SOLVER.EARLY_STOPPING.ENABLED", "True", "SOLVER.EARLY_STOPPING.DATASET", "plain"]
    check_refusal(world.train(*opts), str(file), "truncated", CURE)


def test_a_set_for_bilevel_weights_is_looked_at(world, plain):
    file = plain(truncate)
    key = "MODEL.DISTILLATION.AGGREGATION"
    opts = [f"{key}.NAME", "bilevel", f"{key}.DATA", "['plain']"]
    message = world.train(*opts, config="distilled.yaml")
    check_refusal(message, str(file), "truncated", CURE)


@pytest.mark.parametrize("spoil", [truncate, empty, text])
def test_broken_images_are_found_before_evaluation_alone(world, plain, spoil):
    file = plain(spoil)
    opts = ["--eval-only", "MODEL.WEIGHTS", "teacher.pth", "DATASETS.TEST", "('plain',)"]
    check_refusal(world.train(*opts), str(file), CURE)


@pytest.mark.parametrize("spoil", [truncate, empty, text])
def test_broken_images_are_found_before_labelling(world, plain, spoil):
    file = plain(spoil)
    check_refusal(world.label(dataset="plain"), str(file), CURE)


def test_a_start_loads_each_data_set_once(world, monkeypatch):
    """Whatever of a start needs it: the check of images, epochs, the loader, the preflight."""
    loaded, whole = [], cards._load
    monkeypatch.setattr(
        cards, "_load", lambda name, *rest: (loaded.append(name), whole(name, *rest))[1]
    )
    monkeypatch.chdir(world.folder)
    Trainer(load_config("student.yaml", ["SOLVER.EPOCHS", "1"]))
    assert sorted(loaded) == ["tiny_half", "tiny_test"]
    register_card("devkit.yaml")
    DatasetCatalog.get("tiny_half")
    assert len(loaded) == 3, "later changes of the files must show"


LATE = ["DATASETS.CHECK_IMAGES", "False"]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("split", ["TRAIN", "TEST"])
def test_what_breaks_later_names_its_file(world, plain, split, workers):
    for number in range(4):
        file = plain(truncate, f"plain{number}", number)
    keys = ["DATASETS.TRAIN", "('plain0',)", "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False"]
    keys = keys if split == "TRAIN" else ["DATASETS.TEST", "('plain0',)"]
    keys += ["DATALOADER.NUM_WORKERS", workers, *LATE]
    message = world.failed("train_net.py", "--config-file", "student.yaml", *keys)
    check_refusal(message, str(file.parent), ".jpg")
    assert len(message.splitlines()) == 1 and "worker" not in message


@pytest.mark.parametrize("workers", [0, 2])
def test_sizes_and_masks_that_do_not_fit_are_named(world, workers):
    image = str(world / "devkit" / "JPEGImages" / "000001.jpg")
    with Image.open(image) as opened:
        width, height = opened.size
    small = world / "small.png"
    Image.new("L", (5, 7)).save(small)
    text(world / "text.png")
    keys = ["DATASETS.TRAIN", "('odd',)", "DATALOADER.NUM_WORKERS", workers, *LATE]
    box = {"bbox": [1, 1, 20, 20], "bbox_mode": 0, "category_id": 0}
    rows = [
        ({"width": width + 1, "height": height}, "Mismatched image shape", image, "changed"),
        ({"sem_seg_file_name": str(small)}, "small.png is 5x7, but its image is", "Mend"),
        ({"sem_seg_file_name": str(world / "text.png")}, "text.png: not a readable mask", "mend"),
        ({"sem_seg_file_name": str(world / "no.png")}, "no.png: not a readable mask (No", "mend"),
    ]
    for entries, *parts in rows:
        record = {"file_name": image, "image_id": "x", "annotations": [box], **entries}
        DatasetCatalog.register("odd", lambda record=record: [record, record])
        MetadataCatalog.get("odd").thing_classes = world.read("devkit.yaml")["classes"]
        message = world.failed("train_net.py", "--config-file", "student.yaml", *keys)
        check_refusal(message, *parts)
        DatasetCatalog.remove("odd")


class _Lose(HookBase):
    """Deletes the images after the first checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def after_step(self) -> None:
        if self.trainer.iter == 2:
            for file in self.folder.iterdir():
                file.unlink()


def test_a_file_lost_during_training_leaves_the_last_checkpoint(world, monkeypatch):
    whole = Trainer.build_hooks
    monkeypatch.setattr(
        Trainer, "build_hooks",
        lambda self: [*whole(self), _Lose(world / "devkit" / "JPEGImages")],
    )  # fmt: skip
    argv = ["SOLVER.MAX_ITER", "9", "SOLVER.CHECKPOINT_PERIOD", "2"]
    message = world.failed("train_net.py", "--config-file", "student.yaml", *argv)
    assert len(message.splitlines()) == 1
    check_refusal(message, ".jpg: not a readable image", "No such file")
    assert (world / "run" / "last_checkpoint").read_text().strip() == "model_0000001.pth"
    assert not (world / "run" / "student.pth").exists()
