"""The check that path losses have a scale that their weights can cope with."""

import logging
import math

import torch

from multas.distillation import Aggregator, Distillation, StepLosses
from multas.distillation.aggregation.fixed import HandTuned

logger = logging.getLogger(__name__)

# Sound losses at the start of all shipped recipes are below a hundredth of it.
_OUT_OF_PROPORTION = 1e4


def check_path_losses(
    output: StepLosses, distillation: Distillation, aggregator: Aggregator
) -> None:
    """Warn of path losses of a first step that are out of all proportion to the task losses.

    The device is waited for, so that this is for the first step alone. Fixed weights are part of
    the scale, since a user may have chosen them for it.

    Args:
        output: the losses of the step.
        distillation, aggregator: what the losses and their weights v come from.
    """
    raw = torch.stack(list(output.paths)).detach().double().tolist()
    v = aggregator.weights().double().tolist()
    fixed = isinstance(aggregator, HandTuned)
    task = sum(loss.item() for loss in output.task.values())
    teachers = {spec.name: spec.teacher_id for spec in distillation.specs}
    rows = zip(aggregator.names, distillation.labels, raw, v, strict=True)
    for name, (path, _), loss, weight in rows:
        scale = loss * weight if fixed else loss
        if math.isfinite(scale) and abs(scale) <= _OUT_OF_PROPORTION * (task or 1.0):
            continue
        number = teachers[path]
        file = distillation.teachers[number].weights or "not from a file"
        cure = (
            "Lower its WEIGHT in MODEL.DISTILLATION.PATHS"
            if fixed
            else f"Weights that are learned or solved ({type(aggregator).__name__}) may level such "
            "a scale out, but not what is wrong in the teacher"
        )
        logger.warning(
            f"Path '{name}' of teacher {number} ({file}): its raw loss is {loss:.3g} and its "
            f"weight {weight:.3g} in the first step, while the task losses add up to {task:.3g}. "
            f"{cure}; a teacher whose BatchNorm statistics are broken looks like this, so see how "
            "it does by itself (TEST.EVALUATE_TEACHER True)."
        )
