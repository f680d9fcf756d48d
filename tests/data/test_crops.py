"""Crop or expand: what a crop does to pixels and boxes, and which crops are taken."""

import numpy as np
import pytest
from detectron2.data import transforms as T
from hypothesis import given
from hypothesis import strategies as st

from multas.data.transforms.crops import CropOrExpand, CropOrPadTransform


def image(height=6, width=8):
    return np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3) % 100


def scene(seed, count=3, side=100):
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, side, (count, 2, 2)), axis=1)
    return corners.reshape(count, 4)


def test_a_crop_cuts_and_fills():
    crop = CropOrPadTransform(x0=-2, y0=1, width=5, height=7)
    out = crop.apply_image(image())
    assert out.shape == (7, 5, 3)
    assert (out[:5, 2:] == image()[1:, :3]).all()
    assert (out[:, :2] == 114).all()
    assert (out[5:] == 114).all()
    mask = crop.apply_segmentation(np.ones((6, 8), dtype=np.uint8))
    assert (mask == np.where((out == 114).all(-1), 255, 1)).all()


def test_a_crop_beside_the_image_is_all_fill():
    assert (CropOrPadTransform(20, 0, 4, 4).apply_image(image()) == 114).all()


def test_boxes_move_are_clipped_and_vanish_with_their_centre():
    crop = CropOrPadTransform(10, 20, 30, 40)
    boxes = np.array(
        [
            [12, 22, 20, 30],  # inside
            [0, 30, 30, 50],  # centre (15, 40) inside, cut on the left
            [0, 30, 20, 50],  # centre (10, 40) on the border: not strictly inside
            [38, 22, 60, 30],  # centre outside
        ],
        dtype=float,
    )
    expected = [[2, 2, 10, 10], [0, 10, 20, 30], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert crop.apply_box(boxes).tolist() == expected
    assert crop.apply_box(boxes[0]).tolist() == expected[:1]


def test_crops_have_the_ranges_of_the_recipe():
    aug = CropOrExpand()
    crops = np.concatenate([aug.draw(200, 400) for _ in range(200)]).astype(float)
    width, height = (crops[:, 2:] - crops[:, :2]).T
    relative_height, relative_width = height / 200, width / 400
    assert 0.25 - 0.01 <= relative_height.min() < 0.3
    assert 1.7 < relative_height.max() <= 1.75 + 0.01
    # The height times or divided by a number from [0.5, 1].
    ratio = relative_width / relative_height
    assert ratio.min() > 0.48
    assert ratio.max() < 2.1
    assert 0.35 < (ratio < 1).mean() < 0.65
    centre = (crops[:, :2] + crops[:, 2:]) / 2 / [400, 200]
    assert 0.39 < centre.min() < 0.41
    assert 0.59 < centre.max() < 0.61
    assert np.abs(centre.mean(0) - 0.5).max() < 0.01


def test_ten_positions_of_ten_shapes_are_tried():
    crops = CropOrExpand().draw(1000, 1000)
    shapes = {tuple(w[2:] - w[:2]) for w in crops}
    assert len(crops) == 100
    assert len(shapes) == 10


@given(st.integers(0, 10**6))
def test_allowed_crops_agree_with_a_plain_count(seed):
    np.random.seed(seed)
    aug = CropOrExpand()
    boxes = scene(seed)
    crops = aug.draw(100, 100)
    for crop, allowed in zip(crops, aug.allowed(crops, boxes), strict=True):
        cut, centre_inside = False, False
        for box in boxes:
            w = min(crop[2], box[2]) - max(crop[0], box[0])
            h = min(crop[3], box[3]) - max(crop[1], box[1])
            share = max(w, 0) * max(h, 0) / ((box[2] - box[0]) * (box[3] - box[1]))
            cut |= 0.25 < share < 0.75
            x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            centre_inside |= crop[0] < x < crop[2] and crop[1] < y < crop[3]
        assert allowed == (not cut and centre_inside)


@given(st.integers(0, 10**6))
def test_every_crop_keeps_a_box(seed):
    np.random.seed(seed)
    data = T.AugInput(np.zeros((100, 100, 3), np.uint8), boxes=scene(seed))
    CropOrExpand(prob=1.0)(data)
    assert ((data.boxes[:, 2:] - data.boxes[:, :2]) > 0).all(axis=1).any()


def test_the_share_of_augmented_images_is_the_probability():
    aug = CropOrExpand()
    blank = np.zeros((50, 50, 3), np.uint8)
    taken = [
        isinstance(aug.get_transform(blank, None, None), CropOrPadTransform) for _ in range(400)
    ]
    assert 0.68 < np.mean(taken) < 0.82


@pytest.mark.parametrize("boxes", [None, np.zeros((0, 4))])
def test_without_boxes_the_first_crop_is_taken(boxes):
    aug = CropOrExpand(prob=1.0)
    np.random.seed(4)
    crop = aug.get_transform(np.zeros((50, 50, 3), np.uint8), boxes, None)
    np.random.seed(4)
    np.random.uniform()
    x0, y0, x1, y1 = aug.draw(50, 50)[0]
    found = (crop.x0, crop.y0, crop.width, crop.height)
    assert found == (x0, y0, x1 - x0, y1 - y0)


def test_an_image_that_every_crop_would_cut_stays_as_it_is():
    # One box as large as the image, and crops of half its area.
    aug = CropOrExpand(prob=1.0, scale=(0.7, 0.7), aspect=(1.0, 1.0))
    crop = aug.get_transform(
        np.zeros((100, 100, 3), np.uint8), np.array([[0.0, 0, 100, 100]]), None
    )
    assert isinstance(crop, T.NoOpTransform)


def test_a_mask_needs_a_labelled_region_of_more_than_nine_pixels():
    mask = np.full((100, 100), 255, dtype=np.uint8)
    aug = CropOrExpand(prob=1.0, scale=(1.2, 1.75), aspect=(1.0, 1.0))
    blank = np.zeros((100, 100, 3), np.uint8)
    mask[40:49, 10:90] = 3
    assert isinstance(aug.get_transform(blank, None, mask), T.NoOpTransform)
    mask[49, 10:90] = 3
    assert isinstance(aug.get_transform(blank, None, mask), CropOrPadTransform)
