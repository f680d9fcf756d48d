"""Weights learned on held-out images: bilevel optimisation (Chennupati et al., BMVC 2021, 3.3)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from multas.config.limits import above, check_limit
from multas.distillation.aggregation.base import AGGREGATOR_REGISTRY, KEY
from multas.distillation.aggregation.gradient import GradientAggregator
from multas.util.errors import UserError


@AGGREGATOR_REGISTRY.register()
class Bilevel(GradientAggregator):
    """v = exp(u), u descends on the task loss of validation images through one step of training.

    With w' = w - eta (g + alpha sum_i v_i g_i) and the validation gradient h at w', the
    hypergradient is dL_val(w') / du_i = -eta alpha v_i <h, g_i> (one step of unrolling, Luketina et
    al. 2016; momentum is left out). It is divided by eta alpha ||h|| sum_j v_j ||g_j||, and lies
    then in [-1, 1], without a unit.

    Args:
        hand_tuned: where v starts; above 0.
        lr: step length in log v, which is its largest change in a step.
    """

    u: Tensor

    def __init__(
        self, *, names: Sequence[str], hand_tuned: Sequence[float], lr: float = 0.05
    ) -> None:
        super().__init__(names=names, hand_tuned=hand_tuned)
        if min(hand_tuned) <= 0:
            raise UserError("Aggregation bilevel: the WEIGHT of every path must be above 0.")
        check_limit(f"{KEY}.LR", lr, above(0))
        self.lr = lr
        self.register_buffer("u", torch.tensor(hand_tuned, dtype=torch.float64).log())
        self._weights = torch.tensor(hand_tuned)

    def weigh(self, gram: Tensor, losses: Tensor) -> Tensor:
        return self.u.to(gram).exp()

    def improve(self, gram: Tensor, products: Tensor, squared_norm: Tensor) -> None:
        """One step of u.

        Args:
            gram: (K, K) inner products of the path gradients of the training step.
            products: (K,) inner products of each with the validation gradient after the step.
            squared_norm: squared norm of the validation gradient, scalar.
        """
        v = self.u.to(gram).exp()
        size = squared_norm.sqrt() * (v * gram.diagonal().sqrt()).sum()
        if size > 0 and torch.isfinite(size):
            self.u += (self.lr * v * products / size).to(self.u)
