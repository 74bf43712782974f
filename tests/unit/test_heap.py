"""Large pieces of memory leave nothing behind, however small ones lie among them."""

from __future__ import annotations

import subprocess
import sys

import pytest

_RESIDENT = """
import sys
from daemon import heap

def resident_mb():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024
"""

# A thousand connections that come and go, and what is learnt of each meanwhile.
_CONNECTIONS_COME_AND_GO = f"""{_RESIDENT}
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


# A thousand that are open at once, and listen with less.
_CONNECTIONS_CLOSE = f"""{_RESIDENT}
heap.keep_large_pieces_apart()
before, learnt, buffers = resident_mb(), [], []
for _ in range(1_000):
    buffers.append(bytearray(16_384))
    learnt.append(bytes(1_000))
buffers.clear()
closed = resident_mb() - before
heap.give_back()
print(closed, resident_mb() - before)
"""


def grown_mb(how: str) -> float:
    return float(subprocess.check_output([sys.executable, "-c", _CONNECTIONS_COME_AND_GO, how]))


def test_what_is_freed_goes_back() -> None:
    if grown_mb("as it is") < 10:
        pytest.skip("this C library gives back by itself")
    assert grown_mb("apart") < 10


def test_what_closed_connections_leave_among_the_rest_is_given_back() -> None:
    said = subprocess.check_output([sys.executable, "-c", _CONNECTIONS_CLOSE])
    closed, given_back = map(float, said.split())
    if closed < 10:
        pytest.skip("this C library gives back by itself")
    assert given_back < 8
