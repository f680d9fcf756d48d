"""Config files, with the files that they build on, as plain mappings."""

import os
from collections.abc import Mapping
from typing import Any

from multas.util.errors import UserError
from multas.util.required_files import require_file
from multas.util.yaml_files import read_yaml

BASE = "_BASE_"
_MODEL_OF_CODE = (
    "A LazyConfig is Python code and describes a model by its classes. To use such a model as "
    "student or teacher, register it: in a module of yours, a function or class of cfg under "
    "@META_ARCH_REGISTRY.register() that returns detectron2.config.instantiate(model). Name the "
    "module in IMPORT_MODULES, and the function in MODEL.META_ARCHITECTURE of a YAML config "
    "(MODEL.DISTILLATION.STUDENT for a Distiller's student)."
)


def read_file(file: str, users: tuple[str, ...] = ()) -> dict[str, Any]:
    """The keys that a config file sets, on top of those of its ``_BASE_``.

    Args:
        file: a YAML file; a name of Detectron2's PathManager will do.
        users: the files that lead to this one by their ``_BASE_``.

    Raises:
        FileNotFoundError: There is no such file. The message has the nearest name.
        UserError: It is no config, runs code, or builds on itself.
    """
    _check_file(file, users)
    content = read_yaml(file)
    if content is None:
        raise UserError(f"{file} is empty; a config sets keys, such as `MODEL: {{DEVICE: cpu}}`.")
    if not isinstance(content, dict):
        raise UserError(
            f"{file} is a {type(content).__name__}, not a config: it has to be a mapping of keys, "
            "such as `MODEL: {DEVICE: cpu}`."
        )
    if _has_target(content):
        raise UserError(f"{file} has `_target_`, so that it is a LazyConfig. {_MODEL_OF_CODE}")
    bases = content.pop(BASE, [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str):
            raise UserError(f"{file}: {BASE} has {base!r}; give the name of a file, or a list.")
        own = read_file(_beside(base, file), (*users, file))
        merge(merged, own, f"{file}: {BASE} {base}")
    merge(merged, content, file)
    return merged


def _check_file(file: str, users: tuple[str, ...]) -> None:
    what = f"{users[-1]}: {BASE}" if users else "The config file"
    if os.path.realpath(file) in map(os.path.realpath, users):
        chain = " -> ".join([*users, file])
        raise UserError(f"{chain}: a config cannot build on itself. Remove one {BASE}.")
    if file.endswith(".py"):
        raise UserError(f"{what} is '{file}', which is no YAML file. {_MODEL_OF_CODE}")
    require_file(file, what, (".yaml", ".yml"), "Give its name from the folder that you are in.")


def _beside(base: str, file: str) -> str:
    """The file that ``_BASE_`` names, which starts in the folder of its config."""
    base = os.path.expanduser(base)
    if base.startswith(("/", "https://", "http://")):
        return base
    return os.path.join(os.path.dirname(file), base)


def merge(content: dict[str, Any], other: Mapping[str, Any], where: str) -> None:
    """Merge nested mappings, in place, where the values of the second prevail.

    Raises:
        UserError: The second has a group of keys in place of a value. The message begins with
            ``where``.
    """
    for key, value in other.items():
        if isinstance(value, Mapping):
            own = content.get(key, {})
            if not isinstance(own, Mapping):
                raise UserError(
                    f"{where}: '{key}' is a group of keys here, and a value in another file."
                )
            content[key] = dict(own)
            merge(content[key], value, where)
        else:
            content[key] = value


def _has_target(content: Any) -> bool:
    """Whether a mapping, at any depth, has the mark of LazyConfig."""
    if isinstance(content, Mapping):
        return "_target_" in content or any(map(_has_target, content.values()))
    return isinstance(content, list) and any(map(_has_target, content))
