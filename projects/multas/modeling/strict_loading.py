"""Loading checkpoints that must be complete."""

from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from torch import nn

from multas.util.errors import UserError


class _StrictCheckpointer(DetectionCheckpointer):
    """Raises for missing parameters; Detectron2 only warns and leaves them random."""

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        missing = [*incompatible.missing_keys, *(key for key, *_ in incompatible.incorrect_shapes)]
        if missing:
            raise UserError(
                f"{len(missing)} parameters are missing or of another shape, the first are "
                f"{', '.join(missing[:5])}"
            )


def is_file(path: str) -> bool:
    """Whether ``path`` is an existing file or a URL (which is not checked)."""
    return bool(path) and ("://" in path or PathManager.isfile(path))


def load_strictly(model: nn.Module, path: str) -> None:
    """Load a checkpoint, in any format that Detectron2 reads, that must have every parameter.

    Raises:
        UserError: parameters are missing or have another shape; the message names the first ones.
    """
    _StrictCheckpointer(model).load(path)
