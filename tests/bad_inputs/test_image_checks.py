"""The check of images: what it finds, what it leaves out, and what it remembers."""

import json
import shutil
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.cityscapes import load_cityscapes_semantic
from detectron2.evaluation import COCOEvaluator
from PIL import Image

from bad_inputs.broken_images import (
    CURE,
    bomb,
    empty,
    floats,
    link_to_nothing,
    pipe,
    png,
    text,
    truncate,
)
from multas.data import image_checks, register_card
from multas.data.image_checks import checked_images, find_broken, image_fault
from multas.data.issues import DatasetError


def class_folders(world, **keys):
    """A card of class folders, whose images are not opened when it is loaded."""
    files = sorted((world / "devkit" / "JPEGImages").iterdir())
    for number, name in enumerate(("a", "b")):
        (world / "classes" / name).mkdir(parents=True)
        for file in files[number::2]:
            shutil.copy(file, world / "classes" / name / file.name)
    card = {"name": "kinds", "format": "folders", "root": str(world / "classes"),
            "splits": {"all": "."}, **keys}  # fmt: skip
    world.write("classes.yaml", card)
    return sorted((world / "classes").glob("*/*.jpg"))


@pytest.mark.parametrize("spoil", [truncate, empty, text, bomb, floats, link_to_nothing])
def test_broken_images_in_class_folders(world, spoil):
    file = class_folders(world)[2]
    spoil(file)
    register_card(str(world / "classes.yaml"))
    with pytest.raises(ValueError, match=file.name), checked_images(["kinds_all"]):
        pass


def test_all_broken_files_are_named_together_and_once(world):
    files = class_folders(world)
    for file in files:
        empty(file)
    register_card(str(world / "classes.yaml"))
    with (
        pytest.raises(ValueError, match=CURE) as caught,
        checked_images(["kinds_all", "kinds_all_unlabeled"]),
    ):
        pass
    assert f"{len(files)} issues" in str(caught.value)
    assert "'kinds_all', 'kinds_all_unlabeled'" in str(caught.value)


def test_skip_leaves_out_broken_images_everywhere_until_they_are_mended(world, caplog):
    file = class_folders(world, strictness="skip")[2]
    content = file.read_bytes()
    truncate(file)
    register_card(str(world / "classes.yaml"))
    count = len(DatasetCatalog.get("kinds_all"))
    with checked_images(["kinds_all"]):
        inside = DatasetCatalog.get("kinds_all")
    assert str(file) in caplog.text and "Left out because of `strictness: skip`" in caplog.text
    kept = DatasetCatalog.get("kinds_all")
    assert kept == inside
    assert len(kept) == count - 1 and str(file) not in [r["file_name"] for r in kept]
    assert MetadataCatalog.get("kinds_all").left_out == {"broken images": 1}
    file.write_bytes(content)
    with checked_images(["kinds_all"]):
        assert len(DatasetCatalog.get("kinds_all")) == count
    assert len(DatasetCatalog.get("kinds_all")) == count


@pytest.mark.parametrize("name", ["tinycoco_train", "tiny_half"])
def test_skipped_images_are_no_misses_for_the_evaluators(world, name):
    for card in ("coco.yaml", "devkit.yaml"):
        content = world.read(card) | {"strictness": "skip"}
        content["root"] = str(world / content["root"])
        register_card(content)
    records = DatasetCatalog.get(name)
    truncate(Path(records[0]["file_name"]))
    metadata = MetadataCatalog.get(name)
    with checked_images([name]):
        assert not any(hasattr(metadata, key) for key in ("json_file", "dirname", "split"))
    DatasetCatalog.get(name)
    assert not any(hasattr(metadata, key) for key in ("json_file", "dirname", "split"))
    # The COCO evaluator writes a file, and loads the data set again and again.
    for _ in range(2):
        evaluator = COCOEvaluator(name, ("bbox",), output_dir=str(world / "inference"))
        assert len(evaluator._coco_api.imgs) == len(DatasetCatalog.get(name)) == len(records) - 1
    with checked_images([name]):
        assert len(DatasetCatalog.get(name)) == len(records) - 1


