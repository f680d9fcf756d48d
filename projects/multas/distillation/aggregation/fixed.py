"""Fixed weights: single path, equal weights, hand-tuned weights (paper B, sections 3.2, 3.3)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from multas.distillation.aggregation.base import AGGREGATOR_REGISTRY, Aggregator


class _Fixed(Aggregator):
    def weights(self) -> Tensor:
        return self.hand_tuned

    def forward(self, losses: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.weights() * losses, {}


@AGGREGATOR_REGISTRY.register()
class HandTuned(_Fixed):
    """v as given by the WEIGHT of each path."""


@AGGREGATOR_REGISTRY.register()
class Equal(_Fixed):
    """v = (1, ..., 1)."""

    def weights(self) -> Tensor:
        return torch.ones_like(self.hand_tuned)


@AGGREGATOR_REGISTRY.register()
class Single(_Fixed):
    """One path with its hand-tuned weight."""

    def __init__(self, *, names: Sequence[str], hand_tuned: Sequence[float]) -> None:
        super().__init__(names=names, hand_tuned=hand_tuned)
        if len(self.names) != 1:
            raise ValueError(
                f"Aggregation 'single' takes one path, but MODEL.DISTILLATION.PATHS gives "
                f"{len(self.names)}: {', '.join(self.names)}. Use equal, hand_tuned or adaptive."
            )
