"""The inner trainer that a config needs."""

from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from torch import nn

from multas.data.dataset_dicts import require_registered
from multas.data.loader import TrainLoader
from multas.data.task_batches import TaskLoader
from multas.distillation import Distiller, GradientAggregator
from multas.distillation.aggregation import Bilevel
from multas.engine.checks.annotations import check_annotations
from multas.engine.steps.bilevel_step import BilevelStep
from multas.engine.steps.gradient_step import GradientStep
from multas.engine.steps.mixed_precision import MixedPrecision
from multas.engine.steps.path_gradients import PathGradients
from multas.engine.steps.task_gradients import TaskGradients


def build_step(
    cfg: CfgNode,
    trainer: SimpleTrainer,
    build_train_loader: Callable[[CfgNode], TrainLoader | TaskLoader],
) -> SimpleTrainer:
    """A step that can weigh gradients where paths or tasks are weighed so.

    Args:
        cfg: of the run.
        trainer: Detectron2's, with model, loader and optimiser.
        build_train_loader: gives batches of what a config names in DATASETS.TRAIN.

    Returns:
        A :class:`GradientStep` where gradients of paths or of tasks are weighed, else ``trainer``
        itself.

    Raises:
        ValueError: bilevel aggregation without validation images; tasks that cannot be weighed.
    """
    distiller = getattr(trainer.model, "module", trainer.model)
    distillation = distiller.distillation if isinstance(distiller, Distiller) else None
    by_gradient = distillation is not None and isinstance(
        distillation.aggregator, GradientAggregator
    )
    tasks = _task_gradients(cfg, distiller)
    precision = MixedPrecision.from_config(cfg, torch.device(cfg.MODEL.DEVICE))
    parts = trainer.model, trainer.data_loader, trainer.optimizer
    if distillation is None or not by_gradient:
        return GradientStep(*parts, tasks, precision=precision) if tasks else trainer
    paths = PathGradients(distiller.student, distillation, tasks)
    if not isinstance(distillation.aggregator, Bilevel):
        return GradientStep(*parts, paths, precision=precision)
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
    validation.DATASETS.PSEUDO_LABELS.FILES = ()  # ground truth is what paths are judged by
    key = "MODEL.DISTILLATION.AGGREGATION.BILEVEL_DATA"
    require_registered(names, key)
    loader = build_train_loader(validation)
    check_annotations(distiller.student, loader, key, every_head=False)
    return BilevelStep(*parts, paths, validation=loader, precision=precision)


def _task_gradients(cfg: CfgNode, model: nn.Module) -> TaskGradients | None:
    options = cfg.MODEL.MULTITASK
    if options.GRADIENTS == "sum":
        return None
    if options.GRADIENTS != "mgda":
        raise ValueError(
            f"MODEL.MULTITASK.GRADIENTS is '{options.GRADIENTS}'; choose from sum, mgda."
        )
    if cfg.DATASETS.TASK_BATCHES and cfg.DATASETS.TASK_MODE == "alternate":
        raise ValueError(
            "MODEL.MULTITASK.GRADIENTS mgda weighs tasks that meet in an iteration, but "
            "DATASETS.TASK_MODE alternate has one of them in each: set it to separate or mixed."
        )
    return TaskGradients(model, options.NORMALISATION)
