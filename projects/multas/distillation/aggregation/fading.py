"""Learned weights with a regulariser from below (Liebel and Körner 2018): v = exp(-z)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from multas.distillation.aggregation.base import AGGREGATOR_REGISTRY, Aggregator
from multas.distillation.aggregation.learned import check_bound, weigh


@AGGREGATOR_REGISTRY.register()
class Fading(Aggregator):
    """f = sum_i exp(-z_i) L_i + sum_i log(1 + exp(z_i)), z = 0 at the start: mastered paths fade.

    The regulariser is that of Liebel and Körner ("Auxiliary tasks in multi-task learning",
    arXiv:1805.06334, 2018), with exp(z) for their sigma^2 and, as in eq. 5 of
    :class:`multas.distillation.aggregation.adaptive.Adaptive`, without the factor 1/2 of the loss.
    It is never negative.

    df/dz_i = sigmoid(z_i) - exp(-z_i) L_i, so at rest exp(z_i) = (L_i + sqrt(L_i^2 + 4 L_i)) / 2.
    The weighted loss is then sigmoid(z_i): nearly 1 for a large L_i, as for Adaptive, but about
    sqrt(L_i) for a small one. A path thus loses its say as the student comes to agree with its
    teacher, where Adaptive pulls the harder the less there is left. Unlike Adaptive's, this
    objective depends on the scale of a loss: one that stays far above 1 does not fade.

    Args:
        max_weighted_loss: what a weighted loss is scaled back to; 0 for no bound.
    """

    def __init__(
        self,
        *,
        names: Sequence[str],
        hand_tuned: Sequence[float],
        max_weighted_loss: float = 10.0,
    ) -> None:
        super().__init__(names=names, hand_tuned=hand_tuned)
        check_bound(max_weighted_loss)
        self.max_weighted_loss = max_weighted_loss
        self.z = nn.Parameter(torch.zeros(len(self.names)))

    def weights(self) -> Tensor:
        return torch.exp(-self.z.detach())

    def forward(self, losses: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        weighted, z = weigh(self.z, losses, self.max_weighted_loss)
        return weighted, {"z": softplus(z).sum()}

    def at_rest(self, weighted: Tensor) -> Tensor:
        # What they approach while the losses are large; less, as paths fade, is meant.
        return weighted.new_full((), len(self.names))

    def monitors(self) -> dict[str, Tensor]:
        return {"z": self.z.detach()}
