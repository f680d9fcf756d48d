"""Distillers with teachers of random weights, and trainers that take a few steps with them."""

from contextlib import nullcontext

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from torch import nn

from multas.distillation import Distiller, Teacher, build_distillation
from multas.engine.path_weights import PathWeights
from multas.engine.steps.mixed_precision import MixedPrecisionTrainer
from multas.engine.steps.separate_momentum import SeparateMomentum, SeparateMomentumSGD


def set_keys(cfg: CfgNode, **keys) -> CfgNode:
    """Set keys below MODEL.DISTILLATION: ``AGGREGATION__NAME="mgda"``."""
    for key, value in keys.items():
        *parents, leaf = key.split("__")
        node = cfg.MODEL.DISTILLATION
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    return cfg


def make_distiller(cfg: CfgNode, *teachers: Teacher | CfgNode) -> Distiller:
    """The model of a config as student of these teachers (or of new ones of these configs).

    It is prepared, and remembers its config as ``cfg``.
    """
    torch.manual_seed(0)
    student = build_model(cfg)
    networks = [t if isinstance(t, Teacher) else Teacher(build_model(t)) for t in teachers]
    hard = cfg.MODEL.DISTILLATION.HARD_LABELS
    distiller = Distiller(
        student=student, build=lambda s: build_distillation(cfg, s, networks), hard_labels=hard
    )
    distiller.cfg = cfg
    return distiller.prepare()


def weighed(model, tasks=None):
    """A Distiller, wrapped or not, with the hook that weighs its paths as ``path_weights``."""
    distiller = getattr(model, "module", model)
    model.path_weights = None
    if distiller.distillation is not None:
        model.path_weights = PathWeights(distiller.cfg, model, tasks)
    return model


def without_statistics(model: nn.Module) -> nn.Module:
    """The model in training mode, but for its batch norms: images do not see each other."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def parameters_of(model: nn.Module) -> list[torch.Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


def trainer_of(
    model,
    batches,
    *hooks,
    kind=SimpleTrainer,
    scaler=None,
    bfloat16=False,
    lr=0.01,
    momentum=0.0,
    delta=None,
) -> SimpleTrainer:
    """A trainer with plain SGD, the hook of the model's paths, and further ones.

    With ``delta``, task and distillation have momentum of their own.
    """
    path_weights = getattr(model, "path_weights", None)
    groups = [] if path_weights is None else path_weights.aggregator.param_groups()
    groups = [{"params": parameters_of(model)}, *groups]
    if delta is None:
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum)
    else:
        optimizer = SeparateMomentumSGD(groups, lr=lr, momentum=momentum, delta=delta)
        hooks = (SeparateMomentum(model, path_weights), *hooks)
    if bfloat16 or scaler is not None:
        trainer = MixedPrecisionTrainer(model, batches, optimizer)
        if not bfloat16:
            trainer.autocast = nullcontext
        if scaler is not None:
            trainer.grad_scaler = scaler
    else:
        trainer = kind(model, batches, optimizer)
    without_statistics(model)
    trainer.register_hooks([path_weights, *hooks])
    return trainer


def run_steps(model, batches, *hooks, **options) -> SimpleTrainer:
    """The trainer of :func:`trainer_of` after one step for each batch."""
    trainer = trainer_of(model, batches, *hooks, **options)
    trainer.train(0, len(batches))
    return trainer


def copies(model: nn.Module) -> dict[str, torch.Tensor]:
    """What a model's parameters are now, by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}
