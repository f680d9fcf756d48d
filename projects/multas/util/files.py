"""Texts in whatever encoding users have, and files that are never left half written."""

import codecs
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeGuard

from multas.util.errors import UserError

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# The disk is full, the quota is used up, the file is larger than `ulimit -f` allows.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def written_whole(path: str | os.PathLike, suffix: str = ".partial") -> Iterator[str]:
    """Gives a name to write to. When the block has ended well, that file is moved to ``path``.

    The name is ``path`` and ``suffix``, which processes that may write at once must not share. What
    was at ``path`` stays until the new content is safely on the disk, so that not even a power cut
    leaves half of it. What a failed block has written is removed.

    Raises:
        UserError: There is no room on the disk; the message names the file.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        yield os.fspath(path)  # a device or a pipe, such as /dev/stdout, cannot be replaced
        return
    path = os.path.realpath(path)  # a link stays one
    partial = f"{path}{suffix}"
    try:
        yield partial
        _flush(partial)
        os.replace(partial, path)
    except BaseException as error:
        cause = _no_room(error, partial)
        with suppress(OSError):
            os.remove(partial)
        if cause is not None:
            raise disk_full(path, cause) from error
        raise
    # Some file systems cannot flush a folder. The file itself is safe there.
    with suppress(OSError):
        _flush(os.path.dirname(os.path.abspath(path)))


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a whole text file, in UTF-8; see :func:`written_whole`."""
    with written_whole(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(text)


def is_disk_full(error: BaseException | None) -> TypeGuard[OSError]:
    """Whether the operating system had no room for a file."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


def disk_full(path: str | os.PathLike, error: OSError) -> UserError:
    """The message about a file that there is no room for."""
    free = free_space(os.path.dirname(os.path.abspath(path)))
    return UserError(
        f"{os.fspath(path)} could not be written: {os.strerror(error.errno or 0)} "
        f"({free / 1e6:.1f} MB of its disk are free). What was there before is unchanged. Make "
        "room, or write to a folder on another disk."
    )


def free_space(folder: str | os.PathLike) -> int:
    """The free bytes of the disk that a folder is on, or will be on."""
    return shutil.disk_usage(_existing(os.path.abspath(folder))).free


def _existing(folder: str) -> str:
    """The folder, or the nearest one above it that there is."""
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return folder


def _flush(path: str) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _no_room(error: BaseException, partial: str) -> OSError | None:
    """The error of the operating system, if there was no room for a file."""
    if isinstance(error, OSError):
        return error if is_disk_full(error) else None
    if isinstance(error, RuntimeError) and os.path.isfile(partial):
        # torch.save does not tell why it failed. A full disk fails again.
        try:
            with open(partial, "ab") as file:
                file.write(bytes(2**20))
                file.flush()
                os.fsync(file.fileno())
        except OSError as again:
            return again if is_disk_full(again) else None
    return None


def read_text(path: str | os.PathLike) -> str:
    """The text of a file, with "\\n" between the lines.

    It is UTF-8, or UTF-16 with a byte order mark, as PowerShell writes it. The mark is dropped.

    Raises:
        OSError: if the file is missing or unreadable.
        UserError: if it has another encoding; the message names the line.
    """
    refuse_pipe(path)
    content = Path(path).read_bytes()
    encoding = "utf-16" if content.startswith(_UTF16) else "utf-8"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}: line {line} is not {encoding.upper()}; save the file in the encoding UTF-8."
        ) from None
    if "\0" in text:
        raise UserError(f"{path} is not a text, it has zero bytes; save it in the encoding UTF-8.")
    # Marks within a text are left from files that were joined.
    return text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")


def refuse_pipe(path: str | os.PathLike) -> None:
    """Make sure that opening a file does not wait for another program, as a pipe would.

    What a shell or the system hands over below /dev is meant so.

    Raises:
        OSError: It is a pipe, or there is no such file.
    """
    name = os.fspath(path)
    if stat.S_ISFIFO(os.stat(name).st_mode) and not name.startswith(("/dev/", "/proc/")):
        raise OSError(errno.EINVAL, "a pipe, not a file", name)


def require_writable(path: str | os.PathLike, what: str) -> None:
    """Make sure that a file can be written later; nothing is written now.

    Raises:
        UserError: It cannot. The message starts with ``what``, an argument or key, and the path.
    """
    whole = os.path.abspath(path)
    if os.path.isdir(whole):
        raise UserError(f"{what} {os.fspath(path)!r} is a folder; name a file.")
    folder = _existing(os.path.dirname(whole))
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{what} {os.fspath(path)!r} cannot be written: {folder}: {error.strerror}. Name "
            "another file."
        ) from None
