"""Chunks: together they are the table, and walks that start anywhere meet on the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from daemon import grid
from daemon.sql import Key, Range
from daemon.sync.hot import next_moment
from daemon.sync.motion import goes_on_at, round_of
from daemon.sync.reconcile import differences

IDS = st.integers(-(2**40), 2**62)
SHIFTS = st.integers(grid.LEAST_SHIFT, grid.MOST_SHIFT)


def walk(high: int, shift: int) -> list[Range]:
    """All chunks below `high`."""
    chunks: list[Range] = []
    cursor: int | None = high
    while cursor is not None:
        assert len(chunks) < 10_000, "a walk ends"
        chunks.append(grid.chunk_below(cursor, shift))
        cursor = chunks[-1].low
    return chunks


def holds(bounds: Range, id_: int) -> bool:
    return (bounds.low is None or id_ >= bounds.low) and (bounds.high is None or id_ < bounds.high)


def times_in(ranges: Sequence[Range], id_: int) -> int:
    return sum(holds(each, id_) for each in ranges)


@given(st.integers(-(2**40), 2**24), SHIFTS, st.lists(IDS))
def test_every_id_is_in_exactly_one_chunk_of_a_walk(high: int, shift: int, ids: list[int]) -> None:
    shift = max(shift, 12)
    chunks = walk(high, shift)
    for id_ in [*ids, high, high - 1, 0, -1, 1]:
        assert times_in(chunks, id_) == (1 if id_ < high else 0)
    assert all(before.low == after.high for before, after in pairwise(chunks))


@given(st.integers(1, 2**62))
def test_a_walk_over_thin_ids_is_short_when_the_width_is_free(high: int) -> None:
    assert len(walk(high, grid.MOST_SHIFT)) <= 64


@given(st.integers(1, 2**24), st.integers(0, 5000), st.integers(14, 20))
def test_walks_from_different_positions_meet_on_the_grid(high: int, more: int, shift: int) -> None:
    one, other = walk(high, shift), walk(high + more, shift)
    shared = {each for each in one if each in other}
    below = high - high % (1 << 15) - (1 << shift)
    assert all(each in shared for each in one if each.high is not None and each.high <= below)


@given(IDS.filter(lambda id_: id_ >= 0), st.lists(IDS))
def test_a_range_with_open_ends_and_its_parts_hold_the_same(highest: int, ids: list[int]) -> None:
    for bounds in (grid.top_chunk(highest), Range(None, highest + 1), Range(None, None)):
        ranges = grid.closed(bounds, highest)
        for id_ in [*ids, highest, highest + 1, 0, -1]:
            assert times_in(ranges, id_) == holds(bounds, id_)


@given(st.integers(-1000, 2**40), st.integers(1, 2**40), st.lists(st.integers(0, 2**40)))
def test_the_parts_of_a_range_are_the_range(low: int, size: int, offsets: list[int]) -> None:
    bounds = Range(low, low + size)
    width = grid.width_of_parts(bounds)
    if width is None:
        assert size <= grid.PARTS
        return
    parts = [grid.part(bounds, width, number) for number in range(-(-size // width))]
    assert len(parts) <= grid.PARTS
    for offset in [*(o % size for o in offsets), 0, size - 1]:
        assert times_in(parts, low + offset) == 1
        assert holds(parts[offset // width], low + offset), "as the server numbers them"


@given(st.integers(0, 10**6), st.floats(0, 10), st.floats(1e3, 1e6), st.sampled_from([1.0, 4.0]))
def test_a_chunk_and_its_pause_are_so_many_times_as_long(
    rows: int, seconds: float, per_second: float, slowness: float
) -> None:
    at_rest = grid.pause_after(rows, seconds, per_second, 1.0)
    assert abs(at_rest - rows / per_second) < 1e-6, "nothing but what its rows are worth"
    pause = grid.pause_after(rows, seconds, per_second, slowness)
    assert abs(pause + seconds - slowness * (at_rest + seconds)) < 1e-6


def test_chunks_that_many_compare_take_longer_and_no_more_than_three_times_as_long() -> None:
    assert [grid.times_as_long(n) for n in (0, 250, 500, 1_000, 5_000)] == [1.0, 1.5, 2.0, 3.0, 3.0]


@given(
    st.floats(0, 1e4), st.floats(-1e9, 1e4), st.sampled_from([1.0, 4.0]), st.floats(-1, 60),
    st.floats(0, 1),
)  # fmt: skip
def test_a_round_waits_for_its_turn_and_no_pause_longer(
    now: float, next_chunk_at: float, pause: float, behind: float, share: float
) -> None:
    at = goes_on_at(now, next_chunk_at, pause, behind, share)
    assert at >= now + pause, "it cannot be its turn much earlier"
    assert next_chunk_at <= at <= max(now, next_chunk_at) + max(pause, behind)


@given(st.floats(0, 1e7), st.floats(1, 1e5), st.sampled_from(["messages", "contacts"]))
def test_a_round_begins_before_now_and_the_next_one_after(
    now: float, interval: float, table: str
) -> None:
    began = round_of(now, interval, table)
    assert began <= now + 1e-6
    assert now < began + interval + 1e-6
    assert round_of(began + interval / 2, interval, table) == began


@given(st.floats(0, 1e7), st.floats(1, 1e5), st.sampled_from(["nunes", "karsten", "i0042"]))
def test_hot_rows_are_compared_once_in_each_interval(
    now: float, interval: float, instance: str
) -> None:
    at = next_moment(now, interval, instance)
    assert now < at <= now + interval + 1e-6
    assert abs(next_moment(at, interval, instance) - at - interval) < 1e-5 * interval + 1e-6


def test_not_all_compare_their_hot_rows_at_once() -> None:
    moments = [next_moment(1000.0, 5.0, f"i{number:04}") for number in range(1_000)]
    at_once = [moments.count(each) for each in set(moments)]
    assert len(at_once) == 10
    assert max(at_once) < 200


KEYS: st.SearchStrategy[dict[Key, int]] = st.dictionaries(st.integers(1, 20), st.integers(0, 2))


@given(KEYS, KEYS, st.sets(st.integers(1, 20)), st.none() | st.integers(0, 20))
def test_differences(
    theirs: dict[Key, int], ours: dict[Key, int], excluded: set[Key], settled: int | None
) -> None:
    found = differences(theirs, ours, excluded=excluded, settled=settled)
    for key in range(1, 21):
        there, here = theirs.get(key), ours.get(key)
        assert (key in found.missing) == (
            there is not None and here is None and key not in excluded
        )
        assert (key in found.differing) == (
            there is not None and here is not None and there != here and key not in excluded
        )
        late = settled is not None and key > settled
        assert (key in found.extra) == (there is None and here is not None and not late)
    assert found.all == found.missing | found.differing | found.extra
