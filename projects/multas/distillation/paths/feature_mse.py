"""Feature imitation by mean squared error as a path."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from multas.distillation.functional.feature_imitation import FEATURE_WEIGHT, mse_imitation
from multas.distillation.paths.adapter import match_size
from multas.distillation.paths.base import PATH_REGISTRY, Shapes, Targets, flatten
from multas.distillation.paths.layers import LayerPath


@PATH_REGISTRY.register()
class FeatureMSE(LayerPath):
    """Mean of (projected student - teacher)^2 over all entries of all tapped maps.

    The mean is over the entries of all maps together, as if the pyramid were one long map; the
    label of a level gives its share. The factor 5 of the published results is the path's default
    WEIGHT, not part of the loss.

    Args:
        student_shapes, teacher_shapes, resize: see :class:`LayerPath`.
        adapter: see :class:`LayerPath`. "Self-training and multi-task learning …" projects always,
            also between equal widths.
    """

    default_name = "mse"
    default_student = ("backbone",)
    default_weight = FEATURE_WEIGHT

    def __init__(
        self,
        *,
        student_shapes: Sequence[Shapes],
        teacher_shapes: Sequence[Shapes],
        resize: str = "student",
        adapter: str = "conv_always",
    ) -> None:
        super().__init__(
            student_shapes=student_shapes,
            teacher_shapes=teacher_shapes,
            resize=resize,
            adapter=adapter,
        )

    def forward(
        self, student: tuple[Any, ...], teacher: tuple[Any, ...], targets: Targets
    ) -> dict[str, Tensor]:
        ours, theirs = adapted_maps(self, student, teacher)
        entries = sum(level.numel() for level in ours)
        return {
            str(i): mse_imitation([s], [t], weight=s.numel() / max(entries, 1))
            for i, (s, t) in enumerate(zip(ours, theirs, strict=True))
        }


def adapted_maps(
    path: LayerPath, student: Sequence[Any], teacher: Sequence[Any]
) -> tuple[list[Tensor], list[Tensor]]:
    """The student's maps, projected, and the teacher's, each pair of one width and size.

    Args:
        path: gives adapters and the rule of resizing.
        student: recorded values of its layers: maps (N, Cs, Hs, Ws), nested or not.
        teacher: the same, (N, Ct, Ht, Wt).
    """
    pairs = [
        match_size(adapter(s), t, path.resize)
        for adapter, s, t in zip(path.adapters, flatten(student), flatten(teacher), strict=True)
    ]
    return [s for s, _ in pairs], [t for _, t in pairs]
