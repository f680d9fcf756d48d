"""The log of a run: kept in memory until its folder may be written to, and then in log.txt."""

import logging
import os
import sys
from logging.handlers import MemoryHandler

from detectron2.utils import comm

from multas.engine.writers import keep_quiet_on_full_disk

LOG = "log.txt"
_LOGGERS = ("detectron2", "fvcore", "multas")
_NAME = "multas.run_log"


def keep_log() -> None:
    """Keep what Detectron2 and multas log from here on. The log of a former run is closed."""
    _replace_handler(MemoryHandler(sys.maxsize, flushLevel=sys.maxsize))


def open_log(folder: str) -> None:
    """Write what was kept to log.txt in an existing folder, and all that follows as well.

    Processes other than the main one have files of their own. Where nothing was kept, because the
    caller looks after logging, there is no file.
    """
    kept = next((handler for handler in _handlers() if isinstance(handler, MemoryHandler)), None)
    if kept is None:
        return
    rank = comm.get_rank()
    file = logging.FileHandler(os.path.join(folder, f"{LOG}.rank{rank}" if rank else LOG))
    # As Detectron2 writes it.
    file.setFormatter(
        logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S")
    )
    _replace_handler(file)
    keep_quiet_on_full_disk(*_LOGGERS)
    kept.setTarget(file)
    kept.flush()
    kept.setTarget(None)


def _handlers() -> list[logging.Handler]:
    """The handlers that were added here, each once."""
    found = (handler for name in _LOGGERS for handler in logging.getLogger(name).handlers)
    return list(dict.fromkeys(handler for handler in found if handler.get_name() == _NAME))


def _replace_handler(new: logging.Handler) -> None:
    """Let a handler take the place of that which was added before."""
    new.set_name(_NAME)
    old = [handler for handler in _handlers() if handler is not new]
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        for handler in old:
            logger.removeHandler(handler)
        logger.addHandler(new)
    for handler in old:
        if isinstance(handler, MemoryHandler):
            handler.setTarget(None)
        handler.close()
