"""The exponential moving average of a model's weights."""

import math
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn

from multas.engine.named_models import live_weights


def ema_decay(update: int, decay: float, ramp: float) -> float:
    """``decay (1 - exp(-k / ramp))`` at update k = 1, 2, …; ramp 0 gives ``decay``."""
    return decay * -math.expm1(-update / ramp) if ramp > 0 else decay


class WeightAverage(HookBase):
    """Averages all floating-point state after every step: ``e = d e + (1 - d) x``.

    That is parameters and BatchNorm's running statistics. Integer state (BatchNorm's counter of
    batches) stays what it was at the start. The average starts as a copy of the model.

    Args:
        model: what is averaged; of a Distiller, its student.
        decay: final d.
        ramp: updates over which d approaches it, see :func:`ema_decay`.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9998, ramp: float = 2000.0) -> None:
        self._model = model
        self.decay = decay
        self.ramp = ramp
        self.updates = 0
        self._weights: dict[str, Tensor] = {}
        self._pairs: tuple[list[Tensor], list[Tensor]] = ([], [])

    @property
    def weights(self) -> dict[str, Tensor]:
        """The average, by the names of the model's state dict."""
        return self._weights

    def before_train(self) -> None:
        # Not earlier: the weights to start from are loaded after the hooks are built.
        live = live_weights(self._model)
        if not self._weights:
            self._weights = {name: tensor.clone() for name, tensor in live.items()}
        floating = [name for name, tensor in live.items() if tensor.is_floating_point()]
        self._pairs = [self._weights[n] for n in floating], [live[n] for n in floating]

    def after_step(self) -> None:
        self.updates += 1
        average, live = self._pairs
        weight = 1 - ema_decay(self.updates, self.decay, self.ramp)
        torch._foreach_lerp_(average, live, weight)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        live = live_weights(self._model)
        self.updates = state["updates"]
        self._weights = {n: t.to(live[n].device) for n, t in state["weights"].items()}
