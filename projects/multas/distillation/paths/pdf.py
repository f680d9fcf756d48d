"""PDF-Distil (Zhang et al., BMVC 2021) as a path."""

from dataclasses import replace
from functools import partial

from torch import Tensor

from multas.distillation.functional.feature_imitation import FEATURE_WEIGHT, pdf_imitation
from multas.distillation.paths.base import (
    PATH_REGISTRY,
    Outputs,
    TappedLayers,
    Targets,
    flatten_shapes,
)
from multas.distillation.paths.layers import LayerPath
from multas.distillation.paths.soft_detection import NEEDS_DENSE_HEADS, common_layout
from multas.util.errors import UserError


@PATH_REGISTRY.register()
class PDFDistil(LayerPath):
    """Imitation of features, scores and boxes where the two detectors disagree.

    STUDENT (and TEACHER) name all levels of the features that enter the dense head, then the head
    itself: ``[backbone, heads.det]`` of a MultiTaskNetwork, ``[backbone, head]`` of a RetinaNet.

    Args:
        adapter: see :class:`LayerPath`.
        feature_weight, positive_score: see ``weight`` and ``positive_score`` of
            :func:`multas.distillation.functional.feature_imitation.pdf_imitation`.

    Raises:
        UserError: the last layer is not a dense head, the heads differ in levels, anchors or
            classes, or the features and the head's maps have different sizes.
    """

    default_name = "pdf"
    missing_layer_note = NEEDS_DENSE_HEADS
    same_anchors = True
    default_student = ("backbone", "heads.det")

    def __init__(
        self,
        layers: TappedLayers,
        *,
        feature_weight: float = FEATURE_WEIGHT,
        positive_score: float = 0.5,
        adapter: str = "conv_always",
    ) -> None:
        if not 0 <= positive_score < 1:
            raise UserError(f"POSITIVE_SCORE is {positive_score}; it must be in [0, 1).")
        sides = {"student": layers.student, "teacher": layers.teacher}
        for side, shapes in sides.items():
            if len(shapes) < 2:
                raise UserError(
                    f"PDFDistil compares detections: it taps features and a dense head, but in the "
                    f"{side} only one layer is named. Name both, e.g. [backbone, heads.det]; "
                    "between networks of different tasks use FeatureMSE or DeFeat."
                )
        layout = common_layout(type(self), layers)
        for side, shapes in sides.items():
            sizes = tuple(tuple(shape[2:]) for shape in flatten_shapes(shapes[:-1]))
            if sizes != layout.sizes:
                raise UserError(
                    f"PDFDistil: the features of the {side} have the sizes {list(sizes)}, but the "
                    f"maps of its dense head {list(layout.sizes)}. Tap all levels of the features "
                    "that enter the dense head, and no others."
                )
        features = replace(layers, student=layers.student[:-1], teacher=layers.teacher[:-1])
        super().__init__(features, resize="none", adapter=adapter)
        self.labels = ("feature", "cls", "box_reg")
        self.layout = layout
        self._loss = partial(pdf_imitation, weight=feature_weight, positive_score=positive_score)

    def forward(self, student: Outputs, teacher: Outputs, targets: Targets) -> dict[str, Tensor]:
        ours, theirs = zip(*self.pairs(student[:-1], teacher[:-1]), strict=True)
        predictions = self.layout.flatten(student[-1]) + self.layout.flatten(teacher[-1])
        return self._loss(ours, theirs, *predictions)
