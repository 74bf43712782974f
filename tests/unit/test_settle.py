"""Heads and settled ids against a list of everything that was seen."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.settle import TIMED_DEFAULT, Head, Heads

# With 64 s of settling an observation is kept for each second; all times are quarters of a second,
# which a float holds exactly.
SETTLE = 64.0
GRAIN = SETTLE / 64


def heads_of(gaps: Sequence[tuple[int, int]]) -> list[Head]:
    """A history from (quarters of a second, ids added) since the observation before."""
    found = []
    at, highest = 0.0, 0
    for quarters, added in gaps:
        at += quarters / 4
        highest += added
        found.append(Head(highest, at))
    return found


def justified(seen: Sequence[Head], now: float) -> int:
    """What a complete list of observations justifies: the highest head that is old enough."""
    return max((head.id for head in seen if now - head.at >= SETTLE), default=0)


dense = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=400).map(heads_of)
sparse = st.lists(st.tuples(st.integers(0, 600), st.integers(0, 9)), max_size=60).map(heads_of)
histories = dense | sparse


@settings(deadline=None)
@given(histories, st.lists(st.integers(0, 400), max_size=5))
def test_never_claims_what_was_not_seen_a_settle_time_ago(
    history: list[Head], waits: list[int]
) -> None:
    heads = Heads(SETTLE)
    before = 0
    for number, head in enumerate(history, 1):
        heads.observe(head)
        now = heads.settled(head.at)
        assert before <= now <= justified(history[:number], head.at)
        before = now
    at = history[-1].at if history else 0.0
    for wait in waits:
        at += wait / 4
        now = heads.settled(at)
        assert before <= now <= justified(history, at)
        before = now


@settings(deadline=None)
@given(histories)
def test_an_id_settles_in_time_as_long_as_the_head_is_looked_at(history: list[Head]) -> None:
    """At most a 64th late, and the pause until the head was looked at again."""
    heads = Heads(SETTLE)
    pause = max((later.at - sooner.at for sooner, later in pairwise(history)), default=0.0)
    for number, head in enumerate(history, 1):
        heads.observe(head)
        seen = history[:number]
        assert heads.settled(head.at) >= justified(seen, head.at - GRAIN - pause)


@given(histories)
def test_asking_more_often_changes_nothing(history: list[Head]) -> None:
    asked, unasked = Heads(SETTLE), Heads(SETTLE)
    for head in history:
        asked.observe(head)
        unasked.observe(head)
        for quarters in range(3):
            asked.settled(head.at + quarters / 1024)
    at = history[-1].at + SETTLE / 2 if history else 0.0
    assert asked.settled(at) == unasked.settled(at)


def test_a_head_settles_exactly_when_its_time_has_passed() -> None:
    heads = Heads(SETTLE)
    heads.observe(Head(100, 10.0))

    assert heads.settled(10.0) == 0
    assert heads.settled(73.75) == 0
    assert heads.settled(74.0) == 100
    assert heads.settled(1e9) == 100


def test_nothing_is_settled_before_anything_was_seen() -> None:
    heads = Heads(SETTLE)

    assert heads.settled(1e9) == 0
    assert heads.waiting_since(0) is None


def test_a_head_that_stands_still_settles_by_its_first_sight() -> None:
    heads = Heads(SETTLE)
    for at in range(65):
        heads.observe(Head(100, float(at)))

    assert heads.settled(64.0) == 100


def test_without_a_settle_time_a_head_is_settled_at_once() -> None:
    heads = Heads(0.0)
    for head in heads_of([(1, 5), (0, 5), (1, 5)]):
        heads.observe(head)
        assert heads.settled(head.at) == head.id


def test_memory_is_bounded() -> None:
    heads = Heads(SETTLE)
    most = 0
    for number in range(100_000):
        heads.observe(Head(number, number / 128))
        most = max(most, len(heads._seen))

    assert 60 <= most <= 66


def test_the_default_is_above_the_lock_wait_timeout() -> None:
    """A transaction that waits for a lock ends after 50 s (innodb_lock_wait_timeout)."""
    assert TIMED_DEFAULT >= 55


# --- a head that falls ---------------------------------------------------------------------------


@pytest.mark.parametrize("low", [0, 50, 99])
def test_a_fall_begins_a_new_history(low: int) -> None:
    heads = Heads(SETTLE)
    heads.observe(Head(100, 0.0))
    heads.observe(Head(low, 10.0))
    heads.observe(Head(120, 20.0))

    assert heads.settled(73.75) == 0
    assert heads.settled(74.0) == low
    assert heads.settled(83.75) == low
    assert heads.settled(84.0) == 120


@settings(deadline=None)
@given(histories.filter(bool), st.integers(1, 20), st.integers(0, 300), histories)
def test_after_a_fall_nothing_above_it_is_claimed_on_old_evidence(
    before: list[Head], depth: int, quarters: int, after: list[Head]
) -> None:
    heads = Heads(SETTLE)
    for head in before:
        heads.observe(head)
    # At least a grain later than any head that was kept, so that the last one was kept.
    start = before[-1].at + GRAIN + quarters / 4
    heads.observe(Head(before[-1].id, start))
    low = Head(max(0, before[-1].id - depth), start)
    heads.observe(low)
    history = [low, *(Head(low.id + head.id, start + head.at) for head in after)]
    for number, head in enumerate(history, 1):
        heads.observe(head)
        assert heads.settled(head.at) <= max(low.id, justified(history[:number], head.at))


@pytest.mark.xfail(
    strict=True,
    reason="observe keeps min(settled, head) after a fall: new ids below it count as settled"
    " although none of them was ever seen to settle",
)
def test_after_a_fall_ids_that_are_handed_out_again_are_not_settled() -> None:
    heads = Heads(SETTLE)
    heads.observe(Head(100, 0.0))
    assert heads.settled(64.0) == 100
    heads.observe(Head(50, 65.0))  # TRUNCATE, and 50 new rows: id 30 may still be in flight

    assert heads.settled(65.0) == 0


@pytest.mark.xfail(
    strict=True,
    reason="a fall is measured against the last head that was kept, not the last that was seen",
)
def test_a_fall_within_a_64th_of_the_settle_time_is_a_fall() -> None:
    heads = Heads(SETTLE)
    heads.observe(Head(100, 0.0))
    heads.observe(Head(200, 0.5))
    heads.observe(Head(150, 0.75))

    assert heads.settled(64.5) == 0


@pytest.mark.xfail(
    strict=True,
    reason="a head seen within a 64th of a kept one is dropped, and is remembered only when the"
    " head is looked at again: later than a 64th where nobody looks",
)
def test_an_id_settles_at_most_a_64th_late_even_when_nobody_looks_again_for_a_while() -> None:
    heads = Heads(SETTLE)
    heads.observe(Head(1, 0.0))
    heads.observe(Head(2, 0.5))
    heads.observe(Head(2, 30.0))

    assert heads.settled(0.5 + SETTLE + GRAIN) == 2


# --- how long something has been waiting ---------------------------------------------------------


def test_waiting_since_the_first_head_above_the_position() -> None:
    heads = Heads(SETTLE)
    for head in (Head(10, 1.0), Head(20, 2.0), Head(30, 3.0)):
        heads.observe(head)

    assert heads.waiting_since(0) == 1.0
    assert heads.waiting_since(9) == 1.0
    assert heads.waiting_since(10) == 2.0
    assert heads.waiting_since(29) == 3.0
    assert heads.waiting_since(30) is None


def test_a_settled_head_that_stands_still_is_still_waited_for() -> None:
    heads = Heads(SETTLE)
    for at in range(1, 500):
        heads.observe(Head(10, float(at)))
        heads.settled(at + 0.5)

    assert heads.waiting_since(9) == 1.0
    assert heads.waiting_since(10) is None


@given(histories, st.integers(0, 60))
def test_waiting_is_never_said_to_be_longer_than_it_is(history: list[Head], position: int) -> None:
    heads = Heads(SETTLE)
    for head in history:
        heads.observe(head)

    since = heads.waiting_since(position)
    true = next((head.at for head in history if head.id > position), None)
    assert since is None or (true is not None and since >= true)


@pytest.mark.xfail(
    strict=True,
    reason="settled heads are forgotten, so that a copy that lies further behind than the settle"
    " time is said to lie behind by the settle time",
)
def test_waiting_for_longer_than_the_settle_time_is_told_in_full() -> None:
    heads = Heads(SETTLE)
    for head in (Head(10, 0.0), Head(20, 100.0), Head(30, 200.0)):
        heads.observe(head)

    assert heads.waiting_since(5) == 0.0
