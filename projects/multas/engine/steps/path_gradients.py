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
from multas.engine.loss_hook import gradient_term
from multas.engine.steps.task_gradients import TaskGradients
from multas.util.errors import UserError
from multas.util.ranks import GradientRow, average_gradients, from_main_rank, mean_over_ranks

BLOCKS = 4  # the number of parts in which LOW_MEMORY takes the parameters


@dataclass(frozen=True)
class Combined:
    """The gradient of one step; v and losses are float64 on the CPU, and means over all ranks."""

    row: GradientRow  # a gradient for each of PathGradients.parameters, the mean over all ranks
    v: Tensor  # the weights of the objectives: (K,), or (K + 1,) if the task is one
    losses: Tensor  # (K,), of the paths, not weighed
    # The K path gradients over the student, if they are kept as a whole.
    paths: Sequence[GradientRow] = ()


@dataclass(frozen=True)
class _Numbers:
    """What v depends on besides gradients; tensors in float64 on the CPU, means over all ranks."""

    losses: Tensor  # (K,), of the paths
    task: Tensor  # scalar
    factor: Tensor  # the factor that all gradients have
    scaled: bool  # whether a loss scaler set it, which then has to deal with an overflow
    alpha: float


class PathGradients:
    """Differentiates K path losses, asks the aggregator for v, and combines the gradients.

    Let g_i be the gradient of path i with respect to all student parameters (zero where the path
    does not reach), and g the task's. With scope "parameters", the K gradients are taken one by
    one, then the task's, and alpha sum_i v_i g_i is added to it: K + 1 backward passes, and K
    gradients in memory. Otherwise (features, only some layers, or LOW_MEMORY), what the Gram matrix
    needs is computed first, and the task loss + alpha sum_i v_i L_i is then differentiated once.
    With scope "features" Z, the Gram matrix is that of dL_i/dZ. The norm that is minimised then
    bounds, up to the norm of dZ/dw, that of the gradients of the parameters w in front of Z (Sener
    and Koltun, NeurIPS 2018, section 3.3), and parameters behind Z do not count. An aggregator that
    weighs the task costs little more: behind Z the task is differentiated once, by itself, and only
    the sum of all gradients goes on to the front.

    The adapters of paths are no part of g_i, and get the gradient of the weighted path losses.
    Under data parallelism, gradients and v are those of the mean over all ranks, and
    DistributedDataParallel must not reduce the gradients again.

    Args:
        student: the network whose parameters g_i refers to.
        distillation: the paths of that student.
        aggregator: gives v.
        scope: with respect to what gradients are taken.
        tasks: makes g from the gradients of several tasks; None = it is that of their sum.

    Attributes:
        parameters: all that is trained: the student's parameters, then the adapters'.
        student_parameters: the former alone.
        keeps_whole: whether :attr:`Combined.paths` is given in every step.

    Raises:
        UserError: SCOPE_LAYERS names a layer that the student does not have, or ``tasks`` meet
            the scope "features".
    """

    def __init__(
        self,
        student: nn.Module,
        distillation: Distillation,
        aggregator: GradientAggregator,
        scope: GradientScope,
        tasks: TaskGradients | None = None,
    ) -> None:
        self._distillation, self._aggregator = distillation, aggregator
        self._scope, self._tasks = scope, tasks
        if tasks is not None and scope.kind == "features":
            raise UserError(
                "MODEL.MULTITASK.GRADIENTS mgda needs the gradients of parameters: set "
                "MODEL.DISTILLATION.AGGREGATION.SCOPE to parameters, or GRADIENTS to sum."
            )
        own: list[Tensor] = [p for p in student.parameters() if p.requires_grad]
        self.student_parameters = own
        self.parameters = [*own, *(p for p in distillation.parameters() if p.requires_grad)]
        self._device = own[0].device
        some = scope.kind == "parameters" and scope.layers
        self._counted = _parameters_of(student, scope.layers) if some else own
        self.keeps_whole = not (scope.kind == "features" or scope.layers or scope.low_memory)
        self._checked = False

    def combine(self, losses: StepLosses, alpha: float, scale: Tensor | None = None) -> Combined:
        """The gradient of a step. The graph of the losses is freed.

        Args:
            losses: those of the step. There are no task losses if no image of it had labels.
            alpha: the weight of all distillation in this step.
            scale: a GradScaler's factor of all gradients. It does not change v.

        Raises:
            UserError: In the first step, a path does not pass through the features in scope.
            FloatingPointError: A path gradient is not finite, and there is no scaler.
        """
        task = torch.stack(list(losses.task.values())).sum() if losses.task else None
        numbers = _numbers(losses.paths, task, alpha, scale)
        paths = [loss if scale is None else loss * scale for loss in losses.paths]
        scaled_task = task if task is None or scale is None else task * scale
        if self._tasks is not None and losses.task:
            weighed = self._tasks.combine(losses.task, self.parameters, scale, keep_graph=True)
            # It is a mean over ranks already, and another mean does not change it.
            scaled_task = gradient_term(self.parameters, weighed)
        if self.keeps_whole:
            return self._sum_of_gradients(paths, scaled_task, numbers)
        task_row = None
        if self._scope.kind == "features" and self._aggregator.weighs_task:
            inputs = [*self.parameters, *(behind for _, behind in losses.boundary)]
            task_row = _gradient(scaled_task, inputs)
        v = self._solve(*self._gram(paths, scaled_task, losses.boundary, task_row), numbers)
        row = self._gradient_of_sum(paths, scaled_task, v, losses.boundary, alpha, task_row)
        return Combined(row, v, numbers.losses)

    def _sum_of_gradients(
        self, losses: Sequence[Tensor], task: Tensor | None, numbers: _Numbers
    ) -> Combined:
        everything, students = self.parameters, len(self.student_parameters)
        rows = average_gradients([_gradient(x, everything) for x in losses], everything)
        task_row = _gradient(task, everything, last=True)
        own: GradientRow = average_gradients([task_row], everything)[0]
        gram, _ = gram_of_rows([*(row[:students] for row in rows), own[:students]])
        v = self._solve(gram[:-1, :-1], gram[-1], numbers)
        if self._aggregator.task_as_objective:
            own = [None if g is None else g * float(v[-1]) for g in own]
        for row, weight in zip(rows, (numbers.alpha * v).tolist(), strict=False):
            own = _add(own, row, weight)
        return Combined(own, v, numbers.losses, [row[:students] for row in rows])

    def _gram(
        self,
        losses: Sequence[Tensor],
        task: Tensor | None,
        boundary: Sequence[BoundaryFeature],
        task_row: GradientRow | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Inner products of the path gradients, and of all with the task's if it is weighed."""
        with_task = self._aggregator.weighs_task
        objectives = [*losses, task] if with_task else list(losses)
        if self._scope.kind == "features":
            features = [behind for _, behind in boundary]
            rows: list[GradientRow] = [_gradient(x, features) for x in losses]
            if task_row is not None:
                rows.append(task_row[len(self.parameters) :])
            # The features of the ranks are different ones, so that their inner products add up. The
            # loss is the mean over ranks, which gives each gradient a factor of 1 / ranks.
            gram, overlap = gram_of_rows(rows)
            gram = mean_over_ranks(gram, self._device) / comm.get_world_size()
            if not self._checked:
                overlap, names = overlap[: len(losses), : len(losses)], self._distillation.names
                self._distillation.boundary.check(names, losses, boundary, overlap)
                self._checked = True
        else:
            gram = torch.zeros((len(objectives), len(objectives)), dtype=torch.float64)
            for block in self._blocks():
                # One expression, so that no gradient of a block lives on beside the next ones.
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
            # The scale was too large. Whatever v is, the scaler finds gradients that are not
            # finite, skips the step and lowers the scale.
            return torch.ones(len(self._aggregator.objectives), dtype=torch.float64)
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
        task_row: GradientRow | None,
    ) -> GradientRow:
        weights = (alpha * v).tolist()
        total = torch.stack([w * x for w, x in zip(weights, losses, strict=False)]).sum()
        share = float(v[-1]) if self._aggregator.task_as_objective else 1.0
        # A task loss that bypasses the boundary shares part of the graph with what lies behind it.
        keep = bool(boundary) and task is not None and bypasses(task, boundary)
        if task_row is not None:
            known = [None if g is None else g * share for g in task_row]
            row = gradient_through(total, self.parameters, boundary, known, keep_graph=keep)
            return average_gradients([row], self.parameters)[0]
        if task is not None:
            total = total + share * task
        row = gradient_through(total, self.parameters, boundary, keep_graph=keep)
        return average_gradients([row], self.parameters)[0]


