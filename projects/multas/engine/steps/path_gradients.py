"""From path losses to gradients: what an aggregation by gradients leaves in ``.grad``."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from multas.distillation.aggregation import SCOPE_KEY, GradientAggregator
from multas.distillation.distillation import Distillation
from multas.distillation.gradients.feature_boundary import Cut, Cuts, find_layer
from multas.distillation.gradients.gramian import gram_of_rows
from multas.engine.steps.task_gradients import TaskGradients
from multas.util.ranks import average_gradients, from_main_rank, mean_over_ranks

Row = Sequence[Tensor | None]
# LOW_MEMORY: the parameters are taken in so many parts.
BLOCKS = 4


@dataclass(frozen=True)
class _Numbers:
    """What v depends on besides gradients: float64 on the CPU, means over all ranks.

    Attributes:
        losses: (K,) path losses.
        task: the task loss, scalar.
        factor: of all gradients.
        scaled: whether a loss scaler set ``factor`` (an overflow is then its business).
    """

    losses: Tensor
    task: Tensor
    factor: Tensor
    scaled: bool


class PathGradients:
    """Differentiates K path losses, asks the aggregator for v, and fills ``.grad``.

    Let g_i be the gradient of path i with respect to all student parameters (zero where the path
    does not reach), g the task's. With scope "parameters" the K gradients are taken one by one,
    then the task loss runs backward, and alpha sum_i v_i g_i is added: K + 1 backward passes, none
    of them over what another one has covered for the same loss, K gradients in memory. Otherwise
    (features, some layers only, LOW_MEMORY) what the Gram matrix needs is computed first, and the
    task loss + alpha sum_i v_i L_i runs backward once. With scope "features" Z the Gram matrix is
    that of dL_i/dZ: the norm that is minimised bounds, up to the norm of dZ/dw, that of the
    parameters w in front of Z (Sener and Koltun 2018, section 3.3); those behind it do not count.

    Adapters belong to the paths, not to the student: they are no part of g_i and get the gradient
    of the weighted path losses.

    Under data parallelism the gradients are those of the mean over all ranks, and so is v, which
    moreover is rank 0's; the caller keeps DistributedDataParallel from reducing by itself.

    Args:
        student: the network whose parameters g_i refers to.
        distillation: of that student, with an aggregator that weighs gradients.
        tasks: make g from the gradients of several tasks; None = g is that of their sum.

    Raises:
        ValueError: SCOPE_LAYERS names a layer that the student does not have; scope "features",
            where a pass runs to the features and from there, with ``tasks``.
    """

    def __init__(
        self, student: nn.Module, distillation: Distillation, tasks: TaskGradients | None = None
    ) -> None:
        self._distillation = distillation
        if not isinstance(distillation.aggregator, GradientAggregator):
            raise TypeError(f"{type(distillation.aggregator).__name__} does not weigh gradients.")
        self._aggregator = distillation.aggregator
        self._scope = distillation.scope
        self._tasks = tasks
        if tasks is not None and self._scope.kind == "features":
            raise ValueError(
                "MODEL.MULTITASK.GRADIENTS mgda needs the gradients of parameters: set "
                "MODEL.DISTILLATION.AGGREGATION.SCOPE to parameters, or GRADIENTS to sum."
            )
        self._student: list[Tensor] = [p for p in student.parameters() if p.requires_grad]
        self._all = [*self._student, *(p for p in distillation.parameters() if p.requires_grad)]
        self._device = self._student[0].device
        if self._scope.kind == "parameters" and self._scope.layers:
            self._counted = _parameters_of(student, self._scope.layers)
        else:
            self._counted = self._student
        self._checked = False
        self._kept: list[Row] | None = None

    @property
    def _reuses(self) -> bool:
        """Whether the path gradients themselves become a part of the result."""
        return (
            self._scope.kind == "parameters"
            and not self._scope.layers
            and not self._scope.low_memory
        )

    @property
    def student_parameters(self) -> list[Tensor]:
        """What path gradients are taken with respect to, in the order of a row."""
        return self._student

    def keep_rows(self) -> None:
        """Let :meth:`take_rows` give the path gradients of each step.

        Raises:
            ValueError: a scope with which they are not computed as a whole.
        """
        if not self._reuses:
            raise ValueError(
                f"Aggregation {type(self._aggregator).__name__} needs whole path gradients: set "
                "MODEL.DISTILLATION.AGGREGATION.SCOPE to parameters, SCOPE_LAYERS to [] and "
                "LOW_MEMORY to False."
            )
        self._kept = []

    def take_rows(self) -> list[Row]:
        """The K path gradients of the last step, averaged over all ranks; only once."""
        rows, self._kept = self._kept or [], []
        return rows

    def backward(
        self, task_losses: Mapping[str, Tensor], scale: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Fill ``.grad`` (which must be empty) from the task losses and the pending path losses.

        Args:
            task_losses: scalars with graph; empty when no image of the batch has labels.
            scale: factor of all gradients (a GradScaler's); v does not depend on it.

        Returns:
            The weighted path losses by name, to log; detached, means over all ranks.

        Raises:
            ValueError: in the first step: the features in scope are no common ancestor.
            FloatingPointError: a path gradient is not finite, and there is no scaler.
        """
        losses, cuts = self._distillation.take_losses()
        task = torch.stack(list(task_losses.values())).sum() if task_losses else None
        numbers = self._numbers(losses, task, scale)
        scaled = [loss if scale is None else loss * scale for loss in losses]
        scaled_task = task if task is None or scale is None else task * scale
        if self._tasks is not None and task_losses:
            row = self._tasks.combine(task_losses, self._all, scale, keep_graph=True)
            # A mean over ranks already; the mean that is taken below leaves it as it is.
            scaled_task = _with_gradient(self._all, row)
        del losses
        if self._reuses:
            v = self._combine(scaled, scaled_task, numbers)
        else:
            gram, products = self._gram(scaled, scaled_task, cuts)
            v = self._solve(gram, products, numbers)
            self._weighted_backward(scaled, scaled_task, v, cuts)
        self._distillation.log(numbers.losses)
        weighted = self._distillation.current_alpha * v[: len(numbers.losses)] * numbers.losses
        terms = zip(self._distillation.names, weighted, strict=True)
        return {f"loss_kd_{name}": term for name, term in terms}

    def _numbers(
        self, losses: Sequence[Tensor], task: Tensor | None, scale: Tensor | None
    ) -> "_Numbers":
        values = torch.stack([loss.detach() for loss in losses])
        task_value = values.new_zeros(()) if task is None else task.detach()
        factor = values.new_ones(()) if scale is None else scale.detach()
        # One transfer from the device for all of them.
        everything = torch.stack([*values, task_value.to(values), factor.to(values)])
        everything = mean_over_ranks(everything).cpu().double()
        return _Numbers(everything[:-2], everything[-2], everything[-1], scale is not None)

    def _combine(
        self, losses: Sequence[Tensor], task: Tensor | None, numbers: "_Numbers"
    ) -> Tensor:
        rows = average_gradients([_gradient(x, self._all) for x in losses], self._all)
        if task is not None:
            task.backward()
        (own,) = average_gradients([[p.grad for p in self._all]], self._all)
        students = len(self._student)
        gram, _ = gram_of_rows([*(row[:students] for row in rows), own[:students]])
        if self._kept is not None:
            self._kept = [row[:students] for row in rows]
        v = self._solve(gram[:-1, :-1], gram[-1], numbers)
        alpha = self._distillation.current_alpha
        self._set(own)
        if self._aggregator.task_as_objective:
            torch._foreach_mul_([g for g in own if g is not None], float(v[-1]))
        for row, weight in zip(rows, (alpha * v).tolist(), strict=False):
            _add(self._all, row, weight)
        return v

    def _gram(
        self, losses: Sequence[Tensor], task: Tensor | None, cuts: Sequence[Cut]
    ) -> tuple[Tensor, Tensor | None]:
        """Products of the path gradients, and of all with the task's where it is an objective."""
        with_task = self._aggregator.task_as_objective
        objectives = [*losses, task] if with_task else list(losses)
        if self._scope.kind == "features":
            features = [behind for _, behind in cuts]
            # Features of different ranks are different: their products add up. The loss is the
            # mean over ranks, so each gradient has a factor of 1 / ranks.
            gram, overlap = gram_of_rows([_gradient(x, features) for x in objectives])
            gram = mean_over_ranks(gram, self._device) / comm.get_world_size()
            if not self._checked:
                overlap = overlap[: len(losses), : len(losses)]
                self._distillation.cuts.check(self._distillation.names, losses, cuts, overlap)
                self._checked = True
        else:
            gram = torch.zeros((len(objectives), len(objectives)), dtype=torch.float64)
            for block in self._blocks():
                # In one expression: no gradient of this block lives on beside those of the next.
                gram += gram_of_rows(
                    average_gradients([_gradient(x, block) for x in objectives], block)
                )[0]
        return (gram[:-1, :-1], gram[-1]) if with_task else (gram, None)

    def _blocks(self) -> Iterator[list[Tensor]]:
        if not self._scope.low_memory:
            yield self._counted
            return
        limit = sum(p.numel() for p in self._counted) / BLOCKS
        block: list[Tensor] = []
        for parameter in self._counted:
            if block and sum(p.numel() for p in [*block, parameter]) > limit:
                yield block
                block = []
            block.append(parameter)
        yield block

    def _solve(self, gram: Tensor, task_products: Tensor | None, numbers: "_Numbers") -> Tensor:
        gram = gram / numbers.factor**2
        if numbers.scaled and not torch.isfinite(gram).all():
            # The scale was too large. Whatever v is, the gradients are not finite: the scaler
            # sees that, skips the step and lowers the scale.
            return torch.full((len(self._aggregator.objectives),), 1.0, dtype=torch.float64)
        task = None
        if task_products is not None:
            task = task_products / numbers.factor**2, numbers.task
        v = self._aggregator.solve(gram, numbers.losses, self._distillation.current_alpha, task)
        v = from_main_rank(v, self._device)
        self._aggregator.keep(v)
        return v

    def _weighted_backward(
        self, losses: Sequence[Tensor], task: Tensor | None, v: Tensor, cuts: Sequence[Cut]
    ) -> None:
        weights = (self._distillation.current_alpha * v).tolist()
        total = torch.stack([w * x for w, x in zip(weights, losses, strict=False)]).sum()
        if task is not None:
            total = total + (float(v[-1]) if self._aggregator.task_as_objective else 1.0) * task
        # A task loss that bypasses the cuts shares a part of the graph with what is behind them.
        total.backward(retain_graph=bool(cuts) and task is not None and Cuts.bypassed(task, cuts))
        Cuts.join(cuts)
        (gradients,) = average_gradients([[p.grad for p in self._all]], self._all)
        self._set(gradients)

    def _set(self, gradients: Row) -> None:
        for parameter, gradient in zip(self._all, gradients, strict=True):
            parameter.grad = gradient


