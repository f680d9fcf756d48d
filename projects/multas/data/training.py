"""The training data of a config as one loader."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import cast

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from rich.console import Group

from multas.data.dataset_dicts import TrainingSet, load_training_sets
from multas.data.loader import TrainLoader, build_batch_sizes, build_train_loader
from multas.data.mapper import MultasMapper
from multas.data.mixing import build_mixing
from multas.data.pseudo_labels import PseudoLabels
from multas.data.pseudo_masks import PseudoMasks
from multas.data.statistics import count, describe, describe_briefly
from multas.data.task_batches import KEY, TaskBatch, TaskLoader, parse_task_batches
from multas.util.errors import UserError
from multas.util.messages import Message

logger = logging.getLogger(__name__)


def build_training_loader(cfg: CfgNode) -> TrainLoader | TaskLoader:
    """The images of DATASETS.TRAIN or DATASETS.TASK_BATCHES, augmented and batched.

    Raises:
        UserError: if a data set or value is wrong; the message names the key.
    """
    if cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
        raise UserError(
            f"DATALOADER.SAMPLER_TRAIN is '{cfg.DATALOADER.SAMPLER_TRAIN}'; multas' loader, "
            "which resumes exactly, knows 'TrainingSampler' only."
        )
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    parts = _parts(cfg, seed)
    _check_repeat_factors(cfg, [name for part in parts for name in part.cfg.DATASETS.TRAIN])
    loaders = [_build_loader(part) for part in parts]
    _check_pseudo_labels(parts, loaders)
    if not cfg.DATASETS.TASK_BATCHES:
        return loaders[0]
    return TaskLoader([part.task for part in parts], loaders, cfg.DATASETS.TASK_MODE)


def mini_batches(cfg: CfgNode) -> list[tuple[int, int]]:
    """Of each mini-batch of an iteration: the images of its data, and how many it has itself.

    Images that the loader leaves out are not counted, and copies count once.

    Raises:
        UserError: if a data set or value is wrong; the message names the key.
    """
    parts = _parts(cfg, seed=0)
    return [
        (sum(len(data.dicts) for data in _load_sets(part)), part.cfg.SOLVER.IMS_PER_BATCH)
        for part in parts
    ]


def _parts(cfg: CfgNode, seed: int) -> list[TaskBatch]:
    """The entries of DATASETS.TASK_BATCHES, or DATASETS.TRAIN as the only one, of no task."""
    whole = TaskBatch("DATASETS", "", "SOLVER.IMS_PER_BATCH", cfg, seed)
    return parse_task_batches(cfg, seed) or [whole]


def _load_sets(part: TaskBatch) -> list[TrainingSet]:
    filter_empty = part.cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    return load_training_sets(part.cfg.DATASETS.TRAIN, filter_empty, f"{part.key}.TRAIN")


def _build_loader(part: TaskBatch) -> TrainLoader:
    cfg, sets = part.cfg, _load_sets(part)
    mapper = MultasMapper(cfg, is_train=True)
    task = f" for the task '{part.task}'" if part.task else ""
    numbers = [count(x, MetadataCatalog.get(x.name), mapper.pseudo_labels) for x in sets]
    title = f"The images to learn from{task}:"
    brief = Group(title, describe_briefly(numbers, mapper.pseudo_labels))
    logger.info(Message(describe(numbers, title), brief))
    dicts = [mapper.trim(record) for data in sets for record in data.dicts]
    return build_train_loader(
        dicts,
        mapper,
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        batch_size_key=part.batch_size_key,
        seed=part.seed,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        group_by_aspect=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        copies=cfg.INPUT.COPIES,
        batch_sizes=build_batch_sizes(cfg, part.seed),
        views=cfg.INPUT.VIEWS,
        repeats=_repeats(cfg, sets),
        mixing=build_mixing(cfg, dicts, mapper, f"{part.key}.TRAIN"),
    )


def _repeats(cfg: CfgNode, sets: Sequence[TrainingSet]) -> list[float] | None:
    """How often each image comes in an epoch, by DATASETS.TRAIN_REPEAT_FACTOR; None: once."""
    factors = dict(cfg.DATASETS.TRAIN_REPEAT_FACTOR)
    if factors.keys().isdisjoint(data.name for data in sets):
        return None
    return [float(factors.get(data.name, 1.0)) for data in sets for _ in data.dicts]


def _check_repeat_factors(cfg: CfgNode, known: Sequence[str]) -> None:
    key = "DATASETS.TRAIN_REPEAT_FACTOR"
    for entry in cfg.DATASETS.TRAIN_REPEAT_FACTOR:
        if not isinstance(entry, list | tuple) or len(entry) != 2:
            raise UserError(f"{key} has {entry!r}; give pairs of a data set and a number.")
        name, factor = entry
        if name not in known:
            raise UserError(f"{key} names '{name}'; this trains on {', '.join(known)}.")
        if not isinstance(factor, int | float) or not 0 < factor < math.inf:
            raise UserError(f"{key} gives '{name}' the factor {factor!r}; it must be above 0.")


def _check_pseudo_labels(parts: Sequence[TaskBatch], loaders: Sequence[TrainLoader]) -> None:
    """Make sure that each file or folder of pseudo-labels is for images of at least one part."""
    _check_kind(parts, loaders, "FILES", lambda labels: labels, "boxes")
    cure = " Name these classes in MODEL.CLASSES.SEG."
    _check_kind(parts, loaders, "MASKS", lambda labels: labels.masks, "masks", cure)


def _check_kind(
    parts: Sequence[TaskBatch],
    loaders: Sequence[TrainLoader],
    own_key: str,
    labels_of: Callable[[PseudoLabels], PseudoLabels | PseudoMasks],
    what: str,
    cure: str = "",
) -> None:
    """The same for boxes or masks, which DATASETS.PSEUDO_LABELS has under ``own_key``."""
    key = KEY if parts[0].task else "DATASETS.TRAIN"
    own = [
        (tuple(part.cfg.DATASETS.PSEUDO_LABELS[own_key]), part.cfg.DATASETS.TRAIN) for part in parts
    ]
    for files in {files for files, _ in own if files}:
        names = [name for theirs, train in own if theirs == files for name in train]
        data = [x.dataset for x, (theirs, _) in zip(loaders, own, strict=True) if theirs == files]
        read = [labels_of(cast(MultasMapper, dataset.mapper).pseudo_labels) for dataset in data]
        labels = next((labels for labels in read if labels.headers), None)
        if labels is None:
            raise UserError(
                f"{key} {tuple(names)}: none of them has classes of {what}, which "
                f"DATASETS.PSEUDO_LABELS.{own_key} needs.{cure}"
            )
        labels.check([sample for dataset in data for sample in dataset.dicts], names, key)
