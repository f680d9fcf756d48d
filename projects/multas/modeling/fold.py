"""A deploy step: convolution + batch norm folded into one convolution."""

import copy
from collections.abc import Collection

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy of a model, in eval mode, whose convolutions contain their batch norms.

    Folded is every Detectron2 ``Conv2d`` with a BatchNorm, SyncBatchNorm or FrozenBatchNorm as
    its ``norm``: all of multas' backbones, necks and heads and Detectron2's ResNet and FPN, not
    norms that stand alone (RetinaNet's own head). Other norms (GN) are left as they are.

    With running mean m, variance s^2, scale g and shift b the norm of ``w * x + c`` is
    ``(g / s) w * x + (g / s) (c - m) + b``.

    Args:
        model: any module; not changed.

    Returns:
        A model with the same outputs in eval mode. It is for inference: it has no statistics to
        train with, and its checkpoints do not load into the model it came from.
    """
    folded = copy.deepcopy(model).eval()
    fold_batch_norm_(folded)
    return folded


@torch.no_grad()
def fold_batch_norm_(model: nn.Module, keep: Collection[nn.Module] = ()) -> None:
    """The same in place, for a model in eval mode.

    Args:
        model: loses its batch norms, but for those in ``keep``.
        keep: norms whose own results are wanted.
    """
    for module in model.modules():
        if (
            isinstance(module, Conv2d)
            and isinstance(module.norm, _BatchNorm | FrozenBatchNorm2d)
            and type(module).forward is Conv2d.forward
            and module.norm not in keep
        ):
            _fold(module)


def _fold(conv: Conv2d) -> None:
    norm = conv.norm
    if norm.running_var is None:
        raise ValueError(
            "A BatchNorm without running statistics normalises with those of each batch and "
            "cannot be folded; build the model with track_running_stats=True."
        )
    # In float64: the quotient of a small scale and a small deviation loses digits otherwise.
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    weight = conv.weight.double() * scale.view(-1, 1, 1, 1)
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
    conv.norm = None
