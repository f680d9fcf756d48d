"""Memory that is freed stays with the process."""

import platform
import resource
import subprocess
import sys

import pytest

# Fills 64 MB four times, and prints how many pages the kernel had to give for it. At first it gives
# some in any case: glibc keeps small remainders apart, which lie between the large blocks.
_PAGES = """
import resource, torch
from multas.util.allocator import keep_freed_memory
assert keep_freed_memory()
for _ in range(20):
    torch.ones(16 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones(16 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told so")
def test_tensors_take_the_memory_of_earlier_ones():
    done = subprocess.run(
        [sys.executable, "-c", _PAGES], check=True, capture_output=True, text=True
    )
    # Without it, all of them: they are more than glibc keeps by itself.
    assert int(done.stdout) < 4 * (64 << 20) / resource.getpagesize() / 10
