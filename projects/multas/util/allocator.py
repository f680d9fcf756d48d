"""How the C library keeps the memory of tensors that are no longer needed."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of glibc's mallopt, from its malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
# No block comes from the kernel on its own (0), and none at the end goes back to it (-1).
_KEPT = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
# glibc moves its thresholds with the blocks that are freed, until a program sets one. Afterwards
# they stand where it would move them at the most; where they begin, each tensor is new memory.
_AFTER = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}
_open = 0  # contexts that have not ended: the C library has one setting for all of them


@contextmanager
def freed_memory_kept() -> Iterator[bool]:
    """Let tensors on the CPU have the memory of earlier ones, instead of new memory each time.

    glibc asks the kernel for each large block and gives it back as soon as it is freed, so that
    every step of a training waits for pages that the kernel must clear. Until the end of the
    context, and of those around it, what is freed stays with the process; then it goes back to the
    kernel. Only glibc can be told so (mallopt(3), malloc_trim(3)); elsewhere nothing happens.

    Yields:
        Whether the C library does so.
    """
    global _open
    libc = _glibc()
    if libc is None:
        yield False
        return
    kept = all(libc.mallopt(*item) for item in _KEPT.items())
    _open += 1
    try:
        yield kept
    finally:
        _open -= 1
        if not _open:
            for item in _AFTER.items():
                libc.mallopt(*item)
            libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
        return libc if libc.mallopt and libc.malloc_trim else None
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return None
