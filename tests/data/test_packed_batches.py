"""Batches that are sent by a worker in one piece arrive as they were."""

import pickle

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from multas.data.packed_batches import pack, unpack


def sent(batch):
    """The batch after its way through a process; also one without any tensor."""
    return unpack(pickle.loads(pickle.dumps(pack(batch))))


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4),
        torch.arange(24).reshape(4, 6).T,
        torch.randn(3, 5)[:, ::2],
        torch.zeros(0, 4),
        torch.tensor(1.5, dtype=torch.float64),
        torch.ones(3, dtype=torch.bool),
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(2, requires_grad=True),
    ],
    ids=lambda value: f"{value.dtype} {tuple(value.shape)}",
)
def test_tensors_arrive_as_they_were_and_can_be_written(value):
    first, second = sent([{"x": torch.ones(7), "y": value}, {"y": value.clone()}])
    assert first["x"].tolist() == [1] * 7
    for received in (first["y"], second["y"]):
        assert received.dtype == value.dtype and received.shape == value.shape
        assert torch.equal(received, value)
    first["x"].add_(1)
    first["y"].detach().zero_()
    assert torch.equal(second["y"], value)


def test_samples_arrive_as_they_were():
    instances = Instances((4, 5), gt_boxes=Boxes(torch.rand(2, 4)), gt_classes=torch.tensor([1, 0]))
    array = np.arange(6.0).reshape(2, 3)
    batch = [{"file_name": "a.png", "instances": instances, "count": array}, ValueError("broken")]
    sample, error = sent(batch)
    assert sample["file_name"] == "a.png" and sample["instances"].image_size == (4, 5)
    assert torch.equal(sample["instances"].gt_boxes.tensor, instances.gt_boxes.tensor)
    assert sample["instances"].gt_classes.tolist() == [1, 0]
    np.testing.assert_array_equal(sample["count"], array)
    assert sample["count"].flags.writeable
    assert isinstance(error, ValueError) and sent([]) == []
