"""How large a teacher's cache will be, said before a run starts."""

import logging
import shutil
from collections.abc import Iterator

from detectron2.config import CfgNode
from torch import nn

from multas.data.loader import Index, SeededDataset, TrainLoader
from multas.data.task_batches import TaskLoader
from multas.distillation import Distillation, unwrap

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
    _, distillation = unwrap(model)
    caches = [] if distillation is None else [t.cache for t in distillation.teachers if t.cache]
    if distillation is None or not caches:
        return
    limit, total = cfg.MODEL.DISTILLATION.CACHE.MAX_GB * 1e9, 0
    folder, there = caches[0].folder, caches[0].held
    for task, dataset in _taught(distillation, loader):
        if not dataset.views:
            raise ValueError(
                f"MODEL.DISTILLATION.CACHE.FOLDER is '{folder}', but INPUT.VIEWS is 0: each "
                "augmented image is new, and nothing that is kept is found again. Set INPUT.VIEWS "
                "(4: four augmented views of each image), or FOLDER to ''."
            )
        count = len(dataset) * dataset.views * max(len(cfg.INPUT.MULTI_SCALE.SIZES), 1)
        size = _bytes_per_image(cfg, distillation, task, dataset)
        logger.info(
            f"Teacher cache: {len(dataset)} images in {count // len(dataset)} views of about "
            f"{size / 1e6:.2f} MB make {count * size / 1e9:.2f} GB."
        )
        total += count * size
    free = shutil.disk_usage(folder).free
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
) -> Iterator[tuple[str | None, SeededDataset]]:
    """The data sets whose images a teacher sees, with their task; not those of a user's loader."""
    parts = loader.loaders if isinstance(loader, TaskLoader) else [loader]
    separate = isinstance(loader, TaskLoader) and loader.mode == "separate"
    tasks = loader.tasks if isinstance(loader, TaskLoader) and separate else [None] * len(parts)
    for task, part in zip(tasks, parts, strict=True):
        dataset = getattr(part, "dataset", None)
        if isinstance(dataset, SeededDataset) and distillation.taps_for(task):
            yield task, dataset


def _bytes_per_image(
    cfg: CfgNode, distillation: Distillation, task: str | None, dataset: SeededDataset
) -> int:
    inputs = [dataset[Index(0, 0)]]
    asked = {spec.teacher_id for spec in distillation.specs if spec.applies_to(task)}
    return sum(
        teacher.bytes_kept(teacher.inputs(inputs, cfg.INPUT.FORMAT))
        for i, teacher in enumerate(distillation.teachers)
        if i in asked
    )
