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
        batch: number of the batch, which is the iteration.
        sizes: sizes that are equally likely before ``final_from``.
        final_size: size from there on.
        final_from: number of the first batch of the final size.
        seed: seed of the run.
    """
    if batch >= final_from:
        return final_size
    return sizes[int(np.random.default_rng([seed, _STREAM, batch]).integers(len(sizes)))]


def build_batch_sizes(cfg: CfgNode, seed: int) -> Callable[[int], int] | None:
    """The function of INPUT.MULTI_SCALE from the number of a batch to its size, if it has SIZES.

    Raises:
        ValueError: if the size of the final iterations is missing.
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
