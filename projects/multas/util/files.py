"""Files that are never left half written."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from multas.util.errors import UserError


@contextmanager
def written_whole(path: str | os.PathLike, suffix: str = ".partial") -> Iterator[str]:
    """Gives a name to write to. When the block has ended well, that file is moved to ``path``.

    The name is ``path`` and ``suffix``, which processes that may write at once must not share.
    """
    partial = f"{os.fspath(path)}{suffix}"
    yield partial
    os.replace(partial, path)


def require_writable(path: str | os.PathLike, what: str) -> None:
    """Make sure that a file can be written later; nothing is written now.

    Raises:
        UserError: It cannot. The message starts with ``what``, an argument or key, and the path.
    """
    whole = os.path.abspath(path)
    if os.path.isdir(whole):
        raise UserError(f"{what} {os.fspath(path)!r} is a folder; name a file.")
    folder = os.path.dirname(whole)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{what} {os.fspath(path)!r} cannot be written: {folder}: {error.strerror}. Name "
            "another file."
        ) from None
