"""Metrics on disk: opened late, and never left with half a line."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec

from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
)

from multas.util.files import disk_full, is_disk_full


class LateWriters(EventWriter):
    """Writers of metrics that are opened when there is something to write.

    So a run that is refused leaves no file. If the disk is full, they are closed.

    Args:
        build: opens the writers.
        folder: where they write, metrics.json above all.
    """

    def __init__(self, build: Callable[[], Sequence[EventWriter]], folder: str) -> None:
        self._build = build
        self._metrics = os.path.join(folder, "metrics.json")
        self._writers: Sequence[EventWriter] | None = None

    def write(self) -> None:
        with self._room():
            if self._writers is None:
                _drop_half_line(self._metrics)
                self._writers = self._build()
            for writer in self._writers:
                writer.write()

    def close(self) -> None:
        """Close the writers. What comes later is not written."""
        with self._room():
            for writer in self._writers or ():
                writer.close()
            self._writers = ()

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Raises a UserError if the disk is full."""
        try:
            yield
        except OSError as error:
            # Detectron2 writes once more when a run ends, however it ends.
            writers, self._writers = self._writers or (), ()
            for writer in writers:
                with suppress(OSError):
                    writer.close()
            if is_disk_full(error):
                raise disk_full(self._metrics, error) from error
            raise


def event_writers(folder: str, max_iter: int) -> list[EventWriter]:
    """Detectron2's writers of a run's metrics: the log, metrics.json and, if it is there,
    TensorBoard.
    """
    writers = [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(folder, "metrics.json")),
    ]
    if find_spec("tensorboard"):
        writers.append(TensorboardXWriter(folder))
    return writers


def _drop_half_line(path: str) -> None:
    """Take from the end of a file what a process has written of a line before it was killed."""
    if not os.path.isfile(path):
        return
    with open(path, "rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
