"""Metrics and logs on disk: opened late, never left with half a line, and quiet on a full disk."""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from detectron2.utils.events import EventWriter, JSONWriter

from multas.util.files import disk_full, is_disk_full


class LateWriters(EventWriter):
    """Writers of metrics that are opened when there is something to write.

    So a run that is refused leaves no file. If the disk is full, they are closed, and the whole
    lines stay.

    Args:
        build: opens the writers.
        folder: where they write.
    """

    def __init__(self, build: Callable[[], Sequence[EventWriter]], folder: str) -> None:
        self._build = build
        self._metrics = os.path.join(folder, "metrics.json")
        self._events = os.path.join(folder, "events.out.tfevents")  # and a time
        self._writers: Sequence[EventWriter] | None = None

    def write(self) -> None:
        if self._writers is None:
            _drop_half_line(self._metrics)
            self._writers = ()
            with self._room_for(self._events):
                self._writers = self._build()
        for writer in self._writers:
            with self._room_for(self._file_of(writer)):
                writer.write()

    def close(self) -> None:
        for writer in self._writers or ():
            with self._room_for(self._file_of(writer)):
                writer.close()

    def _file_of(self, writer: EventWriter) -> str:
        return self._metrics if isinstance(writer, JSONWriter) else self._events

    @contextmanager
    def _room_for(self, file: str) -> Iterator[None]:
        """Gives up all writers if the disk is full.

        Raises:
            UserError: It is; the message names the file.
        """
        try:
            yield
        except OSError as error:
            if not is_disk_full(error):
                raise
            for writer in self._writers or ():
                with suppress(OSError):
                    writer.close()
            # Detectron2 writes once more when a run ends, however it ends.
            self._writers = ()
            _drop_half_line(self._metrics)
            raise disk_full(file, error) from error


def keep_quiet_on_full_disk(*names: str) -> None:
    """Let loggers tell once that the disk of their file is full, and go on without the file.

    They would print a traceback for every line otherwise.
    """
    handlers = [(logging.getLogger(name), h) for name in names for h in _file_handlers(name)]
    for _, handler in handlers:
        handler.handleError = partial(_give_up, handler, handlers)  # type: ignore[method-assign]


def _file_handlers(name: str) -> list[logging.StreamHandler]:
    streams = [h for h in logging.getLogger(name).handlers if isinstance(h, logging.StreamHandler)]
    return [handler for handler in streams if handler.stream not in (sys.stdout, sys.stderr)]


def _give_up(
    handler: logging.StreamHandler,
    known: Sequence[tuple[logging.Logger, logging.StreamHandler]],
    record: logging.LogRecord,
) -> None:
    error, stream = sys.exc_info()[1], handler.stream
    if stream.closed:
        return  # it is told already
    if not isinstance(error, OSError) or not is_disk_full(error):
        logging.Handler.handleError(handler, record)
        return
    for logger, other in known:
        if other.stream is stream:
            logger.removeHandler(other)
    with suppress(OSError):
        stream.close()
    _drop_half_line(stream.name)
    print(f"warning: {disk_full(stream.name, error)} The log ends there.", file=sys.stderr)


def _drop_half_line(path: str) -> None:
    """Take from the end of a file what a process has written of a line before it was killed."""
    if not os.path.isfile(path):
        return
    with open(path, "rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
