"""The check of all image files that a run will open."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from multas.data import image_checks
from multas.data.task_batches import training_sets


def checked_images(
    cfg: CfgNode, names: Sequence[str] | None = None
) -> AbstractContextManager[None]:
    """Decode the images of data sets, unless DATASETS.CHECK_IMAGES is False.

    Args:
        cfg: the config of a run.
        names: the data sets; None for all that the run trains on and is evaluated on. Those that
            are not registered are passed over, since others know the key that names them.

    Returns:
        A context, on entry of which they are decoded. Inside, the data sets are not read again.

    Raises:
        DatasetError: Images are broken; the message names the files.
    """
    if not cfg.DATASETS.CHECK_IMAGES:
        return nullcontext()
    if names is None:
        names = [*training_sets(cfg), *cfg.DATASETS.TEST]
        if cfg.SOLVER.EARLY_STOPPING.ENABLED:
            names.append(cfg.SOLVER.EARLY_STOPPING.DATASET)
        names.extend(cfg.MODEL.DISTILLATION.AGGREGATION.get("DATA", ()))
    known = set(DatasetCatalog.list())
    return image_checks.checked_images([name for name in dict.fromkeys(names) if name in known])
