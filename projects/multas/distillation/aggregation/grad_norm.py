"""GradNorm (Chen et al. 2018)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from multas.config.limits import above, at_least, check_limit
from multas.distillation.aggregation.base import AGGREGATOR_REGISTRY, KEY
from multas.distillation.aggregation.gradient import GradientAggregator


@AGGREGATOR_REGISTRY.register()
class GradNorm(GradientAggregator):
    """Weights that give all paths gradients of similar length, longer where training lags behind.

    With G_i = v_i ||g_i||, its mean G and r_i = (L_i / L_i(0)) over the mean of these ratios, v
    descends on sum_i |G_i - G r_i^a| with the targets held constant, and is scaled to the sum K
    (Chen et al. 2018, eqs. 1 and 2). As there, a step uses v as it was before its own update.

    The step is in log v, so that v stays positive, and the objective is in units of G: unlike the
    original this does not depend on the scale of the losses. The targets are the original's.

    Args:
        task_as_objective: see :class:`GradientAggregator`.
        asymmetry: the exponent a; 0 for equal lengths.
        lr: step length in log v.
    """

    v: Tensor
    initial: Tensor

    def __init__(
        self,
        *,
        names: Sequence[str],
        hand_tuned: Sequence[float],
        task_as_objective: bool = False,
        asymmetry: float = 1.5,
        lr: float = 0.025,
    ) -> None:
        check_limit(f"{KEY}.ASYMMETRY", asymmetry, at_least(0))
        check_limit(f"{KEY}.LR", lr, above(0))
        super().__init__(names=names, hand_tuned=hand_tuned, task_as_objective=task_as_objective)
        self.asymmetry = asymmetry
        self.lr = lr
        count = len(self.objectives)
        self.register_buffer("v", torch.ones(count, dtype=torch.float64))
        # The first losses; 0 until a loss was above 0, since 0 has no ratio to it.
        self.register_buffer("initial", torch.zeros(count, dtype=torch.float64))
        self._weights = torch.ones(len(self.names))

    def weigh(self, gram: Tensor, losses: Tensor) -> Tensor:
        v, initial = self.v.clone().to(gram), self.initial.to(gram)
        initial = torch.where(initial == 0, losses, initial)
        lengths = v * gram.diagonal().sqrt()
        mean = lengths.mean()
        if mean > 0:
            ratios = torch.where(initial == 0, 1.0, losses / initial)
            # If all losses are zero, none lags behind.
            rates = ratios / ratios.mean() if ratios.mean() > 0 else torch.ones_like(ratios)
            target = mean * rates**self.asymmetry
            new = v * torch.exp(-self.lr * torch.sign(lengths - target) * lengths / mean)
            self.v.copy_(new * len(new) / new.sum())
        self.initial.copy_(initial)
        return v
