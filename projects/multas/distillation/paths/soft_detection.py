"""Self-training on a dense detector's raw outputs as a path."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from multas.distillation.functional.soft_detection import (
    SOFT_CLASS_WEIGHT,
    flatten_levels,
    soft_detection_loss,
)
from multas.distillation.paths.base import PATH_REGISTRY, Path, Shapes, Targets
from multas.modeling.losses import full_precision

DETECTION_TERMS = ("cls", "box_reg")


@PATH_REGISTRY.register()
class SoftDetection(Path):
    """Soft detection loss: balanced L1 on box deltas + focal loss towards the teacher's scores.

    Tap the dense head of both networks (``head`` of a RetinaNet, ``heads.det`` of a
    MultiTaskNetwork): a pair (logits, deltas) with one map (N, A*K, Hi, Wi) and (N, A*4, Hi, Wi)
    per level. Both networks need the same anchors and classes. All anchors count, background
    included, and each term is a plain mean over all entries of the batch.

    Args:
        student_shapes, teacher_shapes: see :class:`Path`.
        soft_weight: factor of the classification term. "Self-training and multi-task learning …"
            has 5e3, "to be in the similar range with localization".
        alpha, gamma: of the focal loss. Its text says no gamma, its results were made with 1.
        score_weighted: terms ("cls", "box_reg") in which an anchor counts in proportion to the
            highest score that the teacher gives it; the weights have the mean 1 over the batch.
            None in the paper. For "box_reg" it keeps the background out.
    """

    default_name = "soft"
    default_student = ("heads.det",)

    def __init__(
        self,
        *,
        student_shapes: Sequence[Shapes],
        teacher_shapes: Sequence[Shapes],
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
        self.layout = common_layout(type(self), student_shapes[0], teacher_shapes[0])
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
    """Highest score of each anchor over the mean of these: (N, R, K) -> (N, R), a constant."""
    scores = full_precision(logits).detach().sigmoid().amax(-1)
    return scores / scores.mean().clamp(min=torch.finfo(scores.dtype).tiny)


@dataclass(frozen=True)
class DenseLayout:
    """What the shapes of a dense head's outputs tell.

    Attributes:
        sizes: (Hi, Wi) of each level in the probing pass.
        num_anchors: A, per cell.
        num_classes: K.
    """

    sizes: tuple[tuple[int, ...], ...]
    num_anchors: int
    num_classes: int

    def flatten(self, predictions: tuple[Sequence[Tensor], Sequence[Tensor]]) -> tuple[Tensor, ...]:
        """(logits, deltas) per level -> logits (N, R, K) and deltas (N, R, 4)."""
        logits, deltas = predictions
        return flatten_levels(logits, self.num_classes), flatten_levels(deltas, 4)


def dense_layout(shapes: Shapes) -> DenseLayout | None:
    """Read the shapes of (logits per level, deltas per level); None if they are not such."""
    logits, deltas = shapes[: len(shapes) // 2], shapes[len(shapes) // 2 :]
    if not shapes or len(logits) != len(deltas) or any(len(shape) != 4 for shape in shapes):
        return None
    anchors, rest = divmod(deltas[0][1], 4)
    same_places = all(a[2:] == b[2:] for a, b in zip(logits, deltas, strict=True))
    same_widths = len({shape[1] for shape in logits}) == len({shape[1] for shape in deltas}) == 1
    if rest or not anchors or logits[0][1] % anchors or not (same_places and same_widths):
        return None
    sizes = tuple(tuple(shape[2:]) for shape in logits)
    return DenseLayout(sizes, anchors, logits[0][1] // anchors)


def common_layout(path: type[Path], student: Shapes, teacher: Shapes) -> DenseLayout:
    """The layout of both heads.

    Raises:
        ValueError: one of them is no dense head, or they differ.
    """
    layouts = {"student": dense_layout(student), "teacher": dense_layout(teacher)}
    for side, layout in layouts.items():
        if layout is None:
            raise ValueError(
                f"{path.__name__} compares detections, but what it taps in the {side} is no dense "
                "head, which returns (logits, deltas) with one map (N, A*K, H, W) and "
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
