"""The check that the BatchNorm statistics of fixed teachers fit the images that they will see."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from multas.data.loader import Index, TrainLoader
from multas.data.task_batches import TaskLoader
from multas.distillation import Distillation, unwrap
from multas.distillation.taps import leaves
from multas.engine.checks.cache_size import taught_sets

logger = logging.getLogger(__name__)

# By what factor activations with both kinds of statistics may differ. The quickstart's teacher has
# at most 2.5 after 50 iterations with momentum 0.1 and 1.1 after 500, but 12 after 50 with momentum
# 0.01. Of teachers that ruin a student it is many orders of magnitude.
_ABSURD = 10.0
_IMAGES = 4


def check_teacher_statistics(model: nn.Module, loader: TrainLoader | TaskLoader) -> None:
    """Warn of fixed teachers whose BatchNorms have statistics that are no use.

    A teacher that was trained for few iterations, or with a small momentum, normalises by numbers
    that are far from those of real images, and its features may be larger by many orders of
    magnitude. So the layers that paths tap are compared on a few training images with and without
    its statistics, before these are folded. Nothing of the run changes.
    """
    _, distillation = unwrap(model)
    if distillation is None:
        return
    teachers = distillation.teachers
    fixed = {i for i, t in enumerate(teachers) if t.has_statistics and t.mean_teacher is None}
    for dataset, asked in taught_sets(distillation, loader):
        if new := fixed & asked:
            images = [dataset[Index(i, i % len(dataset))] for i in range(_IMAGES)]
            for number in sorted(new):
                _compare(distillation, number, images)
        fixed -= asked


def _compare(distillation: Distillation, number: int, images: list[dict]) -> None:
    teacher = distillation.teachers[number]
    specs = [spec for spec in distillation.specs if spec.teacher_id == number]
    inputs = teacher.inputs(images, distillation.input_format)
    own = _sizes(teacher.run(inputs).record)
    with teacher.batch_statistics():
        usual = _sizes(teacher.run(inputs).record)
    ratios = {name: _ratio(own[name], usual[name]) for name in own}
    worst = max(ratios, key=lambda name: ratios[name][0])
    if ratios[worst][0] <= _ABSURD:
        return
    paths = [s.name for s in specs if any(ratios[name][0] > _ABSURD for name in s.teacher)]
    _, found, wanted = ratios[worst]
    logger.warning(
        f"Teacher {number} ({teacher.weights}): the running statistics of its BatchNorms do not "
        f"fit the training images. With them, its layer '{worst}' returns values of size "
        f"{found:.3g} (root mean square), but {wanted:.3g} with those of a batch of {len(inputs)} "
        f"images. The path{'s' * (len(paths) > 1)} {', '.join(paths)} would teach the student such "
        "values. Perhaps the teacher was trained for too few iterations for the momentum of its "
        "BatchNorms: train it for longer, raise the momentum, or estimate the statistics anew "
        "(TEST.PRECISE_BN.ENABLED True in its training)."
    )


def _sizes(record: Mapping[str, Any]) -> dict[str, list[float]]:
    """The root mean square of each tensor that a layer returned."""
    return {name: [_root_mean_square(x) for x in leaves(value)] for name, value in record.items()}


def _root_mean_square(tensor: Tensor) -> float:
    return float(tensor.double().square().mean().sqrt())


def _ratio(own: Sequence[float], usual: Sequence[float]) -> tuple[float, float, float]:
    """By what factor, at least 1, sizes differ most, and these two sizes."""
    return max(_factor(*pair) for pair in zip(own, usual, strict=True))


def _factor(own: float, usual: float) -> tuple[float, float, float]:
    if not math.isfinite(own) or own == 0 < usual:
        return math.inf, own, usual
    # Of a layer that returns zeros or no numbers by itself, the statistics are not the cause.
    sound = math.isfinite(usual) and usual > 0
    return (max(own / usual, usual / own) if sound else 1.0), own, usual
