"""How long trainings may be for a job to take so many minutes, by their first iterations.

The rest of a job takes time for each image that its networks are given: how much is seen on a few.
"""

import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch import nn

from multas.data.loader import build_test_loader
from multas.engine import Trainer
from multas.util.allocator import freed_memory_kept
from multas.util.annotation import BOXES
from multas.util.errors import UserError
from own_data.job import Job
from own_data.task_data import TaskData

PROBED = 12  # iterations of a probe, of which the first three are not counted
SHARE = 0.75  # of the minutes that trainings get at the most
LEAST = 0.5  # the same if the rest takes very long
PER_IMAGE = 1.5  # a network's time for an image, and that of metrics, files and pictures of it
FILES = 60.0  # seconds of what is exported and drawn, however few images there are
START = 20.0  # seconds until a training begins, at the least: imports, and reading the data
ENOUGH = 100  # iterations: for so many the input may become smaller
FEWEST = 50  # iterations without which there is no job
SMALLEST = 128  # pixels of the shortest edge of the input
STEP = 32
SAMPLES = 6  # images of a probe, of which the first is not counted

logger = logging.getLogger(__name__)


class Pace(NamedTuple):
    """How fast a training is.

    Attributes:
        iteration: the seconds of an iteration.
        image: the seconds that its network needs to read an image and find what is in it.
    """

    iteration: float
    image: float


class TooLittleTime(UserError):
    """So many iterations do not fit into the minutes.

    Attributes:
        share: of them that fit at the most.
    """

    def __init__(self, message: str, share: float) -> None:
        super().__init__(message)
        self.share = share


def fitted_size(
    fit: Callable[[int], tuple[int, dict[str, Pace]]],
    write: Callable[[int], int],
    say: Callable[[str], None],
) -> tuple[int, dict[str, Pace], int]:
    """Make the input smaller until enough iterations fit.

    Args:
        fit: :func:`fitted_iterations` of the configs as they are, for so many iterations.
        write: writes the configs with at most so many pixels in the shortest edge of the input (0:
            no bound), and returns how many it has then.
        say: prints a line.

    Returns:
        What ``fit`` returned, and the bound.

    Raises:
        UserError: There is not enough time for any, or a size that was given by hand is too large.
    """
    most, size = 0, write(0)
    while True:
        fewest = ENOUGH if size > SMALLEST else FEWEST
        try:
            return *fit(fewest), most
        except TooLittleTime as error:
            if fewest == FEWEST:
                raise
            # The time of an iteration goes with the number of pixels.
            smaller = int(size * error.share**0.5) // STEP * STEP
            most = max(min(smaller, size - STEP), SMALLEST)
            before, size = size, write(most)
            if size >= before:  # it was given by hand
                return *fit(FEWEST), 0
            say(f"For {fewest} iterations the input becomes smaller: {size} pixels, not {before}.")


def fitted_iterations(
    minutes: float,
    configs: Mapping[str, Callable[[str], CfgNode]],
    images: Mapping[str, int],
    samples: Sequence[dict],
    fewest: int = FEWEST,
    *,
    start: float = START,
    spent: Callable[[], float] = lambda: 0.0,
) -> tuple[int, dict[str, Pace]]:
    """The iterations that all trainings can have, and the pace of each.

    Args:
        minutes: for the whole job.
        configs: for each stage a function that makes its config, in order. Its argument is the
            file of the weights that the stage before has left, an untrained teacher's.
        images: that the network of each stage gets apart from its training.
        samples: dataset dicts of some such images.
        fewest: iterations that there have to be.
        start: seconds until a training begins.
        spent: the seconds of the minutes that are over already.

    Raises:
        TooLittleTime: There is not enough time for these. It is told as soon as it is known.
    """
    starts = start * len(configs)
    most = (60 * minutes * SHARE - starts) / fewest
    paces: dict[str, Pace] = {}
    with tempfile.TemporaryDirectory() as folder:
        weights = ""
        for stage, make in configs.items():
            paces[stage] = _pace(make(weights), f"{folder}/{stage}", samples, most)
            rest = seconds_of_rest(paces, images) + spent()
            share = min(max(1 - rest / (60 * minutes), LEAST), SHARE)
            left = 60 * minutes * share - starts
            all_of_one = sum(pace.iteration for pace in paces.values())
            if fewest * all_of_one > left:
                needed = (fewest * all_of_one + starts) / share / 60
                raise TooLittleTime(
                    f"--minutes {minutes:g} is too little: an iteration takes "
                    + ", ".join(f"{pace.iteration:.2f} s ({s})" for s, pace in paces.items())
                    + f"; {fewest} of each need {needed:.0f} minutes or more. Give more time, a "
                    "smaller --size, or smaller images (INPUT.MIN_SIZE_TRAIN).",
                    max(left / fewest / all_of_one, 0.0),
                )
            weights = weights or str(Path(folder, stage, "student.pth"))
    return int(left / all_of_one), paces


