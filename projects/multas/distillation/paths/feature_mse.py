"""Feature imitation by mean squared error (paper A, section 3; reference weight 5)."""

from typing import Any

from torch import Tensor

from multas.distillation.paths.adapter import match_size
from multas.distillation.paths.base import PATH_REGISTRY, Targets, flatten
from multas.distillation.paths.layers import LayerPath


@PATH_REGISTRY.register()
class FeatureMSE(LayerPath):
    """Mean of (projected student - teacher)^2 over all entries of all tapped maps.

    The mean is over the entries of all maps together, as if the pyramid were one long map; the
    label of a level gives its share.
    """

    default_name = "mse"
    default_weight = 5.0

    def forward(
        self, student: tuple[Any, ...], teacher: tuple[Any, ...], targets: Targets
    ) -> dict[str, Tensor]:
        pairs = [
            match_size(adapter(s), t, self.resize)
            for adapter, s, t in zip(
                self.adapters, flatten(student), flatten(teacher), strict=True
            )
        ]
        entries = sum(s.numel() for s, _ in pairs)
        return {str(i): (s - t).square().sum() / entries for i, (s, t) in enumerate(pairs)}
