"""Collects what is wrong with a data set while it is read, and reports all of it at once."""

import logging
from collections import Counter
from collections.abc import Iterable

from multas.util.errors import UserError
from multas.util.names import check_choice, nearest

STRICTNESS = ("stop", "skip")
MAX_LINES = 20  # a screenful
MAX_NAMES = 6  # a line

logger = logging.getLogger(__name__)


class DatasetError(UserError):
    """A data set, its card or its files are wrong; the message names the files and the cure."""


def unread(error: OSError | UserError) -> str:
    """What is wrong with a file that could not be read."""
    if isinstance(error, OSError):
        return f"missing or unreadable ({error.strerror})"
    return str(error)


def or_rather(name: str, known: Iterable[str]) -> str:
    """The end of an issue about an unknown name: ", did you mean dog?" or ""."""
    near = nearest(name, known)
    return f", did you mean {near}?" if near else ""


class DatasetIssues:
    """The issues that were found in one data set.

    Readers :meth:`add` a line for each issue and leave the object or image out of what they return;
    :meth:`close` then stops (``strictness`` "stop") or logs one warning ("skip"). Images that a
    card asks to leave out are not faults: they are counted and named in one warning of their own,
    and so is what is odd but may be meant (:meth:`remark`).
    """

    def __init__(self, dataset: str, strictness: str = "stop"):
        check_choice(f"data set {dataset}: strictness", strictness, STRICTNESS)
        self.dataset = dataset
        self.strictness = strictness
        self.faults: list[tuple[str, str]] = []
        self.left_out: dict[str, list[str]] = {}
        self.remarks: dict[str, list[str]] = {}
        self.passed_over: dict[str, Counter[str]] = {}

    @property
    def lines(self) -> list[str]:
        """A line for each fault."""
        return [f"{where}: {what}" for where, what in self.faults]

    def add(self, where: str, what: str) -> None:
        """Note that the file or entry ``where`` has the fault ``what``."""
        self.faults.append((where, what))

    def leave_out(self, image_id: str, why: str) -> None:
        """Note that an image is left out, as the card asks, because of ``why``."""
        self.left_out.setdefault(why, []).append(image_id)

    def remark(self, where: str, what: str) -> None:
        """Note that the file or entry ``where`` is used, but ``what`` looks like a mistake."""
        self.remarks.setdefault(what, []).append(where)

    def pass_over(self, name: str, what: str) -> None:
        """Count something ("objects", "images") of a class that the card does not want."""
        self.passed_over.setdefault(what, Counter())[name] += 1

    def report(self) -> str:
        """All issues, at most ``MAX_LINES`` of them and the number of the others."""
        shown = [f"  {line}" for line in self.lines[:MAX_LINES]]
        if len(self.faults) > MAX_LINES:
            shown.append(f"  and {len(self.faults) - MAX_LINES} more")
        noun = "issue" if len(self.faults) == 1 else "issues"
        return "\n".join([f"data set {self.dataset}: {len(self.faults)} {noun}", *shown])

    def close(self) -> None:
        """Report the issues, if there are any.

        Raises:
            DatasetError: if there are issues and strictness is "stop".
        """
        if self.left_out:
            logger.warning("%s", self._report_left_out())
        for what, places in self.remarks.items():
            noun = "place" if len(places) == 1 else "places"
            logger.warning(
                "data set %s: %s (%d %s): %s",
                self.dataset, what, len(places), noun, _some(places),
            )  # fmt: skip
        if self.faults and self.strictness == "stop":
            raise DatasetError(
                f"{self.report()}\nMend the files, or set `strictness: skip` in the card to go on "
                "without the objects and images named here."
            )
        if self.faults:
            logger.warning("%s\nLeft out because of `strictness: skip`.", self.report())

    def counts(self) -> dict[str, int]:
        """How many images and objects were left out, by the reason."""
        found = {f"images with {why}": len(names) for why, names in self.left_out.items()}
        for what, numbers in self.passed_over.items():
            shown = [f"{name} {number}" for name, number in numbers.most_common()]
            found[f"{what} of classes that `only` does not name ({_some(shown)})"] = numbers.total()
        return found | ({"faulty images or objects": len(self.faults)} if self.faults else {})

    def _report_left_out(self) -> str:
        lines = []
        for why, names in self.left_out.items():
            lines.append(f"  {len(names)} with {why}: {_some(names)}")
        count = sum(map(len, self.left_out.values()))
        noun = "image" if count == 1 else "images"
        head = f"data set {self.dataset}: {count} {noun} left out because of `only_complete`"
        return "\n".join([head, *lines])


def _some(names: list[str]) -> str:
    more = [f"and {len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else []
    return ", ".join([*names[:MAX_NAMES], *more])
