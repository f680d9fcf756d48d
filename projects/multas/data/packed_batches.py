"""Batches on their way from a loading process to the training, in one tensor each.

torch hands over every tensor by a file of its own, for which the training process has to ask the
worker. An image with its boxes, classes and scores has five tensors. That takes longer than copying
the images themselves, and keeps so many files open that some systems refuse them.
"""

import io
import pickle
from typing import Any, NamedTuple

import torch

_ALIGNMENT = 64  # bytes


class PackedBatch(NamedTuple):
    """A batch in a form that is sent quickly."""

    pickled: bytes  # the batch without the content of its tensors and arrays
    ends: list[int]  # where the content of each ends; the next begins at the next multiple of 64
    content: torch.Tensor  # uint8


class _Pickler(pickle.Pickler):
    """Pickles tensors as the arrays that they are, whose content it can leave out."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not torch.Tensor:
            return NotImplemented
        try:
            return torch.from_numpy, (obj.numpy(),)
        except (RuntimeError, TypeError):  # bfloat16, for instance: torch's own way
            return NotImplemented


def pack(batch: list) -> PackedBatch:
    """The batch in one piece; :func:`unpack` is the inverse."""
    stream, content, ends = io.BytesIO(), bytearray(), []
    buffers: list[pickle.PickleBuffer] = []
    _Pickler(stream, pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append).dump(batch)
    for buffer in buffers:
        content += buffer.raw()
        ends.append(len(content))
        content += bytes(-len(content) % _ALIGNMENT)
    # torch makes no tensor of an empty buffer.
    held = torch.frombuffer(content or bytearray(1), dtype=torch.uint8)
    return PackedBatch(stream.getvalue(), ends, held)


def unpack(packed: PackedBatch) -> list:
    """The batch again; its tensors and arrays are parts of the packed one's content."""
    content, start, buffers = packed.content.numpy().data, 0, []
    for end in packed.ends:
        buffers.append(content[start:end])
        start = end + -end % _ALIGNMENT
    return pickle.loads(packed.pickled, buffers=buffers)
