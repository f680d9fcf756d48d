"""How the C library keeps the memory of tensors that are no longer needed."""

import ctypes

# Parameters of glibc's mallopt, from its malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let tensors on the CPU have the memory of earlier ones, instead of new memory each time.

    glibc asks the kernel for each large block and gives it back as soon as it is freed, so that
    every step of a training waits for pages that the kernel must clear. What is freed stays with
    the process from now on. Only glibc can be told so (mallopt(3)); elsewhere nothing happens.

    Returns:
        Whether the C library does so.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    # No block comes from the kernel on its own (0), and none at the end goes back to it (-1).
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
