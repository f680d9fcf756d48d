"""Self-training on the dense outputs of a detector as a path (Lê and Pham, ICCVW 2023)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from torch import Tensor, nn

from multas.distillation.functional.soft_detection import (
    SOFT_CLASS_WEIGHT,
    soft_detection_loss,
)
from multas.distillation.paths.base import PATH_REGISTRY, Path, Shapes, Targets
from multas.modeling.heads.dense_predictor import flatten_levels
from multas.modeling.losses import full_precision

DETECTION_TERMS = ("cls", "box_reg")
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
        student_shapes, teacher_shapes: see :class:`Path`.
        teacher_model: the teacher, whose anchor generator tells the number of anchors per cell.
        soft_weight: factor of the classification term; 5e3 in the paper, "to be in the similar
            range with localization".
        alpha, gamma: parameters of the focal loss. The paper gives no gamma, its code has 1.
        score_weighted: terms ("cls", "box_reg") in which each anchor is weighted by the teacher's
            highest score for it, divided by the mean of these scores. Not in the paper. In
            "box_reg" it suppresses the background.
    """

    default_name = "soft"
    missing_layer_note = NEEDS_DENSE_HEADS
    default_student = ("heads.det",)

    def __init__(
        self,
        *,
        student_shapes: Sequence[Shapes],
        teacher_shapes: Sequence[Shapes],
        teacher_model: nn.Module,
        soft_weight: float = SOFT_CLASS_WEIGHT,
        alpha: float = 0.25,
        gamma: float = 1.0,
        score_weighted: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if len(student_shapes) != 1 or len(teacher_shapes) != 1:
            raise ValueError("SoftDetection taps one layer: a dense head, e.g. heads.det.")
        unknown = [term for term in score_weighted if term not in DETECTION_TERMS]
        if isinstance(score_weighted, str) or unknown:
            raise ValueError(
                f"SCORE_WEIGHTED is {score_weighted!r}; it is a list of none, one or both of "
                f"{', '.join(DETECTION_TERMS)}."
            )
        self.layout = common_layout(type(self), student_shapes[0], teacher_shapes[0], teacher_model)
        self.soft_weight = soft_weight
        self.alpha = alpha
        self.gamma = gamma
        self.score_weighted = tuple(score_weighted)

    def labels(self) -> list[str]:
        return list(DETECTION_TERMS)

    def forward(
        self, student: tuple[Any, ...], teacher: tuple[Any, ...], targets: Targets
    ) -> dict[str, Tensor]:
        predictions = self.layout.flatten(student[0]) + self.layout.flatten(teacher[0])
        terms = self._terms(predictions)
        if not self.score_weighted:
            return terms
        weighted = self._terms(predictions, score_weights(predictions[2]))
        return terms | {term: weighted[term] for term in self.score_weighted}

    def _terms(
        self, predictions: Sequence[Tensor], anchor_weights: Tensor | None = None
    ) -> dict[str, Tensor]:
        return soft_detection_loss(
            *predictions,
            class_weight=self.soft_weight,
            alpha=self.alpha,
            gamma=self.gamma,
            anchor_weights=anchor_weights,
        )


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

    sizes: tuple[tuple[int, ...], ...]
    num_anchors: int
    num_classes: int

    def flatten(self, predictions: tuple[Sequence[Tensor], Sequence[Tensor]]) -> tuple[Tensor, ...]:
        """(logits, deltas), each one map per level -> logits (N, R, K) and deltas (N, R, 4)."""
        logits, deltas = predictions
        return flatten_levels(logits, self.num_classes), flatten_levels(deltas, 4)


def dense_layout(shapes: Shapes) -> DenseLayout | None:
    """Layout from the shapes of (logits, deltas) per level; None for other outputs."""
    widths = _dense_widths(shapes)
    if widths is None:
        return None
    classes, deltas = widths
    anchors, rest = divmod(deltas, 4)
    if rest or not anchors or classes % anchors:
        return None
    sizes = tuple(tuple(shape[2:]) for shape in shapes[: len(shapes) // 2])
    return DenseLayout(sizes, anchors, classes // anchors)


def values_per_side(shapes: Shapes, model: nn.Module) -> int:
    """Number of values that a dense head predicts for each side of a box: 1 for deltas.

    The shapes alone are ambiguous: 17 bins for one anchor and 34 classes look like the deltas of 17
    anchors and 2 classes. Therefore the model's anchor generators tell the anchors per cell.

    Args:
        shapes: shapes of the head's outputs.
        model: the model with this head.

    Returns:
        Also 1 if the model has no anchors, or none that fit.
    """
    generators = [m for m in model.modules() if isinstance(m, DefaultAnchorGenerator)]
    counts = {count for generator in generators for count in generator.num_anchors}
    widths = _dense_widths(shapes)
    if widths is None:
        return 1
    classes, box = widths
    possible = [box // (4 * a) for a in counts if classes % a == box % (4 * a) == 0]
    return min(possible, default=1)


def _dense_widths(shapes: Shapes) -> tuple[int, int] | None:
    """Channels of the two kinds of maps, if every level has two maps of the same size."""
    first, second = shapes[: len(shapes) // 2], shapes[len(shapes) // 2 :]
    if not shapes or len(first) != len(second) or any(len(shape) != 4 for shape in shapes):
        return None
    same_places = all(a[2:] == b[2:] for a, b in zip(first, second, strict=True))
    if not same_places or any(len({shape[1] for shape in maps}) > 1 for maps in (first, second)):
        return None
    return first[0][1], second[0][1]


def common_layout(
    path: type[Path], student: Shapes, teacher: Shapes, teacher_model: nn.Module
) -> DenseLayout:
    """The layout that both heads have.

    Raises:
        ValueError: a head is not a dense head, it predicts distributions, or the heads differ.
    """
    bins = values_per_side(teacher, teacher_model)
    if bins > 1:
        raise ValueError(
            f"{path.__name__} compares deltas of boxes, but the teacher's head predicts a "
            f"distribution over {bins} bins for each side of a box (generalized focal loss). TYPE "
            "LocalizationDistillation fits such boxes; FKD, FeatureMSE or DeFeat compare the "
            "features."
        )
    layouts = {"student": dense_layout(student), "teacher": dense_layout(teacher)}
    for side, layout in layouts.items():
        if layout is None:
            raise ValueError(
                f"{path.__name__} compares detections, but the layer tapped in the {side} is no "
                "dense head, which returns (logits, deltas) with one map (N, A*K, H, W) and "
                "(N, A*4, H, W) per level. Tap such a head (heads.det of a MultiTaskNetwork, head "
                "of a RetinaNet); between networks of different tasks use FeatureMSE or DeFeat."
            )
    if layouts["student"] != layouts["teacher"]:
        raise path.mismatch(
            "the shapes of the heads' outputs",
            _widths(student),
            _widths(teacher),
            "Teacher and student need the same levels, strides, anchors and classes.",
        )
    assert layouts["student"] is not None
    return layouts["student"]


def _widths(shapes: Shapes) -> list[tuple[int, ...]]:
    return [shape[1:] for shape in shapes]
