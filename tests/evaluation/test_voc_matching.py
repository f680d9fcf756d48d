import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multas.evaluation import voc_matching
from multas.evaluation.average_precision import (
    average_precision_11point,
    average_precision_area,
    precision_recall,
)
from multas.evaluation.voc_matching import best_overlaps, classify_detections, round_as_printed

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "multas"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("voc_eval_*.npz")), ids=lambda path: path.stem)
def test_reference_case_of_one_class(path):
    case = np.load(path)
    ranking = np.argsort(-case["in_det_score"])
    overlap, index = best_overlaps(
        case["in_det_image"][ranking],
        case["in_det_boxes"][ranking],
        case["in_gt_image"],
        case["in_gt_boxes"].astype(np.float64),
    )
    difficult = case["in_gt_difficult"]
    hit, duplicate, unmatched = classify_detections(
        overlap, index, difficult, case["in_iou_thresholds"]
    )
    np.testing.assert_array_equal(hit, case["out_tp"])
    np.testing.assert_array_equal(duplicate, case["out_fp_dup"])
    np.testing.assert_array_equal(unmatched, case["out_fp_loc"])
    recall, precision = precision_recall(hit, duplicate | unmatched, (~difficult).sum())
    np.testing.assert_allclose(recall, case["out_rec"], atol=1e-12)
    np.testing.assert_allclose(precision, case["out_prec"], atol=1e-12)
    np.testing.assert_allclose(
        average_precision_11point(recall, precision), case["out_ap_11pt"], atol=1e-12
    )
    np.testing.assert_allclose(
        average_precision_area(recall, precision), case["out_ap_area"], atol=1e-12
    )


def naive_match(det_image, det_boxes, gt_image, gt_boxes, difficult, threshold):
    """The devkit's procedure, one detection and one object at a time."""
    taken, outcome = set(), []
    for image, (x1, y1, x2, y2) in zip(det_image, det_boxes, strict=True):
        best, winner = -1.0, None
        for number, (other, (a1, b1, a2, b2)) in enumerate(zip(gt_image, gt_boxes, strict=True)):
            if other == image:
                width = max(min(x2, a2) - max(x1, a1) + 1, 0)
                height = max(min(y2, b2) - max(y1, b1) + 1, 0)
                shared = width * height
                union = (x2 - x1 + 1) * (y2 - y1 + 1) + (a2 - a1 + 1) * (b2 - b1 + 1) - shared
                if shared / union > best:
                    best, winner = shared / union, number
        if best <= threshold:
            outcome.append("unmatched")
        elif difficult[winner]:
            outcome.append("neutral")
        else:
            outcome.append("duplicate" if winner in taken else "hit")
            taken.add(winner)
    return outcome


def random_boxes(rng, number):
    # On a coarse grid, equal IoUs and IoUs equal to a threshold are frequent.
    corner = rng.integers(0, 8, (number, 2))
    return np.concatenate([corner, corner + rng.integers(0, 6, (number, 2))], 1).astype(float)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    detections=st.integers(0, 40),
    objects=st.integers(0, 12),
    images=st.integers(1, 4),
    max_pairs=st.sampled_from([1, 7, 1_000_000]),
)
def test_equals_the_naive_procedure(seed, detections, objects, images, max_pairs):
    rng = np.random.default_rng(seed)
    det_image, gt_image = rng.integers(0, images, detections), rng.integers(0, images, objects)
    det_boxes, gt_boxes = random_boxes(rng, detections), random_boxes(rng, objects)
    difficult = rng.random(objects) < 0.3
    thresholds = np.array([0.0, 0.25, 0.5, 0.75])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(voc_matching, "MAX_PAIRS", max_pairs)
        overlap, index = best_overlaps(det_image, det_boxes, gt_image, gt_boxes)
    hit, duplicate, unmatched = classify_detections(overlap, index, difficult, thresholds)
    for row, threshold in enumerate(thresholds):
        expected = naive_match(det_image, det_boxes, gt_image, gt_boxes, difficult, threshold)
        assert [name == "hit" for name in expected] == hit[row].tolist()
        assert [name == "duplicate" for name in expected] == duplicate[row].tolist()
        assert [name == "unmatched" for name in expected] == unmatched[row].tolist()


def test_overlap_equal_to_the_threshold_is_no_match():
    box, half = np.array([[0.0, 0.0, 9.0, 9.0]]), np.array([[0.0, 0.0, 9.0, 4.0]])
    image = np.zeros(1, dtype=np.int64)
    overlap, index = best_overlaps(image, half, image, box)
    assert overlap[0] == 0.5
    hit, _, unmatched = classify_detections(
        overlap, index, np.array([False]), np.array([0.5, 0.499])
    )
    assert hit[:, 0].tolist() == [False, True]
    assert unmatched[:, 0].tolist() == [True, False]


def test_boxes_without_area_are_no_match_and_no_error():
    flat = np.array([[5.0, 5.0, 4.0, 4.0]])
    image = np.zeros(1, dtype=np.int64)
    overlap, index = best_overlaps(image, flat, image, flat)
    hit, duplicate, unmatched = classify_detections(
        overlap, index, np.array([False]), np.array([0.0])
    )
    assert (hit.item(), duplicate.item(), unmatched.item()) == (False, False, True)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.floats(allow_nan=True, allow_infinity=True),
            st.floats(0, 1, width=32),
            # One unit next to halves of the last digit, where rounding is delicate.
            st.builds(
                lambda number, side: float(np.nextafter((number + 0.5) / 1000, side)),
                st.integers(-2000, 2000),
                st.sampled_from([-np.inf, np.inf]),
            ),
            st.integers(-4000, 4000).map(lambda number: number / 16),
        ),
        max_size=20,
    ),
    st.sampled_from([1, 3]),
)
def test_rounding_equals_printing_and_reading(values, decimals):
    expected = [float(f"{value:.{decimals}f}") for value in values]
    with np.errstate(over="ignore"):
        actual = round_as_printed(np.array(values, dtype=np.float64), decimals)
    np.testing.assert_array_equal(actual, np.array(expected, dtype=np.float64))
