"""The inner trainer that a config needs."""

from collections.abc import Callable, Iterable

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer

from multas.distillation import Distiller, GradientAggregator
from multas.distillation.aggregation import Bilevel
from multas.engine.bilevel import BilevelStep
from multas.engine.mixed_precision import MixedPrecision
from multas.engine.step import DistillationStep
from multas.engine.task_gradients import TaskGradientStep


def build_step(
    cfg: CfgNode,
    trainer: SimpleTrainer,
    build_train_loader: Callable[[CfgNode], Iterable[list[dict]]],
) -> SimpleTrainer:
    """A step that can weigh gradients where the aggregation does so.

    Args:
        cfg: of the run.
        trainer: Detectron2's, with model, loader and optimiser.
        build_train_loader: gives batches of what a config names in DATASETS.TRAIN.

    Returns:
        A :class:`DistillationStep` when the model distills with an aggregator that weighs
        gradients, else ``trainer`` itself.

    Raises:
        ValueError: bilevel aggregation without validation images.
    """
    distiller = getattr(trainer.model, "module", trainer.model)
    distillation = distiller.distillation if isinstance(distiller, Distiller) else None
    by_gradient = distillation is not None and isinstance(
        distillation.aggregator, GradientAggregator
    )
    if cfg.MODEL.MULTITASK.GRADIENTS != "sum":
        return _task_step(cfg, trainer, by_gradient)
    if distillation is None or not by_gradient:
        return trainer
    precision = MixedPrecision.from_config(cfg, torch.device(distiller.device))
    parts = trainer.model, trainer.data_loader, trainer.optimizer
    if not isinstance(distillation.aggregator, Bilevel):
        return DistillationStep(*parts, precision=precision)
    names = cfg.MODEL.DISTILLATION.AGGREGATION.BILEVEL_DATA
    if not names:
        raise ValueError(
            "Aggregation bilevel: name annotated data sets that are not trained on in "
            "MODEL.DISTILLATION.AGGREGATION.BILEVEL_DATA."
        )
    validation = cfg.clone()
    validation.defrost()
    validation.DATASETS.TRAIN = tuple(names)
    validation.DATASETS.TASK_BATCHES = []
    return BilevelStep(
        *parts,
        precision=precision,
        validation=build_train_loader(validation),
    )


def _task_step(cfg: CfgNode, trainer: SimpleTrainer, by_gradient: bool) -> TaskGradientStep:
    options, key = cfg.MODEL.MULTITASK, "MODEL.MULTITASK.GRADIENTS"
    if options.GRADIENTS != "mgda":
        raise ValueError(f"{key} is '{options.GRADIENTS}'; choose from sum, mgda.")
    if by_gradient:
        raise ValueError(
            f"{key} is mgda and MODEL.DISTILLATION.AGGREGATION.NAME weighs gradients, too: set one "
            "of them to sum or to an aggregation by losses (adaptive)."
        )
    return TaskGradientStep(
        trainer.model,
        trainer.data_loader,
        trainer.optimizer,
        normalisation=options.NORMALISATION,
        precision=MixedPrecision.from_config(cfg, torch.device(cfg.MODEL.DEVICE)),
    )
