"""Path weights from the ratio of gradient norms of task and path (as GAM of RT-DETRv4 has it)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from multas.config.limits import above, below, check_limit
from multas.distillation.aggregation.base import AGGREGATOR_REGISTRY, KEY
from multas.distillation.aggregation.gradient import GradientAggregator


@AGGREGATOR_REGISTRY.register()
class GradientRatio(GradientAggregator):
    """v_i = ratio / K m(||g||) / m(||g_i||): the K paths together pull as hard as ``ratio`` tasks.

    g is the gradient of the task, g_i that of path i, and m a running mean over steps. So the size
    of all distillation follows the task's, whatever the units, the resolution and the number of the
    paths, and fades as the task does. Without the mean (momentum 0), and with alpha 1, the sum of
    the weighted path gradients is never longer than ``ratio`` times the task's gradient.

    After Gradient-guided Adaptive Modulation (Liao et al., RT-DETRv4, arXiv 2510.25257), which
    weighs one path such that its share in the gradient stays near a target. There the share is
    that of one module in the norm of the whole gradient, and its weight changes once per epoch if
    the mean share has left a band. Here task and path are compared with each other on the same
    parameters or, for little time, on the same features (SCOPE features).

    A step without task losses is not counted. Until the first one with them, v = 0.

    Args:
        ratio: the length of all path gradients together, in lengths of the task's.
        momentum: decay of the running means per step; 0: each step for itself.
    """

    needs_task = True
    sums: Tensor
    task_sum: Tensor

    def __init__(
        self,
        *,
        names: Sequence[str],
        hand_tuned: Sequence[float],
        ratio: float = 1.0,
        momentum: float = 0.9,
    ) -> None:
        super().__init__(names=names, hand_tuned=hand_tuned)
        check_limit(f"{KEY}.RATIO", ratio, above(0))
        check_limit(f"{KEY}.MOMENTUM", momentum, below(1))
        self.ratio, self.momentum = ratio, momentum
        # Sums of norms that decay with the same factor, so that their quotient is that of means.
        self.register_buffer("sums", torch.zeros(len(self.names), dtype=torch.float64))
        self.register_buffer("task_sum", torch.zeros((), dtype=torch.float64))
        self._weights = torch.zeros(len(self.names))

    def weigh(self, gram: Tensor, losses: Tensor) -> Tensor:
        norms = gram.diagonal().sqrt()
        sums, task_sum = self.sums.to(gram), self.task_sum.to(gram)
        if norms[-1] > 0:
            sums, task_sum = self.momentum * sums + norms[:-1], self.momentum * task_sum + norms[-1]
            self.sums.copy_(sums)
            self.task_sum.copy_(task_sum)
        share = self.ratio / len(self.names)
        return torch.where(sums > 0, share * task_sum / torch.where(sums > 0, sums, 1.0), 0.0)
