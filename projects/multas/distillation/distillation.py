"""The losses of all paths from the teachers to one student."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from multas.distillation.gradients.feature_boundary import FeatureBoundary
from multas.distillation.paths.base import Outputs, Path
from multas.distillation.paths.spec import PathSpec
from multas.distillation.paths.targets import BoxSource, Targets
from multas.distillation.taps import Taps, leaves
from multas.distillation.teacher.teacher import Teacher
from multas.modeling.losses import full_precision
from multas.util.errors import UserError


class Distillation(nn.Module):
    """Computes the path losses of a batch, which :class:`multas.engine.PathWeights` weighs.

    Its parameters are the adapters. The teachers are in no state dict.

    Args:
        specs: the entries of the config that the paths were built from.
        paths: the paths, in the order of ``specs``.
        student_taps: taps of the student's layers that the paths name.
        teachers: the fixed or averaged networks, in the order of ``spec.teacher_id``.
        boundary: where the student's graph is cut while it is recorded; usually nowhere.
        boxes: where paths that need boxes take them from.
        input_format: channel order of the student's images ("BGR" or "RGB").
        rows: the rows of the start-up table, without the weights.

    Attributes:
        labels: (name of the path, label of the term) of each of the K losses; the label is "" where
            a path is one loss.
        names: the names of the K losses in the log.
        hand_tuned: the K hand-tuned weights.
    """

    def __init__(
        self,
        *,
        specs: Sequence[PathSpec],
        paths: Sequence[Path],
        student_taps: Taps,
        teachers: Sequence[Teacher],
        boundary: FeatureBoundary,
        boxes: BoxSource,
        input_format: str,
        rows: Sequence[Sequence[str]],
    ) -> None:
        super().__init__()
        self.specs = tuple(specs)
        self.paths = nn.ModuleDict(dict(zip((s.name for s in specs), paths, strict=True)))
        self.student_taps = student_taps
        self.teachers = tuple(teachers)
        self.boundary = boundary
        self.boxes = boxes
        self.input_format = input_format
        self.rows = tuple(rows)
        pairs = [(spec, label) for spec in specs for label in self._labels_of(spec)]
        self.labels = [(spec.name, label) for spec, label in pairs]
        self.names = ["_".join(filter(None, pair)) for pair in self.labels]
        self.hand_tuned = [spec.weight for spec, _ in pairs]
        self._seen_gradient: set[str] = set()

    def path_of(self, spec: PathSpec) -> Path:
        """The path that was built from an entry of the config."""
        return cast(Path, self.paths[spec.name])

    def _labels_of(self, spec: PathSpec) -> list[str]:
        return list(self.path_of(spec).labels) if spec.layerwise else [""]

    def taps_for(self, task: str | None) -> list[str]:
        """Student layers tapped by the paths that are active for ``task``."""
        return [name for spec in self.specs if spec.applies_to(task) for name in spec.student]

    def path_losses(
        self,
        student_record: Mapping[str, Any],
        batched_inputs: list[dict],
        targets: Targets,
        task: str | None = None,
    ) -> list[Tensor | None]:
        """Run the teachers and compute every path loss.

        Args:
            student_record: what the student's taps returned for this batch.
            batched_inputs: the images of this batch.
            targets: what is known of the images.
            task: the task whose batch this is; paths that are not active for it are left out.

        Returns:
            K raw losses (float32 scalars) in the order of ``names``; None for a path left out. They
            are not stacked, since the gradient of one would then pass all others, as zeros.
        """
        answers = [
            self._ask(i, teacher.inputs(batched_inputs, self.input_format), targets, task)
            for i, teacher in enumerate(self.teachers)
        ]
        losses: list[Tensor | None] = []
        for spec in self.specs:
            if not spec.applies_to(task):
                losses.extend(None for _ in self._labels_of(spec))
                continue
            record, known = answers[spec.teacher_id]
            student = tuple(student_record[name] for name in spec.student)
            teacher = tuple(record[name] for name in spec.teacher)
            losses.extend(self._losses_of(spec, student, teacher, known))
        return losses

    def _ask(
        self, i: int, inputs: list[dict], targets: Targets, task: str | None
    ) -> tuple[Mapping[str, Any], Targets]:
        """What a teacher's taps return, and the targets with the boxes that its paths need."""
        specs = [s for s in self.specs if s.teacher_id == i and s.applies_to(task)]
        if not any(self.path_of(spec).needs_boxes for spec in specs):
            return self.teachers[i].record(inputs) if specs else {}, targets
        detect = self.boxes.wants_detections(targets)
        output = self.teachers[i].output_of(inputs, self.boxes.score_thresh if detect else None)
        return output.record, self.boxes.fill(targets, output.boxes)

    def _losses_of(
        self, spec: PathSpec, student: Outputs, teacher: Outputs, targets: Targets
    ) -> list[Tensor]:
        if torch.is_grad_enabled() and spec.name not in self._seen_gradient:
            _check_gradient(spec, student)
            self._seen_gradient.add(spec.name)
        path = self.path_of(spec)
        terms = path(student, teacher, targets)
        if spec.layerwise:
            return [full_precision(terms[label]) for label in path.labels]
        return [torch.stack([full_precision(term) for term in terms.values()]).sum()]


def _check_gradient(spec: PathSpec, student: Outputs) -> None:
    if not any(leaf.requires_grad for leaf in leaves(student)):
        raise UserError(
            f"MODEL.DISTILLATION.PATHS, path '{spec.name}': no gradient reaches the student "
            f"from {', '.join(spec.student)}. The layers in front of it are frozen "
            "(MODEL.BACKBONE.FREEZE_AT) or it is not differentiable; tap another layer."
        )
