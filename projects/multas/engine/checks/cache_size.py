"""The check that a teacher's cache is of use and has room on the disk."""

import logging
import os
from collections.abc import Iterator

from detectron2.config import CfgNode
from torch import nn

from multas.data.loader import Index, SeededDataset, TrainLoader
from multas.data.task_batches import TaskLoader
from multas.distillation import Distillation, unwrap
from multas.util.errors import UserError
from multas.util.files import free_space, require_writable

logger = logging.getLogger(__name__)


def check_cache(cfg: CfgNode, model: nn.Module, loader: TrainLoader | TaskLoader) -> None:
    """Log the expected size of the teachers' cache, and make sure that it is of use and has room.

    Raises:
        UserError: No image is shown to the teacher twice, or the disk is too full.
    """
    _, distillation = unwrap(model)
    caches = [] if distillation is None else [t.cache for t in distillation.teachers if t.cache]
    if distillation is None or not caches:
        return
    limit, total = cfg.MODEL.DISTILLATION.CACHE.MAX_GB * 1e9, 0
    folder, there = caches[0].folder, caches[0].held
    for dataset, asked in taught_sets(distillation, loader):
        if not dataset.views:
            raise UserError(
                f"MODEL.DISTILLATION.CACHE.FOLDER is '{folder}', but INPUT.VIEWS is 0: each "
                "augmented image is new, so that nothing in the cache is ever found. Set "
                "INPUT.VIEWS (4: four augmented views of each image), or FOLDER to ''."
            )
        count = len(dataset) * dataset.views * max(len(cfg.INPUT.MULTI_SCALE.SIZES), 1)
        if dataset.mixing is not None:
            count *= 2  # mixed, and alone at the end
        inputs = [dataset[Index(0, 0)]]
        teachers = [distillation.teachers[i] for i in asked]
        size = sum(t.bytes_kept(t.inputs(inputs, cfg.INPUT.FORMAT)) for t in teachers)
        logger.info(
            f"Teacher cache: {len(dataset)} images in {count // len(dataset)} views of about "
            f"{size / 1e6:.2f} MB make {count * size / 1e9:.2f} GB."
        )
        total += count * size
    require_writable(os.path.join(folder, "entry"), "MODEL.DISTILLATION.CACHE.FOLDER")
    free = free_space(folder)
    logger.info(
        f"Teacher cache '{folder}': holds {there / 1e9:.2f} GB, may hold {limit / 1e9:g} GB, "
        f"{free / 1e9:.1f} GB of the disk are free."
    )
    if total > limit:
        logger.warning(
            "Teacher cache: entries will be dropped before they are used again. Raise "
            f"MODEL.DISTILLATION.CACHE.MAX_GB to {total / 1e9:.1f}, or lower INPUT.VIEWS."
        )
    if (wanted := min(total, limit)) - there > free:
        raise UserError(
            f"MODEL.DISTILLATION.CACHE.FOLDER '{folder}' is to hold {wanted / 1e9:.1f} GB, but "
            f"{free / 1e9:.1f} GB are free on its disk. Choose another folder, or lower "
            "CACHE.MAX_GB or INPUT.VIEWS."
        )


def taught_sets(
    distillation: Distillation, loader: TrainLoader | TaskLoader
) -> Iterator[tuple[SeededDataset, set[int]]]:
    """The data sets that teachers see, and the numbers of these; a user's loader is left out."""
    parts: list[tuple[str | None, TrainLoader]]
    if isinstance(loader, TaskLoader):
        tasks = loader.tasks if loader.mode == "separate" else [None] * len(loader.tasks)
        parts = list(zip(tasks, loader.loaders, strict=True))
    else:
        parts = [(None, loader)]
    for task, part in parts:
        dataset = getattr(part, "dataset", None)
        asked = {spec.teacher_id for spec in distillation.specs if spec.applies_to(task)}
        if isinstance(dataset, SeededDataset) and asked:
            yield dataset, asked
