"""The hook that lets the weight of distillation grow at the start of a training."""

from detectron2.engine import HookBase

from multas.distillation import Distillation
from multas.distillation.schedule import ramp


class PathRamp(HookBase):
    """Scales alpha by :func:`ramp` before every step and logs it.

    It has no state: a resumed run goes on where it was.

    Args:
        distillation: whose alpha is scaled.
        iters: MODEL.DISTILLATION.RAMP.ITERS.
        shape: MODEL.DISTILLATION.RAMP.SHAPE.
        start: MODEL.DISTILLATION.RAMP.START.

    Raises:
        ValueError: unknown shape, negative length or start.
    """

    def __init__(
        self, distillation: Distillation, *, iters: int, shape: str, start: int = 0
    ) -> None:
        if start < 0:
            raise ValueError(f"MODEL.DISTILLATION.RAMP.START is {start}; give 0 (at once) or more.")
        self._distillation = distillation
        self._start = start
        self._iters = iters
        self._shape = shape
        ramp(0, iters, shape)  # a mistake is to show before training starts

    def before_step(self) -> None:
        scale = ramp(self.trainer.iter - self._start, self._iters, self._shape)
        self._distillation.alpha_scale = scale
        alpha = self._distillation.alpha * scale
        self.trainer.storage.put_scalar("path_alpha", alpha, smoothing_hint=False)
