"""Hooks: what happens around a training step."""

import os
import random
from typing import Any, cast

import numpy as np
import torch
from detectron2.engine import HookBase
from torch import nn

from multas.distillation import Distillation


class RunState(HookBase):
    """Carries through a checkpoint what no state dict holds.

    That is the state of the random number generators, and running normalisers that models keep
    as plain attributes (RetinaNet's ``loss_normalizer``).

    Args:
        model: the model that is trained.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def _normalizers(self) -> dict[str, nn.Module]:
        return {n: m for n, m in self._model.named_modules() if hasattr(m, "loss_normalizer")}

    def state_dict(self) -> dict[str, Any]:
        kind, keys, *rest = cast(tuple, np.random.get_state())
        state = {
            "torch": torch.get_rng_state(),
            # Plain numbers and tensors alone: torch.load(weights_only=True) takes nothing else.
            "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
            "python": random.getstate(),
            "normalizers": {n: m.loss_normalizer for n, m in self._normalizers().items()},
        }
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state_all()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        torch.set_rng_state(state["torch"].cpu())
        kind, keys, *rest = state["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
        version, values, gauss = state["python"]
        random.setstate((version, tuple(values), gauss))
        modules = dict(self._model.named_modules())
        for name, value in state["normalizers"].items():
            modules[name].loss_normalizer = value
        if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


class PathMonitor(HookBase):
    """Puts v, z and the raw losses of all paths into the EventStorage.

    Args:
        distillation: whose monitors are read; one transfer from the device per step.
    """

    def __init__(self, distillation: Distillation) -> None:
        self._distillation = distillation

    def after_step(self) -> None:
        monitors = self._distillation.monitors
        rows = torch.stack([vector.float() for vector in monitors.values()]).tolist()
        for monitor, row in zip(monitors, rows, strict=True):
            for name, value in zip(self._distillation.names, row, strict=True):
                # Unsmoothed: a median over 20 steps would hide what an aggregator does.
                self.trainer.storage.put_scalar(f"{monitor}/{name}", value, smoothing_hint=False)


class SaveStudent(HookBase):
    """Writes ``student.pth`` when training has finished: the weights of the student alone.

    The training checkpoints also hold the student under "model", but beside it the optimiser,
    adapters and path weights that resuming needs.

    Args:
        model: the model that is trained.
        folder: where the file goes.
    """

    def __init__(self, model: nn.Module, folder: str) -> None:
        self._model = model
        self._path = os.path.join(folder, "student.pth")

    def after_train(self) -> None:
        if self.trainer.iter < self.trainer.max_iter:
            return
        model = getattr(self._model, "module", self._model)
        torch.save({"model": model.state_dict()}, f"{self._path}.partial")
        os.replace(f"{self._path}.partial", self._path)
