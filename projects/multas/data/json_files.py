"""JSON files, and their entries, checked value by value before anything is made of them."""

import json
import os
import reprlib
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

from multas.util.errors import UserError
from multas.util.files import read_text
from multas.util.names import is_plain


def read_json(file: str | os.PathLike) -> Any:
    """What a JSON file says.

    Raises:
        OSError: if the file is missing or unreadable.
        UserError: if it is not JSON, or a table has a key twice; the message names the file.
    """
    text = read_text(file)
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON ({error}); was it cut off?") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A table, where json would take the last of equal keys in silence."""
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in table if keys.count(key) > 1)
        raise UserError(f"key {twice!r} is there twice in one table, drop one")
    return table


def read_coco_ids(file: str | os.PathLike) -> list[tuple[int, str]]:
    """The number and the file name, without extension, of each image of a COCO file.

    Raises:
        OSError: if the file is missing or unreadable.
        UserError: if it is no COCO file; the message names it.
    """
    content = read_json(file)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise UserError(f"{file}: not a COCO file, it has no list `images`")
    ids = []
    for number, entry in enumerate(with_slashes(images)):
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise UserError(f"{file}: images[{number}] has no text `file_name`")
        ids.append((number, os.path.splitext(PurePath(name).as_posix())[0]))
    return ids


def with_slashes(images: Any) -> Any:
    """The ``images`` of a COCO file with "/" in file names, where Windows' programs write "\\"."""
    if not isinstance(images, list):
        return images
    return [
        {**entry, "file_name": name.replace("\\", "/")}
        if isinstance(entry, dict) and isinstance(name := entry.get("file_name"), str)
        else entry
        for entry in images
    ]


class Kind(NamedTuple):
    """What the value of a key has to be."""

    name: str  # as in "need a whole number"
    fits: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Whether a value is a number that can be computed with."""
    return type(value) in (int, float) and abs(value) < 1e15  # NaN is not


TEXT = Kind("a text", lambda v: type(v) is str and bool(v.strip()) and is_plain(v))
ID = Kind(
    "a whole number or a text",
    lambda v: type(v) is str or type(v) is int or (is_number(v) and v % 1 == 0),
)
BOX = Kind(
    "four finite numbers x, y, width, height",
    lambda v: type(v) is list and len(v) == 4 and all(map(is_number, v)),
)


def entry_fault(
    entry: Any, needed: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None
) -> str | None:
    """What is wrong with an entry, a table with ``needed`` and ``optional`` keys, or None."""
    if not isinstance(entry, dict):
        return f"must be a table of keys, it is {reprlib.repr(entry)}"
    if lacking := [key for key in needed if key not in entry]:
        return f"lacks the key {lacking[0]!r}"
    for key, kind in {**needed, **(optional or {})}.items():
        if key in entry and not kind.fits(entry[key]):
            return f"{key} is {reprlib.repr(entry[key])}, need {kind.name}"
    return None
