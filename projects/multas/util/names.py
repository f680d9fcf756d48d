"""Looking up and checking names that a user has written."""

import difflib
import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from pathlib import PurePath
from typing import Any, TypeVar

from fvcore.common.registry import Registry

from multas.util.errors import UserError

Key = TypeVar("Key", bound=Hashable)


def is_plain(text: str) -> bool:
    """Whether a text fits into one line of a file: it is UTF-8 and has no control characters."""
    return not re.search(r"[\x00-\x1f\ud800-\udfff]", text)


def nearest(word: str, choices: Iterable[str], cutoff: float = 0.6) -> str:
    """The choice that is most like ``word``, or "" where none is like it."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=cutoff)
    return near[0] if near else ""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The end of an error message: " Did you mean 'x'? Choose from: x, y." """
    choices = sorted(choices)
    near = nearest(word, choices, cutoff=0.5)
    hint = f" Did you mean '{near}'?" if near else ""
    return f"{hint} Choose from: {', '.join(choices)}."


def check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    """Make sure that a config key has one of its values.

    Raises:
        UserError: It does not. The message names the key and the choices.
    """
    choices = list(choices)
    if value not in choices:
        raise UserError(f"{key} is '{value}'; choose from {', '.join(choices)}.")


def lookup(registry: Registry, name: str, where: str) -> Any:
    """The object registered as ``name``. Case, "-" and "_" do not matter (hand-tuned, HandTuned).

    Raises:
        UserError: The name is unknown. The message starts with ``where`` and gives the choices.
    """

    def plain(text: str) -> str:
        return text.replace("-", "").replace("_", "").lower()

    choices = dict(registry)
    for known, registered in choices.items():
        if plain(known) == plain(name):
            return registered
    raise UserError(f"{where}: nothing is registered as '{name}'.{did_you_mean(name, choices)}")


def plain_name(path: str) -> str:
    """The last part of a path, in letters, digits, "-", "_" and "." alone."""
    # Some systems write "ü" as two characters; a name that begins with a dot is a hidden one.
    name = re.sub(r"[^\w.-]", "_", unicodedata.normalize("NFC", PurePath(path).name))
    return name.lstrip(".") or "_"


def plain_names(paths: Mapping[Key, str]) -> dict[Key, str]:
    """Names by which files can lie in one folder and pass through other programs.

    They are the files' own (:func:`plain_name`). Where some differ in nothing but their folder,
    their extension or their case, which programs drop, each of these ends in a hash of its key: the
    name of a file does not depend on the order of the others.
    """
    names = {key: PurePath(plain_name(path)) for key, path in paths.items()}
    count = Counter(name.stem.casefold() for name in names.values())

    def unique(key: Key, name: PurePath) -> str:
        if count[name.stem.casefold()] == 1:
            return name.name
        return (
            f"{name.stem[:180]}-{hashlib.sha256(repr(key).encode()).hexdigest()[:8]}{name.suffix}"
        )

    return {key: unique(key, name) for key, name in names.items()}
