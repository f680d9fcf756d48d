"""Tensors as bytes, in half precision."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Packed:
    """The tensors of one image: each is its half, times its scale.

    Attributes:
        halves: float16 tensors of any shapes.
        scales: (number of halves,), powers of two.
        boxes: (number of boxes, 4) float32, or None.
    """

    halves: list[Tensor]
    scales: Tensor
    boxes: Tensor | None


def pack(tensors: Sequence[Tensor], boxes: Tensor | None = None) -> bytes:
    """Tensors on the CPU in 11 significant bits, whatever their range, and exact boxes.

    The relative error is at most 2^-11, and larger only below 2^-29 of the largest value of a
    tensor.
    """
    from safetensors.torch import save

    scales = [_scale(tensor) for tensor in tensors]
    pairs = enumerate(zip(tensors, scales, strict=True))
    named = {str(k): (tensor.float() / scale).half() for k, (tensor, scale) in pairs}
    named["scales"] = torch.tensor(scales, dtype=torch.float32)
    if boxes is not None:
        named["boxes"] = boxes.float()
    return save({name: tensor.contiguous() for name, tensor in named.items()})


def unpack(data: bytes) -> Packed:
    """The tensors and boxes, on the CPU, of which :func:`pack` made ``data``."""
    from safetensors.torch import load

    named = load(data)
    scales, boxes = named.pop("scales"), named.pop("boxes", None)
    return Packed([named[str(k)] for k in range(len(named))], scales, boxes)


def _scale(tensor: Tensor) -> float:
    """The power of two that takes the largest value just below the largest float16."""
    largest = tensor.abs().max().item() if tensor.numel() else 0.0
    if not 0 < largest < math.inf:
        return 1.0
    # Divisors below 2^-100 would leave float32.
    return 2.0 ** max(math.frexp(largest)[1] - 15, -100)
