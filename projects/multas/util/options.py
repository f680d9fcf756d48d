"""Options that a config gives to a registered class, checked against its constructor."""

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from multas.util.errors import UserError
from multas.util.names import did_you_mean


def parse_options(
    cls: type,
    entry: Mapping[str, Any],
    where: str,
    *,
    given: Collection[str] = (),
    keys: Collection[str] = (),
) -> dict[str, Any]:
    """The constructor's arguments that a config entry sets: its keys in lower case.

    Args:
        cls: the class that the entry describes.
        entry: the mapping in the config, e.g. ``{"TYPE": "FKD", "TEMPERATURE": 0.5}``.
        where: the beginning of the error message.
        given: arguments that the entry may not set, because the builder does.
        keys: keys of the entry that are no arguments, e.g. ``("TYPE",)``.

    Raises:
        UserError: The class does not have an argument (the nearest name is given), or the value
            is no bool, int, float or str where the argument is one.
    """
    arguments = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    names = [name for name in arguments if name not in ("self", *given)]
    for key in entry:
        if key not in keys and key.lower() not in names:
            known = [*keys, *(name.upper() for name in names)]
            raise UserError(f"{where}: unknown key '{key}'.{did_you_mean(key, known)}")
    options = {key.lower(): value for key, value in entry.items() if key not in keys}
    for name, value in options.items():
        _check_type(value, arguments[name].annotation, f"{where}: {name.upper()}")
    return options


def _check_type(value: Any, annotation: Any, where: str) -> None:
    """Refuse a value of another type than the argument's, where that is a plain one."""
    # Annotations are texts where a module says `from __future__ import annotations`.
    kind = next((k for k in (bool, int, float, str) if annotation in (k, k.__name__)), None)
    if kind is None:
        return
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{where} is {value!r}; it must be of type {kind.__name__}.")
