"""What a student of a job learns from its teacher."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode

from multas.engine import Trainer
from multas.util.annotation import BOXES, LABELS, MASKS, Annotation
from multas.util.errors import UserError
from own_data.config_files import Config
from own_data.task_data import TaskData

logger = logging.getLogger("multas.own_data")

# With a quarter of the masks of nuclei, a pretrained student had mIoU 68.3 at the temperature 1 and
# 65.0 at 4, with annotated images alone 69.0 and 64.7, but 72.2 without a teacher, whose own was
# 71.5 (validation list, 200 iterations, one seed).
_PATHS: Mapping[Annotation, Config] = {
    BOXES: {"TYPE": "CrossKD", "STUDENT": "heads.det", "LAYERWISE": True},
    MASKS: {
        "TYPE": "SoftTarget",
        "STUDENT": "heads.seg",
        "NAME": "st_seg",
        "TEMPERATURE": 1.0,
    },
    LABELS: {"TYPE": "SoftTarget", "STUDENT": "heads.cls", "NAME": "st_cls"},
}
FEATURE_PATH = {"TYPE": "FeatureMSE", "STUDENT": "backbone"}


def path_of(annotation: Annotation, of_several: bool) -> Config:
    """The path between the heads of a task."""
    own: Config = {"TASKS": [annotation.task]} if of_several else {}
    return {**_PATHS[annotation], **own}


def fitting_paths(
    data: Sequence[TaskData],
    write: Callable[[Sequence[Mapping[str, Any]] | None], None],
    config: Callable[[], CfgNode],
) -> Sequence[Mapping[str, Any]] | None:
    """The paths from a teacher that is there already: what fits of heads, features, or none.

    Args:
        data: of each task.
        write: writes the configs with some paths.
        config: reads that of the distilled student.

    Raises:
        UserError: No path fits, and there are no images that the teacher could label.
    """
    why = ""
    for paths in (None, [FEATURE_PATH]):
        write(paths)
        try:
            Trainer.build_model(config())
            return paths
        except UserError as error:
            why = str(error)
            logger.warning(f"The teacher's {'features' if paths else 'heads'} do not fit: {why}")
    if not any(task.unlabeled for task in data):
        raise UserError(
            f"Nothing of this teacher can be distilled ({why}), and there are no images without "
            "labels that it could label. Give more images, or leave out --teacher."
        )
    return []
