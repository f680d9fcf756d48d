"""Fold each BatchNorm into the convolution before it, for deployment."""

import copy
from collections.abc import Collection

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy of a model in eval mode whose BatchNorms are folded by :func:`fold_batch_norm_`.

    It has the same outputs. Its checkpoints do not load into ``model``.
    """
    folded = copy.deepcopy(model).eval()
    fold_batch_norm_(folded)
    return folded


@torch.no_grad()
def fold_batch_norm_(model: nn.Module, keep: Collection[nn.Module] = ()) -> None:
    """Fold the BatchNorms of a model in eval mode into its convolutions, in place.

    Folds the BatchNorm, SyncBatchNorm or FrozenBatchNorm that is the ``norm`` of a Detectron2
    ``Conv2d``, as in all backbones, necks and heads of multas and in Detectron2's ResNet and FPN.
    Separate norm layers (RetinaNet's own head) and other norms (GN) stay.

    With running mean m, variance s^2, scale g and shift b the norm of ``w * x + c`` is
    ``(g / s) w * x + (g / s) (c - m) + b``.

    Args:
        model: the model to change.
        keep: norms that are not folded, e.g. because they are tapped.

    Raises:
        ValueError: if a norm has no running statistics.
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
            "A BatchNorm without running statistics cannot be folded; build the model with "
            "track_running_stats=True."
        )
    # In float64, as the quotient of a small scale and a small deviation loses digits.
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
