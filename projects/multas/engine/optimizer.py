"""The optimiser of a config: SGD, AdamW, or SGD with momenta for task and distillation."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer as build_detectron2_optimizer
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

from multas.distillation import unwrap
from multas.engine.steps.separate_momentum import KEY, SeparateMomentumSGD
from multas.util.errors import UserError


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Detectron2's SGD, or what SOLVER.OPTIMIZER and SOLVER.MOMENTUM_DELTA name.

    All of them have Detectron2's groups of parameters and clip gradients as it does.

    Raises:
        UserError: A key does not fit others of the config.
    """
    solver = cfg.SOLVER
    if solver.MOMENTUM_DELTA != 0 and unwrap(model)[1] is not None:
        _check_momenta(cfg)
        options = {"momentum": solver.MOMENTUM, "delta": solver.MOMENTUM_DELTA}
        return _built(cfg, model, SeparateMomentumSGD, **options)
    if solver.OPTIMIZER == "adamw":
        if solver.NESTEROV:
            raise UserError("SOLVER.NESTEROV is True, but SOLVER.OPTIMIZER adamw has none.")
        return _built(cfg, model, torch.optim.AdamW)
    return build_detectron2_optimizer(cfg, model)


def _built(
    cfg: CfgNode, model: nn.Module, kind: type[torch.optim.Optimizer], **options: Any
) -> torch.optim.Optimizer:
    solver = cfg.SOLVER
    params = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    clipped = maybe_add_gradient_clipping(cfg, kind)
    return clipped(params, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY, **options)


def _check_momenta(cfg: CfgNode) -> None:
    solver, delta = cfg.SOLVER, cfg.SOLVER.MOMENTUM_DELTA
    if not delta <= solver.MOMENTUM < 1 - delta:
        raise UserError(
            f"{KEY} is {delta}, and SOLVER.MOMENTUM {solver.MOMENTUM}: their difference is the "
            "momentum of the task and must be 0 or more, their sum is that of the distillation and "
            "must be less than 1."
        )
    for key, given, wanted in (
        ("SOLVER.OPTIMIZER", solver.OPTIMIZER, "sgd"),
        ("SOLVER.NESTEROV", solver.NESTEROV, False),
        ("MODEL.MULTITASK.GRADIENTS", cfg.MODEL.MULTITASK.GRADIENTS, "sum"),
    ):
        if given != wanted:
            raise UserError(f"{KEY} is set, which needs {key} {wanted}, but it is {given}.")
