"""Files that are never left half written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[str]:
    """Gives a name to write to. When the block has ended well, that file is moved to ``path``."""
    partial = f"{os.fspath(path)}.{os.getpid()}.partial"  # several processes may write at once
    yield partial
    os.replace(partial, path)