def images_apart(data: Sequence[TaskData], job: Job) -> dict[str, int]:
    """How many images the network of each stage of a job gets apart from its training.

    Each is evaluated on the test images, and shown in the report with what it finds there. The
    teacher also labels, with thresholds that are chosen on val; the student that is handed out is
    chosen on val, too. Its exported files, each also in 8 bits, are taken to need three quarters of
    its time.
    """
    test = sum(len(task.records[task.test]) for task in data)
    val = sum(len(task.records[task.val]) for task in data if task.val)
    boxes = [task for task in data if task.annotation is BOXES]
    unlabeled = sum(len(task.records[name]) for task in boxes for name in task.unlabeled)
    files = 2 * len(job.formats) * test * 3 // 4
    apart = {
        "teacher": 2 * test + (1 + job.flip) * (unlabeled + (val if unlabeled else 0)),
        "supervised": 2 * test + val,
        "distilled": 2 * test + val + files,
    }
    return {stage: apart[stage] for stage in job.stages}


def seconds_of_rest(paces: Mapping[str, Pace], images: Mapping[str, int]) -> float:
    """How long evaluation, pseudo-labels, files and report take, all together.

    Args:
        paces: of stages.
        images: that the network of each stage gets apart from its training.
    """
    return FILES + PER_IMAGE * sum(images[stage] * pace.image for stage, pace in paces.items())


class _Stopwatch(HookBase):
    """Takes the seconds of each iteration, and ends a training of which one takes too many."""

    def __init__(self, most: float) -> None:
        self._most = most
        self.seconds: list[float] = []

    def before_step(self) -> None:
        self._start = time.perf_counter()

    def after_step(self) -> None:
        self.seconds.append(time.perf_counter() - self._start)
        # The first one sets much up.
        if len(self.seconds) > 1 and self.seconds[-1] > self._most:
            self.trainer.max_iter = self.trainer.iter + 1


def _pace(cfg: CfgNode, folder: str, samples: Sequence[dict], most: float) -> Pace:
    cfg.defrost()
    cfg.OUTPUT_DIR, cfg.DATASETS.TEST = folder, ()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS = PROBED, (), 0
    cfg.SOLVER.EARLY_STOPPING.ENABLED = False
    cfg.freeze()
    trainer, watch = Trainer(cfg), _Stopwatch(most)
    trainer.register_hooks([watch])
    trainer.train()
    return Pace(
        statistics.median(watch.seconds[3:] or watch.seconds[1:]),
        _seconds_per_image(trainer.model, build_test_loader(cfg, samples)),
    )


def _seconds_per_image(model: nn.Module, batches: Iterable[list[dict]]) -> float:
    model.eval()
    times, before = [], time.perf_counter()
    with torch.no_grad(), freed_memory_kept():
        for batch in batches:
            model(batch)
            now = time.perf_counter()
            times.append((now - before) / len(batch))
            before = now
    return statistics.median(times[1:] or times)
