"""Checkpoints that can be relied on."""

import os
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer

from multas.engine.finite import check_weights
from multas.util.files import written_whole


class Checkpointer(DetectionCheckpointer):
    """Writes so that a process killed at any moment leaves the last good checkpoint.

    Weights that are not finite are not written at all.
    """

    def save(self, name: str, **kwargs: Any) -> None:
        check_weights(self.model)
        super().save(name, **kwargs)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with (
            written_whole(os.path.join(self.save_dir, "last_checkpoint")) as path,
            open(path, "w") as file,
        ):
            file.write(last_filename_basename)
