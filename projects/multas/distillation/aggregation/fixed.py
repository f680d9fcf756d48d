"""Fixed weights of a single path, equal and hand-tuned ones (Chennupati et al., 3.2 and 3.3)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from multas.distillation.aggregation.base import AGGREGATOR_REGISTRY, Aggregator
from multas.modeling.losses import full_precision
from multas.util.errors import UserError


@AGGREGATOR_REGISTRY.register()
class HandTuned(Aggregator):
    """v as given by the WEIGHT of each path."""

    def weights(self) -> Tensor:
        return self.hand_tuned

    def forward(self, losses: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        losses = full_precision(losses)
        return self.weights().to(losses.dtype) * losses, {}


@AGGREGATOR_REGISTRY.register()
class Equal(HandTuned):
    """v = (1, ..., 1)."""

    def weights(self) -> Tensor:
        return torch.ones_like(self.hand_tuned)


@AGGREGATOR_REGISTRY.register()
class Single(HandTuned):
    """One path with its hand-tuned weight."""

    def __init__(self, *, names: Sequence[str], hand_tuned: Sequence[float]) -> None:
        super().__init__(names=names, hand_tuned=hand_tuned)
        if len(self.names) != 1:
            raise UserError(
                f"Aggregation 'single' takes one path, but MODEL.DISTILLATION.PATHS gives "
                f"{len(self.names)}: {', '.join(self.names)}. Use equal, hand_tuned or adaptive."
            )
