"""Checks of what two networks must have in common."""

from collections.abc import Sequence

from torch import Tensor

Size = int | Sequence[int]


def check_same(what: str, student: Size, teacher: Size, cure: str) -> None:
    """Raise a ValueError with the cure unless two shapes, or parts of them, are equal."""
    if student != teacher:
        one, other = (x if isinstance(x, int) else tuple(x) for x in (student, teacher))
        raise ValueError(f"The {what} differ: student {one}, teacher {other}. {cure}")


def check_same_heads(
    student_logits: Tensor, student_deltas: Tensor, teacher_logits: Tensor, teacher_deltas: Tensor
) -> None:
    """The same for what two dense heads return."""
    cure = "Give both models the same anchors, levels and classes."
    check_same("shapes of the class logits", student_logits.shape, teacher_logits.shape, cure)
    check_same("shapes of the box deltas", student_deltas.shape, teacher_deltas.shape, cure)
