"""Errors of loading processes, handed over as values.

torch would raise them in the training process with the traceback of the worker as their text.
"""

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, Protocol

from multas.util.errors import UserError


def or_error(function: Callable[..., Any], *args: Any) -> Any:
    """What a function returns, or the error with which it tells a user's mistake."""
    try:
        return function(*args)
    except (UserError, OSError) as error:
        return error


def raise_errors(batches: Iterable, unpack: Callable[[Any], list] = list) -> Iterator[list]:
    """The batches, each unpacked, until one holds an error of :func:`or_error`, which is raised."""
    # What has a name here lives as long as the traceback of an error. So their iterator, with which
    # the loading processes end, has none.
    for batch in map(unpack, batches):
        for sample in batch:
            if isinstance(sample, Exception):
                raise sample
        yield batch


class _Batches(Sized, Iterable[list], Protocol):
    """Has a length and can be iterated over, as torch's DataLoader."""


@dataclass(eq=False)
class Raising:
    """Iterates over batches as often as they can be, and raises the errors among them."""

    batches: _Batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list]:
        return raise_errors(self.batches)
