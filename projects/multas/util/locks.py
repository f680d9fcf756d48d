"""A folder that one process at a time may write to."""

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from multas.util.errors import UserError

LOCK = ".lock"

logger = logging.getLogger(__name__)


@contextmanager
def locked(folder: Path, name: str, work: str) -> Iterator[None]:
    """Hold the lock of a folder, which the operating system gives back if this process dies.

    A POSIX lock, unlike that of flock, is not inherited by processes that load data and may outlive
    this one for some seconds.

    Args:
        folder: it exists.
        name: the key or option that names the folder, for messages.
        work: what is done there, for messages.

    Raises:
        UserError: Another process holds it.
    """
    with open(folder / LOCK, "ab+", buffering=0) as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            lock.seek(0)
            other = lock.read().decode(errors="replace").strip()
            raise UserError(
                f"{name} {folder} is in use by another {work}, {other}. Wait for its end, or "
                f"choose another {name}."
            ) from None
        except OSError as error:
            logger.warning(
                f"{folder} is on a file system without locks ({error.strerror}): make sure that no "
                f"other {work} writes there."
            )
        # If the disk is full, whatever is written next says so, and whole.
        with suppress(OSError):
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
