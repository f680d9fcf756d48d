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

    Raises:
        ValueError: unknown shape or negative length.
    """

    def __init__(self, distillation: Distillation, *, iters: int, shape: str) -> None:
        self._distillation = distillation
        self._iters = iters
        self._shape = shape
        ramp(0, iters, shape)  # a mistake is to show before training starts

    def before_step(self) -> None:
        scale = ramp(self.trainer.iter, self._iters, self._shape)
        self._distillation.alpha_scale = scale
        alpha = self._distillation.alpha * scale
        self.trainer.storage.put_scalar("path_alpha", alpha, smoothing_hint=False)
