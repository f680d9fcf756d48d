"""Files that are never left half written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def written_whole(path: str | os.PathLike, suffix: str = ".partial") -> Iterator[str]:
    """Gives a name to write to. When the block has ended well, that file is moved to ``path``.

    The name is ``path`` and ``suffix``, which processes that may write at once must not share.
    """
    partial = f"{os.fspath(path)}{suffix}"
    yield partial
    os.replace(partial, path)
