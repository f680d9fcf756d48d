"""Reference numbers of the original authors' code (tests/golden), and how to compare with them."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).resolve().parent / "golden"


def cases(family: str, pattern: str) -> list[str]:
    """Names of the cases of "multas" (paper A) or "adaptive" (paper B) that match; at least one."""
    names = sorted(path.stem for path in (GOLDEN / family).glob(f"{pattern}.npz"))
    assert names, f"no case {family}/{pattern}"
    return names


def load(family: str, name: str, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The numbers of a case, as stored; with ``dtype``, floating inputs ("in_…") in that type."""
    with np.load(GOLDEN / family / f"{name}.npz", allow_pickle=False) as file:
        arrays = {
            k: torch.from_numpy(np.asarray(v)) for k, v in file.items() if v.dtype.kind != "U"
        }
    if dtype is None:
        return arrays
    return {
        key: value.to(dtype) if key.startswith("in_") and value.is_floating_point() else value
        for key, value in arrays.items()
    }


def gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(loss, leaf, retain_graph=True)[0]


def assert_value(actual: Tensor, expected: Tensor, rtol: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=rtol, atol=1e-300)


def assert_gradient(actual: Tensor, expected: Tensor, tolerance: float = 1e-8) -> None:
    """Equal relative to the largest entry."""
    bound = tolerance * float(expected.abs().max())
    torch.testing.assert_close(actual, expected, rtol=0, atol=max(bound, 1e-18))


def double(*shape: int, grad: bool = False) -> Tensor:
    """Random numbers in float64."""
    return torch.randn(shape, dtype=torch.float64, requires_grad=grad)
