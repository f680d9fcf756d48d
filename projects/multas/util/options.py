"""Options that a config gives to a registered class, checked against its constructor."""

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from multas.util.names import did_you_mean


def option_names(cls: type, given: Collection[str] = ()) -> list[str]:
    """The keyword arguments of a constructor that a config may set.

    Args:
        cls: a class whose ``__init__`` names all that it takes.
        given: arguments that its builder sets.
    """
    names = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    return [name for name in names if name not in ("self", *given)]


def parse_options(
    cls: type,
    entry: Mapping[str, Any],
    where: str,
    *,
    given: Collection[str] = (),
    keys: Collection[str] = (),
) -> dict[str, Any]:
    """The constructor's arguments that a config entry sets: its keys, in lower case.

    Args:
        cls: the class that the entry is of.
        entry: the mapping in the config, e.g. ``{"TYPE": "FKD", "TEMPERATURE": 0.5}``.
        where: begins the error message.
        given: arguments that the builder sets; the entry may not.
        keys: of the entry that are no options, e.g. ``("TYPE",)``.

    Raises:
        ValueError: a key that the class does not know; the nearest known one is named.
    """
    names = option_names(cls, given)
    for key in entry:
        if key not in keys and key.lower() not in names:
            known = [*keys, *(name.upper() for name in names)]
            raise ValueError(f"{where}: unknown key '{key}'.{did_you_mean(key, known)}")
    return {key.lower(): value for key, value in entry.items() if key not in keys}
