"""From an entry of MODEL.DISTILLATION.PATHS to a path."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from multas.distillation.paths.base import PATH_REGISTRY, Path, Shapes
from multas.util.names import did_you_mean, lookup

_KEYS = ("TYPE", "NAME", "STUDENT", "TEACHER", "WEIGHT", "LAYERWISE", "TEACHER_ID", "TASKS")
_KEY = "MODEL.DISTILLATION.PATHS"
# What the builder gives to a path, as opposed to options that the entry may set.
_GIVEN = ("self", "student_shapes", "teacher_shapes", "teacher_model")


@dataclass(frozen=True)
class PathSpec:
    """One checked entry of MODEL.DISTILLATION.PATHS; see config.py for the keys."""

    type: type[Path]
    name: str
    student: tuple[str, ...]
    teacher: tuple[str, ...]
    weight: float
    layerwise: bool = False
    teacher_id: int = 0
    tasks: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def applies_to(self, task: str | None) -> bool:
        """Whether images of that task (None: of no one's batch) count for this path."""
        return task is None or not self.tasks or task in self.tasks

    def build(
        self,
        student_shapes: Sequence[Shapes],
        teacher_shapes: Sequence[Shapes],
        teacher_model: nn.Module,
    ) -> Path:
        """Construct the path; only a class that asks for ``teacher_model`` gets the teacher."""
        given: dict[str, Any] = {"student_shapes": student_shapes, "teacher_shapes": teacher_shapes}
        if "teacher_model" in inspect.signature(self.type.__init__).parameters:
            given["teacher_model"] = teacher_model
        try:
            return self.type(**given, **self.options)
        except ValueError as error:
            raise ValueError(f"{_KEY}, path '{self.name}': {error}") from error


def parse_paths(entries: Sequence[Mapping[str, Any]]) -> list[PathSpec]:
    """Check the entries of MODEL.DISTILLATION.PATHS.

    Raises:
        ValueError: unknown type or key, missing layers, or two paths of one name.
    """
    specs = [_parse(entry, position) for position, entry in enumerate(entries)]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{_KEY}: two paths are called '{name}'; give each its own NAME.")
    return specs


def check_tasks(specs: Sequence[PathSpec], cfg: CfgNode) -> None:
    """Make sure that the tasks that paths name are trained, each in mini-batches of its own.

    Raises:
        ValueError: naming the path and the key to change.
    """
    known = [entry["TASK"] for entry in cfg.DATASETS.TASK_BATCHES]
    for spec in specs:
        where = f"{_KEY}, path '{spec.name}': TASKS"
        for task in spec.tasks:
            if task not in known:
                raise ValueError(
                    f"{where} names '{task}', but DATASETS.TASK_BATCHES has "
                    f"{', '.join(known) or 'no entries'}."
                )
        if spec.tasks and cfg.DATASETS.TASK_MODE != "separate":
            raise ValueError(
                f"{where} needs every mini-batch in every iteration and on its own: set "
                f"DATASETS.TASK_MODE to separate (it is {cfg.DATASETS.TASK_MODE})."
            )


def tapped_heads(specs: Sequence[PathSpec]) -> set[str]:
    """Tasks whose heads a path taps on images that are another task's, too."""
    taps = [(name.split("."), spec) for spec in specs for name in spec.student]
    return {
        parts[1]
        for parts, spec in taps
        if len(parts) > 1 and parts[0] == "heads" and spec.tasks != (parts[1],)
    }


def _names(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _parse(entry: Mapping[str, Any], position: int) -> PathSpec:
    where = f"{_KEY}[{position}]"
    if not isinstance(entry, Mapping) or "TYPE" not in entry:
        raise ValueError(f"{where} must be a mapping with the key TYPE, but is {entry!r}.")
    cls: type[Path] = lookup(PATH_REGISTRY, entry["TYPE"], where)
    options = _options(cls)
    for key in entry:
        if key not in _KEYS and key.lower() not in options:
            known = [*_KEYS, *(name.upper() for name in options)]
            hint = did_you_mean(key, known)
            raise ValueError(f"{where} ({entry['TYPE']}): unknown key '{key}'.{hint}")
    student = _names(entry.get("STUDENT", cls.default_student))
    if not student:
        raise ValueError(f"{where} ({entry['TYPE']}): STUDENT must name the layer(s) to tap.")
    return PathSpec(
        type=cls,
        name=str(entry.get("NAME", cls.default_name)),
        student=student,
        teacher=_names(entry.get("TEACHER", student)),
        weight=_weight(entry.get("WEIGHT", cls.default_weight), where),
        layerwise=bool(entry.get("LAYERWISE", False)),
        teacher_id=int(entry.get("TEACHER_ID", 0)),
        tasks=_names(entry.get("TASKS", ())),
        options={k.lower(): v for k, v in entry.items() if k not in _KEYS},
    )


def _weight(value: Any, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: WEIGHT is {value!r}; it must be a number.") from None


def _options(cls: type[Path]) -> list[str]:
    return [name for name in inspect.signature(cls.__init__).parameters if name not in _GIVEN]
