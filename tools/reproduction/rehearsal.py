"""A rehearsal: every row at its paper's scale through real layouts, for three iterations.

The networks, their classes, teachers, paths and losses are those of the row. What is changed is
what costs time or memory: fewer iterations, images per batch and pixels. Start weights that are
not there are replaced by files of the same names with random values.
"""

import math
import os
import shlex
import signal
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO

from detectron2.config import CfgNode

from multas.util.errors import UserError
from reproduction.miniatures import accept, is_miniature, make_miniatures
from reproduction.miniatures.weights import make_weights
from reproduction.rehearsal_record import INTERRUPT_AFTER, ITERATIONS, note, read_record
from reproduction.run import Run
from reproduction.runners import REPOSITORY, Local, resources

WEIGHTS = "weights"  # the folder of start weights in that of a rehearsal
_BATCH = 2
_BATCH_OF_CLASSIFICATION = 8
# Sides of images are divided by this, those of classification only where they are large.
_SMALLER = 4
_LARGE = 128  # pixels
# Squares become about so large: the networks of VOC and VEDAI have no pooling.
_SQUARE = 160
INTERRUPTED = 128 + signal.SIGTERM  # the status of a training that has noted it


def prepare(data: str, output: Path) -> Path:
    """The folder with the data, which this process and those it starts take for their own.

    Args:
        data: a folder of real data; "" = the miniatures, which are made.
        output: the folder of the rehearsal.

    Raises:
        UserError: there is no such folder.
    """
    root = (Path(data) if data else output / "data").absolute()
    if not data:
        make_miniatures(root)
    elif not root.is_dir():
        raise UserError(
            f"--data {data}: no such folder. Name the one with the data sets, which "
            "datasets/README.md describes, or leave --data out and rehearse on drawn images."
        )
    os.environ["DETECTRON2_DATASETS"] = str(root)
    if is_miniature(root):
        accept(root)
    make_weights(output / WEIGHTS)
    return root


def changes_for(cfg: CfgNode, weights: Path) -> list[str]:
    """KEY VALUE pairs that make a run of a row short.

    Args:
        cfg: the config of the row.
        weights: a folder with files for start weights that are not there.
    """
    classifies = cfg.INPUT.AUGMENTATION in ("padded_crop", "resized_crop")
    batch = _BATCH_OF_CLASSIFICATION if classifies else _BATCH
    changes: dict[str, object] = {
        "SOLVER.MAX_ITER": ITERATIONS,
        "SOLVER.STEPS": (ITERATIONS - 1,),
        # Under a teacher that has had three iterations, a whole rate may make weights infinite.
        "SOLVER.BASE_LR": cfg.SOLVER.BASE_LR / 100,
        "SOLVER.CHECKPOINT_PERIOD": INTERRUPT_AFTER,
        "SOLVER.IMS_PER_BATCH": min(batch, cfg.SOLVER.IMS_PER_BATCH),
        "DATALOADER.NUM_WORKERS": min(1, cfg.DATALOADER.NUM_WORKERS),
    }
    if cfg.SOLVER.EARLY_STOPPING.ENABLED:
        changes["SOLVER.EARLY_STOPPING.PERIOD"] = INTERRUPT_AFTER
    return [word for key, value in (changes | _sizes(cfg, classifies)).items()
            for word in (key, str(value))] + _start(cfg, weights)  # fmt: skip


def _sizes(cfg: CfgNode, classifies: bool) -> dict[str, object]:
    given = cfg.INPUT
    if given.SQUARE_SIZE:
        smaller = math.ceil(given.SQUARE_SIZE / _SQUARE)
        scales = [size // smaller for size in given.MULTI_SCALE.SIZES]
        square = given.SQUARE_SIZE // smaller
        return {"INPUT.SQUARE_SIZE": square, "INPUT.MULTI_SCALE.SIZES": scales}
    if classifies and max(given.MIN_SIZE_TRAIN) < _LARGE:
        return {}
    sizes = tuple(size // _SMALLER for size in given.MIN_SIZE_TRAIN)
    found: dict[str, object] = {"INPUT.MIN_SIZE_TRAIN": sizes}
    for key in ("MAX_SIZE_TRAIN", "MIN_SIZE_TEST", "MAX_SIZE_TEST", "CENTER_CROP_TEST"):
        if given[key]:
            found[f"INPUT.{key}"] = given[key] // _SMALLER
    return found


def _start(cfg: CfgNode, weights: Path) -> list[str]:
    """Stand-ins for converted ImageNet weights (output/weights) that are not there."""
    path = Path(cfg.MODEL.WEIGHTS)
    stand_in = weights / path.name
    if not cfg.MODEL.WEIGHTS or path.is_file() or not stand_in.is_file():
        return []
    return ["MODEL.WEIGHTS", str(stand_in)]


class Rehearsal(Local):
    """Trains runs, interrupts and resumes them.

    Of a run, student.pth and what it has written about itself stay. Of so many rows this is still
    much, so that those on which no other one builds keep an empty file, which says that there was
    one.

    Args:
        jobs: how many there are at a time.
        needed: the hashes of the runs whose weights others need; None = all, as far as is known.
    """

    def __init__(self, jobs: int, needed: Collection[str] | None = None) -> None:
        super().__init__(jobs)
        self._needed = needed

    def _run(self, run: Run, environment: Mapping[str, str], console: IO, lock: IO) -> int:
        words = ["-m", "reproduction.rehearsed", *run.arguments[1:]]
        path = [str(REPOSITORY), str(REPOSITORY / "tools"), environment.get("PYTHONPATH", "")]
        own = {**environment, "PYTHONPATH": os.pathsep.join(filter(None, path))}
        console.write(resources(self.threads, self.share))
        note(run.folder, error="")
        status = INTERRUPTED
        for _ in range(2):
            if status == INTERRUPTED and not self._stopped.is_set():
                console.write(f"$ {shlex.join(['python', *words])}\n")
                status = self._wait_for(words, own, console, lock)
        if status and not read_record(run.folder).get("error"):
            note(run.folder, error=f"the training ended with status {status}")
        if not status:
            self._remove_weights(run)
        return status

    def _remove_weights(self, run: Run) -> None:
        for file in [*run.folder.glob("model_*.pth"), *run.folder.glob("student_raw.pth")]:
            file.unlink()
        if self._needed is not None and run.digest not in self._needed:
            os.truncate(run.weights, 0)
