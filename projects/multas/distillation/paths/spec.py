"""Checked entries of MODEL.DISTILLATION.PATHS."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from detectron2.config import CfgNode

from multas.distillation.paths.base import PATH_REGISTRY, Path
from multas.util.errors import UserError
from multas.util.names import lookup
from multas.util.options import parse_options

T = TypeVar("T")

KEY = "MODEL.DISTILLATION.PATHS"
_KEYS = ("TYPE", "NAME", "STUDENT", "TEACHER", "WEIGHT", "LAYERWISE", "TEACHER_ID", "TASKS")


@dataclass(frozen=True)
class PathSpec:
    """One checked entry; config/distillation.py describes its keys."""

    type: type[Path]
    name: str
    student: tuple[str, ...]
    teacher: tuple[str, ...]
    weight: float
    layerwise: bool
    teacher_id: int
    tasks: tuple[str, ...]
    options: Mapping[str, Any]

    def applies_to(self, task: str | None) -> bool:
        """Whether the path is active for images of ``task`` (None: for images of no task)."""
        return task is None or not self.tasks or task in self.tasks


def parse_paths(entries: Sequence[Mapping[str, Any]]) -> list[PathSpec]:
    """Check the entries of MODEL.DISTILLATION.PATHS, each by itself.

    Raises:
        UserError: unknown type or key, missing layers, or two paths of one name.
    """
    specs = [_parse(entry, f"{KEY}[{i}]") for i, entry in enumerate(entries)]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{KEY}: two paths are called '{name}'; give each its own NAME.")
    return specs


def check_paths(specs: Sequence[PathSpec], cfg: CfgNode, teachers: int) -> None:
    """Make sure that there are the teachers (their number is given) and tasks that paths name.

    Raises:
        UserError: one is missing, or the tasks are not trained apart; the message names the path
            and the key to change.
    """
    known = [entry["TASK"] for entry in cfg.DATASETS.TASK_BATCHES]
    for spec in specs:
        where = f"{KEY}, path '{spec.name}'"
        if not 0 <= spec.teacher_id < teachers:
            raise UserError(
                f"{where}: TEACHER_ID is {spec.teacher_id}, but there are {teachers} teachers "
                "(counted from 0)."
            )
        unknown = [task for task in spec.tasks if task not in known]
        if unknown:
            raise UserError(
                f"{where}: TASKS names '{unknown[0]}', but DATASETS.TASK_BATCHES has "
                f"{', '.join(known) or 'no entries'}."
            )
        if spec.tasks and cfg.DATASETS.TASK_MODE != "separate":
            raise UserError(
                f"{where}: TASKS needs every mini-batch in every iteration and on its own: set "
                f"DATASETS.TASK_MODE to separate (it is {cfg.DATASETS.TASK_MODE})."
            )


def tapped_heads(specs: Sequence[PathSpec]) -> set[str]:
    """The tasks whose heads are tapped by a path that is also active for other tasks."""
    taps = [(name.split("."), spec.tasks) for spec in specs for name in spec.student]
    heads = [(parts[1], tasks) for parts, tasks in taps if parts[0] == "heads" and len(parts) > 1]
    return {head for head, tasks in heads if tasks != (head,)}


def _parse(entry: Mapping[str, Any], where: str) -> PathSpec:
    if not isinstance(entry, Mapping) or "TYPE" not in entry:
        raise UserError(f"{where} must be a mapping with the key TYPE, but is {entry!r}.")
    cls: type[Path] = lookup(PATH_REGISTRY, entry["TYPE"], where)
    where = f"{where} ({entry['TYPE']})"
    options = parse_options(cls, entry, where, given=("layers",), keys=_KEYS)
    student = _names(entry.get("STUDENT", cls.default_student), f"{where}: STUDENT")
    if not student:
        raise UserError(f"{where}: STUDENT must name the layer(s) to tap.")
    return PathSpec(
        type=cls,
        name=_name(entry.get("NAME", cls.default_name), f"{where}: NAME"),
        student=student,
        teacher=_names(entry.get("TEACHER", student), f"{where}: TEACHER"),
        weight=_weight(entry.get("WEIGHT", cls.default_weight), f"{where}: WEIGHT"),
        layerwise=_of_type(bool, entry.get("LAYERWISE", False), f"{where}: LAYERWISE"),
        teacher_id=_of_type(int, entry.get("TEACHER_ID", 0), f"{where}: TEACHER_ID"),
        tasks=_names(entry.get("TASKS", ()), f"{where}: TASKS"),
        options=options,
    )


def _names(value: Any, where: str) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where} is {value!r}; it must be a name or a list of names.")
    return tuple(names)


def _name(value: Any, where: str) -> str:
    # Adapters are modules of this name, metrics and plots have it after a slash.
    if not isinstance(value, str) or not value or set(value) & set("./"):
        raise UserError(f"{where} is {value!r}; it must be a name without '.' and '/'.")
    return value


def _weight(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise UserError(f"{where} is {value!r}; it must be a number, 0 or more.")
    return float(value)


def _of_type(kind: type[T], value: Any, where: str) -> T:
    if type(value) is not kind:
        raise UserError(f"{where} is {value!r}; it must be of type {kind.__name__}.")
    return value