def _numbers(
    losses: Sequence[Tensor], task: Tensor | None, alpha: float, scale: Tensor | None
) -> _Numbers:
    values = torch.stack([loss.detach() for loss in losses])
    task_value = values.new_zeros(()) if task is None else task.detach()
    factor = values.new_ones(()) if scale is None else scale.detach()
    # All of them are transferred from the device at once.
    everything = torch.stack([*values, task_value.to(values), factor.to(values)])
    everything = mean_over_ranks(everything).cpu().double()
    return _Numbers(everything[:-2], everything[-2], everything[-1], scale is not None, alpha)


def _gradient(loss: Tensor | None, inputs: Sequence[Tensor], last: bool = False) -> GradientRow:
    if loss is None or not loss.requires_grad:
        return [None] * len(inputs)
    return torch.autograd.grad(loss, inputs, retain_graph=not last, allow_unused=True)


def _add(total: GradientRow, row: GradientRow, weight: float) -> GradientRow:
    """``total + weight * row``. Adapters of a path with weight 0 get a gradient of 0."""

    def add(own: Tensor | None, gradient: Tensor | None) -> Tensor | None:
        if gradient is None or (own is not None and weight == 0):
            return own
        if own is None:
            return gradient * weight if weight else torch.zeros_like(gradient)
        return torch.add(own, gradient, alpha=weight)

    return [add(own, gradient) for own, gradient in zip(total, row, strict=True)]


def _parameters_of(student: nn.Module, layers: Sequence[str]) -> list[Tensor]:
    modules = [find_layer(student, layer) for layer in layers]
    found = dict.fromkeys(p for m in modules for p in m.parameters() if p.requires_grad)
    if not found:
        raise UserError(f"{SCOPE_KEY}: {', '.join(layers)} have no parameters that are trained.")
    return list(found)
