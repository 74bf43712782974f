"""Waiting, doing two things at once, and pausing between tries. No test sleeps."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.aio import Backoff, Bell, Courtesy, Occupied, jittered, together, wait_first

MOMENT = 0.001
"""A timeout that is meant to pass."""

rng = st.floats(0, 1, exclude_max=True)


def others() -> set[asyncio.Task[object]]:
    """The tasks beside the test's own."""
    return asyncio.all_tasks() - {asyncio.current_task()}


async def settle() -> None:
    """Let everything that can go on go on."""
    for _ in range(5):
        await asyncio.sleep(0)


# --- wait_first ----------------------------------------------------------------------------------


kinds = pytest.mark.parametrize("kind", [asyncio.Event, Bell])


@kinds
async def test_an_event_set_before_the_wait_is_not_lost(kind: type[asyncio.Event]) -> None:
    stop = kind()
    stop.set()

    assert await wait_first(None, asyncio.Event(), stop) is True
    assert await wait_first(0, stop, asyncio.Event()) is True
    assert stop.is_set()
    assert not others()


async def test_who_waits_for_bells_takes_no_task_and_leaves_nothing() -> None:
    bells = [Bell() for _ in range(3)]
    waiting = [asyncio.ensure_future(wait_first(3600.0, *bells)) for _ in range(2)]
    waiting += [asyncio.ensure_future(wait_first(MOMENT, *bells))]
    await settle()
    assert others() == set(waiting)
    assert await waiting[2] is False
    waiting[1].cancel()
    await settle()
    bells[1].set()
    bells[2].set()
    assert await waiting[0] is True
    assert not any(bell.listeners for bell in bells)


async def test_a_bell_is_an_event() -> None:
    bell = Bell()
    waiting = [asyncio.ensure_future(bell.wait()) for _ in range(2)]
    await settle()
    assert not any(each.done() for each in waiting)
    waiting[1].cancel()
    await settle()
    bell.set()
    bell.clear()  # before anybody's turn has come
    assert await waiting[0] is True
    assert not bell.is_set()
    assert not bell.listeners
    bell.set()
    assert await bell.wait() is True
    assert repr(bell) == "<Bell set>"


@kinds
async def test_a_timeout_is_told_from_an_event(kind: type[asyncio.Event]) -> None:
    event = kind()

    assert await wait_first(MOMENT, event) is False
    assert await wait_first(0, event) is False
    assert not event.is_set()


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("timeout", [None, 3600.0])
@pytest.mark.parametrize("bells", [{0, 1, 2}, {1}, set()])
async def test_any_of_the_events_ends_the_wait(
    which: int, timeout: float | None, bells: set[int]
) -> None:
    events = [Bell() if number in bells else asyncio.Event() for number in range(3)]
    waiting = asyncio.ensure_future(wait_first(timeout, *events))
    await settle()
    assert not waiting.done()

    events[which].set()

    assert await waiting is True
    assert [event.is_set() for event in events] == [number == which for number in range(3)]


@kinds
@pytest.mark.parametrize("ending", ["event", "timeout", "cancel"])
async def test_no_waiter_is_left_behind(ending: str, kind: type[asyncio.Event]) -> None:
    event = kind()
    timeout = MOMENT if ending == "timeout" else None
    waiting = asyncio.ensure_future(wait_first(timeout, event, asyncio.Event()))
    await settle()
    if ending == "event":
        event.set()
    elif ending == "cancel":
        waiting.cancel()
    await asyncio.wait([waiting])
    await settle()

    assert waiting.cancelled() == (ending == "cancel")
    assert not others()
    assert not getattr(event, "listeners", ())


async def test_several_hear_the_same_bell_and_one_hears_it_again() -> None:
    bell = Bell()
    waiting = [asyncio.ensure_future(wait_first(None, bell, Bell())) for _ in range(3)]
    await settle()
    bell.set()
    bell.clear()  # before anybody's turn has come
    assert await asyncio.gather(*waiting) == [True, True, True]
    assert await wait_first(MOMENT, bell) is False
    asyncio.get_running_loop().call_soon(bell.set)
    assert await wait_first(None, bell) is True


# --- together ------------------------------------------------------------------------------------


async def test_together_both_run_at_the_same_time_and_their_results_keep_their_places() -> None:
    here, there = asyncio.Event(), asyncio.Event()

    async def first() -> int:
        here.set()
        await there.wait()
        return 1

    async def second() -> str:
        there.set()
        await here.wait()
        return "two"

    assert await together(first(), second()) == (1, "two")


