"""Fold each BatchNorm into the convolution before it, for deployment."""

import copy
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from multas.modeling.timm_backbone import TimmBackbone


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
    ``Conv2d``, as in all backbones, necks and heads of multas and in Detectron2's ResNet and FPN,
    and those of backbones from timm. Separate norm layers (RetinaNet's own head) and other norms
    (GN) stay.

    With running mean m, variance s^2, scale g and shift b the norm of ``w * x + c`` is
    ``(g / s) w * x + (g / s) (c - m) + b``.

    Args:
        model: the model to change.
        keep: norms that are not folded, and convolutions that nothing is folded into, e.g. because
            they are tapped.

    Raises:
        ValueError: if a norm has no running statistics.
    """
    for module in list(model.modules()):
        if (
            isinstance(module, Conv2d)
            and isinstance(module.norm, _BatchNorm | FrozenBatchNorm2d)
            and type(module).forward is Conv2d.forward
            and module.norm not in keep
        ):
            _fold(module, module.norm)
            module.norm = None
        elif isinstance(module, TimmBackbone):
            for conv, name in list(_separate_norms(module)):
                norm = module.get_submodule(name)
                if conv not in keep and norm not in keep:
                    _fold(conv, norm)
                    parent, _, own = name.rpartition(".")
                    setattr(module.get_submodule(parent), own, _activation_of(norm))


class _Tracer(fx.Tracer):
    """Records convolutions and norms, whoever has defined them, as single steps."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            isinstance(m, nn.Conv2d)
            or _is_norm(m)
            or super().is_leaf_module(m, module_qualified_name)
        )


def _separate_norms(backbone: TimmBackbone) -> Iterator[tuple[nn.Conv2d, str]]:
    """Convolutions, and the names of norms that alone take what they return.

    In timm the two stand beside each other in a block, whose code alone says what is applied to
    what. A network that cannot be traced keeps its norms; exported graphs are folded by runtimes.
    """
    modules = dict(backbone.named_modules())
    if not any(_is_norm(module) for module in modules.values()):
        return
    try:
        graph = _Tracer().trace(backbone)
    except Exception:  # of any code that a model may have
        return
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        if node.op != "call_module" or not _is_norm(modules[node.target]):
            continue
        source: Any = node.args[0]
        if source.op != "call_module" or len(source.users) > 1:
            continue
        conv = modules[source.target]
        if isinstance(conv, nn.Conv2d) and calls[source.target] == calls[node.target] == 1:
            yield conv, node.target


def _is_norm(module: nn.Module) -> bool:
    """Whether a module of timm is a BatchNorm in any form, perhaps with an activation behind it."""
    frozen = type(module).__name__ in ("FrozenBatchNorm2d", "FrozenBatchNormAct2d")
    return frozen or isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm)


def _activation_of(norm: Any) -> nn.Module:
    """What timm's norms apply behind the norm itself."""
    behind = [getattr(norm, name, nn.Identity()) for name in ("drop", "act")]
    return nn.Sequential(*(m for m in behind if not isinstance(m, nn.Identity)))


def _fold(conv: Any, norm: Any) -> None:
    if norm.running_var is None:
        raise ValueError(
            "A BatchNorm without running statistics cannot be folded; build the model with "
            "track_running_stats=True."
        )
    # In float64, as the quotient of a small scale and a small deviation loses digits.
    scale: Tensor = (norm.running_var.double() + norm.eps).rsqrt()
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
