"""Losses that carry a given gradient, which a trainer's own backward pass puts into ``.grad``."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Row = Sequence[Tensor | None]


class _Gradient(torch.autograd.Function):
    """Zero, with a given gradient."""

    @staticmethod
    def forward(ctx: Any, row: Row, scale: Tensor | None, *parameters: Tensor) -> Tensor:
        ctx.row, ctx.scale = row, scale
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        factor = grad_output if ctx.scale is None else grad_output / ctx.scale
        return None, None, *(None if g is None else g * factor for g in ctx.row)


def gradient_term(parameters: Sequence[Tensor], row: Row, scale: Tensor | None = None) -> Tensor:
    """A scalar 0 whose gradient with respect to ``parameters`` is ``row`` (None = no gradient).

    ``scale`` is a GradScaler's factor, which ``row`` already has, and with which the trainer will
    multiply its loss.
    """
    return _Gradient.apply(row, scale, *parameters)


def with_gradient(
    losses: Mapping[str, Tensor],
    parameters: Sequence[Tensor],
    row: Row,
    scale: Tensor | None = None,
) -> dict[str, Tensor]:
    """At least one loss: the same values without their graphs, and the gradient of the sum is row.

    The first is moved to the parameters' device, and becomes at least as precise as they are: half
    precision would round what flows back. For the other arguments see :func:`gradient_term`.
    """
    values = {name: loss.detach() for name, loss in losses.items()}
    first = next(iter(values))
    term = gradient_term(parameters, row, scale)
    return values | {first: values[first].to(term.device) + term}
