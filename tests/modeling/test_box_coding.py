"""Box deltas and IoUs against reference numbers and Detectron2."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, pairwise_iou

from multas.modeling.box_coding import BOX_WEIGHTS, decode_boxes, encode_boxes, pairwise_overlaps

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "multas"


def random_boxes(*shape, dtype=torch.float32):
    corner = 50 * torch.rand(*shape, 2, dtype=dtype)
    return torch.cat([corner, corner + 1 + 40 * torch.rand(*shape, 2, dtype=dtype)], -1)


@pytest.mark.parametrize("scale", [1, 320])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", ["a", "b"])
def test_coding_and_overlaps_equal_the_reference(case, dtype, scale):
    with np.load(GOLDEN / f"codec_{case}.npz") as file:
        data = {key: torch.from_numpy(file[key]).to(dtype) for key in file}
    center, half = (
        data["in_priors"].mul(scale).split(2, dim=1)[0],
        data["in_priors"][:, 2:] * scale / 2,
    )
    anchors = torch.cat([center - half, center + half], 1)
    boxes = data["in_boxes"] * scale
    exact = dtype == torch.float64
    # Deltas near 0 are differences of float32 coordinates near 1, magnified 10 times.
    close = {"rtol": 1e-7 if exact else 1e-5, "atol": 1e-9 if exact else 2e-5}
    torch.testing.assert_close(encode_boxes(boxes, anchors), data["out_encoded"], **close)
    torch.testing.assert_close(
        decode_boxes(data["in_loc"], anchors) / scale, data["out_decoded"], **close
    )
    torch.testing.assert_close(pairwise_overlaps(boxes, anchors), data["out_iou"], **close)
    variances = data["in_variances"]
    torch.testing.assert_close(
        1 / variances.repeat_interleave(2), data["in_loc"].new_tensor(BOX_WEIGHTS)
    )


@pytest.mark.parametrize("weights", [BOX_WEIGHTS, (1.0, 2.0, 3.0, 4.0)])
def test_coding_equals_detectron2s(weights):
    theirs = Box2BoxTransform(weights)
    anchors, boxes = random_boxes(30), random_boxes(30)
    deltas = encode_boxes(boxes, anchors, weights)
    torch.testing.assert_close(deltas, theirs.get_deltas(anchors, boxes), rtol=1e-4, atol=1e-5)
    deltas = 30 * torch.randn(30, 4)  # far into the clamp of the sizes
    torch.testing.assert_close(
        decode_boxes(deltas, anchors, weights),
        theirs.apply_deltas(deltas, anchors),
        rtol=1e-4,
        atol=1e-3,
    )


def test_decoding_undoes_encoding_with_leading_dimensions():
    anchors, boxes = random_boxes(30, dtype=torch.float64), random_boxes(2, 30, dtype=torch.float64)
    torch.testing.assert_close(decode_boxes(encode_boxes(boxes, anchors), anchors), boxes)


def test_batched_overlaps_equal_detectron2s():
    boxes, others = random_boxes(3, 5), random_boxes(3, 40)
    overlaps = pairwise_overlaps(boxes, others)
    for i in range(3):
        expected = pairwise_iou(Boxes(boxes[i]), Boxes(others[i]))
        torch.testing.assert_close(overlaps[i], expected)
    torch.testing.assert_close(pairwise_overlaps(boxes, others[0])[0], overlaps[0])


def test_boxes_without_area_and_non_finite_ones_overlap_nothing():
    inf, nan = float("inf"), float("nan")
    odd = torch.tensor(
        [[5.0, 5, 5, 9], [5, 5, 5, 5], [9, 9, 5, 5], [nan] * 4, [inf] * 4, [-inf, -inf, inf, inf]]
    )
    box = torch.tensor([[4.0, 4, 10, 10]])
    assert pairwise_overlaps(odd, box).eq(0).all()
    assert pairwise_overlaps(box, odd).eq(0).all()
    assert pairwise_overlaps(odd[:3], odd).eq(0).all()
    assert pairwise_overlaps(box, box).item() == 1
