"""How far the trainings have come that run now."""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

from multas.util.screen import Bar, Screen, clock
from reproduction.run import Run
from reproduction.runs import iterations_of

_TAIL = 1 << 16  # bytes at the end of a file of metrics, which hold its last lines


class Progress(NamedTuple):
    """The iterations of a training that are done, and the seconds left; None = not known."""

    iterations: int
    left: float | None


def progress_of(run: Run) -> Progress | None:
    """What the metrics of a run say last; None where it has none yet."""
    try:
        with open(run.folder / "metrics.json", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().split(b"\n")
    except OSError:
        return None
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except ValueError:  # a line that is being written, or cut off
            continue
        return Progress(record["iteration"] + 1, record.get("eta_seconds"))
    return None


@dataclass(eq=False)
class Watch:
    """Shows the trainings that run: bars on a terminal, elsewhere a line for each tenth of one.

    Args:
        screen: where to.
    """

    screen: Screen
    _bars: dict[str, tuple[ExitStack, Bar]] = field(default_factory=dict)
    _tenths: dict[str, int] = field(default_factory=dict)

    def __call__(self, running: Sequence[Run]) -> None:
        """Show these; those that are no longer among them are taken away."""
        for digest in self._bars.keys() - {run.digest for run in running}:
            self._bars.pop(digest)[0].close()
        show: Callable[[Run, Progress | None], None]
        show = self._show_bar if self.screen.is_terminal else self._show_line
        for run in running:
            show(run, progress_of(run))

    def _show_bar(self, run: Run, progress: Progress | None) -> None:
        if run.digest not in self._bars:
            stack = ExitStack()
            title = "/".join(run.title.split("/")[-2:])  # a terminal may be narrow
            bar = stack.enter_context(self.screen.bar(title, iterations_of(run)))
            self._bars[run.digest] = stack, bar
        done, left = progress or (0, None)
        self._bars[run.digest][1].show(done, f"log: {run.console}", left)

    def _show_line(self, run: Run, progress: Progress | None) -> None:
        total = iterations_of(run)
        if progress is None or not total:
            return
        done, left = progress
        tenth = 10 * done // total
        if tenth > self._tenths.setdefault(run.digest, 0) and left:
            self.screen.say(f"{run.title}: iteration {done}/{total}, {clock(left)} left.")
        self._tenths[run.digest] = tenth
