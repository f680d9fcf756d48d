"""Look a name up in a registry, with an error that helps."""

import difflib
from collections.abc import Iterable
from typing import Any

from fvcore.common.registry import Registry


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """ " Did you mean 'x'? Choose from: …" for an unknown ``word``."""
    choices = sorted(choices)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"{hint} Choose from: {', '.join(choices)}."


def lookup(registry: Registry, name: str, where: str) -> Any:
    """The object registered as ``name``; case, "-" and "_" do not matter (hand-tuned, HandTuned).

    Raises:
        ValueError: unknown name; the message starts with ``where`` and gives the choices.
    """

    def plain(text: str) -> str:
        return text.replace("-", "").replace("_", "").lower()

    choices = dict(registry)
    for known, registered in choices.items():
        if plain(known) == plain(name):
            return registered
    raise ValueError(f"{where}: nothing is registered as '{name}'.{did_you_mean(name, choices)}")
