"""How a table is cut into chunks that all instances share. Pure.

Chunks are ranges of the first key column on a fixed grid: a chunk of 2^n ids begins at a multiple
of 2^n. So instances that walk over the same table, each up to its own position, ask for the same
chunks, and their sums can be computed once. A walk goes from the newest ids to the oldest, because
the newest are those that change.
"""

from __future__ import annotations

from daemon.sql import Range

LEAST_SHIFT = 10
"""No chunk on the grid is narrower than 2^10 ids."""

FIRST_SHIFT = 14
"""Where nothing is known of a table yet."""

MOST_SHIFT = 62

PARTS = 16
"""A chunk that differs is cut into so many parts."""


def chunk_below(high: int, shift: int) -> Range:
    """The next chunk of a walk that has come down to `high`, at most 2^shift ids wide; the last one
    has no lower end.

    Above the last multiple of 2^10 a chunk is ragged: it goes down to the grid.
    """
    aligned = high & -high
    if aligned < 1 << LEAST_SHIFT:
        low = high - high % (1 << LEAST_SHIFT)
    else:
        low = high - min(aligned, 1 << shift)
    return Range(None if low <= 0 else low, high)


def top_chunk(highest: int) -> Range:
    """The first chunk of a walk over a whole table whose highest id is this: it has no upper end,
    so ids that are newer are in it, too."""
    low = highest - highest % (1 << LEAST_SHIFT)
    return Range(None if low <= 0 else low, None)


def smaller_shift(bounds: Range) -> int | None:
    """For chunks an eighth as wide as this one at the most; None where it cannot be any smaller."""
    if bounds.high is None:
        return None
    width = bounds.high - (bounds.low or 0)
    if width <= 1 << LEAST_SHIFT:
        return None
    return max(LEAST_SHIFT, width.bit_length() - 4)


def pause_after(rows: int, seconds: float, rows_per_second: float, slowness: float) -> float:
    """How long the next chunk's sums wait after those of so many rows, which took so many seconds:
    so that both together are `slowness` times as long as they are when that is 1."""
    return (seconds + rows / rows_per_second) * slowness - seconds


def times_as_long(instances: int) -> float:
    """How many times as long a chunk's sums may take that so many instances compare: each of them
    asks his own server about it, however few of his rows are in it. One and a bit for a few."""
    return min(3.0, 1.0 + instances / 500)


def closed(bounds: Range, highest: int) -> list[Range]:
    """A range with an open end as one with two ends, which holds nearly all of it, and the rest."""
    if bounds.high is None:
        low = bounds.low if bounds.low is not None else min(0, highest)
        rest = [] if bounds.low is not None else [Range(None, low)]
        return [*rest, Range(low, highest + 1), Range(highest + 1, None)]
    if bounds.low is None and bounds.high > 1:
        return [Range(None, 0), Range(0, bounds.high)]
    return [bounds]


def width_of_parts(bounds: Range) -> int | None:
    """How wide the parts of a range are that is cut; None when it cannot be, or need not."""
    if bounds.low is None or bounds.high is None:
        return None
    width = -(-(bounds.high - bounds.low) // PARTS)
    return width if width > 1 else None


def part(bounds: Range, width: int, number: int) -> Range:
    """One part of a range that has two ends."""
    assert bounds.low is not None  # noqa: S101 - `width_of_parts` has looked
    assert bounds.high is not None  # noqa: S101
    low = bounds.low + number * width
    return Range(low, min(low + width, bounds.high))
