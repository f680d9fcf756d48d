"""Data that could be taken for something else: pipes, links, and objects that get lost."""

import logging
import os

import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.transforms import ResizeShortestEdge
from PIL import Image

from bad_inputs.entry import check_refusal
from bad_inputs.world import SKIP, picture
from multas.config import add_multas_config
from multas.data import MultasMapper, register_card
from multas.engine.checks.classes import check_test_sets
from multas.evaluation.voc import VOCDetectionEvaluator
from multas.util.errors import UserError

IMAGE = "000000"
PIPES = {
    "coco": ("coco.yaml", "train", "coco/train.json"),
    "coco image": ("coco.yaml", "train", f"coco/images/{IMAGE}.jpg"),
    "mask": ("masks.yaml", "train", f"masks/masks/{IMAGE}.png"),
    "voc": ("devkit.yaml", "half", f"devkit/Annotations/{IMAGE}.xml"),
    "voc image": ("devkit.yaml", "half", f"devkit/JPEGImages/{IMAGE}.jpg"),
    "card": ("coco.yaml", "train", "coco.yaml"),
}


@pytest.mark.parametrize(("card", "split", "file"), PIPES.values(), ids=PIPES)
def test_a_pipe_is_not_waited_for(world, card, split, file):
    (world / file).unlink()
    os.mkfifo(world / file)
    check_refusal(world.make_splits(card, split), file, "a pipe, not a file")


def without_boxes(entry):
    del entry["bbox"]


def of_no_category(entry):
    entry["category_id"] = 77


@pytest.mark.parametrize("spoil", [without_boxes, of_no_category])
def test_skip_takes_no_image_with_lost_objects_for_background(world, spoil):
    content = world.read("coco/train.json")
    for entry in content["annotations"][:3]:  # all of the first image, one of two of the second
        spoil(entry)
    world.write("coco/train.json", content)
    world.write("coco.yaml", {**world.read("coco.yaml"), "strictness": "skip"})
    register_card(str(world / "coco.yaml"))
    records = DatasetCatalog.get("tinycoco_train")
    assert [(r["image_id"], len(r["annotations"])) for r in records] == [(2, 1), (3, 2)]


@pytest.mark.parametrize("value", [{"bbox": [1, 1, 999, 3]}, {"area": -5}, {"area": 1e12}])
def test_evaluation_does_not_count_other_objects_than_those_that_are_loaded(world, value):
    content = world.read("coco/train.json")
    content["annotations"][0] |= value
    world.write("coco/train.json", content)
    world.write("coco.yaml", {**world.read("coco.yaml"), "strictness": "skip"})
    register_card(str(world / "coco.yaml"))
    DatasetCatalog.get("tinycoco_train")
    assert not hasattr(MetadataCatalog.get("tinycoco_train"), "json_file")


def test_voc_evaluation_does_not_count_what_is_left_out(world):
    first, *_ = sorted((world / "devkit" / "Annotations").iterdir())
    first.write_text(first.read_text().replace("<xmin>", "<xmin>9", 1))
    card = world.read("devkit.yaml") | {"strictness": "skip", "root": str(world / "devkit")}
    register_card({**card, "splits": {"all": "Main/train"}})
    loaded = sum(len(record["annotations"]) for record in DatasetCatalog.get("tiny_all"))
    assert MetadataCatalog.get("tiny_all").left_out == {"faulty images or objects": 1}
    assert len(VOCDetectionEvaluator("tiny_all")._ground_truth.category) == loaded


def test_ids_of_64_bits_are_whole_numbers(world):
    content = world.read("coco/train.json")
    for entry in content["images"]:
        entry["id"] += 2**62
    for entry in content["annotations"]:
        entry["image_id"] += 2**62
    world.write("coco/train.json", content)
    register_card(str(world / "coco.yaml"))
    assert DatasetCatalog.get("tinycoco_train")[0]["image_id"] == 2**62 + 1


