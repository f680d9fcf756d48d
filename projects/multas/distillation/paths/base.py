"""What a distillation path is.

A path is a loss between named layers of the teacher and named layers of the student. It knows
neither the aggregation that weighs it nor the task. A new path is one registered class:

    @PATH_REGISTRY.register()
    class MyPath(Path):
        default_name = "mine"

        def __init__(self, *, student_shapes, teacher_shapes, power: float = 2.0): ...

        def forward(self, student, teacher, targets):
            return {"": (student[0] - teacher[0]).abs().pow(self.power).mean()}

Options of ``__init__`` are keys of the path's entry in ``MODEL.DISTILLATION.PATHS``, in capitals.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from fvcore.common.registry import Registry
from torch import Tensor, nn

from multas.distillation.paths.targets import Targets
from multas.distillation.taps import leaves

PATH_REGISTRY = Registry("PATH")
PATH_REGISTRY.__doc__ = "Losses between a tap of the teacher and a tap of the student."

# Shapes of the tensors that one tapped layer returned in the probing forward pass.
Shapes = Sequence[tuple[int, ...]]


class Path(nn.Module):
    """Base class of all paths.

    Subclasses take ``student_shapes`` and ``teacher_shapes`` (one :data:`Shapes` per tapped
    layer, to build adapters from) and their own options as keyword arguments, and check there,
    with :meth:`mismatch`, what must agree.
    """

    # How the path is called in logs unless its entry says otherwise.
    default_name: ClassVar[str] = ""
    # Layers tapped when the entry names none.
    default_student: ClassVar[tuple[str, ...]] = ()
    # Hand-tuned weight of the paper that introduced the path here.
    default_weight: ClassVar[float] = 1.0
    # What helps if a network lacks the layers it taps.
    missing_layer_note: ClassVar[str] = ""
    # Whether ``targets.boxes`` is wanted (the teacher then runs to its detections).
    needs_boxes: ClassVar[bool] = False
    # How the start-up table describes the adapter.
    adapter_note: str = "-"

    def forward(
        self, student: tuple[Any, ...], teacher: tuple[Any, ...], targets: Targets
    ) -> dict[str, Tensor]:
        """The terms of the loss.

        Args:
            student: what each tapped student layer returned, in the order of the entry.
            teacher: the same of the teacher; constants (no gradient).
            targets: what is known of the batch.

        Returns:
            Scalars by label, one per layer or term; their sum is the loss of the path, or each
            one is a path of its own (``LAYERWISE``). The labels are the same in every step.
        """
        raise NotImplementedError

    def labels(self) -> list[str]:
        """Labels that :meth:`forward` returns, known at build time (for layer-wise weights)."""
        return [""]

    @classmethod
    def mismatch(cls, what: str, student: Any, teacher: Any, cure: str) -> ValueError:
        """An error that says what differs and what helps."""
        return ValueError(
            f"Path {cls.__name__}: {what} differ (student {student}, teacher {teacher}). {cure}"
        )


def flatten(values: Sequence[Any]) -> list[Tensor]:
    """The tensors inside the recorded values of several layers, in order."""
    return [leaf for value in values for leaf in leaves(value)]


def flatten_shapes(shapes: Sequence[Shapes]) -> list[tuple[int, ...]]:
    """Shapes of :func:`flatten`'s tensors in the probing pass."""
    return [shape for layer in shapes for shape in layer]
