"""Messages of the log that have a form of their own for the screen."""

import io
import logging
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


class Lines(io.TextIOBase):
    """A stream for what prints: its lines become messages of a log that no screen shows."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger, self._rest = logger, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._logger.info(Message(line))
        return len(text)
