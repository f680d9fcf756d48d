"""Files that are never left half written, whether the process is killed or the disk is full."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from multas.util.errors import UserError

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


def is_disk_full(error: BaseException | None) -> bool:
    """Whether the operating system had no room for a file."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


def disk_full(path: str | os.PathLike, error: OSError) -> UserError:
    """The message about a file that there is no room for."""
    free = shutil.disk_usage(os.path.dirname(os.path.abspath(path))).free
    return UserError(
        f"{os.fspath(path)} could not be written: {os.strerror(error.errno or 0)} "
        f"({free / 1e6:.1f} MB of its disk are free). What was there before is unchanged. Make "
        "room, or write to a folder on another disk."
    )


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
