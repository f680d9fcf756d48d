"""The check that the BatchNorm statistics of fixed teachers fit the images that they will see."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor, nn

from multas.data.loader import Index, TrainLoader
from multas.data.task_batches import TaskLoader
from multas.distillation import Distillation, Teacher, unwrap
from multas.distillation.taps import leaves
from multas.distillation.teacher.build import teacher_nodes
from multas.engine.checks.cache_size import taught_sets
from multas.engine.weights.evaluated_models import undisturbed_training

logger = logging.getLogger(__name__)

# The activations of a sound teacher differ by a factor of up to 2 between the two kinds of
# statistics, those of one with broken statistics by orders of magnitude.
_ABSURD = 10.0
_IMAGES = 4


def check_teacher_statistics(
    cfg: CfgNode, model: nn.Module, loader: TrainLoader | TaskLoader
) -> None:
    """Warn of fixed teachers whose BatchNorms have statistics that are no use.

    A teacher that was trained for few iterations, or with a small momentum, normalises by numbers
    that are far from those of real images, and its features may be larger by many orders of
    magnitude. So every teacher is loaded once more, without what makes it fast, and the layers that
    paths tap are compared on a few training images with and without its statistics. Nothing of the
    run changes, not even its random numbers.
    """
    _, distillation = unwrap(model)
    if distillation is None:
        return
    named = zip(teacher_nodes(cfg), distillation.teachers, strict=False)
    for number, ((key, node), teacher) in enumerate(named):
        fixed = teacher.mean_teacher is None and node.WEIGHTS
        if not fixed or not teacher.keeps_statistics:
            continue
        images = _images_for(number, distillation, loader)
        if images:
            with undisturbed_training():
                fresh = Teacher.from_config(node, cfg, key)
                inputs = fresh.inputs(images, cfg.INPUT.FORMAT)
                _compare(fresh, inputs, distillation, number, node.WEIGHTS)


def _images_for(
    number: int, distillation: Distillation, loader: TrainLoader | TaskLoader
) -> list[dict]:
    """A few training images that a teacher will see; none if it sees those of a user's loader."""
    for task, dataset in taught_sets(distillation, loader):
        specs = [spec for spec in distillation.specs if spec.applies_to(task)]
        if any(spec.teacher_id == number for spec in specs):
            return [dataset[Index(i, i % len(dataset))] for i in range(_IMAGES)]
    return []


def _compare(
    teacher: Teacher, inputs: list[dict], distillation: Distillation, number: int, weights: str
) -> None:
    specs = [spec for spec in distillation.specs if spec.teacher_id == number]
    names = list(dict.fromkeys(name for spec in specs for name in spec.teacher))
    own = _sizes(teacher.probe(names, inputs))
    teacher.use_batch_statistics()
    usual = _sizes(teacher.record(inputs))
    ratios = {name: _ratio(own[name], usual[name]) for name in names}
    worst = max(names, key=lambda name: ratios[name][0])
    if ratios[worst][0] <= _ABSURD:
        return
    paths = [s.name for s in specs if any(ratios[name][0] > _ABSURD for name in s.teacher)]
    _, found, wanted = ratios[worst]
    logger.warning(
        f"Teacher {number} ({weights}): the running statistics of its BatchNorms do not fit the "
        f"training images. With them, its layer '{worst}' returns values of size {found:.3g} (root "
        f"mean square), but {wanted:.3g} with those of a batch of {len(inputs)} images. The "
        f"path{'s' * (len(paths) > 1)} {', '.join(paths)} would teach the student such values. "
        "Perhaps the teacher was trained for too few iterations for the momentum of its "
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
