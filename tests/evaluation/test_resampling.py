"""Average precision on resampled images, against COCO's own, and intervals of differences."""

import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from multas.evaluation.resampling import (
    bounds,
    image_counts,
    interval,
    read_evaluation,
    resampled_ap,
    resampled_means,
    share_above,
)


def evaluated(seed, images=7, classes=3):
    """COCO's evaluation of random boxes, some of them close to objects."""
    random = np.random.default_rng(seed)
    truth, found = [], []
    for image in range(images):
        for number in range(random.integers(1, 5)):
            x, y, w, h = random.uniform(5, 60, 4)
            category = int(random.integers(1, classes + 1))
            truth.append({"id": len(truth) + 1, "image_id": image, "category_id": category,
                          "bbox": [x, y, w, h], "area": w * h,
                          "iscrowd": int(random.random() < 0.2)})  # fmt: skip
            for shift in random.normal(0, 4, random.integers(0, 3)):
                found.append({"image_id": image, "category_id": category, "score": random.random(),
                              "bbox": [x + shift, y, w, h - number]})  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image, "width": 200, "height": 200} for image in range(images)],
            "categories": [{"id": k, "name": str(k)} for k in range(1, classes + 1)],
            "annotations": truth,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
    return evaluation


def ap_of(evaluation):
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * evaluation.stats[0]


@given(st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_each_image_once_or_twice_gives_the_ap_of_coco(seed):
    evaluation = evaluated(seed)
    ones = np.ones((1, 7), dtype=np.int64)
    once, twice = resampled_ap(evaluation, np.concatenate([ones, 2 * ones]))
    assert once == pytest.approx(ap_of(evaluation), abs=1e-9)
    # Twice the same detections have equal scores, so that no precision in between changes much.
    assert twice == pytest.approx(once, abs=1e-9)


def test_an_image_that_is_not_drawn_does_not_count():
    evaluation = evaluated(3)
    counts = np.ones((2, 7), dtype=np.int64)
    counts[1, [0, 4]] = 0
    left = resampled_ap(evaluation, counts)[1]
    evaluation.params.imgIds = [1, 2, 3, 5, 6]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    assert left == pytest.approx(ap_of(evaluation), abs=1e-9)
    assert np.isnan(resampled_ap(evaluated(3), np.zeros((1, 7), dtype=np.int64)))[0]


def test_the_same_images_are_drawn_for_all_models():
    counts = image_counts(30, 50)
    assert counts.shape == (50, 30) and (counts.sum(1) == 30).all()
    assert np.array_equal(counts, image_counts(30, 50))
    assert np.unique(counts, axis=0).shape[0] > 40


@given(st.floats(-20, 20), st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_an_interval_has_the_mean_and_shrinks_with_the_spread(mean, seeds):
    noise = np.random.default_rng(0).normal(size=(seeds, 200))
    wide, narrow = (interval(mean + scale * noise) for scale in (1.0, 0.1))
    assert wide[0] < mean < wide[1]
    assert narrow[1] - narrow[0] == pytest.approx(0.1 * (wide[1] - wide[0]))
    assert interval(np.full((seeds, 200), mean)) == pytest.approx((mean, mean))
    assert interval(-(mean + noise)) == pytest.approx((-wide[1], -wide[0]))


def test_seeds_that_differ_widen_an_interval():
    same, apart = np.zeros((4, 200)), np.zeros((4, 200))
    apart += np.array([-3.0, -1.0, 1.0, 3.0])[:, None]
    assert interval(same) == (0.0, 0.0)
    low, high = interval(apart)
    assert low < -1 and high > 1


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seeds_without_a_difference_seldom_make_one(seeds):
    random = np.random.default_rng(seeds)
    found = [interval(np.repeat(random.normal(size=(seeds, 1)), 200, 1)) for _ in range(300)]
    assert sum(low > 0 or high < 0 for low, high in found) < 0.09 * len(found)


def test_the_spread_of_many_seeds_is_that_of_their_mean():
    random = np.random.default_rng(0)
    means = resampled_means(np.repeat(random.normal(size=(400, 1)), 2000, 1))
    assert means.std() == pytest.approx(1 / np.sqrt(400), rel=0.1)


def test_of_a_single_seed_images_alone_are_drawn():
    samples = np.random.default_rng(0).normal(size=(1, 200))
    assert np.array_equal(resampled_means(samples), samples[0])


def test_an_evaluation_is_read_back_at_any_threshold(tmp_path):
    own = evaluated(5)
    truth, found = own.cocoGt.dataset, list(own.cocoDt.anns.values())
    (tmp_path / "boxes_coco_format.json").write_text(json.dumps(truth))
    (tmp_path / "coco_instances_results.json").write_text(json.dumps(found))
    ones = np.ones((1, 7), dtype=np.int64)
    ap = resampled_ap(read_evaluation(tmp_path, "boxes", 100), ones)[0]
    ap50 = resampled_ap(read_evaluation(tmp_path, "boxes", 100, [0.5]), ones)[0]
    assert ap == pytest.approx(ap_of(own), abs=1e-9)
    assert ap50 == pytest.approx(100 * own.stats[1], abs=1e-9)
    # A network that has not learned yet finds nothing.
    (tmp_path / "coco_instances_results.json").write_text("[]")
    assert resampled_ap(read_evaluation(tmp_path, "boxes", 100), ones).tolist() == [0.0]


@given(st.integers(1, 4), st.integers(1, 5))
@settings(max_examples=10, deadline=None)
def test_the_same_seeds_are_drawn_for_everything(rows, seeds):
    samples = np.random.default_rng(rows).normal(size=(rows, seeds, 50))
    means = resampled_means(samples)
    assert means.shape == (rows, 50)
    for own, mean in zip(samples, means, strict=True):
        assert np.array_equal(resampled_means(own), mean)
    assert resampled_means(samples + 3) == pytest.approx(means + 3)
    assert bounds(means[0]) == interval(samples[0])


@given(st.lists(st.sampled_from([-1.0, 0.0, 2.0]), min_size=1))
def test_shares_of_a_difference_and_its_negative_add_up_to_one(values):
    samples = np.array(values)
    assert share_above(samples) + share_above(-samples) == pytest.approx(1)
    assert share_above(np.abs(samples) + 1) == 1
