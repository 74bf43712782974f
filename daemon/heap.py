"""Memory that is freed goes back to the system."""

from __future__ import annotations

import ctypes

_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of mallopt(3)."""

_LARGE_BYTES = 262_144
"""The driver reads into buffers of so much."""


def keep_large_pieces_apart() -> None:
    """Have each large piece of memory mapped by itself, where the C library can (glibc), so that
    all of it goes back when it is freed. For the whole process.

    As glibc is, the first such piece that is freed makes it take all others of that size from among
    the small ones, where they leave holes: 220 KB for each of a thousand connections.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
