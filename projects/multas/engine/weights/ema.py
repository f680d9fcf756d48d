"""Exponential moving averages of a model's weights: its average, and teachers that follow it."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn

from multas.distillation import Teacher
from multas.engine.weights.evaluated_models import Weights, copy_weights, live_weights


def ema_decay(update: int, decay: float, ramp: float) -> float:
    """``decay (1 - exp(-k / ramp))`` at update k = 1, 2, …, and ``decay`` if the ramp is 0."""
    return decay * -math.expm1(-update / ramp) if ramp > 0 else decay


def update_average(average: Weights, live: Weights, decay: float) -> None:
    """``e = d e + (1 - d) x`` in place, for the average e, the live weights x and the decay d.

    This concerns parameters and BatchNorm's running statistics. Integer state (BatchNorm's counter
    of batches) stays what it was at the start.
    """
    names = [name for name, tensor in live.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([average[n] for n in names], [live[n] for n in names], 1 - decay)


class WeightAverage(HookBase):
    """Averages a model, or the student of a Distiller, after every step; see :func:`ema_decay`.

    Attributes:
        weights: the average, by the names of the model's state dict. It starts as a copy of it.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9998, ramp: float = 2000.0) -> None:
        self._model, self._decay, self._ramp = model, decay, ramp
        self.updates = 0
        self.weights: dict[str, Tensor] = {}
        self._live: Weights = {}

    def before_train(self) -> None:
        # Only now, because the weights to start from are loaded after the hooks are built.
        self._live = live_weights(self._model)
        if not self.weights:
            self.weights = {name: tensor.clone() for name, tensor in self._live.items()}

    def after_step(self) -> None:
        self.updates += 1
        decay = ema_decay(self.updates, self._decay, self._ramp)
        update_average(self.weights, self._live, decay)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        live = live_weights(self._model)
        self.updates = state["updates"]
        self.weights = {n: t.to(live[n].device) for n, t in state["weights"].items()}


class MeanTeachers(HookBase):
    """Lets mean teachers follow the student after every step of the optimiser.

    The average is kept in the teacher's own network, and in the trainer's part of a checkpoint.
    Processes need not communicate: after a step they have the same parameters. (Running statistics
    are those of each process, as they are in the student.) Fixed teachers are left alone.
    """

    def __init__(self, model: nn.Module, teachers: Sequence[Teacher]) -> None:
        self._model = model
        self._followers = {i: t.mean_teacher for i, t in enumerate(teachers) if t.mean_teacher}
        self._weights = {i: live_weights(teachers[i].model) for i in self._followers}
        self._live: Weights = {}
        self.updates = 0

    def before_train(self) -> None:
        # Only now, because the weights to start from are loaded after the hooks are built.
        self._live = live_weights(self._model)
        for i, mean_teacher in self._followers.items():
            if mean_teacher.from_student and self.updates == 0:
                copy_weights(self._weights[i], self._live)

    def after_step(self) -> None:
        self.updates += 1
        for i, mean_teacher in self._followers.items():
            update_average(self._weights[i], self._live, mean_teacher.decay_at(self.updates))

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for i, weights in self._weights.items():
            copy_weights(weights, state["weights"][i])
