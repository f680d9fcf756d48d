"""From path losses to one gradient: aggregation by gradients."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from multas.distillation import Distillation, GradientAggregator, StepLosses
from multas.distillation.aggregation.gradient import GradientScope
from multas.distillation.gradients.feature_boundary import (
    SCOPE_KEY,
    BoundaryFeature,
    bypasses,
    find_layer,
    gradient_through,
)
from multas.distillation.gradients.gramian import gram_of_rows
from multas.engine.steps.task_gradients import TaskGradients
from multas.engine.steps.with_gradient import Row, gradient_term
from multas.util.ranks import average_gradients, from_main_rank, mean_over_ranks

# LOW_MEMORY: the parameters are taken in so many parts.
BLOCKS = 4


@dataclass(frozen=True)
class Combined:
    """The gradient of one step.

    Attributes:
        row: one gradient for each of :attr:`PathGradients.parameters`, mean over all ranks.
        v: weights of the objectives, float64 on the CPU: (K,), or (K + 1,) with the task's.
        losses: (K,) raw path losses, float64 on the CPU, means over all ranks.
        paths: the K path gradients over the student, where they were kept as a whole.
    """

    row: Row
    v: Tensor
    losses: Tensor
    paths: Sequence[Row] = ()


@dataclass(frozen=True)
class _Numbers:
    """What v depends on besides gradients: float64 on the CPU, means over all ranks.

    Attributes:
        losses: (K,) path losses.
        task: the task loss, scalar.
        factor: of all gradients.
        scaled: whether a loss scaler set ``factor`` (an overflow is then its business).
        alpha: weight of all distillation in this step.
    """

    losses: Tensor
    task: Tensor
    factor: Tensor
    scaled: bool
    alpha: float


class PathGradients:
    """Differentiates K path losses, asks the aggregator for v, and combines the gradients.

    Let g_i be the gradient of path i with respect to all student parameters (zero where the path
    does not reach), g the task's. With scope "parameters" the K gradients are taken one by one,
    then the task's, and alpha sum_i v_i g_i is added: K + 1 backward passes, K gradients in memory.
    Otherwise (features, some layers only, LOW_MEMORY) what the Gram matrix needs is computed first,
    and the task loss + alpha sum_i v_i L_i is differentiated once. With scope "features" Z the Gram
    matrix is that of dL_i/dZ: the norm that is minimised bounds, up to the norm of dZ/dw, that of
    the parameters w in front of Z (Sener and Koltun 2018, section 3.3); those behind do not count.

    Adapters belong to the paths, not to the student: they are no part of g_i and get the gradient
    of the weighted path losses.

    Under data parallelism the gradients are those of the mean over all ranks, and so is v, which
    moreover is rank 0's; the caller keeps DistributedDataParallel from reducing by itself.

    Args:
        student: the network whose parameters g_i refers to.
        distillation: of that student.
        aggregator: gives v.
        scope: with respect to what gradients are taken.
        tasks: make g from the gradients of several tasks; None = g is that of their sum.

    Attributes:
        parameters: what is trained: the student's parameters, then the adapters'.
        student_parameters: the former alone.

    Raises:
        ValueError: SCOPE_LAYERS names a layer that the student does not have; scope "features",
            where a pass runs to the features and from there, with ``tasks``.
    """

    def __init__(
        self,
        student: nn.Module,
        distillation: Distillation,
        aggregator: GradientAggregator,
        scope: GradientScope,
        tasks: TaskGradients | None = None,
    ) -> None:
        self._distillation = distillation
        self._aggregator = aggregator
        self._scope = scope
        self._tasks = tasks
        if tasks is not None and scope.kind == "features":
            raise ValueError(
                "MODEL.MULTITASK.GRADIENTS mgda needs the gradients of parameters: set "
                "MODEL.DISTILLATION.AGGREGATION.SCOPE to parameters, or GRADIENTS to sum."
            )
        own: list[Tensor] = [p for p in student.parameters() if p.requires_grad]
        self.student_parameters = own
        self.parameters = [*own, *(p for p in distillation.parameters() if p.requires_grad)]
        self._device = own[0].device
        self._counted = own
        if scope.kind == "parameters" and scope.layers:
            self._counted = _parameters_of(student, scope.layers)
        self._checked = False

    def require_whole(self) -> None:
        """Make sure that :attr:`Combined.paths` is there in every step.

        Raises:
            ValueError: the scope is one with which path gradients are not computed as a whole.
        """
        if not self._keeps_whole:
            raise ValueError(
                f"Aggregation {type(self._aggregator).__name__} needs whole path gradients: set "
                "MODEL.DISTILLATION.AGGREGATION.SCOPE to parameters, SCOPE_LAYERS to [] and "
                "LOW_MEMORY to False."
            )

    @property
    def _keeps_whole(self) -> bool:
        scope = self._scope
        return scope.kind == "parameters" and not scope.layers and not scope.low_memory

    def combine(self, losses: StepLosses, alpha: float, scale: Tensor | None = None) -> Combined:
        """The gradient of a step; its graph is freed.

        Args:
            losses: of the step. Without task losses no image of the batch had labels.
            alpha: weight of all distillation in this step.
            scale: factor of all gradients (a GradScaler's); v does not depend on it.

        Raises:
            ValueError: in the first step: the features in scope are no common ancestor.
            FloatingPointError: a path gradient is not finite, and there is no scaler.
        """
        task = torch.stack(list(losses.task.values())).sum() if losses.task else None
        numbers = _numbers(losses.paths, task, alpha, scale)
        paths = [loss if scale is None else loss * scale for loss in losses.paths]
        scaled_task = task if task is None or scale is None else task * scale
        if self._tasks is not None and losses.task:
            weighed = self._tasks.combine(losses.task, self.parameters, scale, keep_graph=True)
            # A mean over ranks already; the mean that is taken below leaves it as it is.
            scaled_task = gradient_term(self.parameters, weighed)
        if self._keeps_whole:
            return self._sum_of_gradients(paths, scaled_task, numbers)
        gram, products = self._gram(paths, scaled_task, losses.boundary)
        v = self._solve(gram, products, numbers)
        row = self._gradient_of_sum(paths, scaled_task, v, losses.boundary, alpha)
        return Combined(row, v, numbers.losses)

    def _sum_of_gradients(
        self, losses: Sequence[Tensor], task: Tensor | None, numbers: _Numbers
    ) -> Combined:
        everything = self.parameters
        rows = average_gradients([_gradient(x, everything) for x in losses], everything)
        last = [None] * len(everything) if task is None else _gradient(task, everything, last=True)
        own: Row = average_gradients([last], everything)[0]
        students = len(self.student_parameters)
        gram, _ = gram_of_rows([*(row[:students] for row in rows), own[:students]])
        v = self._solve(gram[:-1, :-1], gram[-1], numbers)
        if self._aggregator.task_as_objective:
            own = [None if g is None else g * float(v[-1]) for g in own]
        for row, weight in zip(rows, (numbers.alpha * v).tolist(), strict=False):
            own = _add(own, row, weight)
        return Combined(own, v, numbers.losses, [row[:students] for row in rows])

    def _gram(
        self, losses: Sequence[Tensor], task: Tensor | None, boundary: Sequence[BoundaryFeature]
    ) -> tuple[Tensor, Tensor | None]:
        """Products of the path gradients, and of all with the task's where it is an objective."""
        with_task = self._aggregator.task_as_objective
        objectives = [*losses, task] if with_task else list(losses)
        if self._scope.kind == "features":
            features = [behind for _, behind in boundary]
            # Features of different ranks are different: their products add up. The loss is the
            # mean over ranks, so each gradient has a factor of 1 / ranks.
            gram, overlap = gram_of_rows([_gradient(x, features) for x in objectives])
            gram = mean_over_ranks(gram, self._device) / comm.get_world_size()
            if not self._checked:
                overlap = overlap[: len(losses), : len(losses)]
                distillation = self._distillation
                distillation.boundary.check(distillation.names, losses, boundary, overlap)
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

    def _solve(self, gram: Tensor, task_products: Tensor | None, numbers: _Numbers) -> Tensor:
        gram = gram / numbers.factor**2
        if numbers.scaled and not torch.isfinite(gram).all():
            # The scale was too large. Whatever v is, the gradients are not finite: the scaler
            # sees that, skips the step and lowers the scale.
            return torch.full((len(self._aggregator.objectives),), 1.0, dtype=torch.float64)
        task = None
        if task_products is not None:
            task = task_products / numbers.factor**2, numbers.task
        v = self._aggregator.solve(gram, numbers.losses, numbers.alpha, task)
        v = from_main_rank(v, self._device)
        self._aggregator.keep(v)
        return v

    def _gradient_of_sum(
        self,
        losses: Sequence[Tensor],
        task: Tensor | None,
        v: Tensor,
        boundary: Sequence[BoundaryFeature],
        alpha: float,
    ) -> Row:
        weights = (alpha * v).tolist()
        total = torch.stack([w * x for w, x in zip(weights, losses, strict=False)]).sum()
        if task is not None:
            total = total + (float(v[-1]) if self._aggregator.task_as_objective else 1.0) * task
        # A task loss that bypasses the boundary shares a part of the graph with what is behind.
        keep = bool(boundary) and task is not None and bypasses(task, boundary)
        row = gradient_through(total, self.parameters, boundary, keep_graph=keep)
        return average_gradients([row], self.parameters)[0]


def _numbers(
    losses: Sequence[Tensor], task: Tensor | None, alpha: float, scale: Tensor | None
) -> _Numbers:
    values = torch.stack([loss.detach() for loss in losses])
    task_value = values.new_zeros(()) if task is None else task.detach()
    factor = values.new_ones(()) if scale is None else scale.detach()
    # One transfer from the device for all of them.
    everything = torch.stack([*values, task_value.to(values), factor.to(values)])
    everything = mean_over_ranks(everything).cpu().double()
    return _Numbers(everything[:-2], everything[-2], everything[-1], scale is not None, alpha)


def _gradient(loss: Tensor | None, inputs: Sequence[Tensor], last: bool = False) -> Row:
    if loss is None or not loss.requires_grad:
        return [None] * len(inputs)
    return torch.autograd.grad(loss, inputs, retain_graph=not last, allow_unused=True)


def _add(total: Row, row: Row, weight: float) -> Row:
    """``total + weight * row``; a path of weight 0 leaves a gradient of 0 to its adapters."""

    def add(own: Tensor | None, gradient: Tensor | None) -> Tensor | None:
        if gradient is None or (own is not None and weight == 0):
            return own
        if own is None:
            return gradient * weight if weight else torch.zeros_like(gradient)
        return torch.add(own, gradient, alpha=weight)

    return [add(own, gradient) for own, gradient in zip(total, row, strict=True)]


def _parameters_of(student: nn.Module, layers: Sequence[str]) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    for layer in layers:
        module = find_layer(student, layer)
        found |= {id(p): p for p in module.parameters() if p.requires_grad}
    if not found:
        raise ValueError(f"{SCOPE_KEY}: {', '.join(layers)} have no parameters that are trained.")
    return list(found.values())
