"""Large pieces of memory leave nothing behind, however small ones lie among them."""

from __future__ import annotations

import subprocess
import sys

import pytest

# A thousand connections that come and go, and what is learnt of each meanwhile.
_CONNECTIONS_COME_AND_GO = """
import sys
from daemon import heap

def resident_mb():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

if sys.argv[1] == "apart":
    heap.keep_large_pieces_apart()
bytearray(262_144)
before, learnt = resident_mb(), []
for _ in range(10):
    buffers = []
    for _ in range(100):
        buffers.append(bytearray(262_144))
        learnt.append(bytes(1_000))
    buffers.clear()
print(resident_mb() - before)
"""


def grown_mb(how: str) -> float:
    return float(subprocess.check_output([sys.executable, "-c", _CONNECTIONS_COME_AND_GO, how]))


def test_what_is_freed_goes_back() -> None:
    if grown_mb("as it is") < 10:
        pytest.skip("this C library gives back by itself")
    assert grown_mb("apart") < 10
