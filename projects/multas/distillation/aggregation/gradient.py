"""Aggregators that weigh paths by their gradients (Chennupati et al., BMVC 2021, section 3.4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from detectron2.config import CfgNode
from torch import Tensor

from multas.distillation.aggregation.base import KEY, Aggregator
from multas.util.errors import UserError
from multas.util.names import check_choice

SCOPES = ("parameters", "features")


@dataclass(frozen=True)
class GradientScope:
    """What the path gradients are taken with respect to, and how.

    Attributes:
        kind: "parameters" or "features" (the key SCOPE).
        layers: the layers that have them; none for all parameters (SCOPE_LAYERS).
        low_memory: whether to save memory (LOW_MEMORY).
    """

    kind: str = "parameters"
    layers: tuple[str, ...] = ()
    low_memory: bool = False

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "GradientScope":
        options = cfg.MODEL.DISTILLATION.AGGREGATION
        check_choice(f"{KEY}.SCOPE", options.SCOPE, SCOPES)
        if options.SCOPE == "features" and not options.SCOPE_LAYERS:
            raise UserError(
                f"{KEY}.SCOPE is 'features', but SCOPE_LAYERS names no layer. Name one that every "
                "path passes through, for example backbone.bottom_up.res2, or several, such as "
                "those that a pyramid starts from."
            )
        return cls(options.SCOPE, tuple(options.SCOPE_LAYERS), options.LOW_MEMORY)


class GradientAggregator(Aggregator):
    """Base class: v from the inner products of the gradients. Subclasses define :meth:`weigh`.

    The hook :class:`multas.engine.PathWeights` takes the gradients and applies v.

    Args:
        task_as_objective: True: the task loss is one more objective, the last, and its gradient is
            weighed like those of the paths, which are multiplied by alpha before. False: alpha
            times the weighted path gradients is added to the task's gradient.
    """

    # Whether :meth:`weigh` compares the paths with the task, also where that is no objective.
    needs_task: ClassVar[bool] = False

    def __init__(
        self, *, names: Sequence[str], hand_tuned: Sequence[float], task_as_objective: bool = False
    ) -> None:
        super().__init__(names=names, hand_tuned=hand_tuned)
        self.task_as_objective = task_as_objective
        self.objectives = [*self.names, "task"] if task_as_objective else self.names
        # On the CPU, where the weights are solved for in each step.
        self._weights = torch.full((len(self.names),), 1 / len(self.objectives))
        self._monitors: dict[str, Tensor] = {}
        self._conflicts = torch.zeros(len(self.names))
        self._steps = 0

    def weigh(self, gram: Tensor, losses: Tensor) -> Tensor:
        """The weights of the objectives.

        Args:
            gram: (M, M) inner products of the gradients of the paths or, where the task is an
                objective or ``needs_task``, of paths and task; finite, float64 on the CPU. In a
                step without task losses the task's gradient is 0.
            losses: (M,) their losses, float64 on the CPU; means over all ranks.

        Returns:
            The weights of the gradients: (M,), or (K,) where the task is no objective.
        """
        raise NotImplementedError

    @property
    def weighs_task(self) -> bool:
        """Whether :meth:`weigh` gets the task's gradient beside those of the paths."""
        return self.task_as_objective or self.needs_task

    def weights(self) -> Tensor:
        return self._weights

    def forward(self, losses: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        raise RuntimeError(f"{type(self).__name__} weighs gradients, not losses: call solve().")

    def solve(
        self, gram: Tensor, losses: Tensor, alpha: float, task: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Weights of this step, checked and kept for the log.

        Args:
            gram: (K, K) inner products of the path gradients.
            losses: (K,) path losses.
            alpha: factor of the path gradients when the task is an objective.
            task: (K + 1,) inner products of all gradients with the task's, its own last, and the
                task loss; None if they are not known.

        Returns:
            What :meth:`weigh` has returned.

        Raises:
            FloatingPointError: a gradient is not finite.
        """
        norms = gram.diagonal().sqrt()
        broken = [n for n, x in zip(self.names, norms, strict=True) if not torch.isfinite(x)]
        if broken:
            raise FloatingPointError(
                f"The gradients of the paths {', '.join(broken)} are not finite (losses "
                f"{losses.tolist()}). Lower SOLVER.BASE_LR or MODEL.DISTILLATION.ALPHA, or "
                "check these paths."
            )
        self._monitor(gram, norms, None if task is None else task[0])
        if self.weighs_task:
            if task is None:
                raise UserError("The task is an objective, but its gradient is not given.")
            products, loss = task
            factor = alpha if self.task_as_objective else 1.0
            factors = torch.cat([torch.full_like(losses, factor), losses.new_ones(1)])
            whole = torch.cat([torch.cat([gram, products[None, :-1]]), products[:, None]], dim=1)
            gram = whole * factors * factors[:, None]
            losses = torch.cat([losses, loss.to(losses)[None]]) * factors
        weights = self.weigh(gram, losses)
        self.keep(weights)
        return weights

    def keep(self, weights: Tensor) -> None:
        """Keep the weights of the step for the log."""
        self._weights = weights[: len(self.names)].to(torch.float32)
        if self.task_as_objective:
            self._monitors["task_weight"] = weights[-1]

    def _monitor(self, gram: Tensor, norms: Tensor, task_products: Tensor | None) -> None:
        safe = torch.where(norms == 0, 1.0, norms)
        self._monitors = {"gradient_norm": norms, "cosine": gram / safe / safe[:, None]}
        if task_products is not None:
            self._steps += 1
            self._conflicts += task_products[:-1] < 0
            self._monitors["conflict"] = self._conflicts / self._steps

    def monitors(self) -> dict[str, Tensor]:
        """Lengths (K,) and cosines (K, K) of the path gradients.

        If the task's gradient is known, also the fraction (K,) of steps in which a path conflicts
        with it; if it is an objective, also its weight.
        """
        return self._monitors
