"""What a user writes to add an aggregator with options: this file, and config keys:

IMPORT_MODULES: [own_aggregator]
MODEL.DISTILLATION.AGGREGATION: {NAME: relative, POWER: 0.5}
"""

import torch

from multas.distillation import AGGREGATOR_REGISTRY, Aggregator


@AGGREGATOR_REGISTRY.register()
class Relative(Aggregator):
    """Every path counts in proportion to its loss in the first step, to a power."""

    def __init__(self, *, names, hand_tuned, power: float = 1.0):
        super().__init__(names=names, hand_tuned=hand_tuned)
        self.power = power
        self.register_buffer("first", torch.zeros(len(names)))

    def weights(self):
        return self.first.clamp(min=1e-6) ** -self.power

    def forward(self, losses):
        self.first.copy_(torch.where(self.first == 0, losses.detach(), self.first))
        return self.weights() * losses, {}
