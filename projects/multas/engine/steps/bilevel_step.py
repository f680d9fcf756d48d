"""Training steps that also learn the path weights on validation images."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from multas.distillation.aggregation import Bilevel
from multas.distillation.gradients.gramian import gram_of_rows
from multas.engine.steps.gradient_step import GradientStep
from multas.engine.steps.mixed_precision import MixedPrecision
from multas.engine.steps.path_gradients import PathGradients
from multas.modeling import MultiTaskNetwork
from multas.util.ranks import average_gradients


class BilevelStep(GradientStep):
    """A :class:`GradientStep` followed by one step of the path weights; see :class:`Bilevel`.

    Costs one forward and backward pass more, on a batch of validation images.

    Args:
        model: a Distiller, wrapped or not.
        data_loader, optimizer, precision: see :class:`GradientStep`.
        paths: the gradients of its paths, with scope "parameters".
        validation: batches of annotated images that are not trained on.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict]],
        optimizer: torch.optim.Optimizer,
        paths: PathGradients,
        *,
        validation: Iterable[list[dict]],
        precision: MixedPrecision | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer, paths, precision=precision)
        self._paths = paths
        self._paths.keep_rows()
        self._validation = validation
        self._batches: Iterator[list[dict]] | None = None

    def run_step(self) -> None:
        super().run_step()
        rows = self._paths.take_rows()
        distiller: Any = getattr(self.model, "module", self.model)
        student, parameters = distiller.student, self._paths.student_parameters
        with _unchanged(student), self.precision.forward():
            loss = torch.stack(list(student(self._next_batch()).values())).sum()
        own = torch.autograd.grad(loss, parameters, allow_unused=True)
        gram, _ = gram_of_rows([*rows, *average_gradients([own], parameters)])
        aggregator = distiller.distillation.aggregator
        assert isinstance(aggregator, Bilevel)
        aggregator.improve(gram[:-1, :-1], gram[-1, :-1], gram[-1, -1])

    def _next_batch(self) -> list[dict]:
        if self._batches is None:
            # A resumed run goes on with the batch that an uninterrupted one would see.
            start_at = getattr(self._validation, "start_at", None)
            if start_at is not None:
                start_at(getattr(self, "iter", 0))
            self._batches = iter(self._validation)
        return next(self._batches)


@contextmanager
def _unchanged(student: nn.Module) -> Iterator[None]:
    """Validation images leave no trace in statistics, running normalisers and counts."""
    counts = dict(getattr(student, "annotated_images", {}))
    norms = [m for m in student.modules() if isinstance(m, _BatchNorm) and m.training]
    normalizers: list[tuple[Any, Any]] = [
        (m, m.loss_normalizer) for m in student.modules() if hasattr(m, "loss_normalizer")
    ]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
        for module, value in normalizers:
            module.loss_normalizer = value
        if isinstance(student, MultiTaskNetwork):
            student.annotated_images = counts
