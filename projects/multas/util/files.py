"""Files of text in whatever encoding users have, and files that are never left half written."""

import codecs
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from multas.util.errors import UserError

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@contextmanager
def written_whole(path: str | os.PathLike, suffix: str = ".partial") -> Iterator[str]:
    """Gives a name to write to. When the block has ended well, that file is moved to ``path``.

    The name is ``path`` and ``suffix``, which processes that may write at once must not share.
    """
    partial = f"{os.fspath(path)}{suffix}"
    yield partial
    os.replace(partial, path)


def read_text(path: str | os.PathLike) -> str:
    """The text of a file, with "\\n" between the lines.

    It is UTF-8, or UTF-16 with a byte order mark, as PowerShell writes it. The mark is dropped.

    Raises:
        OSError: if the file is missing or unreadable.
        UserError: if it has another encoding; the message names the line.
    """
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
