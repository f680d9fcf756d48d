"""What an aggregator is: it weighs the K path losses.

It knows neither what they measure nor the model. docs/architecture.md shows how to add an
aggregator, which is one registered class. Options of its constructor are keys of
``MODEL.DISTILLATION.AGGREGATION``, in capitals: ``{NAME: adaptive, MAX_WEIGHTED_LOSS: 5.0}``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from fvcore.common.registry import Registry
from torch import Tensor, nn

AGGREGATOR_REGISTRY = Registry("AGGREGATOR")
AGGREGATOR_REGISTRY.__doc__ = "How the losses of several distillation paths become one."
KEY = "MODEL.DISTILLATION.AGGREGATION"


class Aggregator(nn.Module):
    """Base class: gives v, the weight of each path, and the terms that go into the loss.

    Args:
        names: the names of the K path losses, in order.
        hand_tuned: the K hand-tuned weights.
    """

    hand_tuned: Tensor

    def __init__(self, *, names: Sequence[str], hand_tuned: Sequence[float]) -> None:
        super().__init__()
        self.names = list(names)
        self.register_buffer("hand_tuned", torch.tensor(hand_tuned, dtype=torch.float64), False)

    def weights(self) -> Tensor:
        """v, shape (K,), detached."""
        raise NotImplementedError

    def forward(self, losses: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Weigh the path losses.

        Args:
            losses: (K,) raw path losses, with graph.

        Returns:
            (K,) weighted losses, and further terms of the objective by name. All of them are
            added to the task loss, times alpha.
        """
        raise NotImplementedError

    def at_rest(self, weighted: Tensor) -> Tensor:
        """What the weighted losses add up to once the weights have settled, scalar.

        A budget (MODEL.DISTILLATION.BUDGET) relates it to the task loss. By default it is what they
        add up to in this step; aggregators that know better say so.

        Args:
            weighted: (K,) what :meth:`forward` has returned.
        """
        return weighted.detach().sum()

    def monitors(self) -> dict[str, Tensor]:
        """(K,) vectors and (K, K) matrices to log beside v and the raw losses, by name."""
        return {}

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser: by default all parameters, without weight decay."""
        parameters = list(self.parameters())
        return [{"params": parameters, "weight_decay": 0.0}] if parameters else []
