"""Messages of the log that have a form of their own for the screen."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Message:
    """A message for ``logger.info``: whole in a file, brief on a person's screen (screen.py).

    Attributes:
        full: the text, which any other handler of the log writes.
        brief: a text or something that rich renders, which the screen shows; "" = it is not shown.
    """

    full: str
    brief: Any = ""

    def __str__(self) -> str:
        return self.full
