"""Schedules that are given in epochs become iterations of the loaded data."""

import logging
import math
from fractions import Fraction

from detectron2.config import CfgNode

from multas.config.opts import value_of
from multas.config.solver import EPOCH_KEYS
from multas.data.training import mini_batches
from multas.util.names import check_choice

logger = logging.getLogger(__name__)

ROUNDINGS = ("floor", "ceil", "none")


def epoch_length(images: int, batch_size: int, rounding: str) -> Fraction:
    """The number of iterations of an epoch, at least one unless it keeps its fraction.

    Args:
        images: in the data, copies not counted.
        batch_size: images of an iteration, copies not counted.
        rounding: "floor", "ceil" or "none"; see ``SOLVER.EPOCH_ROUNDING``.
    """
    exact = Fraction(images, batch_size)
    if rounding == "none":
        return exact
    return Fraction(max(1, math.floor(exact) if rounding == "floor" else math.ceil(exact)))


def to_iterations(epochs: float, epoch: Fraction) -> int:
    """A number of epochs in iterations, rounded to the nearest (halves up), at least 1."""
    return max(1, math.floor(Fraction(epochs) * epoch + Fraction(1, 2)))


def resolve_epochs(cfg: CfgNode) -> CfgNode:
    """The config with the iterations that its keys in epochs mean; it loads the training data.

    Args:
        cfg: a config; it is not changed.

    Returns:
        The config itself where no key is in epochs, else a copy, frozen if ``cfg`` is.

    Raises:
        ValueError: ``SOLVER.EPOCH_ROUNDING`` or a data set is wrong.
    """
    solver = cfg.SOLVER
    if not any(value_of(cfg, key) for key in EPOCH_KEYS.values()):
        return cfg
    check_choice("SOLVER.EPOCH_ROUNDING", solver.EPOCH_ROUNDING, ROUNDINGS)
    epoch = max(epoch_length(*sizes, solver.EPOCH_ROUNDING) for sizes in mini_batches(cfg))
    if cfg.DATASETS.TASK_MODE == "alternate":
        epoch *= max(1, len(cfg.DATASETS.TASK_BATCHES))
    resolved = cfg.clone()
    resolved.defrost()
    _set_iterations(resolved, epoch)
    if solver.EPOCHS:
        logger.info(
            f"{solver.EPOCHS:g} epochs of {float(epoch):g} iterations: SOLVER.MAX_ITER is "
            f"{resolved.SOLVER.MAX_ITER}."
        )
    if cfg.is_frozen():
        resolved.freeze()
    return resolved


def _set_iterations(cfg: CfgNode, epoch: Fraction) -> None:
    solver, stop, test = cfg.SOLVER, cfg.SOLVER.EARLY_STOPPING, cfg.TEST
    if solver.EPOCHS:
        solver.MAX_ITER = to_iterations(solver.EPOCHS, epoch)
    if solver.STEPS_EPOCHS:
        solver.STEPS = tuple(to_iterations(step, epoch) for step in solver.STEPS_EPOCHS)
    if solver.CHECKPOINT_PERIOD_EPOCHS:
        solver.CHECKPOINT_PERIOD = to_iterations(solver.CHECKPOINT_PERIOD_EPOCHS, epoch)
    if stop.PERIOD_EPOCHS:
        stop.PERIOD = to_iterations(stop.PERIOD_EPOCHS, epoch)
    if test.EVAL_PERIOD_EPOCHS:
        test.EVAL_PERIOD = to_iterations(test.EVAL_PERIOD_EPOCHS, epoch)
