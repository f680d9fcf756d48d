"""Files that are either as they were or complete, whenever a process is killed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[str]:
    """Gives the name to write to; the file takes its place when the block has ended well.

    A block that fails, or a process that is killed in it, leaves what was at ``path``.
    """
    partial = f"{os.fspath(path)}.{os.getpid()}.partial"  # several processes may write at once
    yield partial
    os.replace(partial, path)