@pytest.fixture
def folders(world):
    """Two class folders with an image each, and their card."""
    for name in ("a", "b"):
        world.write(f"birds/{name}/0.png", picture())
    world.write("birds.yaml", {"name": "tinybirds", "format": "folders", "root": "birds",
                               "splits": {"train": "."}})  # fmt: skip
    return world


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/tmp"])
def test_a_class_is_no_folder_of_anyone_else(folders, name):
    folders.write("birds.yaml", {**folders.read("birds.yaml"), "classes": ["a", name]})
    check_refusal(folders.make_splits("birds.yaml"), f"class {name!r} is no name of a folder")


@pytest.mark.parametrize(("link", "target"), [("a/up", ".."), ("c", "a")])
def test_a_folder_is_not_met_twice(folders, link, target):
    os.symlink(target, folders / "birds" / link)
    message = folders.make_splits("birds.yaml")
    check_refusal(message, "again, through a link; remove the link", SKIP)


def test_what_a_folder_holds_beside_is_told(world, caplog):
    world.write("pics/a.png", picture())
    world.write("pics/b.HEIC", b"x")
    os.symlink(world / "coco" / "images", world / "pics" / "more")
    card = {"name": "tinypics", "format": "images", "root": str(world / "pics")}
    register_card(card)
    with caplog.at_level(logging.WARNING):
        assert len(DatasetCatalog.get("tinypics_all")) == 1
    assert "passed over that are not .jpg" in caplog.text and "b.HEIC" in caplog.text
    assert "links to folders are not followed" in caplog.text


@pytest.mark.parametrize("name", [b"\xff.png", b"a\nb.png"])
def test_names_of_images_fit_into_lists(world, name):
    world.write("pics/a.png", picture())
    os.rename(world / "pics" / "a.png", os.fsencode(world / "pics") + b"/" + name)
    world.write("pics.yaml", {"name": "tinypics", "format": "images", "root": "pics"})
    check_refusal(world.make_splits("pics.yaml", "all"), "no list can hold; rename it", SKIP)


def test_an_unknown_orientation_turns_nothing(world):
    file = world / "coco" / "images" / f"{IMAGE}.jpg"
    with Image.open(file) as image:
        tags = image.getexif()
        tags[0x0112] = 9
        image.save(file, exif=tags)
    register_card(str(world / "coco.yaml"))
    mapper = MultasMapper(is_train=False, augmentations=[], image_format="RGB")
    for record in DatasetCatalog.get("tinycoco_train"):
        assert mapper(record)["image"].shape[1:] == (record["height"], record["width"])


def test_skip_that_leaves_nothing_says_why(world):
    for file in (world / "masks" / "masks").iterdir():
        file.write_bytes(b"")
    world.write("masks.yaml", {**world.read("masks.yaml"), "strictness": "skip"})
    message = world.make_splits("masks.yaml")
    check_refusal(message, f"{IMAGE}.png: not a readable mask", "so that none is left")


def test_an_image_that_vanishes_when_it_is_scaled_is_named(world):
    world.write("strip.png", picture(size=(5000, 1)))
    mapper = MultasMapper(
        is_train=True, augmentations=[ResizeShortestEdge(64, 1333)], image_format="RGB"
    )
    with pytest.raises(UserError, match=r"strip.png of 5000x1 cannot be prepared.*Leave it out"):
        mapper({"file_name": str(world / "strip.png")})


def test_a_test_set_without_objects_is_told(world, caplog):
    world.write("coco/train.json", {**world.read("coco/train.json"), "annotations": []})
    register_card(str(world / "coco.yaml"))
    cfg = get_cfg()
    add_multas_config(cfg)
    cfg.DATASETS.TEST = ("tinycoco_train",)
    with caplog.at_level(logging.WARNING):
        check_test_sets(cfg)
    assert "no image of 'tinycoco_train' has an object, so there is no AP" in caplog.text


def test_pseudo_labels_are_no_fractions(world):
    content = world.read("pseudo.json")
    for entry in content["annotations"]:
        entry["bbox"] = [0.1, 0.1, 0.5, 0.5]
    world.write("pseudo.json", content)
    keys = ["DATASETS.PSEUDO_LABELS.FILES", "('pseudo.json',)"]
    keys += ["DATASETS.TRAIN", "('tiny_half', 'tiny_half2_unlabeled')"]
    check_refusal(world.train(*keys), "pseudo.json: all boxes lie in the first pixel", "in pixels")
