"""Hooks between the forward and the backward pass, and losses that carry a given gradient."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from detectron2.engine import HookBase, TrainerBase
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from multas.util.ranks import GradientRow


class LossHook(HookBase):
    """Base class of hooks that turn what a model returns into the losses that a trainer takes.

    Detectron2 has no event at this point, so that these are forward hooks of the model. They work
    in the order of their construction. Subclasses define :meth:`weigh`.

    Args:
        model: the model that is trained, wrapped or not.
        reduces: whether the gradients of these losses are already means over all ranks. A model
            wrapped in DistributedDataParallel then does not reduce them again.
    """

    def __init__(self, model: nn.Module, *, reduces: bool) -> None:
        self._model, self._reduces = model, reduces
        self._device = next(model.parameters()).device
        self._step = ExitStack()
        self._handle = model.register_forward_hook(self._after_forward)

    def weigh(self, output: Any) -> dict[str, Tensor]:
        """The losses of a step: scalars by name, which are logged, and whose sum is differentiated.

        ``output`` is what the model, or the hook before this one, returned in training.
        """
        raise NotImplementedError

    def loss_scale(self) -> Tensor | None:
        """The factor that a GradScaler will multiply the trainer's loss with; None = no scaler."""
        scaler = getattr(inner_trainer(self.trainer), "grad_scaler", None)
        if scaler is None or not scaler.is_enabled():
            return None
        return scaler.scale(torch.ones((), device=self._device))

    def before_step(self) -> None:
        if self._reduces and isinstance(self._model, DistributedDataParallel):
            self._step.enter_context(self._model.no_sync())

    def after_step(self) -> None:
        self._step.close()

    def after_train(self) -> None:
        self._step.close()
        self._handle.remove()

    def _after_forward(self, module: nn.Module, _: tuple, output: Any) -> Any:
        return self.weigh(output) if module.training else output


def inner_trainer(trainer: TrainerBase) -> TrainerBase:
    """The trainer that runs the steps: the one inside a DefaultTrainer, or the trainer itself."""
    return getattr(trainer, "_trainer", trainer)


class _Gradient(torch.autograd.Function):
    """Zero, with a given gradient."""

    @staticmethod
    def forward(ctx: Any, row: GradientRow, scale: Tensor | None, *parameters: Tensor) -> Tensor:
        ctx.row, ctx.scale = row, scale
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        factor = grad_output if ctx.scale is None else grad_output / ctx.scale
        return None, None, *(None if g is None else g * factor for g in ctx.row)


def gradient_term(
    parameters: Sequence[Tensor], row: GradientRow, scale: Tensor | None = None
) -> Tensor:
    """A scalar 0 whose gradient with respect to ``parameters`` is ``row``.

    ``scale`` is the factor of a GradScaler. ``row`` already has it, and the trainer will multiply
    its loss with it once more.
    """
    return _Gradient.apply(row, scale, *parameters)


def with_gradient(
    losses: Mapping[str, Tensor],
    parameters: Sequence[Tensor],
    row: GradientRow,
    scale: Tensor | None = None,
) -> dict[str, Tensor]:
    """The same losses with another gradient: that of their sum is ``row``.

    Args:
        losses: at least one scalar. Their own graphs are dropped.
        parameters, row, scale: see :func:`gradient_term`.

    Returns:
        Losses of the same values. The first lies on the parameters' device and is at least as
        precise as they are, since half precision would round the gradient that flows back.
    """
    values = {name: loss.detach() for name, loss in losses.items()}
    first = next(iter(values))
    term = gradient_term(parameters, row, scale)
    return values | {first: values[first].to(term.device) + term}
