"""How much is asked of central at once, learnt from its last answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.reads import Page
from daemon.sync.reach import Limits, Reach

LIMITS = Limits(rows=2000, bytes=4 << 20)
BYTES = LIMITS.bytes


def page(rows: int = 100, *, size: int = 0, full: bool = False, seconds: float = 0.5) -> Page:
    return Page(rows=((b"1",),) * rows, after=0, end=1, size=size, full=full, seconds=seconds)


def after(*pages: Page, limits: Limits = LIMITS) -> Reach:
    reach = Reach(limits)
    for each in pages:
        reach.learn(each)
    return reach


# --- the width of ids ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "span"),
    [
        (0.0, 400_000), (0.199, 400_000),  # fast: four times as much
        (0.2, 100_000), (0.5, 100_000), (1.0, 100_000),  # right as it is
        (1.001, 25_000), (30.0, 25_000),  # slow: a quarter
    ],
)  # fmt: skip
def test_the_span_follows_the_time(seconds: float, span: int) -> None:
    assert after(page(seconds=seconds)).span == span


@pytest.mark.parametrize("seconds", [0.0, 0.5, 30.0])
def test_a_full_page_says_nothing_of_the_span(seconds: float) -> None:
    """It ended at its limit of rows, not at the end of the span."""
    assert after(page(2000, full=True, seconds=seconds)).span == 100_000


def test_an_empty_stretch_is_passed_in_ever_longer_steps() -> None:
    """A first sync of an instance with few rows, or none, among a billion ids."""
    reach = Reach(LIMITS)
    at = steps = 0
    while at < 10**9:
        at += reach.span
        reach.learn(page(0, seconds=0.1))
        steps += 1

    assert steps < 10


def test_the_span_has_a_floor_and_a_ceiling() -> None:
    assert after(*[page(seconds=9.0)] * 99).span == 1_000
    assert after(*[page(seconds=0.0)] * 99).span == 1 << 62


def test_a_statement_that_ran_into_its_time_limit_asks_for_much_less() -> None:
    reach = Reach(LIMITS)

    reach.shrink()
    assert (reach.span, reach.rows) == (6_250, 2000)
    for _ in range(9):
        reach.shrink()
    assert reach.span == 1_000


# --- the number of rows --------------------------------------------------------------------------


@pytest.mark.parametrize(("came", "rows"), [(1, 1), (2, 1), (3, 2), (4, 3), (8, 6), (2000, 1500)])
@pytest.mark.parametrize("size", [BYTES, 9 * BYTES])
def test_rows_that_fill_the_bytes_are_asked_for_in_a_smaller_number(
    came: int, rows: int, size: int
) -> None:
    """A little smaller: a result that is cut costs its connection."""
    assert after(page(came, size=size, full=True)).rows == rows


def test_the_number_doubles_back_while_the_bytes_stay_below_half() -> None:
    small = page(7, size=BYTES // 2 - 1, full=True)

    reach = after(page(10, size=BYTES, full=True))
    numbers = []
    for _ in range(10):
        reach.learn(small)
        numbers.append(reach.rows)

    assert numbers == [14, 28, 56, 112, 224, 448, 896, 1792, 2000, 2000]


@pytest.mark.parametrize("size", [BYTES // 2, BYTES - 1])
def test_the_number_stays_while_the_bytes_are_more_than_half(size: int) -> None:
    assert after(page(8, size=BYTES, full=True), page(6, size=size, full=True)).rows == 6


def test_a_page_that_is_not_full_teaches_rows_and_span() -> None:
    reach = after(page(4, size=BYTES, full=True), page(4, size=10, seconds=0.01))

    assert (reach.rows, reach.span) == (6, 400_000)


def test_it_begins_with_the_limit() -> None:
    assert Reach(Limits(rows=3)).rows == 3


# --- always --------------------------------------------------------------------------------------


@given(
    st.integers(1, 5000),
    st.integers(1, 1 << 24),
    st.lists(
        st.none()
        | st.tuples(st.floats(0, 1), st.integers(0, 1 << 26), st.booleans(), st.floats(0, 100)),
        max_size=40,
    ),
)
def test_whatever_comes_it_stays_within_its_bounds(
    rows: int, size: int, events: list[tuple[float, int, bool, float] | None]
) -> None:
    reach = Reach(Limits(rows=rows, bytes=size))
    for event in events:
        if event is None:
            reach.shrink()
        else:
            share, came, full, seconds = event
            reach.learn(page(int(reach.rows * share), size=came, full=full, seconds=seconds))
        assert 1 <= reach.rows <= rows
        assert 1_000 <= reach.span <= 1 << 62


@given(st.integers(1, 1 << 20))
def test_rows_of_one_size_settle_at_a_number_that_uses_the_bytes_and_is_not_cut(size: int) -> None:
    reach = Reach(LIMITS)
    for _ in range(50):
        came = min(reach.rows, -(-BYTES // size))
        full = came == reach.rows or came * size >= BYTES
        reach.learn(page(came, size=came * size, full=full))
    assert reach.rows * size < BYTES
    assert reach.rows == LIMITS.rows or reach.rows * size >= BYTES // 2


# --- the local server's time ----------------------------------------------------------------------

WIDE = Limits(rows=5000, bytes=4 << 20)


def test_it_begins_with_few_and_grows_while_the_local_server_is_fast() -> None:
    reach = Reach(WIDE)
    assert reach.rows == 2000

    reach.wrote(2000, 0.05)
    reach.learn(page(2000, full=True))
    reach.learn(page(4000, full=True))

    assert reach.rows == 5000


@pytest.mark.parametrize(("rows", "seconds"), [(1999, 0.01), (2000, 0.2), (2000, 0.9)])
def test_a_small_batch_or_one_that_took_its_time_lets_it_grow_no_further(
    rows: int, seconds: float
) -> None:
    reach = Reach(WIDE)
    reach.wrote(rows, seconds)
    reach.learn(page(2000, full=True))
    assert reach.rows == 2000


def test_a_slow_write_brings_it_back_to_few() -> None:
    reach = Reach(WIDE)
    reach.wrote(2000, 0.05)
    reach.learn(page(2000, full=True))
    reach.wrote(4000, 1.1)
    reach.learn(page(2000, full=True))
    assert reach.rows == 2000


@given(
    st.integers(1, 100_000),
    st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 100)), max_size=20),
)
def test_however_long_writing_takes_it_stays_within_its_bounds(
    limit: int, writes: list[tuple[int, float]]
) -> None:
    reach = Reach(Limits(rows=limit))
    for rows, seconds in writes:
        reach.wrote(rows, seconds)
        reach.learn(page(reach.rows, full=True))
        assert min(limit, 2000) <= reach.most <= limit
        assert 1 <= reach.rows <= reach.most
