"""Settings that follow from data, and what holds for them whatever the data are."""

import numpy as np
import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import BoxMode
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from multas.config.limits import LIMITS
from multas.data.anchor_shapes import (
    default_anchors,
    fit_anchors,
    shape_ious,
    suggest_anchors,
)
from multas.data.measures import Measures, measure, spread
from multas.data.suggestions import (
    detections_per_image,
    input_size,
    pixel_statistics,
    resized,
    suggest,
)

SEEDS = st.integers(0, 2**32 - 1)


def some_boxes(seed: int) -> np.ndarray:
    """Up to 40 boxes, (N, 2) width and height, of a few pixels to a few hundred."""
    random = np.random.default_rng(seed)
    return np.exp(random.uniform(1, 6, (random.integers(1, 41), 2)))


BOXES = SEEDS.map(some_boxes)


def record(width=200, height=100, sides=(), **rest) -> dict:
    boxes = [
        {"bbox": [1, 2, w, h], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0} for w, h in sides
    ]
    return {"width": width, "height": height, "annotations": boxes, **rest}


def measures(images, objects=(), counts=(), classes=()) -> Measures:
    shaped = (np.array(x, float).reshape(-1, n) for x, n in ((images, 2), (objects, 4)))
    own = classes or [0] * len(objects)
    return Measures(*shaped, np.array(counts, np.int64), np.array(own, np.int64))


def test_a_rare_class_of_small_objects_counts_as_much_as_others():
    image = (640, 480)
    objects = [(100, 100, *image)] * 95 + [(24, 24, *image)] * 5
    alone = measures([image], objects)
    assert input_size(alone) == (128, 192), "the few small ones are lost among the many"
    by_class = measures([image], objects, classes=[0] * 95 + [1] * 5)
    assert input_size(by_class) == (384, 512)  # 480 px * 18 / 24, in steps of 32
    assert by_class.class_weights.sum() == pytest.approx(1)


