"""Dynamic trade-off between task and distillation, in closed form (DTO-KD, ICLR 2026)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from multas.distillation.aggregation.base import AGGREGATOR_REGISTRY, KEY
from multas.distillation.aggregation.gradient import GradientAggregator
from multas.distillation.gradients.min_norm import min_norm_weights
from multas.util.errors import UserError
from multas.util.names import check_choice

LENGTHS = ("task", "log")


@AGGREGATOR_REGISTRY.register()
class DTO(GradientAggregator):
    """Weights with which task and distillation fall at the same relative rate.

    The two objectives are the task loss L and the loss of all paths D = sum_i w_i L_i with their
    hand-tuned weights w. With the logarithmic gradients a = grad D / D and b = grad L / L, the
    direction is the shortest vector between them, p a + (1 - p) b with::

        p = (b.b - a.b) / (a.a + b.b - 2 a.b), in [0, 1]

    (Hayder et al., ICLR 2026, theorem 3.1; MoKD, arXiv 2505.08170, comes before it). It descends on
    both, by the same fraction of each loss unless p is 0 or 1, or it is zero and no direction does.
    Only the ratio of the w matters: not their size, and not alpha, unless that is 0.

    The authors use AdamW, for which the length of the direction does not matter. For SGD it does,
    and ``length`` decides it: with "task", the gradients of task and distillation are rescaled to
    parts of the length of the task's gradient that add up to one. The sum is then never longer than
    the task's gradient, and as long where both agree.

    In a step without task losses there is no trade-off, and v = w.

    Args:
        length: "task", or "log": p a + (1 - p) b itself, as in the paper.
    """

    needs_task = True

    def __init__(
        self, *, names: Sequence[str], hand_tuned: Sequence[float], length: str = "task"
    ) -> None:
        super().__init__(names=names, hand_tuned=hand_tuned, task_as_objective=True)
        check_choice(f"{KEY}.LENGTH", length, LENGTHS)
        if not any(hand_tuned):
            raise UserError("Aggregation dto: the WEIGHT of one path at least must be above 0.")
        self.length = length

    def weigh(self, gram: Tensor, losses: Tensor) -> Tensor:
        own = self.hand_tuned.to(gram)
        if gram[-1, -1] == 0:
            return torch.cat([own, own.new_zeros(1)])
        # Rows: distillation and task as sums of the objectives.
        parts = torch.block_diag(own[None], own.new_ones(1, 1))
        both, values = parts @ gram @ parts.T, parts @ losses
        if (values < 0).any():
            raise UserError(
                f"Aggregation dto takes the logarithm of losses, but they are {values.tolist()}."
            )
        # A loss of 0 cannot fall. It has no gradient either, and gets no weight.
        scales = torch.where(values == 0, 1.0, values)
        shares = min_norm_weights(both / scales[:, None] / scales, skip_zero=True) / scales
        if self.length == "task":
            lengths = both.diagonal().sqrt()
            shares = shares * lengths[-1] / (shares * lengths).sum()
        return shares @ parts
