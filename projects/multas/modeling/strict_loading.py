"""Loading weights that have to be there as a whole."""

from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from torch import nn


class _StrictCheckpointer(DetectionCheckpointer):
    """Detectron2 only warns of a parameter that the file lacks, which then stays random."""

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        shapes = [key for key, *_ in incompatible.incorrect_shapes]
        missing = [*incompatible.missing_keys, *shapes]
        if missing:
            raise ValueError(
                f"{len(missing)} parameters are missing or of another shape, the first "
                f"{', '.join(missing[:5])}"
            )


def is_file(path: str) -> bool:
    """Whether a path names something to load; URLs are taken at their word."""
    return bool(path) and ("://" in path or PathManager.isfile(path))


def load_strictly(model: nn.Module, path: str) -> None:
    """Load a checkpoint that must have every parameter of a model.

    Args:
        model: receives the weights.
        path: a checkpoint, in any form that Detectron2 reads.

    Raises:
        ValueError: a parameter is missing or of another shape; the message names the first ones.
    """
    _StrictCheckpointer(model).load(path)
