"""One training step in which the gradients of tasks are weighed against each other."""

from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from multas.distillation import Distiller
from multas.distillation.gram import gram_of_rows
from multas.distillation.min_norm import NORMALISATIONS, mgda_weights
from multas.distillation.ranks import average_gradients, from_main_rank, mean_over_ranks
from multas.engine.mixed_precision import MixedPrecision
from multas.engine.step import next_batch, without_reduction
from multas.modeling import MultiTaskNetwork

Row = list[Tensor | None]
DISTILLATION = "distillation"


class TaskGradientStep(SimpleTrainer):
    """Detectron2's SimpleTrainer with MGDA over the tasks of a :class:`MultiTaskNetwork`.

    Shared are the parameters that two tasks or more reach: their gradient is T times the min-norm
    point of the T tasks' gradients; T makes equal weights the plain sum. What one task alone
    reaches, its head, keeps that task's gradient (Sener and Koltun 2018, algorithm 2).
    Distillation, weighed by losses, adds its own gradient as it is.

    Args:
        model: a network or a Distiller with one as student, wrapped or not.
        data_loader: gives batches.
        optimizer: of the model's parameters.
        normalisation: of the gradients, see MODEL.MULTITASK.NORMALISATION.
        precision: of the forward pass; None = as the parameters are.

    Raises:
        ValueError: another model, or an unknown normalisation.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        *,
        normalisation: str = "l2",
        precision: MixedPrecision | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        inner = getattr(model, "module", model)
        network = inner.student if isinstance(inner, Distiller) else inner
        if not isinstance(network, MultiTaskNetwork):
            raise ValueError(
                "MODEL.MULTITASK.GRADIENTS mgda weighs the tasks of a MultiTaskNetwork, not of "
                f"{type(network).__name__}."
            )
        if normalisation not in NORMALISATIONS:
            raise ValueError(
                f"MODEL.MULTITASK.NORMALISATION is '{normalisation}'; choose from "
                f"{', '.join(NORMALISATIONS)}."
            )
        self._network = network
        self._normalisation = normalisation
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self.precision = precision or MixedPrecision(self._parameters[0].device)

    def run_step(self) -> None:
        data, data_time = next_batch(self)
        with without_reduction(self.model), self.precision.forward():
            losses = self.model(data)
        self.optimizer.zero_grad()
        self._fill_gradients(self._by_task(losses))
        self._write_metrics(losses, data_time)
        self.precision.step(self.optimizer)

    def _by_task(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        terms: dict[str, list[Tensor]] = {}
        for name, loss in losses.items():
            terms.setdefault(self._network.task_of_loss.get(name, DISTILLATION), []).append(loss)
        return {task: torch.stack(own).sum() for task, own in terms.items()}

    def _fill_gradients(self, losses: dict[str, Tensor]) -> None:
        scale = self.precision.scale()
        # Whatever tasks share of the graph is needed until the last of them.
        rows: dict[str, Row] = {}
        for i, (task, loss) in enumerate(losses.items()):
            last = i + 1 == len(losses)
            rows[task] = list(
                torch.autograd.grad(
                    loss if scale is None else loss * scale,
                    self._parameters,
                    retain_graph=not last,
                    allow_unused=True,
                )
            )
        averaged = average_gradients(list(rows.values()), self._parameters)
        rows = dict(zip(rows, averaged, strict=True))
        distilled = rows.pop(DISTILLATION, [None] * len(self._parameters))
        weights = (
            self._weights(rows, losses, scale is not None) if len(rows) > 1 else [1.0] * len(rows)
        )
        for parameter, extra, *own in zip(self._parameters, distilled, *rows.values(), strict=True):
            present = [(w, g) for w, g in zip(weights, own, strict=True) if g is not None]
            shared = len(present) > 1
            total = [g * w if shared else g for w, g in present]
            total.extend([] if extra is None else [extra])
            parameter.grad = torch.stack(total).sum(0) if total else None

    def _weights(
        self, rows: dict[str, Row], losses: dict[str, Tensor], scaled: bool
    ) -> list[float]:
        columns = zip(*rows.values(), strict=True)
        shared = [sum(g is not None for g in column) > 1 for column in columns]
        gram, _ = gram_of_rows(
            [[g if s else None for g, s in zip(row, shared, strict=True)] for row in rows.values()]
        )
        device = self._parameters[0].device
        values = mean_over_ranks(torch.stack([losses[task].detach() for task in rows]))
        # Weights do not change with a factor of all gradients, so a scaler's stays in the matrix.
        if scaled and not torch.isfinite(gram).all():
            # The scale was too large: the scaler sees that, skips the step and lowers it.
            return [1.0] * len(rows)
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

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | self.precision.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.precision.load_state_dict(state_dict)
