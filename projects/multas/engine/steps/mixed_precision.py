"""Detectron2's AMPTrainer, also on CPUs."""

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from detectron2.engine import AMPTrainer
from torch import nn


class MixedPrecisionTrainer(AMPTrainer):
    """SOLVER.AMP.ENABLED: float16 with loss scaling on CUDA, bfloat16 elsewhere.

    Attributes:
        grad_scaler: keeps gradients inside the range of float16. It does nothing with bfloat16.
    """

    def __init__(
        self, model: nn.Module, data_loader: Iterable[list[dict]], optimizer: torch.optim.Optimizer
    ) -> None:
        self._device = next(model.parameters()).device
        half = self._device.type == "cuda"
        self._precision = torch.float16 if half else torch.bfloat16
        scaler = torch.amp.GradScaler(self._device.type, enabled=half)
        super().__init__(model, data_loader, optimizer, grad_scaler=scaler)

    def autocast(self) -> AbstractContextManager:
        """The context in which a forward pass runs in this precision."""
        return torch.autocast(self._device.type, dtype=self._precision)

    def run_step(self) -> None:
        if not self.model.training:
            raise RuntimeError("The model was switched to eval mode during training.")
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        with self.autocast():
            losses = self.model(data)
        self.optimizer.zero_grad()
        self.grad_scaler.scale(sum(losses.values())).backward()
        self._write_metrics(losses, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # A checkpoint of a run in bfloat16, or in full precision, has no scale to go on with.
        scaler = state_dict.get("grad_scaler") or self.grad_scaler.state_dict()
        super().load_state_dict(state_dict | {"grad_scaler": scaler})
