"""How much distillation counts in each iteration."""

import math
from dataclasses import dataclass

from detectron2.config import CfgNode

from multas.util.errors import UserError
from multas.util.names import check_choice

RAMP_SHAPES = ("linear", "sigmoid")


@dataclass(frozen=True)
class Alpha:
    """The weight of all distillation against the task loss, and how it grows at the start.

    With ``t = (iteration - start) / iters``, the share of the final weight is 0 for t < 0 and 1
    from t = 1 on. In between, "linear" gives t and "sigmoid" gives ``exp(-5 (1 - t)^2)`` (Laine and
    Aila, ICLR 2017, section 2.1).

    Args:
        value: the final weight (Chennupati et al., BMVC 2021, eqs. 3 and 5).
        start, iters, shape: the keys of MODEL.DISTILLATION.RAMP.

    Raises:
        UserError: The shape is unknown, or a number of iterations is negative.
    """

    value: float = 1.0
    start: int = 0
    iters: int = 0
    shape: str = "linear"

    def __post_init__(self) -> None:
        key = "MODEL.DISTILLATION.RAMP"
        check_choice(f"{key}.SHAPE", self.shape, RAMP_SHAPES)
        for name, count in (("START", self.start), ("ITERS", self.iters)):
            if count < 0:
                raise UserError(f"{key}.{name} is {count}; give a number of iterations from 0 on.")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Alpha":
        options = cfg.MODEL.DISTILLATION
        return cls(options.ALPHA, options.RAMP.START, options.RAMP.ITERS, options.RAMP.SHAPE)

    def at(self, iteration: int) -> float:
        """The weight in an iteration, counted from 0."""
        since = iteration - self.start
        if since < 0:
            return 0.0
        if since >= self.iters:
            return self.value
        share = since / self.iters
        return self.value * (share if self.shape == "linear" else math.exp(-5.0 * (1 - share) ** 2))
