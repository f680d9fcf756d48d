"""Checkpoints that are always whole and finite."""

import os
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer

from multas.engine.finite import check_weights
from multas.util.files import written_whole


class Checkpointer(DetectionCheckpointer):
    """Leaves the last good checkpoint if the process is killed or the weights are not finite."""

    def save(self, name: str, **kwargs: Any) -> None:
        check_weights(self.model)
        super().save(name, **kwargs)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with written_whole(os.path.join(self.save_dir, "last_checkpoint")) as path:
            Path(path).write_text(last_filename_basename)
