"""One training step with an aggregation that weighs gradients."""

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from multas.distillation import Distiller
from multas.distillation.path_gradients import PathGradients
from multas.distillation.task_gradients import TaskGradients
from multas.engine.mixed_precision import MixedPrecision


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


class DistillationStep(SimpleTrainer):
    """Detectron2's SimpleTrainer for a Distiller whose aggregator weighs gradients.

    Forward, task losses and path losses; :class:`PathGradients` fills ``.grad``; one step of the
    optimiser. What is logged and saved is what Detectron2's trainers log and save.

    A model wrapped in DistributedDataParallel does not reduce by itself here: its hooks know
    nothing of path gradients, and refuse parameters (adapters) that the task loss does not reach.

    Args:
        model: a Distiller, wrapped or not.
        data_loader: gives batches.
        optimizer: of the model's parameters.
        tasks: weighs the gradients of the student's tasks, too; None = they add up.
        precision: of the forward pass; None = as the parameters are.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict]],
        optimizer: torch.optim.Optimizer,
        *,
        tasks: TaskGradients | None = None,
        precision: MixedPrecision | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        distiller: Any = getattr(model, "module", model)
        if not isinstance(distiller, Distiller) or distiller.distillation is None:
            raise ValueError("DistillationStep trains a Distiller that has been prepared.")
        self._distiller = distiller
        self._gradients = PathGradients(distiller.student, distiller.distillation, tasks)
        self.precision = precision or MixedPrecision(torch.device(distiller.device))

    def run_step(self) -> None:
        data, data_time = next_batch(self)
        with without_reduction(self.model):
            with self.precision.forward():
                task_losses = self.model(data)
            self.optimizer.zero_grad()
            path_losses = self._gradients.backward(task_losses, self.precision.scale())
        self._write_metrics(task_losses | path_losses, data_time)
        self.precision.step(self.optimizer)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | self.precision.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.precision.load_state_dict(state_dict)
