"""The embedded data set: same bytes each time, repaired when damaged, annotations that tell the
truth."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import make_dataset
from multas.data import check_toy, make_toy, make_toy_source
from multas.data.formats.mask_files import read_mask
from multas.data.splits.check import check_splits, read_lists
from multas.data.toy.scene import CLASSES, DIFFICULT_BELOW, SIZES, draw_scene
from multas.util.voc_xml import read_voc_xml


def contents(root):
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


def make_small(root, seed=0):
    return make_toy(root, seed, train=24, val=6, test=8)


def test_made_again_it_has_the_same_bytes(small_toy, tmp_path):
    assert contents(make_small(tmp_path / "again")) == contents(small_toy)


def test_another_seed_gives_other_images(small_toy, tmp_path):
    other, own = contents(make_small(tmp_path / "other", seed=1)), contents(small_toy)
    assert all(
        other[f"JPEGImages/{i:06d}.jpg"] != own[f"JPEGImages/{i:06d}.jpg"] for i in range(38)
    )


def test_the_source_set_has_other_scenes_of_the_same_classes(small_toy, tmp_path):
    root = make_toy_source(tmp_path / "source", train=16, val=2, test=2)
    assert check_toy(root) == []
    images = [
        {file.read_bytes() for file in (folder / "JPEGImages").iterdir()}
        for folder in (root, small_toy)
    ]
    assert len(images[0]) == 20 and not images[0] & images[1]


def test_another_palette_turns_the_typical_hues_and_nothing_else():
    turned = 0
    for index in range(20):
        own, other, full = (draw_scene(0, index, shift) for shift in (0.0, 1 / 8, 1.0))
        assert own.objects == other.objects and np.array_equal(own.mask, other.mask)
        assert np.abs(own.image.astype(int) - full.image).max() <= 1, "a full turn is none"
        changed = np.abs(own.image.astype(int) - other.image).max(2) > 1
        # A blur carries colours a few pixels beyond the objects.
        near = cv2.dilate((own.mask > 0).astype(np.uint8), np.ones((15, 15))) > 0
        assert not (changed & ~near).any()
        turned += bool(changed.any())
    assert turned > 15


def test_lost_and_damaged_files_are_restored_and_others_not_touched(small_toy, tmp_path):
    root = make_small(tmp_path / "toy")
    untouched = (root / "JPEGImages" / "000007.jpg").stat().st_mtime_ns
    (root / "JPEGImages" / "000003.jpg").unlink()
    (root / "Annotations" / "000004.xml").write_text("<annotation/>")
    mask = root / "SegmentationClass" / "000005.png"
    content = bytearray(mask.read_bytes())
    content[60] ^= 1  # same size, one bit
    mask.write_bytes(content)
    (root / "ImageSets" / "Half" / "trainval.txt").write_text("000001\n")
    assert check_toy(root) == [
        "Annotations/000004.xml",
        "ImageSets/Half/trainval.txt",
        "JPEGImages/000003.jpg",
        "SegmentationClass/000005.png",
    ]
    make_small(root)
    assert contents(root) == contents(small_toy)
    assert (root / "JPEGImages" / "000007.jpg").stat().st_mtime_ns == untouched


def test_without_manifest_or_with_other_sizes_all_is_made(small_toy, tmp_path):
    root = make_toy(tmp_path / "toy", train=26, val=6, test=8)
    make_small(root)
    assert contents(root) == contents(small_toy)
    (root / "manifest.json").write_text("{")
    assert check_toy(root) == ["manifest.json"]
    make_small(root)
    assert contents(root) == contents(small_toy)


def test_bytes_of_another_library_version_are_replaced_as_a_whole(small_toy, tmp_path):
    """Two images as another encoder would write them, one of them lost since."""
    root = make_small(tmp_path / "toy")
    content = json.loads((root / "manifest.json").read_text())
    for name in ("JPEGImages/000003.jpg", "JPEGImages/000007.jpg"):
        other = (root / name).read_bytes() + b"other"
        (root / name).write_bytes(other)
        content["files"][name] = [len(other), hashlib.sha256(other).hexdigest()]
    (root / "manifest.json").write_text(json.dumps(content))
    assert check_toy(root) == []
    (root / "JPEGImages/000003.jpg").unlink()
    make_small(root)
    assert contents(root) == contents(small_toy)


def test_tool_makes_and_checks(tmp_path, capsys):
    arguments = ["--root", str(tmp_path / "toy"), "--train", "16", "--val", "2", "--test", "2"]
    assert make_dataset.main([*arguments, "--check"]) == 1
    assert make_dataset.main(arguments) == 0
    assert make_dataset.main([*arguments, "--check"]) == 0
    assert make_dataset.main([*arguments, "--source"]) == 0
    assert json.loads((tmp_path / "toy" / "manifest.json").read_text())["recipe"]["seed"] == 1
    assert "is complete" in capsys.readouterr().out


def test_tool_starts_by_itself(repository):
    # In a process of its own, where nothing has imported Detectron2 before torchvision.
    subprocess.run([sys.executable, "tools/make_dataset.py", "--help"], cwd=repository, check=True)


def test_a_complete_set_is_not_written_to(small_toy):
    before = {path: os.stat(path).st_mtime_ns for path in small_toy.rglob("*")}
    make_small(small_toy)
    assert {path: os.stat(path).st_mtime_ns for path in small_toy.rglob("*")} == before


def test_boxes_are_those_of_the_visible_pixels_in_the_mask(small_toy):
    seen = Counter()
    for file in sorted((small_toy / "Annotations").glob("*.xml")):
        annotation = read_voc_xml(file)
        mask = read_mask(small_toy / "SegmentationClass" / f"{file.stem}.png")
        with Image.open(small_toy / "JPEGImages" / f"{file.stem}.jpg") as image:
            assert image.size == annotation.size == mask.shape[::-1]
        boxed = np.zeros(mask.shape, bool)
        for entry in annotation.objects:
            xmin, ymin, xmax, ymax = (int(value) for value in entry.box)
            inside = mask[ymin - 1 : ymax, xmin - 1 : xmax] == CLASSES.index(entry.name) + 1
            # Every side of the box touches a pixel of the class.
            assert inside[0].any() and inside[-1].any()
            assert inside[:, 0].any() and inside[:, -1].any()
            boxed[ymin - 1 : ymax, xmin - 1 : xmax] = True
            seen[entry.name] += 1
        assert not (np.isin(mask, range(1, 1 + len(CLASSES))) & ~boxed).any()
        assert set(np.unique(mask)) <= {*range(1 + len(CLASSES)), 255}
    assert set(seen) == set(CLASSES)


@given(seed=st.integers(0, 2**31), index=st.integers(0, 10_000))
def test_every_scene_has_one_to_five_objects_with_consistent_flags(seed, index):
    scene = draw_scene(seed, index)
    assert scene.image.shape[:2] == scene.mask.shape
    assert scene.image.dtype == scene.mask.dtype == np.uint8
    assert scene.mask.shape in SIZES
    assert 1 <= len(scene.objects) <= 5
    for entry in scene.objects:
        assert 1 <= entry.box[0] < entry.box[2] <= scene.mask.shape[1]
        assert 1 <= entry.box[1] < entry.box[3] <= scene.mask.shape[0]
        assert entry.truncated or not entry.occluded
    # Alone, an object at no border is whole.
    if len(scene.objects) == 1 and not scene.objects[0].occluded:
        xmin, ymin, xmax, ymax = scene.objects[0].box
        height, width = scene.mask.shape
        if xmin > 1 and ymin > 1 and xmax < width and ymax < height:
            assert not scene.objects[0].truncated


def test_flags_occur_and_difficult_objects_are_few():
    objects = [entry for index in range(150) for entry in draw_scene(0, index).objects]
    assert 0.2 < np.mean([entry.truncated for entry in objects]) < 0.6
    assert 0.005 < np.mean([entry.difficult for entry in objects]) < 0.1
    assert DIFFICULT_BELOW < 0.5


def test_colour_tells_the_pair_but_not_the_class():
    """A nearest-mean rule on the mean colours finds the pair far better than the class in it."""
    colours, classes = [], []
    for index in range(300):
        scene = draw_scene(0, index)
        for entry in scene.objects:
            pixels = scene.image[scene.mask == CLASSES.index(entry.name) + 1]
            colours.append(pixels.mean(axis=0))
            classes.append(CLASSES.index(entry.name))
    colours, classes = np.array(colours), np.array(classes)
    fit, held_out = np.arange(len(classes)) % 2 == 0, np.arange(len(classes)) % 2 == 1
    means = np.stack([colours[fit & (classes == c)].mean(axis=0) for c in range(len(CLASSES))])
    distances = np.linalg.norm(colours[held_out][:, None] - means, axis=2)
    found, true = distances.argmin(axis=1), classes[held_out]
    pairs = [("disc", "hexagon"), ("ring", "crescent"), ("star", "cross"), ("square", "triangle")]
    pair_of = np.empty(len(CLASSES), int)
    for number, pair in enumerate(pairs):
        pair_of[[CLASSES.index(name) for name in pair]] = number
    right_pair = pair_of[found] == pair_of[true]
    assert np.mean(right_pair) > 0.5
    assert np.mean(found[right_pair] == true[right_pair]) < 0.65, "within a pair, near chance"


def test_lists_divide_the_images_as_documented(small_toy):
    lists = read_lists(small_toy)
    report = check_splits({"toy": lists})
    assert report.issues == []
    main = {part: set(lists[f"Main/{part}"]) for part in ("train", "val", "test", "trainval")}
    assert [len(main[part]) for part in ("train", "val", "test")] == [24, 6, 8]
    assert main["train"] == main["trainval"]
    assert not main["train"] & main["val"] and not main["test"] & (main["train"] | main["val"])
    assert set(lists["det/train"]) | set(lists["seg/train"]) == main["train"]
    assert not set(lists["det/train"]) & set(lists["seg/train"])
    assert set(lists["det/train"]) not in (set(lists[f"Half{n}/trainval"]) for n in ("", "2"))
    for part in ("train", "val", "test"):
        assert lists[f"Segmentation/{part}"] == lists[f"Main/{part}"]


@pytest.mark.parametrize("part", ["JPEGImages", "Annotations", "SegmentationClass"])
def test_every_listed_image_has_its_files(small_toy, part):
    ids = {image_id for ids in read_lists(small_toy).values() for image_id in ids}
    assert {file.stem for file in (small_toy / part).iterdir()} == ids
