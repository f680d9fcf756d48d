"""Distillation as large as a share of the task loss."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from multas.distillation import Aggregator, GradientAggregator
from multas.util.errors import UserError
from multas.util.ranks import mean_over_ranks

logger = logging.getLogger(__name__)
_KEY = "MODEL.DISTILLATION.BUDGET"


class Budget:
    """Makes alpha a share of the task loss (MODEL.DISTILLATION.BUDGET).

    All weighted path losses are multiplied by alpha sg(L) / S, with the task loss L of the step,
    without gradient, and the sum S of the weighted losses: that at rest, K, for aggregators that
    settle at it (``adaptive``, ``fading``, ``imtl_l``), otherwise that of the step. So path losses
    together are alpha times as large as the task loss, whatever the task, the paths and their scale
    are, and distillation becomes smaller as the task is learned. With ``adaptive`` they reach that
    size as z settles, and with ``fading`` they fall below it as paths fade.

    A step without labels, whose task loss is absent or 0, takes the last task loss that was above
    0, which a checkpoint carries; before there was one, nothing is distilled. L and S are means
    over all ranks, so that v is the same on each. The host does not wait for the device.

    Args:
        device: where the losses are.
    """

    def __init__(self, device: torch.device) -> None:
        self._task_loss = torch.zeros((), device=device)

    @classmethod
    def from_config(
        cls, cfg: CfgNode, aggregator: Aggregator, device: torch.device
    ) -> "Budget | None":
        """The instance of a run; None where alpha is a factor, not a share.

        Raises:
            UserError: The aggregator weighs gradients, or the student sees no labels.
        """
        options = cfg.MODEL.DISTILLATION
        if not options.BUDGET:
            return None
        if isinstance(aggregator, GradientAggregator):
            raise UserError(
                f"{_KEY} relates losses to the task loss, but the aggregation "
                f"{options.AGGREGATION.NAME} weighs gradients. Set {_KEY} False, or take one that "
                "weighs losses, such as adaptive."
            )
        if not options.HARD_LABELS:
            raise UserError(
                f"{_KEY} relates distillation to the task loss, which MODEL.DISTILLATION."
                f"HARD_LABELS False leaves out. Set {_KEY} False: alpha is then a factor."
            )
        return cls(device)

    def factor(self, alpha: float, task: Mapping[str, Tensor], at_rest: Tensor) -> Tensor:
        """What the weighted path losses of a step are multiplied by, scalar, detached.

        Args:
            alpha: the share of the task loss.
            task: the task losses of the step by name, possibly none; scalars.
            at_rest: S, scalar, detached, the same on all ranks.
        """
        if torch.is_grad_enabled():  # otherwise this is no step
            own = [loss.detach().to(self._task_loss) for loss in task.values()]
            total = torch.stack([torch.zeros_like(self._task_loss), *own]).sum()
            total = mean_over_ranks(total)
            self._task_loss = torch.where(total > 0, total, self._task_loss)
        return torch.where(at_rest > 0, alpha * self._task_loss / at_rest, 0.0)

    def warn_without_labels(self, task: Mapping[str, Tensor]) -> None:
        """Say so where there is no task loss in the first step. The device is waited for."""
        if not sum(loss.item() for loss in task.values()) > 0:
            logger.warning(
                f"{_KEY} is True, but the first batch of this process has no labels and so no task "
                "loss. Nothing is distilled before there is one: where no image has labels, set it "
                "to False."
            )

    def state_dict(self) -> dict[str, Any]:
        return {"task_loss": self._task_loss}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._task_loss = state["task_loss"].to(self._task_loss)
