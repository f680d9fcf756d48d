"""The size of each training batch."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from detectron2.config import CfgNode

# Keeps the sizes independent of the order of the images, which is drawn from the same seed.
_STREAM = 0x5CA1E


def size_of_batch(
    batch: int, *, sizes: Sequence[int], final_size: int, final_from: int, seed: int
) -> int:
    """Side in pixels of the images of a batch.

    It depends on the arguments alone, so it is the same on every process, with any number of
    workers and after a resume.

    Args:
        batch: number of the batch = iteration.
        sizes: equally likely before ``final_from``.
        final_size: from there on.
        final_from: a batch number.
        seed: of the run.
    """
    if batch >= final_from:
        return final_size
    return sizes[int(np.random.default_rng([seed, _STREAM, batch]).integers(len(sizes)))]


def build_batch_sizes(cfg: CfgNode, seed: int) -> Callable[[int], int] | None:
    """What INPUT.MULTI_SCALE describes: batch number -> size, None = no multi-scale training.

    Raises:
        ValueError: sizes without the size of the final iterations.
    """
    options = cfg.INPUT.MULTI_SCALE
    if not options.SIZES:
        return None
    if not cfg.INPUT.SQUARE_SIZE:
        raise ValueError(
            f"INPUT.MULTI_SCALE.SIZES is {list(options.SIZES)}, but INPUT.SQUARE_SIZE is 0; set "
            "it to the size of the final iterations and of testing."
        )
    return partial(
        size_of_batch,
        sizes=tuple(options.SIZES),
        final_size=cfg.INPUT.SQUARE_SIZE,
        final_from=round((1 - options.FINAL_FRACTION) * cfg.SOLVER.MAX_ITER),
        seed=seed,
    )
