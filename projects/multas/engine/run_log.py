"""The log of a run: on a person's screen in brief, in log.txt in full.

It is kept in memory until the folder of the run may be written to.
"""

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from logging.handlers import MemoryHandler
from typing import cast

from detectron2.utils import comm

from multas.util.command_line import is_debugged
from multas.util.files import disk_full, is_disk_full
from multas.util.screen import Screen

LOG = "log.txt"
_LOGGERS = ("detectron2", "fvcore", "multas")
_NAME = "multas.run_log"


def keep_log() -> None:
    """Keep what Detectron2 and multas log from here on. The log of a former run is closed."""
    former, new = _kept(), MemoryHandler(0)  # It hands nothing on until it has a target.
    new.set_name(_NAME)
    for logger in map(logging.getLogger, _LOGGERS):
        if former is not None:
            logger.removeHandler(former)
        logger.addHandler(new)
    if former is not None and former.target is not None:
        former.target.close()


def open_log(folder: str) -> None:
    """Write what was kept to log.txt in a folder, and all that follows as well.

    Processes other than the main one have files of their own. Where nothing was kept, because the
    caller looks after logging, there is no file.
    """
    kept = _kept()
    if kept is None or kept.target is not None:
        return
    os.makedirs(folder, exist_ok=True)  # each machine may have a disk of its own
    rank = comm.get_rank()
    file = _LogFile(os.path.join(folder, f"{LOG}.rank{rank}" if rank else LOG))
    # As Detectron2 writes it.
    file.setFormatter(
        logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S")
    )
    kept.setTarget(file)
    kept.flush()


@contextmanager
def on_screen() -> Iterator[None]:
    """Detectron2 may set up its console inside the block; after it a :class:`Screen` is there.

    What is logged inside only reaches the file. Processes other than the main one show nothing.
    """
    with redirect_stdout(io.StringIO()) as unseen:
        yield
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            stream = getattr(handler, "stream", None)
            if stream is unseen or isinstance(handler, Screen):
                logger.removeHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.DEBUG)
    stream = sys.stdout or sys.stderr  # either may be closed
    if comm.is_main_process() and stream is not None:
        screen = Screen(stream, everything=is_debugged())
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(screen)


class _LogFile(logging.FileHandler):
    """Tells once that its disk is full, where logging would print a traceback for each line."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not is_disk_full(error):
            super().handleError(record)
        elif not self._told:
            self._told = True
            print(f"warning: {disk_full(self.baseFilename, error)}", file=sys.stderr)


def _kept() -> MemoryHandler | None:
    """The handler that was added here."""
    handlers = logging.getLogger(_LOGGERS[0]).handlers
    found = next((handler for handler in handlers if handler.get_name() == _NAME), None)
    return cast(MemoryHandler | None, found)