class Part:
    """One of the two: waits for ever unless told to fail, and notes how it ended."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.closed = False

    async def run(self) -> None:
        try:
            if self.error is not None:
                raise self.error
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # closing a connection takes a moment, too
            self.closed = True


@pytest.mark.parametrize("failing", [0, 1])
async def test_together_the_first_failure_is_raised_and_the_other_one_has_ended(
    failing: int,
) -> None:
    error = LookupError("as it is")
    parts = [Part(), Part()]
    parts[failing].error = error

    with pytest.raises(LookupError) as caught:
        await together(parts[0].run(), parts[1].run())

    assert caught.value is error
    assert [part.closed for part in parts] == [True, True]
    assert not others()


async def test_together_a_failure_after_the_others_success_is_raised() -> None:
    async def good() -> int:
        return 1

    for pair in ((good(), Part(LookupError("late")).run()), (Part(LookupError()).run(), good())):
        with pytest.raises(LookupError):
            await together(*pair)


async def test_together_two_failures_raise_one_and_nobody_complains_of_the_other() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    with pytest.raises(LookupError):
        await together(Part(LookupError()).run(), Part(LookupError()).run())
    gc.collect()
    await settle()

    assert complaints == []


async def test_together_a_cancellation_ends_both_before_it_goes_on() -> None:
    parts = [Part(), Part()]
    task = asyncio.ensure_future(together(parts[0].run(), parts[1].run()))
    await settle()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert [part.closed for part in parts] == [True, True]
    assert not others()


# --- pauses --------------------------------------------------------------------------------------


def fixed(value: float) -> Callable[[], float]:
    return lambda: value


def test_pauses_double_up_to_the_cap() -> None:
    backoff = Backoff(1.0, 20.0, fixed(1.0))

    assert [backoff.next() for _ in range(7)] == [1, 2, 4, 8, 16, 20, 20]


@given(st.floats(0.01, 10), st.floats(0.01, 600), rng, st.integers(0, 3000))
def test_a_pause_lies_between_half_and_all_of_what_is_due(
    first: float, cap: float, chance: float, failures: int
) -> None:
    """However many failures there were: 2 ** 3000 is no float."""
    backoff = Backoff(first, cap, fixed(chance))
    backoff.failures = failures

    due = min(cap, first * 2.0 ** min(failures, 100))
    assert due * 0.5 <= backoff.next() <= due
    assert backoff.failures == failures + 1


def test_many_loops_that_fail_together_do_not_come_back_in_step() -> None:
    assert len({Backoff(1.0, 60.0).next() for _ in range(100)}) > 90


def test_after_a_reset_the_pauses_begin_anew() -> None:
    backoff = Backoff(1.0, 60.0, fixed(0.0))
    assert [backoff.next() for _ in range(3)] == [0.5, 1.0, 2.0]

    assert backoff.reset() == 3
    assert backoff.reset() == 0
    assert backoff.next() == 0.5


@given(st.floats(0, 1e6), rng)
def test_jitter_is_at_most_a_tenth(interval: float, chance: float) -> None:
    assert 0.9 * interval <= jittered(interval, fixed(chance)) <= 1.1 * interval


def test_jitter_goes_both_ways() -> None:
    assert jittered(10.0, fixed(0.0)) == 9.0
    assert jittered(10.0, fixed(0.5)) == 10.0
    assert len({jittered(10.0) for _ in range(100)}) > 90


async def test_a_courtesy_lets_a_few_in_at_once_and_nobody_wait_for_ever() -> None:
    courtesy = Courtesy(2, 0.05)
    inside: list[int] = []
    leave = asyncio.Event()

    async def enter(number: int) -> None:
        async with courtesy.place():
            inside.append(number)
            await leave.wait()

    tasks = [asyncio.create_task(enter(number)) for number in range(5)]
    await asyncio.sleep(0.01)
    assert inside == [0, 1]
    await asyncio.sleep(0.07)
    assert len(inside) == 3, "those in front hang: there is a place more, and not one for each"
    await asyncio.sleep(0.3)
    assert sorted(inside) == [0, 1, 2, 3, 4]
    leave.set()
    await asyncio.gather(*tasks)
    async with courtesy.place(), courtesy.place():
        pass  # no place was lost, and none came of nothing
    with pytest.raises(ValueError, match="x"):
        async with courtesy.place():
            raise ValueError("x")
    assert courtesy._places._value == 2


def test_occupied_is_free_when_the_last_one_has_left() -> None:
    occupied = Occupied()
    assert occupied.free.is_set()
    with occupied:
        with occupied:
            assert not occupied.free.is_set()
        assert not occupied.free.is_set()
    assert occupied.free.is_set()
