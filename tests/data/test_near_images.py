"""Which images show the same, although their files differ."""

from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from multas.data.near_images import Twin, difference_hash, find_alike, find_twins


def resized(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(factor * image.width), round(factor * image.height)))


CHANGES = {
    "encoded again": lambda image: image,
    "smaller": partial(resized, factor=0.85),
    "larger": partial(resized, factor=1.5),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
}


@pytest.fixture(scope="module")
def scenes(small_toy) -> list[Image.Image]:
    """Eight different pictures."""
    files = sorted((small_toy / "JPEGImages").iterdir())[:8]
    return [Image.open(file).convert("RGB") for file in files]


def saved(images, folder, suffix=".png", **options) -> list[dict]:
    folder.mkdir()
    records = []
    for number, image in enumerate(images):
        image.save(file := folder / f"{number}{suffix}", **options)
        records.append({"file_name": str(file)})
    return records


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_picture_is_found(scenes, tmp_path, change):
    changed = [CHANGES[change](image) for image in scenes]
    ours = saved(changed, tmp_path / "a", ".jpg", quality=50)
    theirs = saved(scenes, tmp_path / "b")
    found = find_twins([*theirs, *ours], [0] * len(theirs) + [1] * len(ours))
    assert found == [Twin(len(theirs) + i, i, True) for i in range(len(scenes))]


def test_different_scenes_and_images_of_one_group_are_not(scenes, tmp_path):
    records = saved(scenes, tmp_path / "a")
    assert find_twins(records, range(len(records))) == []
    assert find_twins([*records, *records], [7] * 2 * len(records)) == []


def test_one_view_with_another_object_is_not_one_picture(scenes, tmp_path):
    before = saved(scenes[:2], tmp_path / "a")
    changed = [image.copy() for image in scenes[:2]]
    for image in changed:
        ImageDraw.Draw(image).ellipse((80, 80, 90, 90), fill=(90, 0, 0))
    found = find_twins([*before, *saved(changed, tmp_path / "b")], [0, 0, 1, 1])
    assert found == [Twin(2, 0, False), Twin(3, 1, False)]


def test_flat_unreadable_and_no_images_have_no_twin(tmp_path):
    flat = saved([Image.new("L", (40, 30), 7)] * 2, tmp_path / "a")
    assert find_twins([*flat, {"file_name": str(tmp_path / "no.png")}], [0, 1, 2]) == []
    assert find_twins([], []) == []


def test_images_that_are_parts_of_files_are_compared(scenes):
    pixels = np.asarray(scenes[0].resize((32, 32)))
    records = [
        {"file_name": "train/1", "pixels": pixels},
        {"file_name": "test/1", "pixels": pixels},
    ]
    assert find_twins(records, [0, 1]) == [Twin(1, 0, True)]


def test_more_images_than_a_block_are_compared_with_all(monkeypatch):
    random = np.random.default_rng(0)
    grids = random.integers(0, 256, (40, 16, 17), dtype=np.uint8)
    twins = np.concatenate([grids, grids[::-1]])
    monkeypatch.setattr("multas.data.near_images._BLOCK", 7)
    found = dict(find_alike(twins, [0] * 40 + [1] * 40))
    assert found == {40 + i: [39 - i] for i in range(40)}
    bits = difference_hash(grids)
    assert bits.shape == (40, 256) and 0.4 < bits.mean() < 0.6