def _gradient(loss: Tensor | None, inputs: Sequence[Tensor]) -> Row:
    if loss is None or not loss.requires_grad:
        return [None] * len(inputs)
    return torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)


def _with_gradient(parameters: Sequence[Tensor], row: Row) -> Tensor | None:
    """A scalar whose gradient is ``row``: linear in the parameters."""
    pairs = zip(parameters, row, strict=True)
    products = [(p * g).sum() for p, g in pairs if g is not None]
    return torch.stack(products).sum() if products else None


@torch.no_grad()
def _add(parameters: Sequence[Tensor], row: Row, weight: float) -> None:
    """``.grad += weight * row``; a path of weight 0 leaves a gradient of 0 to its adapters."""
    present: list[tuple[Any, Tensor]] = []
    for parameter, gradient in zip(parameters, row, strict=True):
        if gradient is None:
            continue
        if parameter.grad is None:
            # A gradient may be shared between parameters: never write into it.
            parameter.grad = gradient * weight if weight else torch.zeros_like(gradient)
        elif weight:
            present.append((parameter.grad, gradient))
    if present:
        targets, gradients = zip(*present, strict=True)
        torch._foreach_add_(list(targets), list(gradients), alpha=weight)


def _parameters_of(student: nn.Module, layers: Sequence[str]) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    for layer in layers:
        module = find_layer(student, layer, SCOPE_KEY)
        found |= {id(p): p for p in module.parameters() if p.requires_grad}
    if not found:
        raise ValueError(f"{SCOPE_KEY}: {', '.join(layers)} have no parameters that are trained.")
    return list(found.values())
