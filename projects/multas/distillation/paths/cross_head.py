"""Cross-head distillation (CrossKD) as a path."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from multas.distillation.functional.cross_head import (
    box_imitation,
    match_moments,
    object_scores,
    score_imitation,
)
from multas.distillation.functional.localization import localization_distillation
from multas.distillation.paths.base import (
    PATH_REGISTRY,
    Outputs,
    Path,
    TappedLayers,
    Targets,
    flatten,
    flatten_shapes,
)
from multas.distillation.paths.layers import Adapter
from multas.distillation.paths.teacher_head import TeacherHead, crossing_layers
from multas.util.errors import UserError
from multas.util.names import check_choice

POSITION = -1
ADAPTERS = ("conv", "conv_bn", "conv_always", "conv_bn_always")
# The factors of GIoU and of the divergence of distributions in the authors' code for GFL.
GFL_WEIGHTS = (2.0, 3.0)


@PATH_REGISTRY.register()
class CrossKD(Path):
    """The student's features pass the rest of the teacher's head (Wang et al., CVPR 2024).

    The features behind the first convolutions of the student's head enter the teacher's head behind
    as many, and what it makes of them, the cross-head predictions, imitates what it makes of its
    own features. So the layers of the student behind the crossing learn from annotations alone, and
    from no teacher that contradicts them. The teacher's head stays as it is.

    STUDENT and TEACHER name a dense head each: ``heads.det`` of a MultiTaskNetwork with a
    DenseDetectionHead or GFLHead, ``head`` of a RetinaNet. Levels and strides must agree; anchors,
    classes and the number of convolutions may differ. Scores imitate by the quality focal loss and
    boxes by GIoU, weighted by the teacher's scores; to two GIoU losses, distributions of a GFLHead
    add three times their KL divergence. All are divided by the sum of the teacher's highest score
    at each anchor, see :mod:`multas.distillation.functional.cross_head`.

    Args:
        position: the number of convolutions in front of the crossing; negative: counted from the
            end of each head. -1 leaves one, the best of the paper (3 of 4).
        adapter: 1x1 convolution where widths differ ("conv"; "conv_bn": with BatchNorm), or always
            ("conv_always", "conv_bn_always").
        align: whether each channel gets the teacher's mean and deviation over the batch before it
            crosses, as in the authors' code (there in front of the activation). Not in the paper.
        gamma: exponent of the quality focal loss.
        box_weight: factor of the term of the boxes.
    """

    default_name = "cross"
    default_student = ("heads.det",)
    labels = ("cls", "box_reg")

    def __init__(
        self,
        layers: TappedLayers,
        *,
        position: int = POSITION,
        adapter: str = "conv",
        align: bool = False,
        gamma: float = 1.0,
        box_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_choice("ADAPTER", adapter, ADAPTERS)
        self.align, self.gamma, self.box_weight = align, gamma, box_weight
        maps, outputs = flatten_shapes(layers.student[:-1]), layers.teacher[0]
        sizes = [shape[2:] for shape in maps], [shape[2:] for shape in outputs]
        if sizes[0] != sizes[1]:
            cure = "Teacher and student need the same levels and strides."
            raise self.mismatch("the sizes of the heads' maps", *sizes, cure)
        self.head = TeacherHead(layers.teacher_model, layers.teacher_names[0], position)
        self._precision = layers.teacher_precision
        norm, always = "bn" in adapter, "always" in adapter
        self.adapters = nn.ModuleList(
            Adapter(shape[1], width, norm=norm, always=always)
            for shape, width in zip(maps, self.head.widths(len(maps) // 2), strict=True)
        )
        self.adapter_note = ", ".join(dict.fromkeys(str(a.note) for a in self.adapters))

    @classmethod
    def find_layers(
        cls,
        named: Mapping[str, Sequence[str]],
        networks: Mapping[str, nn.Module],
        options: Mapping[str, Any],
    ) -> Mapping[str, Sequence[str]]:
        """The layers in front of the crossing, and the heads, which have to run to their end."""
        position = options.get("position", POSITION)
        crossing = {}
        for side, names in named.items():
            if len(names) != 1:
                raise UserError(
                    f"CrossKD taps one layer of each network, a dense head, but in the {side} "
                    f"these are named: {', '.join(names)}."
                )
            crossing[side] = crossing_layers(networks[side], names[0], position)
        aligned = crossing["teacher"] if options.get("align") else []
        return {
            "student": [*crossing["student"], *named["student"]],
            "teacher": [*named["teacher"], *aligned],
        }

    def forward(self, student: Outputs, teacher: Outputs, targets: Targets) -> dict[str, Tensor]:
        pairs = zip(self.adapters, flatten(student[:-1]), strict=True)
        maps = [adapter(x) for adapter, x in pairs]
        if self.align:
            aligned = zip(maps, flatten(teacher[1:]), strict=True)
            maps = [match_moments(own, other) for own, other in aligned]
        crossed = self._through_the_teacher(maps)
        logits, boxes = self.head.flatten(crossed)
        other_logits, other_boxes = self.head.flatten(teacher[0])
        scores = object_scores(other_logits)
        anchors = self.head.anchors(crossed)
        decoded, others = (self.head.decode(x, anchors) for x in (boxes, other_boxes))
        box_loss = box_imitation(decoded, others, scores)
        if self.head.bins > 1:
            giou_weight, divergence_weight = GFL_WEIGHTS
            divergence = self._divergence(boxes, other_boxes, scores)
            box_loss = giou_weight * box_loss + divergence_weight * divergence
        return {
            "cls": score_imitation(logits, other_logits, scores, gamma=self.gamma),
            "box_reg": self.box_weight * box_loss,
        }

    def _through_the_teacher(self, maps: Sequence[Tensor]) -> Any:
        if self._precision is None:
            return self.head.predict(maps)
        with torch.autocast(maps[0].device.type, dtype=self._precision):
            return self.head.predict(maps)

    def _divergence(self, sides: Tensor, other_sides: Tensor, scores: Tensor) -> Tensor:
        """KL divergence of the distributions (N, R, 4 bins) of box sides; a scalar."""
        return localization_distillation(
            sides.reshape(-1, self.head.bins),
            other_sides.reshape(-1, self.head.bins),
            temperature=1.0,
            weight=scores.flatten().repeat_interleave(4),
            avg_factor=4.0 * scores.sum().clamp(min=1),
        )
