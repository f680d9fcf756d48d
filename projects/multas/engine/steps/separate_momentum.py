"""Momentum of their own for task and distillation: the optimiser, and the hook that feeds it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from multas.engine.loss_hook import LossHook, inner_trainer, with_gradient
from multas.engine.path_weights import PathWeights
from multas.util.errors import UserError
from multas.util.ranks import GradientRow, average_gradients

KEY = "SOLVER.MOMENTUM_DELTA"


class SeparateMomentumSGD(torch.optim.SGD):
    """SGD whose momentum is smaller for the task's gradient and larger for the distillation's.

    With the gradients g of the task and d of all distillation, and the momentum m (DOT; Zhao et
    al., ICCV 2023, section 3.3)::

        v <- (m - delta) v + g + weight decay    u <- (m + delta) u + d    w <- w - lr (v + u)

    With delta = 0 it equals SGD up to rounding. A parameter that only one of the two has reached so
    far has the momentum m, and equals SGD to the bit. What happens to the gradient between backward
    pass and step (a loss scaler, clipping) happens to g and d by the same factor, element by
    element.

    Args:
        params: as of ``torch.optim.SGD``.
        delta: below.
        options: further ones of ``torch.optim.SGD``, but for dampening, nesterov and maximize.
    """

    def __init__(self, params: Iterable, *, delta: float, **options: Any) -> None:
        super().__init__(params, **options)
        for group in (self.defaults, *self.param_groups):
            group["delta"] = delta
        self._parts: dict[Tensor, tuple[Tensor | None, Tensor | None]] = {}

    def take(
        self, parameters: Sequence[Tensor], task: GradientRow, distillation: GradientRow
    ) -> None:
        """Take the parts that the gradients of the next step consist of; None is no gradient."""
        self._parts = dict(zip(parameters, zip(task, distillation, strict=True), strict=True))

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """A step with the parts that were taken, which are forgotten afterwards."""
        shared = [
            (p, p.grad, group)
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None and self._is_shared(p)
        ]
        for parameter, *_ in shared:
            parameter.grad = None
        loss = super().step(closure)  # of all others
        for parameter, gradient, group in shared:
            parameter.grad = gradient
            self._step_apart(parameter, gradient, group)
        self._parts = {}
        return loss

    def _is_shared(self, parameter: Tensor) -> bool:
        parts = self._parts.get(parameter, (None, None))
        return "distillation" in self.state[parameter] or all(x is not None for x in parts)

    def _step_apart(self, parameter: Tensor, gradient: Tensor, group: Mapping[str, Any]) -> None:
        parts = self._parts.get(parameter, (gradient, None))
        task, distilled = (torch.zeros_like(parameter) if x is None else x for x in parts)
        total = task + distilled
        # Where they cancel each other, the factor is lost, and so is nothing but what cancels.
        factor = torch.where(total == 0, 0.0, gradient / total)
        task = (task * factor).add_(parameter, alpha=group["weight_decay"])
        state, momentum, delta = self.state[parameter], group["momentum"], group["delta"]
        for name, own, kept in (
            ("momentum_buffer", task, momentum - delta),
            ("distillation", distilled * factor, momentum + delta),
        ):
            buffer = state.get(name)
            state[name] = own if buffer is None else buffer.mul_(kept).add_(own)
            parameter.add_(state[name], alpha=-group["lr"])


class SeparateMomentum(LossHook):
    """Differentiates task and distillation apart and gives the optimiser both gradients.

    It comes after :class:`PathWeights`, and costs that the backward passes of both go through the
    layers that they share one by one.

    Raises:
        UserError: Path weights are solved for by gradients, so that the losses are no sum of both.
    """

    def __init__(self, model: nn.Module, path_weights: PathWeights) -> None:
        if path_weights.gradients is not None:
            name = type(path_weights.aggregator).__name__
            raise UserError(
                f"{KEY} is for aggregations by losses, such as adaptive or hand_tuned, but {name} "
                "weighs gradients. Set it to 0, or choose another "
                "MODEL.DISTILLATION.AGGREGATION.NAME."
            )
        super().__init__(model, reduces=True)
        self._path_weights = path_weights
        own = (p for p in model.parameters() if p.requires_grad)
        self._parameters = [*own, *path_weights.aggregator.parameters()]

    def weigh(self, output: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not torch.is_grad_enabled():
            return dict(output)
        scale, distilled = self.loss_scale(), self._path_weights.distilled
        parts: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name, loss in output.items():
            parts[name in distilled].append(loss if scale is None else loss * scale)
        with torch.autocast(self._device.type, enabled=False):
            rows = [self._gradient(parts[0], keep_graph=True), self._gradient(parts[1])]
        task, distillation = average_gradients(rows, self._parameters)
        optimizer = cast(SeparateMomentumSGD, inner_trainer(self.trainer).optimizer)
        optimizer.take(self._parameters, task, distillation)
        pairs = zip(task, distillation, strict=True)
        total = [d if g is None else g if d is None else g + d for g, d in pairs]
        return with_gradient(output, self._parameters, total, scale)

    def _gradient(self, losses: Sequence[Tensor], keep_graph: bool = False) -> GradientRow:
        if not any(loss.requires_grad for loss in losses):
            return [None] * len(self._parameters)
        return torch.autograd.grad(
            torch.stack(list(losses)).sum(),
            self._parameters,
            retain_graph=keep_graph,
            allow_unused=True,
        )
