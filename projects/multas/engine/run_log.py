"""The log of a run: kept in memory until its folder may be written to, and then in log.txt."""

import logging
import os
import sys
from logging.handlers import MemoryHandler
from typing import cast

from detectron2.utils import comm

from multas.util.files import disk_full, is_disk_full

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
