"""Training in 16 bits: what SOLVER.AMP.ENABLED means, and AMPTrainer for any device."""

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer
from torch import Tensor, nn

from multas.modeling.precision import native_half


def resolve_precision(cfg: CfgNode) -> CfgNode:
    """The config with True or False where SOLVER.AMP.ENABLED is "auto".

    Returns:
        The config itself where the key is not "auto", else a copy, which is frozen if ``cfg`` is.
    """
    if cfg.SOLVER.AMP.ENABLED != "auto":
        return cfg
    resolved = cfg.clone()
    resolved.defrost()
    resolved.SOLVER.AMP.ENABLED = native_half(torch.device(cfg.MODEL.DEVICE)) is not None
    if cfg.is_frozen():
        resolved.freeze()
    return resolved


def describe_precision(cfg: CfgNode) -> str:
    """What a run trains in and why, in one line; the config is resolved."""
    device = torch.device(cfg.MODEL.DEVICE)
    native, used = native_half(device), training_half(device)
    name, kind = str(used).removeprefix("torch."), "GPU" if device.type == "cuda" else "processor"
    if cfg.SOLVER.AMP.ENABLED:
        why = "multiplies it natively" if native else "does not multiply it natively: it is no gain"
        scaled = " with scaled losses" if used is torch.float16 else ""
        return f"Training in {name}{scaled}: SOLVER.AMP.ENABLED is on, and this {kind} {why}."
    if native:
        why = f"SOLVER.AMP.ENABLED is off, though this {kind} multiplies {name} natively"
    else:
        why = f"SOLVER.AMP.ENABLED is off or auto, and this {kind} multiplies no 16-bit numbers"
    return f"Training in float32: {why}."


def training_half(device: torch.device) -> torch.dtype:
    """The 16-bit format that SOLVER.AMP.ENABLED trains in on a device."""
    return native_half(device) or torch.bfloat16


class MixedPrecisionTrainer(AMPTrainer):
    """The training step under autocast, in the format of :func:`training_half`.

    Attributes:
        grad_scaler: keeps gradients inside the range of float16. It does nothing with bfloat16.
    """

    def __init__(
        self, model: nn.Module, data_loader: Iterable[list[dict]], optimizer: torch.optim.Optimizer
    ) -> None:
        self._device = next(model.parameters()).device
        self._precision = training_half(self._device)
        scaled = self._precision is torch.float16
        scaler = torch.amp.GradScaler(self._device.type, enabled=scaled)
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
        if isinstance(losses, Tensor):
            losses = {"total_loss": losses}
        self.optimizer.zero_grad()
        self.grad_scaler.scale(sum(losses.values())).backward()
        self._write_metrics(losses, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # A checkpoint of a run in bfloat16, or in full precision, has no scale to go on with.
        scaler = state_dict.get("grad_scaler") or self.grad_scaler.state_dict()
        super().load_state_dict(state_dict | {"grad_scaler": scaler})
