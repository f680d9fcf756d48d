"""Schedules that are given in epochs become iterations of the loaded data."""

import logging
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

from detectron2.config import CfgNode

from multas.config.opts import value_of
from multas.config.solver import EPOCH_KEYS
from multas.data.training import mini_batches
from multas.util.names import check_choice

logger = logging.getLogger(__name__)

ROUNDINGS = ("floor", "ceil", "none")


def epoch_length(images: int, batch_size: int, rounding: str) -> Fraction:
    """The iterations of an epoch by SOLVER.EPOCH_ROUNDING, at least 1 unless it is "none"."""
    exact = Fraction(images, batch_size)
    if rounding == "none":
        return exact
    return Fraction(max(1, math.floor(exact) if rounding == "floor" else math.ceil(exact)))


def to_iterations(epochs: float, epoch: Fraction) -> int:
    """A number of epochs in iterations, rounded to the nearest (halves up), at least 1."""
    return max(1, math.floor(Fraction(epochs) * epoch + Fraction(1, 2)))


def resolve_epochs(
    cfg: CfgNode, sizes: Callable[[CfgNode], Sequence[tuple[int, int]]] = mini_batches
) -> CfgNode:
    """The config with the iterations that its keys in epochs mean.

    Args:
        cfg: the config.
        sizes: gives, for each mini-batch of an iteration, the images of its data and how many it
            has itself. By default the training data are loaded and counted.

    Returns:
        The config itself where no key is in epochs, else a copy, which is frozen if ``cfg`` is.

    Raises:
        UserError: SOLVER.EPOCH_ROUNDING or a data set is wrong.
    """
    if not any(value_of(cfg, key) for key in EPOCH_KEYS.values()):
        return cfg
    epochs, rounding = cfg.SOLVER.EPOCHS, cfg.SOLVER.EPOCH_ROUNDING
    check_choice("SOLVER.EPOCH_ROUNDING", rounding, ROUNDINGS)
    epoch = max(epoch_length(*own, rounding) for own in sizes(cfg))
    if cfg.DATASETS.TASK_MODE == "alternate":
        epoch *= max(1, len(cfg.DATASETS.TASK_BATCHES))
    resolved = cfg.clone()
    resolved.defrost()
    for key, in_epochs in EPOCH_KEYS.items():
        if length := value_of(cfg, in_epochs):
            several = isinstance(length, Sequence)
            steps = [to_iterations(step, epoch) for step in (length if several else [length])]
            resolved.merge_from_list([key, tuple(steps) if several else steps[0]])
    if epochs:
        max_iter = resolved.SOLVER.MAX_ITER
        logger.info(
            f"{epochs:g} epochs of {float(epoch):g} iterations: SOLVER.MAX_ITER is {max_iter}."
        )
    if cfg.is_frozen():
        resolved.freeze()
    return resolved
