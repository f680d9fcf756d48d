import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multas.evaluation.average_precision import (
    average_precision_11point,
    average_precision_area,
)

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "multas"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("voc_ap_*.npz")), ids=lambda path: path.stem)
def test_reference_values(path):
    case = np.load(path)
    recall, precision = case["in_rec"], case["in_prec"]
    assert average_precision_11point(recall, precision) == pytest.approx(
        float(case["out_ap_11pt"]), abs=1e-12
    )
    assert average_precision_area(recall, precision) == pytest.approx(
        float(case["out_ap_area"]), abs=1e-12
    )


def curve(hits):
    positives = np.cumsum(hits)
    return positives / max(sum(hits), 1), positives / np.arange(1, len(hits) + 1)


@given(st.lists(st.booleans(), max_size=40))
def test_matches_a_naive_loop(hits):
    recall, precision = curve(np.asarray(hits, dtype=bool))
    points = [
        max([p for r, p in zip(recall, precision, strict=True) if r >= t], default=0.0)
        for t in np.arange(0, 1.1, 0.1)
    ]
    area, before = 0.0, 0.0
    for rank, value in enumerate(recall):
        area += (value - before) * max(precision[rank:])
        before = value
    assert average_precision_11point(recall, precision) == pytest.approx(np.mean(points), abs=1e-12)
    assert average_precision_area(recall, precision) == pytest.approx(area, abs=1e-12)


@given(st.lists(st.booleans(), min_size=2, max_size=30), st.data())
def test_moving_a_hit_up_never_lowers_ap(hits, data):
    rank = data.draw(st.integers(1, len(hits) - 1))
    better = list(hits)
    better[rank - 1 : rank + 1] = sorted(better[rank - 1 : rank + 1], reverse=True)
    for metric in (average_precision_11point, average_precision_area):
        assert metric(*curve(np.array(better))) >= metric(*curve(np.array(hits))) - 1e-12


def test_leading_dimensions_are_independent_curves():
    rng = np.random.default_rng(0)
    recall = np.sort(rng.random((3, 2, 25)), axis=-1)
    precision = rng.random((3, 2, 25))
    for metric in (average_precision_11point, average_precision_area):
        together = metric(recall, precision)
        assert together.shape == (3, 2)
        assert together[1, 1] == metric(recall[1, 1], precision[1, 1])


def test_no_detection_is_zero():
    empty = np.zeros((10, 0))
    for metric in (average_precision_11point, average_precision_area):
        np.testing.assert_array_equal(metric(empty, empty), np.zeros(10))
