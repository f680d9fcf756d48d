"""The loss balance of impartial multi-task learning (Liu et al., ICLR 2021): v = exp(s)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from multas.distillation.aggregation.base import AGGREGATOR_REGISTRY, Aggregator


@AGGREGATOR_REGISTRY.register()
class ImtlL(Aggregator):
    """f = sum_i (exp(s_i) L_i - s_i), s = 0 at the start (IMTL-L; Liu et al., ICLR 2021).

    It is Chennupati et al.'s eq. 5 with s = -z: the same weights, and under SGD the same training,
    as ``adaptive`` with MAX_WEIGHTED_LOSS 0 (its eqs. 5 and 6 to the letter), derived from the wish
    that all weighted losses be equal instead of from an uncertainty. It is here as a control. At
    rest every v_i L_i is 1; a loss that vanishes sends its s to infinity.
    """

    def __init__(self, *, names: Sequence[str], hand_tuned: Sequence[float]) -> None:
        super().__init__(names=names, hand_tuned=hand_tuned)
        self.s = nn.Parameter(torch.zeros(len(self.names)))

    def weights(self) -> Tensor:
        return torch.exp(self.s.detach())

    def forward(self, losses: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # "z" is what the log calls the regulariser of learned weights.
        return torch.exp(self.s) * losses.to(self.s.dtype), {"z": -self.s.sum()}

    def at_rest(self, weighted: Tensor) -> Tensor:
        return weighted.new_full((), len(self.names))

    def monitors(self) -> dict[str, Tensor]:
        return {"s": self.s.detach()}
