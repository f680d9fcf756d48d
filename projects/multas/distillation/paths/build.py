"""From checked entries of MODEL.DISTILLATION.PATHS to paths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from detectron2.config import CfgNode
from rich.table import Table
from tabulate import tabulate
from torch import nn

from multas.distillation.paths.base import Path, Shapes, TappedLayers
from multas.distillation.paths.spec import KEY, PathSpec
from multas.distillation.taps import TapError, Taps, blank_image, leaves
from multas.distillation.teacher.teacher import Teacher
from multas.util.errors import UserError
from multas.util.screen import columns

_HEADER = ("path", "loss", "student layer", "teacher layer", "student shape", "teacher shape",
           "adapter", "weight")  # fmt: skip


@dataclass(frozen=True)
class Probe:
    """What the tapped layers of all networks returned for one blank image.

    Attributes:
        taps: the taps of the student.
        layers: the layers of each path.
        teachers: for each teacher, tap name -> what the layer returned; empty for a teacher that
            no path listens to.
    """

    taps: Taps
    layers: Sequence[TappedLayers]
    teachers: Sequence[Mapping[str, Any]]


def find_layers(
    specs: Sequence[PathSpec], student: nn.Module, teachers: Sequence[Teacher]
) -> list[PathSpec]:
    """The paths with the layers that they tap in these networks, see :meth:`Path.find_layers`.

    Raises:
        UserError: A layer that a path needs is not there; the message names the path.
    """
    found = []
    for spec in specs:
        networks = {"student": student, "teacher": teachers[spec.teacher_id].model}
        named = {"student": spec.student, "teacher": spec.teacher}
        try:
            layers = spec.type.find_layers(named, networks, spec.options)
        except UserError as error:
            raise UserError(f"{KEY}, path '{spec.name}': {error}") from error
        own, other = (tuple(layers[side]) for side in ("student", "teacher"))
        found.append(replace(spec, student=own, teacher=other))
    return found


def probe_layers(
    student: nn.Module, teachers: Sequence[Teacher], specs: Sequence[PathSpec], cfg: CfgNode
) -> Probe:
    """Run every network once on a blank image of the training size.

    Args:
        student, teachers: the networks; left as they are, but for the teachers' taps.
        specs: the paths, which name the layers.
        cfg: the student's config.

    Raises:
        TapError: a layer does not exist or returns no tensor; the nearest names are given.
    """
    image = [blank_image(student, cfg)]
    records = []
    try:
        taps = Taps(student, [name for spec in specs for name in spec.student], "student")
        record = taps.probe(student, image)
        for i, teacher in enumerate(teachers):
            names = [name for spec in specs if spec.teacher_id == i for name in spec.teacher]
            inputs = teacher.inputs(image, cfg.INPUT.FORMAT)
            records.append(teacher.probe(names, inputs) if names else {})
    except TapError as error:
        raise TapError(error.tap, f"{error}{_note_on(specs, error.tap)}") from error
    layers = [
        TappedLayers(
            [_shapes(record[name]) for name in spec.student],
            [_shapes(records[spec.teacher_id][name]) for name in spec.teacher],
            teachers[spec.teacher_id].model,
            spec.teacher,
            teachers[spec.teacher_id].precision,
        )
        for spec in specs
    ]
    return Probe(taps, layers, records)


def check_anchors(
    student: nn.Module, teachers: Sequence[Teacher], specs: Sequence[PathSpec]
) -> None:
    """Make sure that heads whose offsets to anchors are compared have the same anchors.

    Shapes do not show it, and the student would learn the offsets to boxes of other sizes.

    Raises:
        UserError: They have not. The message names the path and the first anchors that differ.
    """
    for spec in specs:
        if not spec.type.same_anchors:
            continue
        # The head is the last of the tapped layers.
        own = _anchors(student, spec.student[-1])
        other = _anchors(teachers[spec.teacher_id].model, spec.teacher[-1])
        # If their numbers differ, shapes do show it.
        for one, another in zip(own, other, strict=False):
            if one != another:
                raise UserError(
                    f"{KEY}, path '{spec.name}': an anchor (x0, y0, x1, y1) is {one} in the "
                    f"student and {another} in the teacher. Give both the same "
                    "MODEL.ANCHOR_GENERATOR, or use FeatureMSE or DeFeat."
                )


def _anchors(network: nn.Module, head: str) -> list[list[float]]:
    """The anchors of a cell on all levels, of a head or the network around it; [] if unknown."""
    modules = dict(network.named_modules())
    for name in (head, head.rpartition(".")[0]):
        generator = getattr(modules.get(name), "anchor_generator", None)
        if generator is not None and hasattr(generator, "cell_anchors"):
            return [anchor for level in generator.cell_anchors for anchor in level.tolist()]
    return []


def _shapes(value: Any) -> Shapes:
    return [tuple(leaf.shape) for leaf in leaves(value)]


def build_path(spec: PathSpec, layers: TappedLayers) -> Path:
    """Construct a path; an error in it names its entry in the config."""
    try:
        return spec.type(layers, **spec.options)
    except ValueError as error:
        raise UserError(f"{KEY}, path '{spec.name}': {error}") from error


def table_row(spec: PathSpec, path: Path, layers: TappedLayers) -> list[str]:
    """What the table of paths says of one path, but for its weights."""
    shapes = (
        "\n".join("×".join(map(str, shape[1:])) for layer in side for shape in layer)
        for side in (layers.student, layers.teacher)
    )
    names = "\n".join(spec.student), "\n".join(spec.teacher)
    return [spec.name, type(path).__name__, *names, *shapes, path.adapter_note]


def path_table(rows: Sequence[Sequence[str]], weights: Sequence[Sequence[float]]) -> str:
    """The table that a run prints at its start.

    Args:
        rows: of the paths, see :func:`table_row`.
        weights: v of each path; several where its terms are weighed one by one.
    """
    column = ["\n".join(f"{weight:g}" for weight in own) for own in weights]
    whole = [[*row, cell] for row, cell in zip(rows, column, strict=True)]
    return tabulate(whole, _HEADER, tablefmt="simple_grid")


def brief_path_table(rows: Sequence[Sequence[str]], weights: Sequence[Sequence[float]]) -> Table:
    """The same for a screen: of many layers the first, a teacher's only where they differ."""
    lines = []
    for (name, loss, student, teacher, own, other, adapter), v in zip(rows, weights, strict=True):
        layers, shapes = _both(student, teacher), _both(own, other)
        lines.append([name, loss, layers, shapes, adapter, ", ".join(f"{x:g}" for x in v)])
    return columns(("path", "loss", "layer", "shape", "adapter", "weight"), lines)


def _both(student: str, teacher: str) -> str:
    """The first line of what is said of the student and, if it differs, of the teacher."""
    (own, *more), (other, *_) = student.split("\n"), teacher.split("\n")
    told = own if own == other else f"{own} ← {other}"
    return f"{told} (+{len(more)})" if more else told


def _note_on(specs: Sequence[PathSpec], tap: str) -> str:
    """What the path that taps the missing layer has to say about it."""
    for spec in specs:
        note = spec.type.missing_layer_note
        if note and tap in (*spec.student, *spec.teacher):
            return f" Path '{spec.name}' taps it. {note}"
    return ""
