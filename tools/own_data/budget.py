"""How long trainings may be for a job to take so many minutes, by their first iterations."""

import logging
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from detectron2.config import CfgNode

from multas.engine import Trainer
from multas.util.errors import UserError

PROBED = 12  # iterations of a probe; Detectron2 takes no time of the first three
SHARE = 0.75  # of the minutes that trainings get; evaluation, pseudo-labels and files have the rest
START = 20.0  # seconds until a training begins, by far the most of it imports
FEWEST = 50  # iterations

logger = logging.getLogger(__name__)


def fitted_iterations(
    minutes: float, configs: Mapping[str, Callable[[str], CfgNode]]
) -> tuple[int, dict[str, float]]:
    """The iterations that all trainings can have, and the seconds of one iteration of each.

    Args:
        minutes: for the whole job.
        configs: for each stage a function that makes its config, in order. Its argument is the
            file of the weights that the stage before has left, an untrained teacher's.

    Raises:
        UserError: There is not enough time for any.
    """
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        weights = ""
        for stage, make in configs.items():
            cfg = make(weights)
            seconds[stage] = _seconds_per_iteration(cfg, f"{folder}/{stage}")
            weights = weights or str(Path(folder, stage, "student.pth"))
    left = 60 * minutes * SHARE - START * len(configs)
    iterations = int(left / sum(seconds.values()))
    if iterations < FEWEST:
        needed = (FEWEST * sum(seconds.values()) + START * len(configs)) / SHARE / 60
        raise UserError(
            f"--minutes {minutes:g} is too little: an iteration takes "
            + ", ".join(f"{s:.2f} s ({stage})" for stage, s in seconds.items())
            + f"; {FEWEST} of each need {needed:.0f} minutes. Give more time, a smaller --size, or "
            "smaller images (INPUT.MIN_SIZE_TRAIN)."
        )
    return iterations, seconds


def _seconds_per_iteration(cfg: CfgNode, folder: str) -> float:
    cfg.defrost()
    cfg.OUTPUT_DIR, cfg.DATASETS.TEST = folder, ()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS = PROBED, (), 0
    cfg.SOLVER.EARLY_STOPPING.ENABLED = False
    cfg.freeze()
    trainer = Trainer(cfg)
    trainer.train()
    return statistics.median(value for value, _ in trainer.storage.history("time").values())
