"""How much distillation counts in each iteration."""

import math
from dataclasses import dataclass

from detectron2.config import CfgNode

from multas.util.errors import UserError
from multas.util.names import check_choice

RAMP_SHAPES = ("linear", "sigmoid")
DECAY_SHAPES = ("linear", "cosine")


@dataclass(frozen=True)
class Alpha:
    """The weight of all distillation against the task loss: how it grows, and how it ends.

    With ``t = (iteration - start) / iters``, the share of the full weight is 0 for t < 0 and 1
    from t = 1 on. In between, "linear" gives t and "sigmoid" gives ``exp(-5 (1 - t)^2)`` (Laine and
    Aila, ICLR 2017, section 2.1). From ``decay_start`` to ``decay_end``, u going from 0 to 1, it is
    multiplied by 1 - u ("linear") or ``(1 + cos(pi u)) / 2`` ("cosine"), and from then on it is 0.

    Args:
        value: the full weight (Chennupati et al., BMVC 2021, eqs. 3 and 5).
        start, iters, shape: the keys of MODEL.DISTILLATION.RAMP.
        decay_start, decay_end: iterations; infinite for a weight that stays.
        decay_shape: MODEL.DISTILLATION.DECAY.SHAPE.

    Raises:
        UserError: A shape is unknown, a number of iterations is negative, or the decay is longer
            than the training.
    """

    value: float = 1.0
    start: int = 0
    iters: int = 0
    shape: str = "linear"
    decay_start: float = math.inf
    decay_end: float = math.inf
    decay_shape: str = "cosine"

    def __post_init__(self) -> None:
        key = "MODEL.DISTILLATION.RAMP"
        check_choice(f"{key}.SHAPE", self.shape, RAMP_SHAPES)
        check_choice("MODEL.DISTILLATION.DECAY.SHAPE", self.decay_shape, DECAY_SHAPES)
        for name, count in (("START", self.start), ("ITERS", self.iters)):
            if count < 0:
                raise UserError(f"{key}.{name} is {count}; give a number of iterations from 0 on.")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Alpha":
        options = cfg.MODEL.DISTILLATION
        ramp, decay = options.RAMP, options.DECAY
        falling, none = decay.FRACTION, decay.FINAL_FRACTION
        if falling + none > 1:
            raise UserError(
                f"MODEL.DISTILLATION.DECAY: FRACTION {falling:g} and FINAL_FRACTION {none:g} add "
                "up to more than 1, the whole training."
            )
        # Without these keys it stays, also in iterations behind the last one.
        decay_end = round((1 - none) * cfg.SOLVER.MAX_ITER) if falling or none else math.inf
        return cls(
            value=options.ALPHA,
            start=ramp.START,
            iters=ramp.ITERS,
            shape=ramp.SHAPE,
            decay_start=decay_end - round(falling * cfg.SOLVER.MAX_ITER),
            decay_end=decay_end,
            decay_shape=decay.SHAPE,
        )

    def at(self, iteration: int) -> float:
        """The weight in an iteration, counted from 0."""
        return self.value * self._growth(iteration) * self._decay(iteration)

    def _growth(self, iteration: int) -> float:
        since = iteration - self.start
        if since < 0:
            return 0.0
        if since >= self.iters:
            return 1.0
        share = since / self.iters
        return share if self.shape == "linear" else math.exp(-5.0 * (1 - share) ** 2)

    def _decay(self, iteration: int) -> float:
        if iteration >= self.decay_end:
            return 0.0
        if iteration <= self.decay_start:
            return 1.0
        share = (iteration - self.decay_start) / (self.decay_end - self.decay_start)
        return (
            1.0 - share if self.decay_shape == "linear" else 0.5 * (1 + math.cos(math.pi * share))
        )
