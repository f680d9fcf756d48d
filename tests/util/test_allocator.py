"""Memory that is freed stays with the process."""

import platform
import subprocess
import sys

import pytest

# Fills 64 MB several times, and prints how many pages the kernel had to give for it.
_PAGES = """
import resource, torch
from multas.util.allocator import keep_freed_memory
if {keeps}:
    assert keep_freed_memory()
for _ in range(4):
    torch.ones(16 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones(16 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told so")
def test_tensors_take_the_memory_of_earlier_ones():
    pages = {keeps: _pages(keeps) for keeps in (False, True)}
    assert pages[True] < pages[False] / 10


def _pages(keeps: bool) -> int:
    command = [sys.executable, "-c", _PAGES.format(keeps=keeps)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
