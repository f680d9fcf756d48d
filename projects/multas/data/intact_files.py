"""Which image files were found intact, remembered from run to run.

The file is a row of fingerprints of a fixed size. Whatever damages it makes fingerprints that no
file has, so that it needs no check of its own.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from multas.util.files import written_whole

_SIZE = 16  # bytes of a fingerprint


def fingerprint(file: str) -> bytes:
    """A hash of the path, size and time of change of a file.

    Raises:
        OSError: There is no such file.
    """
    status = os.stat(file)
    text = f"{os.path.abspath(file)}\0{status.st_size}\0{status.st_mtime_ns}"
    return hashlib.blake2b(os.fsencode(text), digest_size=_SIZE).digest()


def read_intact() -> set[bytes]:
    """The fingerprints of all files that any run has found intact."""
    try:
        content = _place().read_bytes()
    except OSError:
        return set()
    return {content[i : i + _SIZE] for i in range(0, len(content) - _SIZE + 1, _SIZE)}


def add_intact(found: Iterable[bytes]) -> None:
    """Remember fingerprints; where nothing can be written, they are found again by the next run."""
    place = _place()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(place, f".{os.getpid()}.partial") as partial:
            Path(partial).write_bytes(b"".join(read_intact().union(found)))
    except OSError:
        return


def _place() -> Path:
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(folder) / "multas" / "intact_images"
