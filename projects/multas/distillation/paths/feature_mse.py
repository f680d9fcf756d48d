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
    """Mean of (adapted student - teacher)^2 over the entries of all tapped maps together.

    Each label is the share of one map. The factor 5 in the code of Lê and Pham (ICCVW 2023) is the
    default WEIGHT of the path.

    Args:
        student_shapes, teacher_shapes, resize: see :class:`LayerPath`.
        adapter: see :class:`LayerPath`; Lê and Pham project even between equal widths.
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
    """The student's maps after the adapters, and the teacher's, in pairs of equal size and width.

    Args:
        path: has the adapters and the rule for resizing.
        student: outputs of the student's layers: maps (N, Cs, Hs, Ws), possibly nested.
        teacher: outputs of the teacher's layers: maps (N, Ct, Ht, Wt), possibly nested.
    """
    pairs = [
        match_size(adapter(s), t, path.resize)
        for adapter, s, t in zip(path.adapters, flatten(student), flatten(teacher), strict=True)
    ]
    return [s for s, _ in pairs], [t for _, t in pairs]
