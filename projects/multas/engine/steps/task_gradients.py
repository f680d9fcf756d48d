"""From the losses of several tasks to one gradient: MGDA over tasks, and the hook that does it."""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from multas.distillation import unwrap
from multas.distillation.gradients.gramian import gram_of_rows
from multas.distillation.gradients.min_norm import LENGTHS, NORMALISATIONS, mgda_weights
from multas.engine.loss_hook import LossHook, with_gradient
from multas.modeling import MultiTaskNetwork
from multas.util.errors import UserError
from multas.util.names import check_choice
from multas.util.ranks import GradientRow, average_gradients, from_main_rank, mean_over_ranks

_DISTILLATION = "distillation"


class TaskGradients:
    """Weighs the gradients of the tasks of a :class:`MultiTaskNetwork` against each other.

    Parameters are shared if two tasks or more reach them. Their gradient is T times that of MGDA
    over the T tasks, where the factor T makes equal weights the plain sum. What only one task
    reaches (its head) keeps that task's gradient (Sener and Koltun, NeurIPS 2018, algorithm 2). The
    losses of distillation paths belong to no task, and their gradient is added.

    Args:
        model: the network, or a Distiller whose student it is, wrapped or not.
        normalisation, length: keys of MODEL.MULTITASK.

    Raises:
        UserError: The network is another one, or the normalisation or length is unknown.
    """

    def __init__(self, model: nn.Module, normalisation: str = "l2", length: str = "auto") -> None:
        network, _ = unwrap(model)
        if not isinstance(network, MultiTaskNetwork):
            raise UserError(
                "MODEL.MULTITASK.GRADIENTS mgda weighs the tasks of a MultiTaskNetwork, not of "
                f"{type(network).__name__}."
            )
        check_choice("MODEL.MULTITASK.NORMALISATION", normalisation, NORMALISATIONS)
        check_choice("MODEL.MULTITASK.LENGTH", length, LENGTHS)
        self._network, self._normalisation, self._length = network, normalisation, length

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module) -> "TaskGradients | None":
        """The instance that MODEL.MULTITASK describes, or None where the task losses are summed.

        Raises:
            UserError: GRADIENTS is unknown, or an iteration has only one of the tasks.
        """
        options = cfg.MODEL.MULTITASK
        check_choice("MODEL.MULTITASK.GRADIENTS", options.GRADIENTS, ("sum", "mgda"))
        if options.GRADIENTS == "sum":
            return None
        if cfg.DATASETS.TASK_BATCHES and cfg.DATASETS.TASK_MODE == "alternate":
            raise UserError(
                "MODEL.MULTITASK.GRADIENTS mgda weighs tasks that meet in an iteration, but "
                "DATASETS.TASK_MODE alternate has one of them in each: set it to separate or mixed."
            )
        return cls(model, options.NORMALISATION, options.LENGTH)

    def combine(
        self,
        losses: Mapping[str, Tensor],
        parameters: Sequence[Tensor],
        scale: Tensor | None = None,
        *,
        keep_graph: bool = False,
    ) -> GradientRow:
        """The one gradient of all these losses. The task weights are logged.

        Args:
            losses: what the network returned, scalars with their graph.
            parameters: what to differentiate with respect to.
            scale: a GradScaler's factor of all gradients. It does not change the weights.
            keep_graph: whether something else is differentiated afterwards.

        Returns:
            A gradient for each parameter, the mean over all ranks; None where no loss reaches it.

        Raises:
            FloatingPointError: A task's gradient is not finite, and there is no scaler.
        """
        by_task = self._by_task(losses)
        rows: list[GradientRow] = []
        for loss in by_task.values():
            loss = loss if scale is None else loss * scale
            # What the tasks share of the graph is needed until the last of them.
            keep = keep_graph or len(rows) + 1 < len(by_task)
            rows.append(torch.autograd.grad(loss, parameters, retain_graph=keep, allow_unused=True))
        own = dict(zip(by_task, average_gradients(rows, parameters), strict=True))
        distilled = own.pop(_DISTILLATION, [None] * len(parameters))
        several = len(own) > 1
        weights = self._weights(own, by_task, scale is not None) if several else [1.0] * len(own)
        combined: list[Tensor | None] = []
        for extra, *gradients in zip(distilled, *own.values(), strict=True):
            present = [(w, g) for w, g in zip(weights, gradients, strict=True) if g is not None]
            terms = [g * w if len(present) > 1 else g for w, g in present]
            terms.extend([] if extra is None else [extra])
            combined.append(reduce(torch.add, terms) if terms else None)
        return combined

    def _by_task(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        terms: dict[str, list[Tensor]] = {}
        for name, loss in losses.items():
            terms.setdefault(self._network.task_of_loss.get(name, _DISTILLATION), []).append(loss)
        return {task: torch.stack(own).sum() for task, own in terms.items()}

    def _weights(
        self, rows: Mapping[str, GradientRow], losses: Mapping[str, Tensor], scaled: bool
    ) -> list[float]:
        columns = zip(*rows.values(), strict=True)
        shared = [sum(g is not None for g in column) > 1 for column in columns]
        gram, _ = gram_of_rows(
            [[g if s else None for g, s in zip(row, shared, strict=True)] for row in rows.values()]
        )
        values = torch.stack([losses[task].detach() for task in rows])
        device, values = values.device, mean_over_ranks(values)
        # A scaler's factor stays in the matrix, since the weights do not depend on it.
        if scaled and not torch.isfinite(gram).all():
            # The scale was too large. The scaler finds that, skips the step and lowers the scale.
            return [1.0] * len(rows)
        broken = [t for t, x in zip(rows, gram.diagonal(), strict=True) if not torch.isfinite(x)]
        if broken:
            raise FloatingPointError(
                f"The gradients of the tasks {', '.join(broken)} are not finite (losses of "
                f"{', '.join(rows)}: {values.tolist()}). Lower SOLVER.BASE_LR, or check their data."
            )
        v = mgda_weights(gram, values.cpu().double(), self._normalisation, self._length)
        # A task without annotated images has the gradient 0, and does not count as a task here.
        active = int((gram.diagonal() > 0).sum())
        weights = (active * from_main_rank(v, device)).tolist()
        for task, weight in zip(rows, weights, strict=True):
            get_event_storage().put_scalar(f"task_weight/{task}", weight, smoothing_hint=False)
        return weights


class TaskWeights(LossHook):
    """Gives the losses of a model the gradient that MGDA over its tasks makes of them.

    Where paths are weighed by their losses, this hook comes after :class:`PathWeights`. Where they
    are weighed by gradients, that hook asks ``tasks`` itself. ``more`` are further parameters that
    the losses depend on (z of an aggregator).
    """

    def __init__(self, model: nn.Module, tasks: TaskGradients, more: Iterable[Tensor] = ()) -> None:
        super().__init__(model, reduces=True)
        self._tasks = tasks
        self._parameters = [*(p for p in model.parameters() if p.requires_grad), *more]

    def weigh(self, output: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not torch.is_grad_enabled():
            return dict(output)
        scale = self.loss_scale()
        with torch.autocast(self._device.type, enabled=False):
            row = self._tasks.combine(output, self._parameters, scale)
        return with_gradient(output, self._parameters, row, scale)
