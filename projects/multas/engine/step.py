"""One training step with an aggregation that weighs gradients."""

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from multas.distillation import Distiller
from multas.distillation.path_gradients import PathGradients


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
        autocast: precision of the forward pass; None = as the parameters are.
        grad_scaler: scales losses where the precision needs it (float16).
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict]],
        optimizer: torch.optim.Optimizer,
        *,
        autocast: torch.dtype | None = None,
        grad_scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        distiller: Any = getattr(model, "module", model)
        if not isinstance(distiller, Distiller) or distiller.distillation is None:
            raise ValueError("DistillationStep trains a Distiller that has been prepared.")
        self._distiller = distiller
        self._gradients = PathGradients(distiller.student, distiller.distillation)
        self._device = torch.device(distiller.device)
        self._autocast = autocast
        self.grad_scaler = grad_scaler

    def run_step(self) -> None:
        data, data_time = next_batch(self)
        with without_reduction(self.model):
            with self._precision():
                task_losses = self.model(data)
            self.optimizer.zero_grad()
            task = torch.stack(list(task_losses.values())).sum() if task_losses else None
            path_losses = self._gradients.backward(task, self._scale())
        self._write_metrics(task_losses | path_losses, data_time)
        if self.grad_scaler is None:
            self.optimizer.step()
        else:
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()

    def _precision(self) -> AbstractContextManager:
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._autocast)

    def _scale(self) -> Tensor | None:
        if self.grad_scaler is None or not self.grad_scaler.is_enabled():
            return None
        return self.grad_scaler.scale(torch.ones((), device=self._device))

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if self.grad_scaler is not None:
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self.grad_scaler is not None:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
