"""One training step in which gradients are weighed: those of paths, of tasks, or both."""

import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from detectron2.engine import SimpleTrainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from multas.engine.steps.mixed_precision import MixedPrecision


def next_batch(trainer: SimpleTrainer) -> tuple[list[dict], float]:
    """The batch of this step, and how many seconds it was waited for."""
    if not trainer.model.training:
        raise RuntimeError("The model was switched to eval mode during training.")
    start = time.perf_counter()
    data = next(trainer._data_loader_iter)
    return data, time.perf_counter() - start


def without_reduction(model: nn.Module) -> AbstractContextManager:
    """In it, backward passes of a DDP-wrapped model leave the gradients of ranks apart."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


class Gradients(Protocol):
    """What weighs gradients: those of paths, or of tasks."""

    def backward(
        self, losses: Mapping[str, Tensor], scale: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Fill ``.grad`` from the losses of a forward pass; returns further terms to log."""


class GradientStep(SimpleTrainer):
    """Detectron2's SimpleTrainer where gradients are weighed, not losses.

    Forward; ``gradients`` fill ``.grad``; one step of the optimiser. What is logged and saved is
    what Detectron2's trainers log and save.

    A model wrapped in DistributedDataParallel does not reduce by itself here: its hooks know
    nothing of weighed gradients, and refuse parameters (adapters) that the losses do not reach.

    Args:
        model: a Distiller or a MultiTaskNetwork, wrapped or not.
        data_loader: gives batches.
        optimizer: of the model's parameters.
        gradients: of that model, :class:`PathGradients` or :class:`TaskGradients`.
        precision: of the forward pass; None = as the parameters are.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict]],
        optimizer: torch.optim.Optimizer,
        gradients: Gradients,
        *,
        precision: MixedPrecision | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self._gradients = gradients
        self.precision = precision or MixedPrecision(next(model.parameters()).device)

    def run_step(self) -> None:
        data, data_time = next_batch(self)
        with without_reduction(self.model):
            with self.precision.forward():
                losses = self.model(data)
            self.optimizer.zero_grad()
            more = self._gradients.backward(losses, self.precision.scale())
        self._write_metrics(losses | more, data_time)
        self.precision.step(self.optimizer)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | self.precision.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.precision.load_state_dict(state_dict)
