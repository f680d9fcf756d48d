"""Adaptive distillation (Chennupati et al., BMVC 2021, section 3.5): v = exp(-z), z is learned."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from multas.config.limits import at_least, below, check_limit
from multas.distillation.aggregation.base import AGGREGATOR_REGISTRY, KEY, Aggregator
from multas.distillation.aggregation.learned import check_bound, weigh
from multas.util.names import check_choice


@AGGREGATOR_REGISTRY.register()
class Adaptive(Aggregator):
    """f_d = sum_i exp(-z_i) L_i + sum_i z_i (eq. 5), z = 0 at the start unless ``start`` says else.

    df_d/dz_i = 1 - exp(-z_i) L_i (eq. 6), so at rest every weighted loss v_i L_i is 1. The paper
    leaves two cases open:

    * A loss of exactly 0 has no scale, and eq. 6 would drive z to minus infinity. Here its z gets
      no gradient in that step.
    * A weighted loss above ``max_weighted_loss`` is scaled back to that bound. So no loss that
      returns after it had nearly vanished, or whose scale z has not reached yet, can make the
      student or z jump.

    Args:
        max_weighted_loss: the bound; 0 for none, eqs. 5 and 6 to the letter.
        z_weight_decay: weight decay of z. The paper has none; its code uses the network's (1e-4).
        z_momentum: momentum of z; -1 for the network's.
        z_lr: learning rate of z, which follows the same schedule; -1 for the network's.
        start: "zero", or "rest": z_i = log L_i with the losses of the first step. An optimiser
            whose steps have a fixed length, such as AdamW, would need many to come there.
    """

    started: Tensor

    def __init__(
        self,
        *,
        names: Sequence[str],
        hand_tuned: Sequence[float],
        max_weighted_loss: float = 10.0,
        z_weight_decay: float = 0.0,
        z_momentum: float = -1.0,
        z_lr: float = -1.0,
        start: str = "zero",
    ) -> None:
        super().__init__(names=names, hand_tuned=hand_tuned)
        check_bound(max_weighted_loss)
        check_limit(f"{KEY}.Z_WEIGHT_DECAY", z_weight_decay, at_least(0))
        check_limit(f"{KEY}.Z_MOMENTUM", max(z_momentum, 0.0), below(1))
        self.max_weighted_loss = max_weighted_loss
        self.z_weight_decay = z_weight_decay
        self.z_momentum = z_momentum
        self.z_lr = z_lr
        self.z = nn.Parameter(torch.zeros(len(self.names)))
        check_choice(f"{KEY}.START", start, ("zero", "rest"))
        self.starts_at_rest = start == "rest"
        if self.starts_at_rest:
            self.register_buffer("started", torch.tensor(False))

    def param_groups(self) -> list[dict[str, Any]]:
        own = {"momentum": self.z_momentum, "lr": self.z_lr}
        given = {name: value for name, value in own.items() if value >= 0}
        return [{"params": [self.z], "weight_decay": self.z_weight_decay, **given}]

    def weights(self) -> Tensor:
        return torch.exp(-self.z.detach())

    def forward(self, losses: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if self.starts_at_rest and torch.is_grad_enabled():
            self._start(losses.detach().to(self.z.dtype))
        weighted, z = weigh(self.z, losses, self.max_weighted_loss)
        return weighted, {"z": z.sum()}

    @torch.no_grad()
    def _start(self, losses: Tensor) -> None:
        """Put z where it rests at these losses, in the first step; one of 0 has no such place."""
        waits = torch.logical_or(self.started, losses <= 0)
        self.z.copy_(torch.where(waits, self.z, losses.clamp(min=1e-38).log()))
        self.started.fill_(True)

    def at_rest(self, weighted: Tensor) -> Tensor:
        return weighted.new_full((), len(self.names))

    def monitors(self) -> dict[str, Tensor]:
        return {"z": self.z.detach()}
