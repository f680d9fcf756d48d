"""Paths gated by the cosine of their gradient with the task's (Du et al. 2018)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from multas.distillation.aggregation.base import AGGREGATOR_REGISTRY
from multas.distillation.aggregation.gradient import GradientAggregator


@AGGREGATOR_REGISTRY.register()
class GradientSimilarity(GradientAggregator):
    """v_i = w_i max(0, cos(g, g_i)), or w_i where the cosine is positive and 0 elsewhere.

    g is the gradient of the task, g_i that of path i, w_i its hand-tuned weight ("Adapting
    Auxiliary Losses Using Gradient Similarity", arXiv 1812.02224: the weighted and the unweighted
    version). A path counts as far as it agrees with the task, so that the sum of all gradients
    never decreases the task loss more slowly than the task's gradient alone, to first order.

    A step without task losses has nothing to agree with, and v_i = w_i there.

    Args:
        weighted: whether the cosine itself is the weight, and not only its sign.
    """

    needs_task = True

    def __init__(
        self, *, names: Sequence[str], hand_tuned: Sequence[float], weighted: bool = True
    ) -> None:
        super().__init__(names=names, hand_tuned=hand_tuned)
        self.weighted = weighted

    def weigh(self, gram: Tensor, losses: Tensor) -> Tensor:
        own = self.hand_tuned.to(gram)
        if gram[-1, -1] == 0:
            return own
        lengths = (gram.diagonal()[:-1] * gram[-1, -1]).sqrt()
        # A path without gradient has no direction, and no weight.
        cosines = gram[-1, :-1] / torch.where(lengths == 0, 1.0, lengths)
        return own * (cosines.clamp(min=0.0) if self.weighted else (cosines > 0).to(gram))
