"""Collects what is wrong with a data set while it is read, and reports all of it at once."""

import logging

STRICTNESS = ("stop", "skip")
MAX_LINES = 20  # a screenful

logger = logging.getLogger(__name__)


class DatasetError(ValueError):
    """A data set, its card or its files are wrong; the message names the files and the cure."""


class Problems:
    """What was found wrong in one data set.

    Readers `add` a line for each find and leave the object or image out of what they return;
    `close` then stops (`strictness` "stop") or logs one warning ("skip").
    """

    def __init__(self, dataset: str, strictness: str = "stop"):
        if strictness not in STRICTNESS:
            raise DatasetError(
                f"data set {dataset}: strictness is {strictness!r}, choose from {STRICTNESS}"
            )
        self.dataset = dataset
        self.strictness = strictness
        self.lines: list[str] = []

    def add(self, where: str, what: str) -> None:
        """Note that file or entry `where` has the fault `what`."""
        self.lines.append(f"{where}: {what}")

    def report(self) -> str:
        """All finds, at most `MAX_LINES` of them and the number of the others."""
        shown = [f"  {line}" for line in self.lines[:MAX_LINES]]
        if len(self.lines) > MAX_LINES:
            shown.append(f"  and {len(self.lines) - MAX_LINES} more")
        noun = "problem" if len(self.lines) == 1 else "problems"
        return "\n".join([f"data set {self.dataset}: {len(self.lines)} {noun}", *shown])

    def close(self) -> None:
        """Report what was found, if anything.

        Raises:
            DatasetError: something was found and strictness is "stop".
        """
        if not self.lines:
            return
        if self.strictness == "stop":
            raise DatasetError(
                f"{self.report()}\nMend the files, or set `strictness: skip` in the card to go on "
                "without the objects and images named here."
            )
        logger.warning("%s\nLeft out because of `strictness: skip`.", self.report())