@given(BOXES, st.sampled_from([1, 3]), st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_anchors_grow_with_boxes_and_strides(boxes, num_ratios, factor):
    anchors = fit_anchors(boxes, (8, 16, 32), 2, num_ratios)
    scaled = fit_anchors(factor * boxes, (8 * factor, 16 * factor, 32 * factor), 2, num_ratios)
    np.testing.assert_allclose(scaled.sizes, factor * np.array(anchors.sizes), rtol=0.01)
    assert scaled.aspect_ratios == anchors.aspect_ratios
    assert scaled.mean_iou == pytest.approx(anchors.mean_iou, abs=0.01)


@given(BOXES, st.randoms())
def test_the_order_of_boxes_does_not_matter(boxes, random):
    order = list(range(len(boxes)))
    random.shuffle(order)
    assert suggest_anchors(boxes[order]) == suggest_anchors(boxes)


@given(BOXES)
def test_anchors_fit_at_least_as_well_as_those_of_retinanet(boxes):
    anchors = suggest_anchors(boxes)
    assert anchors.mean_iou >= default_anchors(boxes).mean_iou
    sizes = np.array(anchors.sizes)
    assert sizes.shape == (3, 2) and (np.diff(sizes.reshape(-1)) >= 0).all()
    # On the grid of a level, what is smaller than two strides is found on the level before.
    assert (sizes[1:] >= 2 * np.array([[16], [32]])).all()


def test_the_mean_iou_is_that_of_the_anchors_of_detectron2():
    boxes = np.array([[10, 14], [40, 70], [64, 64], [100, 33]], float)
    anchors = fit_anchors(boxes, num_ratios=3)
    generator = DefaultAnchorGenerator(
        sizes=anchors.sizes, aspect_ratios=anchors.aspect_ratios, strides=[8, 16, 32]
    )
    corners = torch.cat(list(generator.cell_anchors)).numpy()
    ious = shape_ious(boxes, corners[:, 2:] - corners[:, :2])
    assert anchors.mean_iou == pytest.approx(ious.max(1).mean(), abs=1e-6)


def test_boxes_of_few_kinds_are_met_exactly():
    kinds = np.array([[12, 12], [40, 40], [70, 70], [200, 200]], float)
    anchors = suggest_anchors(kinds.repeat(9, 0))
    assert anchors.mean_iou == 1 and anchors.aspect_ratios == [[1.0]]
    tall_and_wide = np.array([[80, 40], [40, 80], [57, 57]] * 9, float)
    assert suggest_anchors(tall_and_wide).aspect_ratios == [[0.5, 1.0, 2.0]]


def test_the_input_shows_nine_of_ten_objects_at_eighteen_pixels():
    # At 640x480, 30 px need a shortest edge of 288 and 15 px one of 576.
    large, small = [(30, 30, 640, 480)], [(15, 15, 640, 480)]
    assert input_size(measures([(640, 480)], 95 * large + 5 * small)) == (288, 384)
    assert input_size(measures([(640, 480)], 85 * large + 15 * small))[0] == 480, "as the images"
    assert input_size(measures([(4000, 3000)], small))[0] == 576
    assert input_size(measures([(4000, 3000)], [(10, 10, 4000, 3000)]))[0] == 640
    assert input_size(measures([(4000, 3000)], [(900, 900, 4000, 3000)])) == (128, 192)
    assert input_size(measures([(4000, 3000)], small), 256) == (256, 352), "no larger than allowed"


def test_the_input_where_images_are_small_long_or_without_boxes():
    assert input_size(measures([(28, 28)])) == (32, 32)
    assert input_size(measures([(500, 375)])) == (320, 448)
    assert input_size(measures([(9000, 500)])) == (320, 640)
    # The longest edge decides: of 2000x200 to 640 an object loses more than by the shortest.
    wide = measures([(2000, 200)], [(30, 30, 2000, 200)])
    shortest, longest = size = input_size(wide)
    assert (shortest, longest) == (192, 384) and (resized(wide, size) < 12).all()


@given(SEEDS, st.sampled_from([2, 4]))
def test_a_larger_copy_of_the_data_needs_no_smaller_input(seed, factor):
    random = np.random.default_rng(seed)
    images = random.integers(40, 900, (random.integers(1, 6), 2)).tolist()
    sides = random.uniform(2, 40, (random.integers(6), 2))
    dicts = [record(*image, sides.tolist()) for image in images]
    grown = (factor * sides).tolist()
    copies = [record(factor * w, factor * h, grown) for w, h in images]
    found, large = measure(dicts), measure(copies)
    size = input_size(found)
    assert size[0] <= input_size(large)[0] and size[0] % 32 == size[1] % 32 == 0
    # Boxes of x, y, width and height are converted in float32.
    np.testing.assert_allclose(resized(large, size), resized(found, size), rtol=1e-5)


def test_crowds_and_images_without_boxes_are_not_measured(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    crowd = record(sides=[(5, 6), (7, 8)])
    crowd["annotations"][0]["iscrowd"] = 1
    label = {"file_name": str(tmp_path / "a.png"), "label": 1}
    found = measure([crowd, record(), {"width": 9, "height": 7}, label])
    assert found.images.tolist() == [[200, 100], [200, 100], [9, 7], [30, 20]]
    assert found.objects.tolist() == [[7, 8, 200, 100]] and found.counts.tolist() == [1, 0]
    assert found.sides == pytest.approx([56**0.5])
    assert found.relative_sides == pytest.approx([(56 / 20_000) ** 0.5])


def test_means_and_deviations_are_in_the_order_of_the_format(tmp_path):
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:2] = (200, 100, 10)
    Image.fromarray(pixels).save(tmp_path / "small.png")
    Image.new("RGB", (700, 500), (100, 50, 5)).save(tmp_path / "large.png")
    dicts = [{"file_name": str(tmp_path / name)} for name in ("small.png", "large.png")]
    mean, deviation = pixel_statistics(dicts, "RGB")
    assert mean == [100, 50, 5], "both images count alike"
    assert deviation == [70.7, 35.4, 3.5]
    assert pixel_statistics(dicts[::-1], "BGR") == (mean[::-1], deviation[::-1])
    part = {"file_name": "part of a file", "pixels": pixels}
    assert pixel_statistics([part], "RGB")[0] == [100, 50, 5]
    assert pixel_statistics(dicts[1:])[1] == [1, 1, 1], "no division by zero"


def test_detections_are_twice_what_crowded_images_have():
    assert detections_per_image(measures([])) == 100
    assert detections_per_image(measures([], counts=[3, 50])) == 100
    assert detections_per_image(measures([], counts=[206] * 99 + [900])) == 430


def test_a_sample_is_spread_evenly():
    assert spread(range(5), 9) == [0, 1, 2, 3, 4]
    assert spread(range(101), 5) == [0, 25, 50, 75, 100]


def test_suggestions_are_values_that_a_config_may_have(tmp_path):
    Image.new("RGB", (640, 480), (9, 9, 9)).save(tmp_path / "a.png")
    file = {"file_name": str(tmp_path / "a.png")}
    found = suggest([record(640, 480, [(80, 70)] * 60, **file)], num_classes=3)
    assert found["TEST.DETECTIONS_PER_IMAGE"].value == 120
    assert found["MODEL.DENSE_HEAD.NUM_CLASSES"].value == 3
    assert found["INPUT.MIN_SIZE_TRAIN"].value == [112, 128, 144]
    for key, suggestion in found.items():
        assert LIMITS[key].holds(suggestion.value) and suggestion.reason
    bare = suggest([{"width": 640, "height": 480, **file}])
    assert bare.keys() == {key for key in found if key.startswith(("INPUT", "MODEL.PIXEL"))}
