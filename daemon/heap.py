"""Memory that is freed goes back to the system, where the C library can (glibc)."""

from __future__ import annotations

import ctypes

_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of mallopt(3)."""

_LARGE_BYTES = 262_144
"""The driver reads into buffers of so much."""


def keep_large_pieces_apart() -> None:
    """Have each large piece of memory mapped by itself, so that all of it goes back when it is
    freed. For the whole process.

    As glibc is, the first such piece that is freed makes it take all others of that size from among
    the small ones, where they leave holes: 220 KB for each of a thousand connections.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)


def give_back() -> None:
    """Give back what lies free among what is used, page by page. It takes some milliseconds where
    there is much of it: for when much was freed.

    The smaller buffers of open connections are taken from among the small pieces. Where a thousand
    of them have closed, they leave 15 MB.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
