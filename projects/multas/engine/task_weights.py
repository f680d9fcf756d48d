"""The hook that weighs the gradients of several tasks."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from multas.engine.loss_hook import LossHook
from multas.engine.steps.task_gradients import TaskGradients
from multas.engine.steps.with_gradient import with_gradient


class TaskWeights(LossHook):
    """Replaces the gradient of a model's losses by MGDA over its tasks (MODEL.MULTITASK.GRADIENTS).

    Where paths are weighed by their losses, it comes after :class:`PathWeights`; where they are
    weighed by gradients, that hook asks ``tasks`` itself.

    Args:
        model: a MultiTaskNetwork, or a Distiller whose student it is, wrapped or not.
        tasks: combine the gradients of its tasks.
        more: further parameters that the losses depend on (z of an aggregator).
    """

    def __init__(self, model: nn.Module, tasks: TaskGradients, more: Iterable[Tensor] = ()) -> None:
        super().__init__(model, reduces=True)
        self._tasks = tasks
        self._parameters = [*(p for p in model.parameters() if p.requires_grad), *more]

    def weigh(self, output: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not torch.is_grad_enabled():
            return dict(output)
        scale = self.loss_scale()
        with torch.autocast(self._device.type, enabled=False):
            row = self._tasks.combine(output, self._parameters, scale)
        return with_gradient(output, self._parameters, row, scale)
