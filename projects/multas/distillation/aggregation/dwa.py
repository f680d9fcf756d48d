"""Dynamic weight average (Liu et al. 2019)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from multas.distillation.aggregation.base import AGGREGATOR_REGISTRY, KEY, Aggregator
from multas.util.errors import UserError


@AGGREGATOR_REGISTRY.register()
class DWA(Aggregator):
    """v_i = K softmax_i(w_i / T), w_i = L_i(t - 1) / L_i(t - 2) (Liu et al. 2019, eq. 7).

    L_i(t) is the mean loss over a period of steps (in the paper: an epoch); in the first two
    periods v = 1. A path whose loss stops falling gains weight.

    Args:
        temperature: T; large values make the weights equal.
        period: number of steps in a period.
    """

    v: Tensor
    sums: Tensor
    previous: Tensor
    steps: Tensor

    def __init__(
        self,
        *,
        names: Sequence[str],
        hand_tuned: Sequence[float],
        temperature: float = 2.0,
        period: int = 100,
    ) -> None:
        super().__init__(names=names, hand_tuned=hand_tuned)
        if temperature <= 0 or period < 1:
            raise UserError(
                f"{KEY}: TEMPERATURE of dwa must be above 0 and PERIOD at least 1, but they are "
                f"{temperature} and {period}."
            )
        self.temperature = temperature
        self.period = period
        count = len(self.names)
        self.register_buffer("v", torch.ones(count))
        # Sums over the current period, and means over the previous one (0: there was none).
        self.register_buffer("sums", torch.zeros(count))
        self.register_buffer("previous", torch.zeros(count))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        # A copy of ``steps`` that can be read without waiting for the device.
        self._in_period: int | None = None

    def weights(self) -> Tensor:
        return self.v.clone()

    def forward(self, losses: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        v = self.v.clone()
        if torch.is_grad_enabled():
            self._observe(losses.detach())
        return v * losses, {}

    def _observe(self, losses: Tensor) -> None:
        if self._in_period is None:
            self._in_period = int(self.steps)
        self.sums += losses
        self.steps += 1
        self._in_period += 1
        if self._in_period < self.period:
            return
        mean = self.sums / self.period
        # A mean of 0 has no ratio; such a loss counts as constant.
        ratio = torch.where(self.previous > 0, mean / self.previous, 1.0)
        started = (self.previous > 0).any()
        softmax = len(self.names) * torch.softmax(ratio / self.temperature, dim=0)
        self.v.copy_(torch.where(started, softmax, torch.ones_like(softmax)))
        self.previous.copy_(mean)
        self.sums.zero_()
        self.steps.zero_()
        self._in_period = 0
