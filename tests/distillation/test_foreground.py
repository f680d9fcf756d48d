"""Foreground masks: reference numbers and a naive test of every cell."""

from pathlib import Path

import numpy as np
import pytest
import torch

from multas.distillation.functional.foreground import cell_centers, foreground_mask
from multas.modeling.matcher import pad_boxes

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "multas"


def grids(data):
    size, top = data["in_size"].item(), 5 if data["in_base_size"].item() >= 512 else 4
    return [(-(-size // stride),) * 2 for stride in (8 * 2**k for k in range(top))]


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("case", ["320", "a", "edge", "tiny"])
def test_foreground_mask_equals_the_reference(case, pixels):
    with np.load(GOLDEN / f"fg_mask_{case}.npz") as file:
        data = {key: torch.from_numpy(file[key]) for key in file}
    scale = data["in_size"].item() if pixels else 1
    stored = data["out_mask"].bool()
    boxes, valid = pad_boxes(
        [data["in_boxes"][data["in_boxes_image"] == i] * scale for i in range(len(stored))]
    )
    centers = cell_centers(grids(data), (scale, scale))
    torch.testing.assert_close(centers, data["in_priors"][::6, :2] * scale, rtol=1e-6, atol=1e-6)
    assert torch.equal(foreground_mask(boxes, valid, centers), stored)


def test_cell_centers_run_over_levels_then_rows():
    centers = cell_centers([(2, 3), (1, 1)], (20.0, 30.0))
    expected = [[5, 5], [15, 5], [25, 5], [5, 15], [15, 15], [25, 15], [15, 10]]
    assert centers.tolist() == expected


def test_foreground_mask_equals_a_naive_one():
    counts = (0, 4, 9)
    images = [torch.rand(count, 4) * 40 for count in counts]
    for boxes in images:
        boxes[:, 2:] += boxes[:, :2]
    centers = cell_centers([(8, 8), (4, 4)], (64, 64))
    found = foreground_mask(*pad_boxes(images), centers)
    for row, boxes in zip(found.tolist(), images, strict=True):
        expected = [
            any(a <= x <= c and b <= y <= d for a, b, c, d in boxes.tolist())
            for x, y in centers.tolist()
        ]
        assert row == expected
