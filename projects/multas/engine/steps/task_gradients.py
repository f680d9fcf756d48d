"""From the losses of several tasks to one gradient: MGDA over tasks."""

from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from multas.distillation import unwrap
from multas.distillation.gradients.gramian import gram_of_rows
from multas.distillation.gradients.min_norm import NORMALISATIONS, mgda_weights
from multas.modeling import MultiTaskNetwork
from multas.util.names import check_choice
from multas.util.ranks import average_gradients, from_main_rank, mean_over_ranks

Row = list[Tensor | None]
_DISTILLATION = "distillation"


class TaskGradients:
    """Weighs the gradients of the tasks of a :class:`MultiTaskNetwork` against each other.

    Shared are the parameters that two tasks or more reach: their gradient is T times the min-norm
    point of the T tasks' gradients; T makes equal weights the plain sum. What one task alone
    reaches, its head, keeps that task's gradient (Sener and Koltun 2018, algorithm 2). Losses of
    no task, those of paths weighed by losses, add their own gradient as it is.

    Args:
        model: the network, or a Distiller whose student it is, wrapped or not.
        normalisation: of the gradients, see MODEL.MULTITASK.NORMALISATION.

    Raises:
        ValueError: another network, or an unknown normalisation.
    """

    def __init__(self, model: nn.Module, normalisation: str = "l2") -> None:
        network, _ = unwrap(model)
        if not isinstance(network, MultiTaskNetwork):
            raise ValueError(
                "MODEL.MULTITASK.GRADIENTS mgda weighs the tasks of a MultiTaskNetwork, not of "
                f"{type(network).__name__}."
            )
        check_choice("MODEL.MULTITASK.NORMALISATION", normalisation, NORMALISATIONS)
        self._network = network
        self._normalisation = normalisation

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module) -> "TaskGradients | None":
        """What MODEL.MULTITASK.GRADIENTS asks for; None where the task losses are summed.

        Raises:
            ValueError: unknown value, or tasks of which an iteration has only one.
        """
        options = cfg.MODEL.MULTITASK
        check_choice("MODEL.MULTITASK.GRADIENTS", options.GRADIENTS, ("sum", "mgda"))
        if options.GRADIENTS == "sum":
            return None
        if cfg.DATASETS.TASK_BATCHES and cfg.DATASETS.TASK_MODE == "alternate":
            raise ValueError(
                "MODEL.MULTITASK.GRADIENTS mgda weighs tasks that meet in an iteration, but "
                "DATASETS.TASK_MODE alternate has one of them in each: set it to separate or mixed."
            )
        return cls(model, options.NORMALISATION)

    def combine(
        self,
        losses: Mapping[str, Tensor],
        parameters: Sequence[Tensor],
        scale: Tensor | None = None,
        *,
        keep_graph: bool = False,
    ) -> Row:
        """The one gradient of all these losses; the task weights are logged.

        Args:
            losses: as the network returned them, scalars with graph.
            parameters: what to differentiate with respect to.
            scale: factor of all gradients (a GradScaler's); the weights do not depend on it.
            keep_graph: whether something else is differentiated afterwards.

        Returns:
            For each parameter the gradient, the mean over all ranks; None where no loss reaches.

        Raises:
            FloatingPointError: a task's gradient is not finite, and there is no scaler.
        """
        by_task = self._by_task(losses)
        # Whatever tasks share of the graph is needed until the last of them.
        rows = [
            list(
                torch.autograd.grad(
                    loss if scale is None else loss * scale,
                    parameters,
                    retain_graph=keep_graph or i + 1 < len(by_task),
                    allow_unused=True,
                )
            )
            for i, loss in enumerate(by_task.values())
        ]
        own = dict(zip(by_task, average_gradients(rows, parameters), strict=True))
        distilled = own.pop(_DISTILLATION, [None] * len(parameters))
        weights = [1.0] * len(own)
        if len(own) > 1:
            weights = self._weights(own, by_task, scale is not None)
        combined: Row = []
        for extra, *gradients in zip(distilled, *own.values(), strict=True):
            present = [(w, g) for w, g in zip(weights, gradients, strict=True) if g is not None]
            shared = len(present) > 1
            terms = [g * w if shared else g for w, g in present]
            terms.extend([] if extra is None else [extra])
            combined.append(reduce(torch.add, terms) if terms else None)
        return combined

    def _by_task(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        terms: dict[str, list[Tensor]] = {}
        for name, loss in losses.items():
            terms.setdefault(self._network.task_of_loss.get(name, _DISTILLATION), []).append(loss)
        return {task: torch.stack(own).sum() for task, own in terms.items()}

    def _weights(
        self, rows: Mapping[str, Row], losses: Mapping[str, Tensor], scaled: bool
    ) -> list[float]:
        columns = zip(*rows.values(), strict=True)
        shared = [sum(g is not None for g in column) > 1 for column in columns]
        gram, _ = gram_of_rows(
            [[g if s else None for g, s in zip(row, shared, strict=True)] for row in rows.values()]
        )
        values = torch.stack([losses[task].detach() for task in rows])
        device, values = values.device, mean_over_ranks(values)
        # Weights do not change with a factor of all gradients, so a scaler's stays in the matrix.
        if scaled and not torch.isfinite(gram).all():
            # The scale was too large: the scaler sees that, skips the step and lowers it.
            return [1.0] * len(rows)
        broken = [t for t, x in zip(rows, gram.diagonal(), strict=True) if not torch.isfinite(x)]
        if broken:
            raise FloatingPointError(
                f"The gradients of the tasks {', '.join(broken)} are not finite (losses of "
                f"{', '.join(rows)}: {values.tolist()}). Lower SOLVER.BASE_LR, or check their data."
            )
        weights = from_main_rank(
            mgda_weights(gram, values.cpu().double(), self._normalisation), device
        )
        # A task without annotated image has the gradient 0, and no say in the scale.
        active = int((gram.diagonal() > 0).sum())
        result = dict(zip(rows, (active * weights).tolist(), strict=True))
        storage = get_event_storage()
        for task, weight in result.items():
            storage.put_scalar(f"task_weight/{task}", weight, smoothing_hint=False)
        return list(result.values())