def test_skip_without_any_intact_image_stops(world):
    for file in class_folders(world, strictness="skip"):
        empty(file)
    register_card(str(world / "classes.yaml"))
    with (
        pytest.raises(ValueError, match="'kinds_all' has no image that can be read"),
        checked_images(["kinds_all"]),
    ):
        pass


def test_a_wrong_suffix_is_no_fault(world):
    file = world / "devkit" / "JPEGImages" / "000001.jpg"
    png(file)
    assert image_fault(str(file)) is None


def test_a_pipe_is_not_waited_for(world):
    file = world / "devkit" / "JPEGImages" / "000001.jpg"
    pipe(file)
    assert image_fault(str(file)) == "not a readable image (a pipe, not a file)"


def test_every_cut_of_a_file_is_found(world):
    content = (world / "devkit" / "JPEGImages" / "000001.jpg").read_bytes()
    file = world / "cut.jpg"
    for size in range(0, len(content) - 2, 211):
        file.write_bytes(content[:size])
        assert image_fault(str(file)), f"{size} of {len(content)} bytes"


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """A cache of its own, and the names of the files that are decoded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names, whole = [], image_checks.image_fault
    monkeypatch.setattr(
        image_checks, "image_fault", lambda file: (names.append(file), whole(file))[1]
    )
    return names


def test_files_are_decoded_again_only_when_they_change(world, opened):
    files = [str(f) for f in sorted((world / "devkit" / "JPEGImages").iterdir())]
    empty(Path(files[1]))
    assert list(find_broken(files)) == [files[1]]
    assert sorted(opened) == files
    opened.clear()
    truncate(Path(files[2]))
    assert set(find_broken(files)) == {files[1], files[2]}
    assert sorted(opened) == [files[1], files[2]]


@pytest.mark.parametrize("content", [b"", b"\0", b"abc" * 99])
def test_a_damaged_cache_is_an_empty_one(world, opened, tmp_path, content):
    files = [str(f) for f in sorted((world / "devkit" / "JPEGImages").iterdir())]
    find_broken(files)
    (cache,) = (tmp_path / "cache" / "multas").iterdir()
    cache.write_bytes(content)
    opened.clear()
    assert find_broken(files) == {}
    assert sorted(opened) == files


def test_without_a_place_for_the_cache_all_is_decoded(world, opened, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    files = [str(f) for f in sorted((world / "devkit" / "JPEGImages").iterdir())]
    for _ in range(2):
        assert find_broken(files) == {}
    assert len(opened) == 2 * len(files)


def test_label_maps_that_were_not_made_are_named_at_the_start(tmp_path, forget_registered):
    def registered():
        return load_cityscapes_semantic(str(tmp_path / "images"), str(tmp_path / "gtFine"))

    images, labels = tmp_path / "images" / "ulm", tmp_path / "gtFine" / "ulm"
    for folder in (images, labels):
        folder.mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (8, 4)).save(images / f"ulm_{number}_leftImg8bit.png")
        for kind in ("instanceIds", "labelIds"):
            Image.new("L", (8, 4)).save(labels / f"ulm_{number}_gtFine_{kind}.png")
        sizes = json.dumps({"imgHeight": 4, "imgWidth": 8})
        (labels / f"ulm_{number}_gtFine_polygons.json").write_text(sizes)
    DatasetCatalog.register("cityscapes_tiny", registered)
    for made in sorted(images.iterdir()):
        with (
            pytest.raises(DatasetError, match=r"(?s)cityscapes_tiny.*createTrainIdLabelImgs"),
            checked_images(["cityscapes_tiny"]),
        ):
            pass
        stem = made.name.removesuffix("leftImg8bit.png")
        Image.new("L", (8, 4)).save(labels / f"{stem}gtFine_labelTrainIds.png")
    with checked_images(["cityscapes_tiny"]):
        assert len(DatasetCatalog.get("cityscapes_tiny")) == 2
