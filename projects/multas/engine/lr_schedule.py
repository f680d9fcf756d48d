"""Learning rate schedules that Detectron2 does not have."""

import math
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from fvcore.common.param_scheduler import ParamScheduler


@dataclass
class WarmupCosine(ParamScheduler):
    """Linear warm-up, then a cosine that falls over all that remains.

    With x = i / max, w = warm-up / max and the floor f, it is ``s + (1 - s) x / w`` for x < w, and
    then ``f + (1 - f) / 2 (1 + cos(π (x - w) / (1 - w)))``. (Detectron2's cosine falls from
    iteration 0 on, and takes over only after the warm-up.)
    """

    floor: float  # f, at the end
    warmup_factor: float  # s, at the start
    warmup_length: float  # w, in [0, 1]

    def __call__(self, where: float) -> float:
        if where < self.warmup_length:
            return self.warmup_factor + (1 - self.warmup_factor) * where / self.warmup_length
        # A run that is continued with a smaller MAX_ITER has where > 1.
        rest = max(1 - self.warmup_length, 1e-12)
        progress = min((where - self.warmup_length) / rest, 1.0)
        return self.floor + (1 - self.floor) / 2 * (1 + math.cos(math.pi * progress))


@dataclass
class Polynomial(ParamScheduler):
    """``f + (1 - f) (1 - x)^p`` with the floor f and the power p."""

    power: float
    floor: float

    def __call__(self, where: float) -> float:
        return self.floor + (1 - self.floor) * (1 - min(where, 1.0)) ** self.power


def build_lr_scheduler(
    cfg: CfgNode, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    """The schedule that SOLVER.LR_SCHEDULER_NAME names, one of these or of Detectron2's."""
    solver = cfg.SOLVER
    floor, factor, method = solver.FINAL_LR_FACTOR, solver.WARMUP_FACTOR, solver.WARMUP_METHOD
    warmup = min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0)
    schedule: ParamScheduler
    match solver.LR_SCHEDULER_NAME:
        case "WarmupCosineToFloorLR":
            schedule = WarmupCosine(floor, factor, warmup)
        case "WarmupPolyLR":
            polynomial = Polynomial(solver.POLY_LR_POWER, floor)
            schedule = WarmupParamScheduler(polynomial, factor, warmup, method)
        case _:
            return build_detectron2_lr_scheduler(cfg, optimizer)
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=solver.MAX_ITER)
