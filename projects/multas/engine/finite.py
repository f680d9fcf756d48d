"""Losses and weights that are not finite: messages that name them, and no checkpoint of them."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from multas.engine.path_weights import PathWeights

_CURE = (
    "Lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_ITERS, or set SOLVER.CLIP_GRADIENTS.ENABLED True."
)


class LossRecord:
    """Remembers the loss terms of a model's latest forward pass in training.

    Detectron2 stops before the optimiser steps, but its error only has the mean over processes.
    """

    def __init__(self, model: nn.Module) -> None:
        self.terms: dict[str, Tensor] = {}
        model.register_forward_hook(self._remember)

    def _remember(self, module: nn.Module, _: tuple, output: object) -> None:
        if module.training and isinstance(output, Mapping):
            # They are detached, so that the record does not keep the graph of a step alive.
            self.terms = {name: loss.detach() for name, loss in output.items()}


def describe_losses(
    terms: Mapping[str, Tensor], path_weights: PathWeights | None, checkpoint: str
) -> str:
    """The message about a loss that is not finite: the terms and paths at fault, and a remedy.

    There are no ``terms`` if the model did not return any in this step. The ``checkpoint`` is the
    last one written, or "".
    """
    bad = _not_finite({name: loss.item() for name, loss in terms.items()})
    parts, cure = [], _CURE
    if bad:
        parts.append(f"Not finite: {bad}.")
    elif terms:
        parts.append("All terms of this process are finite: it happened on another one.")
    if terms and path_weights is not None and "path_loss" in path_weights.monitors:
        raw = path_weights.monitors["path_loss"].tolist()
        paths = _not_finite(dict(zip(path_weights.aggregator.names, raw, strict=True)))
        if paths:
            parts.append(f"Distillation paths at fault, raw losses: {paths}.")
            cure += (
                " For a path, lower its WEIGHT in MODEL.DISTILLATION.PATHS or "
                "MODEL.DISTILLATION.ALPHA, or take it out to see whether it is the cause."
            )
    parts.append("The optimiser has not stepped and no checkpoint was overwritten.")
    if checkpoint:
        parts.append(f"The last good one is {checkpoint} (continue with --resume).")
    return " ".join([*parts, cure])


def check_weights(model: nn.Module) -> None:
    """Make sure that the parameters of a model are finite.

    A finite loss can have infinite gradients. The weights are then lost one step before any loss
    shows it.

    Raises:
        FloatingPointError: Some are not. The message names the first ones.
    """
    parameters = dict(model.named_parameters())
    finite = torch.stack([p.detach().isfinite().all() for p in parameters.values()]).tolist()
    bad = [name for name, good in zip(parameters, finite, strict=True) if not good]
    if bad:
        raise FloatingPointError(
            f"{len(bad)} parameters are infinite or NaN, the first {', '.join(bad[:5])}; no "
            f"checkpoint was written, the last one is good. {_CURE}"
        )


def _not_finite(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} = {x}" for name, x in values.items() if not math.isfinite(x))
