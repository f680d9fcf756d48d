"""Mixed precision of steps that take gradients apart, as Detectron2's AMPTrainer has it."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor


@dataclass
class MixedPrecision:
    """The number format of the forward pass, and a loss scaler where it needs one.

    Attributes:
        device: of the model.
        autocast: precision of the forward pass; None = as the parameters are.
        scaler: keeps gradients inside the range of float16.
    """

    device: torch.device
    autocast: torch.dtype | None = None
    scaler: torch.amp.GradScaler | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode, device: torch.device) -> "MixedPrecision":
        """SOLVER.AMP.ENABLED: float16 with loss scaling on CUDA, bfloat16 elsewhere."""
        if not cfg.SOLVER.AMP.ENABLED:
            return cls(device)
        if device.type == "cuda":
            return cls(device, torch.float16, torch.amp.GradScaler("cuda"))
        return cls(device, torch.bfloat16)

    def forward(self) -> AbstractContextManager:
        """In it the forward pass runs."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    def scale(self) -> Tensor | None:
        """What losses are to be multiplied with before their backward pass; None = nothing."""
        if self.scaler is None or not self.scaler.is_enabled():
            return None
        return self.scaler.scale(torch.ones((), device=self.device))

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """A step of the optimiser, left out where scaled gradients have overflown."""
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The scaler's state, under the key that Detectron2 uses."""
        return {} if self.scaler is None else {"grad_scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the state up again, if the run had a scaler before."""
        if self.scaler is not None and "grad_scaler" in state:
            self.scaler.load_state_dict(state["grad_scaler"])
