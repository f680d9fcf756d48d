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
from dataclasses import dataclass
from pathlib import Path

from multas.util.files import disk_full, is_disk_full

logger = logging.getLogger(__name__)

_ENTRY = re.compile(r"[0-9a-f]{40}\.entry")
_PARTIAL = re.compile(r"[0-9a-f]{40}\.entry\.[0-9a-f]{16}\.partial")
_ABANDONED = 3600  # seconds after which an unfinished file is of a process that was killed
_CHECKSUM = 20  # bytes, in front of the content
_KEPT = 0.9  # share of the limit that stays, so that the folder is not listed for each new entry


@dataclass(frozen=True)
class _File:
    path: str
    used: float  # time of the last use
    size: int  # bytes


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
        self.held = sum(file.size for file in self._files(_ENTRY))
        if os.path.isfile(os.path.join(self.folder, "cache.db")):
            logger.warning(
                f"{self.folder} has cache.db, the index of a former version, which is not read. "
                "Delete it and the files that end in .val."
            )

    def get(self, key: str) -> bytes | None:
        """The content of an entry; None if there is none or it is damaged.

        Args:
            key: 40 hexadecimal digits.
        """
        path = self._path(key)
        try:
            # A link or pipe is none of ours, and may lead out of the folder.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with open(os.open(path, flags), "rb") as file:
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
        if self.held > self._max_bytes:
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
        """Count all entries, and remove the least recently used ones above the limit."""
        files = sorted(self._files(_ENTRY), key=lambda file: file.used, reverse=True)
        self.held = 0
        for file in files:
            if self.held + file.size <= _KEPT * self._max_bytes:
                self.held += file.size
            else:
                _remove(file.path)
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
                        yield _File(file.path, about.st_mtime, about.st_size)


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        Path(path).unlink()


def _checksum(key: str, content: bytes) -> bytes:
    """Of the key as well, so that an entry under another's name is a damaged one."""
    return hashlib.blake2b(content, digest_size=_CHECKSUM, key=key.encode()).digest()
