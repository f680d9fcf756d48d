"""A folder of entries, each a file of bytes with its checksum, of limited size.

Everything is a plain file: nothing of it is run, processes and users may share the folder, and
whatever is damaged is simply not there. Only files of the form that this class writes are ever
read, replaced or removed.
"""

import contextlib
import hashlib
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from typing import NamedTuple

from multas.util.files import disk_full, is_disk_full

logger = logging.getLogger(__name__)

_ENTRY = re.compile(r"[0-9a-f]{40}\.entry")
_PARTIAL = re.compile(r"[0-9a-f]{40}\.entry\.[0-9a-f]{16}\.partial")
_ABANDONED = 3600  # seconds after which an unfinished file is of a process that was killed
_CHECKSUM = 20  # bytes, in front of the content
_STEP = 0.1  # share of the limit that is added, or dropped, before the entries are counted again


class _File(NamedTuple):
    used: float  # time of the last use
    size: int  # bytes
    path: str


class EntryFiles:
    """The entries of a folder, of which the least recently used are dropped at a limit.

    Args:
        folder: where they are; ``~`` and variables are replaced. It is made for the first entry.
        max_bytes: the limit for all files together, which several processes may exceed by a tenth
            each.

    Attributes:
        folder: with ``~`` and variables replaced.
        held: bytes of all entries when they were last counted, and of those added since.
        damaged: entries that were not what was written.
    """

    def __init__(self, folder: str, max_bytes: int) -> None:
        self.folder = os.path.expanduser(os.path.expandvars(folder))
        self.damaged = 0
        self._max_bytes = max_bytes
        self._added = 0
        self.held = sum(file.size for file in self._files(_ENTRY))

    def get(self, key: str) -> bytes | None:
        """The content of an entry; None if there is none or it is damaged.

        Args:
            key: 40 hexadecimal digits.
        """
        path = self._path(key)
        try:
            with open(path, "rb", opener=_open_no_other) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise OSError("no file")
                data = file.read()
        except FileNotFoundError:
            return None
        except OSError:
            data = b""
        if data[:_CHECKSUM] != _checksum(key, data[_CHECKSUM:]):
            self.count_damage(key)
            return None
        with contextlib.suppress(OSError):  # another process has dropped it, or owns it
            os.utime(path)
        return data[_CHECKSUM:]

    def set(self, key: str, content: bytes) -> None:
        """Write an entry, whatever was there; others may be dropped for it.

        Raises:
            UserError: There is no room on the disk.
        """
        path = self._path(key)
        partial = f"{path}.{secrets.token_hex(8)}.partial"
        os.makedirs(self.folder, exist_ok=True)
        try:
            # An entry that a power cut has damaged is as good as none: nothing waits for the disk.
            with open(partial, "xb") as file:
                file.write(_checksum(key, content) + content)
            os.replace(partial, path)
        except OSError as error:
            _remove(partial)
            if isinstance(error, IsADirectoryError):
                return  # it is none of ours and stays, and the entry stays a miss
            if is_disk_full(error):
                raise disk_full(path, error) from error
            raise
        self.held += _CHECKSUM + len(content)
        self._added += _CHECKSUM + len(content)
        # Other processes add entries, too.
        if self.held > self._max_bytes or self._added > _STEP * self._max_bytes:
            self._drop()

    def _path(self, key: str) -> str:
        return os.path.join(self.folder, f"{key}.entry")

    def count_damage(self, key: str) -> None:
        """Count a damaged entry; the first one is told."""
        if not self.damaged:
            logger.warning(
                f"The teacher's cache has a damaged entry, {self._path(key)}. The teacher is asked "
                "again and the entry replaced; further ones are only counted, as "
                '"teacher_cache/damaged".'
            )
        self.damaged += 1

    def _drop(self) -> None:
        """Count all entries and, above the limit, remove the least recently used ones."""
        files = sorted(self._files(_ENTRY))
        self.held, self._added = sum(file.size for file in files), 0
        if self.held > self._max_bytes:
            for file in files:
                if self.held <= (1 - _STEP) * self._max_bytes:
                    break
                _remove(file.path)
                self.held -= file.size
        for file in self._files(_PARTIAL):
            if time.time() - file.used > _ABANDONED:
                _remove(file.path)

    def _files(self, kind: re.Pattern) -> Iterator[_File]:
        """The files of a kind, without links."""
        if not os.path.exists(self.folder):
            return
        with os.scandir(self.folder) as files:
            for file in files:
                # Another process may drop it at any time.
                with contextlib.suppress(FileNotFoundError):
                    if kind.fullmatch(file.name) and file.is_file(follow_symlinks=False):
                        about = file.stat(follow_symlinks=False)
                        yield _File(about.st_mtime, about.st_size, file.path)


def _open_no_other(path: str, flags: int) -> int:
    """Open no link, which may lead out of the folder, and wait for no pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.remove(path)


def _checksum(key: str, content: bytes) -> bytes:
    """Of the key as well, so that an entry under another's name is a damaged one."""
    return hashlib.blake2b(content, digest_size=_CHECKSUM, key=key.encode()).digest()
