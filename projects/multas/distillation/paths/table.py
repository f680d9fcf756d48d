"""The table of all paths that a run prints at its start."""

from collections.abc import Sequence

from tabulate import tabulate

from multas.distillation.paths.base import Path, Shapes
from multas.distillation.paths.spec import PathSpec

_HEADER = (
    "path",
    "loss",
    "student layer",
    "teacher layer",
    "student shape",
    "teacher shape",
    "adapter",
    "weight",
)


def table_row(
    spec: PathSpec,
    path: Path,
    shapes: tuple[Sequence[Shapes], Sequence[Shapes]],
    weights: Sequence[float],
) -> list[str]:
    """What the table says of one path.

    Args:
        spec: its entry in the config.
        path: what was built from it.
        shapes: of the student's layers and of the teacher's.
        weights: v, one for each of its terms if it is layer-wise.
    """
    both = (
        "\n".join("×".join(map(str, s[1:])) for layer in side for s in layer) for side in shapes
    )
    layers = "\n".join(spec.student), "\n".join(spec.teacher)
    v = "\n".join(f"{weight:g}" for weight in weights)
    return [spec.name, type(path).__name__, *layers, *both, path.adapter_note, v]


def path_table(rows: Sequence[Sequence[str]], title: str, notes: Sequence[str]) -> str:
    """The rows below a title, and notes below them."""
    return "\n".join([title, tabulate(rows, _HEADER, tablefmt="simple_grid"), *notes])
