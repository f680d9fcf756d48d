"""Self-training on the dense outputs of a detector as a path (Lê and Pham, ICCVW 2023)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from torch import Tensor, nn

from multas.distillation.functional.soft_detection import SOFT_CLASS_WEIGHT, soft_detection_loss
from multas.distillation.paths.base import (
    PATH_REGISTRY,
    Outputs,
    Path,
    Shape,
    Shapes,
    TappedLayers,
    Targets,
)
from multas.modeling.heads.dense_predictor import flatten_levels
from multas.modeling.losses import full_precision
from multas.util.errors import UserError

NEEDS_DENSE_HEADS = (
    "It compares detections, so both networks need a dense head; between networks of different "
    "tasks use FeatureMSE or DeFeat."
)


@PATH_REGISTRY.register()
class SoftDetection(Path):
    """Soft detection loss: balanced L1 between box deltas, and focal loss on the teacher's scores.

    Tap the dense head of both networks (``head`` of a RetinaNet, ``heads.det`` of a
    MultiTaskNetwork): a pair (logits, deltas) with one map (N, A*K, Hi, Wi) and (N, A*4, Hi, Wi)
    per level. Both networks need the same anchors and classes. Each term is the mean over the
    entries of all anchors, background included.

    Args:
        soft_weight: factor of the classification term; 5e3 in the paper, "to be in the similar
            range with localization".
        alpha, gamma: parameters of the focal loss. The paper gives no gamma, its code has 1.
        score_weighted: terms ("cls", "box_reg") in which each anchor is weighted by the teacher's
            highest score for it, divided by the mean of these scores. Not in the paper. In
            "box_reg" it suppresses the background.
    """

    default_name = "soft"
    missing_layer_note = NEEDS_DENSE_HEADS
    same_anchors = True
    default_student = ("heads.det",)
    labels = ("cls", "box_reg")

    def __init__(
        self,
        layers: TappedLayers,
        *,
        soft_weight: float = SOFT_CLASS_WEIGHT,
        alpha: float = 0.25,
        gamma: float = 1.0,
        score_weighted: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if len(layers.student) != 1 or len(layers.teacher) != 1:
            raise UserError("SoftDetection taps one layer: a dense head, e.g. heads.det.")
        if isinstance(score_weighted, str) or not set(score_weighted) <= set(self.labels):
            raise UserError(
                f"SCORE_WEIGHTED is {score_weighted!r}; it is a list of none, one or both of "
                f"{', '.join(self.labels)}."
            )
        self.layout = common_layout(type(self), layers)
        self.score_weighted = tuple(score_weighted)
        self._loss = partial(
            soft_detection_loss, class_weight=soft_weight, alpha=alpha, gamma=gamma
        )

    def forward(self, student: Outputs, teacher: Outputs, targets: Targets) -> dict[str, Tensor]:
        predictions = self.layout.flatten(student[0]) + self.layout.flatten(teacher[0])
        terms = self._loss(*predictions)
        if not self.score_weighted:
            return terms
        weighted = self._loss(*predictions, anchor_weights=score_weights(predictions[2]))
        return terms | {term: weighted[term] for term in self.score_weighted}


def score_weights(logits: Tensor) -> Tensor:
    """Highest score of each anchor, divided by the mean: (N, R, K) -> (N, R), without gradient."""
    scores = full_precision(logits).detach().sigmoid().amax(-1)
    return scores / scores.mean().clamp(min=torch.finfo(scores.dtype).tiny)


@dataclass(frozen=True)
class DenseLayout:
    """Layout of a dense head's outputs.

    Attributes:
        sizes: (Hi, Wi) of each level for the probing image.
        num_anchors: A, anchors per cell.
        num_classes: K.
    """

    sizes: tuple[Shape, ...]
    num_anchors: int
    num_classes: int

    def flatten(self, predictions: tuple[Sequence[Tensor], Sequence[Tensor]]) -> tuple[Tensor, ...]:
        """(logits, deltas), each one map per level -> logits (N, R, K) and deltas (N, R, 4)."""
        logits, deltas = predictions
        return flatten_levels(logits, self.num_classes), flatten_levels(deltas, 4)


def values_per_side(shapes: Shapes, model: nn.Module) -> int:
    """Number of values that a model's dense head predicts for each side of a box: 1 for deltas.

    The shapes of its outputs alone are ambiguous: 17 bins for one anchor and 34 classes look like
    the deltas of 17 anchors and 2 classes. Therefore the model's anchor generators tell the anchors
    per cell; 1 is assumed if there are none that fit.
    """
    generators = [m for m in model.modules() if isinstance(m, DefaultAnchorGenerator)]
    counts = {count for generator in generators for count in generator.num_anchors}
    classes, box = _dense_widths(shapes)
    possible = [box // (4 * a) for a in counts if classes % a == box % (4 * a) == 0 < box]
    return min(possible, default=1)


def _dense_widths(shapes: Shapes) -> tuple[int, int]:
    """Channels of the two kinds of maps; (0, 0) unless each level has two maps of one size."""
    first, second = shapes[: len(shapes) // 2], shapes[len(shapes) // 2 :]
    four_d = all(len(shape) == 4 for shape in shapes)
    if not four_d or [shape[2:] for shape in first] != [shape[2:] for shape in second]:
        return 0, 0
    widths = {(a[1], b[1]) for a, b in zip(first, second, strict=True)}
    return widths.pop() if len(widths) == 1 else (0, 0)


def common_layout(path: type[Path], layers: TappedLayers) -> DenseLayout:
    """The layout that the last tapped layers of both networks have in common.

    Raises:
        UserError: one is no dense head, it predicts distributions, or the two differ.
    """
    heads = {"student": layers.student[-1], "teacher": layers.teacher[-1]}
    bins = values_per_side(heads["teacher"], layers.teacher_model)
    if bins > 1:
        raise UserError(
            f"{path.__name__} compares deltas of boxes, but the teacher's head predicts a "
            f"distribution over {bins} bins for each side of a box (generalized focal loss). TYPE "
            "LocalizationDistillation fits such boxes; FKD, FeatureMSE or DeFeat compare the "
            "features."
        )
    layouts = []
    for side, shapes in heads.items():
        classes, deltas = _dense_widths(shapes)
        anchors, rest = divmod(deltas, 4)
        if rest or not anchors or classes % anchors:
            raise UserError(
                f"{path.__name__} compares detections, but the layer tapped in the {side} is no "
                "dense head, which returns (logits, deltas) with one map (N, A*K, H, W) and "
                "(N, A*4, H, W) per level. Tap such a head (heads.det of a MultiTaskNetwork, head "
                "of a RetinaNet); between networks of different tasks use FeatureMSE or DeFeat."
            )
        sizes = tuple(shape[2:] for shape in shapes[: len(shapes) // 2])
        layouts.append(DenseLayout(sizes, anchors, classes // anchors))
    if layouts[0] != layouts[1]:
        student, teacher = ([shape[1:] for shape in shapes] for shapes in heads.values())
        cure = "Teacher and student need the same levels, strides, anchors and classes."
        raise path.mismatch("the shapes of the heads' outputs", student, teacher, cure)
    return layouts[0]
