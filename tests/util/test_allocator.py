"""Memory that is freed stays with the process, and goes back in the end."""

import json
import platform
import resource
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc can be told so"
)

# Fills 64 MB four times, counts how many pages the kernel had to give for it, and how many the
# process has then and in the end. At first it gets some in any case: glibc keeps small remainders
# apart, which lie between the large blocks.
_PAGES = """
import json, resource, torch
from multas.util.allocator import freed_memory_kept

def resident():
    return int(open("/proc/self/statm").read().split()[1])

with freed_memory_kept() as kept:
    assert kept
    with freed_memory_kept():
        pass  # its end changes nothing for the one around it
    for _ in range(20):
        torch.ones(16 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(16 << 20)
    given, during = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, resident()
print(json.dumps([given, during - resident()]))
"""


def test_tensors_take_the_memory_of_earlier_ones_and_leave_it_in_the_end():
    done = subprocess.run(
        [sys.executable, "-c", _PAGES], check=True, capture_output=True, text=True
    )
    given, left = json.loads(done.stdout)
    pages = (64 << 20) / resource.getpagesize()
    # Without it, all of them: they are more than glibc keeps by itself.
    assert given < 4 * pages / 10
    assert left > 0.9 * pages
