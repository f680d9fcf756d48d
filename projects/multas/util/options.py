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
        UserError: The class does not have an argument. The nearest name is given.
    """
    arguments = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    names = [name for name in arguments if name not in ("self", *given)]
    for key in entry:
        if key not in keys and key.lower() not in names:
            known = [*keys, *(name.upper() for name in names)]
            raise UserError(f"{where}: unknown key '{key}'.{did_you_mean(key, known)}")
    return {key.lower(): value for key, value in entry.items() if key not in keys}
