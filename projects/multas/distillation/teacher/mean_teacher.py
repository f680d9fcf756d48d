"""Teachers that follow the student: mean teachers."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from multas.util.errors import UserError

_KEY = "MODEL.DISTILLATION.TEACHER"


@dataclass(frozen=True)
class MeanTeacher:
    """How a mean teacher's weights follow the student's: ``t = d t + (1 - d) s`` after every step.

    Tarvainen and Valpola, NeurIPS 2017, section 2; with a burn-in for detectors, Liu et al.
    (unbiased teacher), ICLR 2021.

    Attributes:
        decay: d after the burn-in, in [0, 1).
        start: iterations of the burn-in.
        from_student: whether it starts as a copy of the student, else from weights of its own.

    Raises:
        UserError: decay or start is out of range; the message names the key.
    """

    decay: float
    start: int = 0
    from_student: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise UserError(
                f"{_KEY}.EMA_DECAY is {self.decay}; give 0.0 (a fixed teacher) or a number below 1 "
                "(0.9996: an average over 2500 iterations)."
            )
        if self.start < 0:
            raise UserError(f"{_KEY}.EMA_START is {self.start}; give 0 or more iterations.")

    def __str__(self) -> str:
        role = "its copy" if self.from_student else "loaded"
        burn_in = f", after {self.start} iterations as {role}" if self.start else ""
        return f"follows the student, decay {self.decay:g}{burn_in}"

    def decay_at(self, update: int) -> float:
        """d of update k = 1, 2, …; in the burn-in 0 (copies the student) or 1 (does not change)."""
        if update > self.start:
            return self.decay
        return 0.0 if self.from_student else 1.0

    def check_same_network(
        self, teacher: tuple[nn.Module, str], student: tuple[nn.Module, str]
    ) -> None:
        """Make sure that weights of the student make sense in the teacher.

        Args:
            teacher: the teacher's network, and the channel order of its images.
            student: the same of the network that is followed.

        Raises:
            UserError: they differ; the message names the first difference and the keys to change.
        """
        own, wanted = _anatomy(*teacher), _anatomy(*student)
        for name in wanted | own:
            if own.get(name) != wanted.get(name):
                raise UserError(
                    f"{_KEY}.EMA_DECAY is {self.decay}: a teacher that follows the student must "
                    f"have its network, but {name} is {own.get(name, 'absent')} in the teacher and "
                    f"{wanted.get(name, 'absent')} in the student. Set TEACHER.CONFIG_FILE to "
                    "'' (the student's own network; see also TEACHER.OPTS), or EMA_DECAY to 0.0 "
                    "(a fixed teacher)."
                )


def _anatomy(model: nn.Module, input_format: str) -> dict[str, Any]:
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return {"INPUT.FORMAT": input_format} | shapes
