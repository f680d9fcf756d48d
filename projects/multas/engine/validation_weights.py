"""The hook that learns path weights on validation images (Chennupati et al., section 3.3)."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from multas.data.dataset_dicts import require_registered
from multas.data.training import build_training_loader
from multas.distillation.aggregation.bilevel import Bilevel
from multas.distillation.gradients.gramian import gram_of_rows
from multas.engine.checks.annotations import check_annotations
from multas.engine.loss_hook import inner_trainer
from multas.engine.path_weights import PathWeights
from multas.modeling import MultiTaskNetwork
from multas.util.errors import UserError
from multas.util.ranks import average_gradients

_KEY = "MODEL.DISTILLATION.AGGREGATION.DATA"


class ValidationWeights(HookBase):
    """Takes a step of the path weights after every step of training; see :class:`Bilevel`.

    It costs one more forward and backward pass, on a batch of validation images.

    Args:
        path_weights: a hook with the aggregator :class:`Bilevel` and the scope "parameters".
        student: the network that is trained.
        validation: batches of annotated images that are not trained on.
    """

    def __init__(
        self, path_weights: PathWeights, student: nn.Module, validation: Iterable[list[dict]]
    ) -> None:
        aggregator, gradients = path_weights.aggregator, path_weights.gradients
        if not isinstance(aggregator, Bilevel) or gradients is None:
            raise UserError("ValidationWeights is for aggregation bilevel.")
        if not gradients.keeps_whole:
            raise UserError(
                "Aggregation bilevel needs whole path gradients: set MODEL.DISTILLATION.AGGREGATION"
                ".SCOPE to parameters, SCOPE_LAYERS to [] and LOW_MEMORY to False."
            )
        self._path_weights, self._student, self._validation = path_weights, student, validation
        self._aggregator, self._parameters = aggregator, gradients.student_parameters
        self._batches: Iterator[list[dict]] | None = None

    @classmethod
    def from_config(
        cls, cfg: CfgNode, path_weights: PathWeights, student: nn.Module
    ) -> "ValidationWeights | None":
        """The hook for the aggregation bilevel; None for all others.

        Raises:
            UserError: AGGREGATION.DATA names no data sets, or some that are not annotated.
        """
        if not isinstance(path_weights.aggregator, Bilevel):
            return None
        names = cfg.MODEL.DISTILLATION.AGGREGATION.DATA
        if not names:
            raise UserError(
                f"Aggregation bilevel: name annotated data sets that are not trained on in {_KEY}."
            )
        require_registered(names, _KEY)
        own = cfg.clone()
        own.defrost()
        own.DATASETS.TRAIN = tuple(names)
        own.DATASETS.TASK_BATCHES = []
        # Paths are judged by the ground truth alone.
        own.DATASETS.PSEUDO_LABELS.FILES = own.DATASETS.PSEUDO_LABELS.MASKS = ()
        own.INPUT.MIX.MOSAIC = own.INPUT.MIX.COPY_PASTE = own.INPUT.MIX.MIXUP = 0.0
        loader = build_training_loader(own)
        check_annotations(student, loader, _KEY, every_head=False)
        return cls(path_weights, student, loader)

    def after_step(self) -> None:
        rows = self._path_weights.path_rows
        autocast = getattr(inner_trainer(self.trainer), "autocast", nullcontext)
        with _unchanged(self._student), autocast():
            loss = torch.stack(list(self._student(self._next_batch()).values())).sum()
        own = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        gram, _ = gram_of_rows([*rows, *average_gradients([own], self._parameters)])
        self._aggregator.improve(gram[:-1, :-1], gram[-1, :-1], gram[-1, -1])

    def _next_batch(self) -> list[dict]:
        if self._batches is None:
            # A resumed run continues with the batch that an uninterrupted one would see.
            if hasattr(self._validation, "start_at"):
                self._validation.start_at(self.trainer.iter)
            self._batches = iter(self._validation)
        return next(self._batches)


@contextmanager
def _unchanged(student: nn.Module) -> Iterator[None]:
    """Forward passes inside the block change no statistics, running normalisers and counts."""
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
