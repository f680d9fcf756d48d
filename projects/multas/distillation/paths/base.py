"""What a distillation path is: a loss between named layers of the teacher and of the student.

It knows neither the aggregation that weighs it nor the task. docs/architecture.md shows how to add
a path, which is one registered class. Options of its constructor are keys of the path's entry in
``MODEL.DISTILLATION.PATHS``, in capitals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fvcore.common.registry import Registry
from torch import Tensor, nn

from multas.distillation.paths.targets import Targets
from multas.distillation.taps import leaves

PATH_REGISTRY = Registry("PATH")
PATH_REGISTRY.__doc__ = "Losses between a tap of the teacher and a tap of the student."

Shape = tuple[int, ...]
# Of the tensors that one tapped layer returned.
Shapes = Sequence[Shape]
# What each tapped layer of a network returned in a step, in the order of the entry.
Outputs = tuple[Any, ...]


@dataclass(frozen=True)
class TappedLayers:
    """The layers that a path taps, which its adapters are built for.

    Attributes:
        student: for each tapped layer, the shapes of the tensors that it returned for one image.
        teacher: the same of the teacher.
        teacher_model: the teacher, for paths that use its parameters or anchors.
        teacher_names: the names of the teacher's tapped layers.
        teacher_precision: the number format that the teacher computes in; None for the student's.
    """

    student: Sequence[Shapes]
    teacher: Sequence[Shapes]
    teacher_model: nn.Module
    teacher_names: Sequence[str] = ()
    teacher_precision: torch.dtype | None = None


class Path(nn.Module):
    """Base class of all paths.

    Subclasses take :class:`TappedLayers` and their own options, as keyword arguments, and check
    there, with :meth:`mismatch`, what must agree.
    """

    # How the path is called in logs unless its entry says otherwise.
    default_name: ClassVar[str] = ""
    # Layers tapped when the entry names none.
    default_student: ClassVar[tuple[str, ...]] = ()
    # Hand-tuned weight of the paper that introduced the path here.
    default_weight: ClassVar[float] = 1.0
    # What helps if a network lacks the layers it taps.
    missing_layer_note: ClassVar[str] = ""
    # Whether it compares offsets of boxes to anchors, which both networks must then have in common.
    same_anchors: ClassVar[bool] = False
    # Whether ``targets.boxes`` is wanted (the teacher then runs to its detections).
    needs_boxes: ClassVar[bool] = False
    # Labels of the terms that ``forward`` returns, known when the path is built.
    labels: Sequence[str] = ("",)
    # How the start-up table describes the adapter.
    adapter_note: str = "-"

    def forward(self, student: Outputs, teacher: Outputs, targets: Targets) -> dict[str, Tensor]:
        """The terms of the loss.

        Args:
            student: what the student's layers returned.
            teacher: what the teacher's layers returned; constants (no gradient).
            targets: what is known of the batch.

        Returns:
            A scalar for each of ``labels``. Their sum is the loss of the path, or each one is a
            path of its own (``LAYERWISE``).
        """
        raise NotImplementedError

    @classmethod
    def find_layers(
        cls,
        named: Mapping[str, Sequence[str]],
        networks: Mapping[str, nn.Module],
        options: Mapping[str, Any],
    ) -> Mapping[str, Sequence[str]]:
        """The layers to tap in "student" and "teacher", by default those that the entry names.

        Args:
            named: those of both networks.
            networks: the networks.
            options: the options of the entry.

        Raises:
            UserError: A layer that is needed is not there.
        """
        return named

    @classmethod
    def mismatch(cls, what: str, student: Any, teacher: Any, cure: str) -> ValueError:
        """An error that says what differs and what helps."""
        return ValueError(
            f"Path {cls.__name__}: {what} differ (student {student}, teacher {teacher}). {cure}"
        )


def flatten(values: Sequence[Any]) -> list[Tensor]:
    """The tensors inside the recorded values of several layers, in order."""
    return [leaf for value in values for leaf in leaves(value)]


def flatten_shapes(shapes: Sequence[Shapes]) -> list[Shape]:
    """Shapes of :func:`flatten`'s tensors."""
    return [shape for layer in shapes for shape in layer]


def paired_shapes(
    path: Path, layers: TappedLayers, what: str, dims: Sequence[int], cure: str
) -> list[tuple[Shape, Shape]]:
    """The shapes of all tensors in a path's layers, in pairs of student and teacher.

    Args:
        path, layers: the path and its layers.
        what, cure: what the message calls the tensors, and what helps.
        dims: the numbers of dimensions that a tensor may have.

    Raises:
        UserError: teacher and student have different numbers of tensors or of dimensions.
    """
    student, teacher = flatten_shapes(layers.student), flatten_shapes(layers.teacher)
    if len(student) != len(teacher):
        raise path.mismatch(f"the numbers of {what}", len(student), len(teacher), cure)
    for s, t in zip(student, teacher, strict=True):
        if len(s) != len(t) or len(s) not in dims:
            raise path.mismatch(f"{what} are needed; the shapes", s, t, cure)
    return list(zip(student, teacher, strict=True))
