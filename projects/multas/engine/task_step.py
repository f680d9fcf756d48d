"""One training step in which the gradients of tasks are weighed against each other."""

from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import nn

from multas.distillation.task_gradients import TaskGradients
from multas.engine.mixed_precision import MixedPrecision
from multas.engine.step import next_batch, without_reduction


class TaskGradientStep(SimpleTrainer):
    """Detectron2's SimpleTrainer with MGDA over tasks, see :class:`TaskGradients`.

    Args:
        model: a MultiTaskNetwork, or a Distiller with one as student whose paths are weighed by
            losses; wrapped in DistributedDataParallel or not.
        data_loader: gives batches.
        optimizer: of the model's parameters.
        tasks: of the network, to weigh their gradients.
        precision: of the forward pass; None = as the parameters are.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        *,
        tasks: TaskGradients,
        precision: MixedPrecision | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self._gradients = tasks
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self.precision = precision or MixedPrecision(self._parameters[0].device)

    def run_step(self) -> None:
        data, data_time = next_batch(self)
        with without_reduction(self.model), self.precision.forward():
            losses = self.model(data)
        row = self._gradients.combine(losses, self._parameters, self.precision.scale())
        for parameter, gradient in zip(self._parameters, row, strict=True):
            parameter.grad = gradient
        self._write_metrics(losses, data_time)
        self.precision.step(self.optimizer)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | self.precision.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.precision.load_state_dict(state_dict)
