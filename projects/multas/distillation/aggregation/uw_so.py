"""Closed-form uncertainty weights (UW-SO; Kirchdorfer et al., GCPR 2024)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from multas.config.limits import above, check_limit
from multas.distillation.aggregation.base import AGGREGATOR_REGISTRY, KEY, Aggregator


@AGGREGATOR_REGISTRY.register()
class UwSo(Aggregator):
    """v = softmax_i(1 / (T L_i)), the L_i without gradient: sum v = 1, more for smaller losses.

    Soft optimal uncertainty weighting (Kirchdorfer et al., "Analytical uncertainty-based loss
    weighting in multi-task learning", arXiv:2408.07985): 1 / L_i is where the weights of learned
    uncertainties (``adaptive``) come to rest, and the softmax keeps a small loss from an infinite
    one. Nothing is learned, and nothing lags behind.

    T has the unit of 1 / loss: equal weights for T much above all 1 / L_i, the smallest loss alone
    for T much below. A loss that is not positive has the weight 0, since nothing is left of it to
    learn; if none is positive, all have 1 / K.

    Args:
        temperature: T. The paper searches it for each data set.
    """

    v: Tensor

    def __init__(
        self, *, names: Sequence[str], hand_tuned: Sequence[float], temperature: float = 1.0
    ) -> None:
        super().__init__(names=names, hand_tuned=hand_tuned)
        check_limit(f"{KEY}.TEMPERATURE", temperature, above(0))
        self.temperature = temperature
        count = len(self.names)
        # It follows from the losses of each step, so that a checkpoint need not have it.
        self.register_buffer("v", torch.full((count,), 1 / count), persistent=False)

    def weights(self) -> Tensor:
        return self.v

    def forward(self, losses: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if torch.is_grad_enabled():
            self.v = uw_so_weights(losses.detach(), self.temperature)
        return self.v * losses, {}


def uw_so_weights(losses: Tensor, temperature: float) -> Tensor:
    """The softmax of 1 / (temperature * loss) over the positive ones of (K,) losses."""
    positive = losses > 0
    scores = (1 / (temperature * losses)).clamp(max=torch.finfo(losses.dtype).max)
    weights = torch.softmax(torch.where(positive, scores, -torch.inf), dim=0)
    return torch.where(positive.any(), weights, 1 / len(losses))
