"""How large a teacher's cache will be, said before a run starts."""

import logging
import os
import shutil
from collections.abc import Iterator

from detectron2.config import CfgNode
from torch import nn

from multas.data.loader import Index, SeededDataset, TrainLoader
from multas.data.task_batches import TaskLoader
from multas.distillation import Distillation, Distiller

logger = logging.getLogger(__name__)


def check_cache(cfg: CfgNode, model: nn.Module, loader: TrainLoader | TaskLoader) -> None:
    """Log the size of MODEL.DISTILLATION.CACHE; make sure that it is of use and has room.

    Args:
        cfg: of the run.
        model: that is trained.
        loader: its data.

    Raises:
        ValueError: no image comes back, or the disk is too full.
    """
    model = getattr(model, "module", model)
    distillation = model.distillation if isinstance(model, Distiller) else None
    if distillation is None or not cfg.MODEL.DISTILLATION.CACHE.FOLDER:
        return
    folder, limit = cfg.MODEL.DISTILLATION.CACHE.FOLDER, cfg.MODEL.DISTILLATION.CACHE.MAX_GB * 1e9
    total = 0
    for dataset in _taught(distillation, loader):
        if not dataset.views:
            raise ValueError(
                f"MODEL.DISTILLATION.CACHE.FOLDER is '{folder}', but INPUT.VIEWS is 0: each "
                "augmented image is new, and nothing that is kept is found again. Set INPUT.VIEWS "
                "(4: four augmented views of each image), or FOLDER to ''."
            )
        count = len(dataset) * dataset.views * max(len(cfg.INPUT.MULTI_SCALE.SIZES), 1)
        size = _bytes_per_image(cfg, distillation, dataset)
        logger.info(
            f"Teacher cache: {len(dataset)} images in {count // len(dataset)} views of about "
            f"{size / 1e6:.2f} MB make {count * size / 1e9:.2f} GB."
        )
        total += count * size
    free, there = shutil.disk_usage(_existing(folder)).free, _size_of(folder)
    logger.info(
        f"Teacher cache '{folder}': holds {there / 1e9:.2f} GB, may hold {limit / 1e9:g} GB, "
        f"{free / 1e9:.1f} GB of the disk are free."
    )
    if total > limit:
        logger.warning(
            "Teacher cache: entries will be dropped before they are used again. Raise "
            f"MODEL.DISTILLATION.CACHE.MAX_GB to {total / 1e9:.1f}, or lower INPUT.VIEWS."
        )
    if min(total, limit) - there > free:
        raise ValueError(
            f"MODEL.DISTILLATION.CACHE.FOLDER '{folder}' is to hold "
            f"{min(total, limit) / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free on its disk. "
            "Choose another folder, or lower CACHE.MAX_GB or INPUT.VIEWS."
        )


def _taught(
    distillation: Distillation, loader: TrainLoader | TaskLoader
) -> Iterator[SeededDataset]:
    """The data sets whose images a teacher sees; not those of a user's own loader."""
    parts = loader.loaders if isinstance(loader, TaskLoader) else [loader]
    tasks = loader.tasks if isinstance(loader, TaskLoader) else [None]
    separate = isinstance(loader, TaskLoader) and loader.mode == "separate"
    for task, part in zip(tasks, parts, strict=True):
        dataset = getattr(part, "dataset", None)
        if isinstance(dataset, SeededDataset) and (distillation.taps_for(task) or not separate):
            yield dataset


def _bytes_per_image(cfg: CfgNode, distillation: Distillation, dataset: SeededDataset) -> int:
    inputs = [dataset[Index(0, 0)]]
    return sum(
        teacher.bytes_kept(teacher.inputs(inputs, cfg.INPUT.FORMAT))
        for teacher in distillation.teachers
    )


def _existing(folder: str) -> str:
    folder = os.path.abspath(folder)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def _size_of(folder: str) -> int:
    return sum(
        os.path.getsize(os.path.join(root, name))
        for root, _, names in os.walk(folder)
        for name in names
    )
