"""Learning rate schedules beside Detectron2's own."""

import math

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from fvcore.common.param_scheduler import ParamScheduler


class WarmupCosine(ParamScheduler):
    """Linear warm-up, then a cosine that falls over all that remains.

    With x = i / max, w = warm-up / max and the floor f:
    ``s + (1 - s) x / w`` for x < w, else ``f + (1 - f) / 2 (1 + cos(π (x - w) / (1 - w)))``.
    (Detectron2's cosine falls from iteration 0 and is only entered late.)

    Args:
        floor: f, at the end.
        warmup_factor: s, at the start.
        warmup_length: w, in [0, 1].
    """

    def __init__(self, floor: float, warmup_factor: float, warmup_length: float) -> None:
        self.floor = floor
        self.warmup_factor = warmup_factor
        self.warmup_length = warmup_length

    def __call__(self, where: float) -> float:
        if where < self.warmup_length:
            return self.warmup_factor + (1 - self.warmup_factor) * where / self.warmup_length
        # A run that is continued with a smaller MAX_ITER has where > 1.
        rest = max(1 - self.warmup_length, 1e-12)
        progress = min((where - self.warmup_length) / rest, 1.0)
        return self.floor + (1 - self.floor) / 2 * (1 + math.cos(math.pi * progress))


class Polynomial(ParamScheduler):
    """``f + (1 - f) (1 - x)^p``.

    Args:
        power: p.
        floor: f, at the end.
    """

    def __init__(self, power: float, floor: float) -> None:
        self.power = power
        self.floor = floor

    def __call__(self, where: float) -> float:
        return self.floor + (1 - self.floor) * (1 - min(where, 1.0)) ** self.power


def build_lr_scheduler(
    cfg: CfgNode, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    """The schedule that SOLVER.LR_SCHEDULER_NAME names, ours or Detectron2's."""
    solver = cfg.SOLVER
    floor = solver.FINAL_LR_FACTOR
    warmup = min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0)
    schedule: ParamScheduler
    match solver.LR_SCHEDULER_NAME:
        case "WarmupCosineToFloorLR":
            schedule = WarmupCosine(floor, solver.WARMUP_FACTOR, warmup)
        case "WarmupPolyLR":
            schedule = WarmupParamScheduler(
                Polynomial(solver.POLY_LR_POWER, floor),
                solver.WARMUP_FACTOR,
                warmup,
                solver.WARMUP_METHOD,
            )
        case _:
            return build_detectron2_lr_scheduler(cfg, optimizer)
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=solver.MAX_ITER)
