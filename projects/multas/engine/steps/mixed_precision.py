"""Detectron2's AMPTrainer, also on CPUs."""

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import nn


class MixedPrecisionTrainer(SimpleTrainer):
    """SOLVER.AMP.ENABLED: float16 with loss scaling on CUDA, bfloat16 elsewhere.

    Attributes:
        grad_scaler: keeps gradients inside the range of float16. It does nothing with bfloat16.
    """

    def __init__(
        self, model: nn.Module, data_loader: Iterable[list[dict]], optimizer: torch.optim.Optimizer
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self._device = next(model.parameters()).device
        half = self._device.type == "cuda"
        self._precision = torch.float16 if half else torch.bfloat16
        self.grad_scaler = torch.amp.GradScaler(self._device.type, enabled=half)

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

    def state_dict(self) -> dict[str, Any]:
        # The key is Detectron2's.
        return super().state_dict() | {"grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
