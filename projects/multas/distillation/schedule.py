"""How the weight of distillation grows at the start of a training."""

import math

RAMP_SHAPES = ("linear", "sigmoid")


def ramp(iteration: int, iters: int, shape: str = "linear") -> float:
    """Share of its full weight that distillation has.

    With ``t = iteration / iters``: "linear" is ``t``; "sigmoid" is ``exp(-5 (1 - t)^2)`` (Laine and
    Aila, ICLR 2017, section 2.1), flat at both ends.

    Args:
        iteration: counted from 0; before it (negative) there is no distillation.
        iters: length of the ramp; 0 = none.
        shape: one of :data:`RAMP_SHAPES`.

    Returns:
        A number in [0, 1], 1 from ``iters`` on.

    Raises:
        ValueError: unknown shape or negative length.
    """
    if shape not in RAMP_SHAPES:
        raise ValueError(
            f"MODEL.DISTILLATION.RAMP.SHAPE is '{shape}'; choose from {', '.join(RAMP_SHAPES)}."
        )
    if iters < 0:
        raise ValueError(f"MODEL.DISTILLATION.RAMP.ITERS is {iters}; give 0 (none) or more.")
    if iteration < 0:
        return 0.0
    if iteration >= iters:
        return 1.0
    share = iteration / iters
    return share if shape == "linear" else math.exp(-5.0 * (1.0 - share) ** 2)
