"""The few asyncio idioms that the daemon needs, each once.

Waiting is always interruptible: no loop of the daemon sleeps where a stop request cannot reach it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Literal, TypeVar

A = TypeVar("A")
B = TypeVar("B")

Clock = Callable[[], float]
"""Seconds that never go backwards (time.monotonic); tests hand in one of their own."""


class Bell(asyncio.Event):
    """An event that is small, and that `wait_first` hears without a task for it: there are five for
    each instance, and its loops wait for three of them each turn. (The queue that asyncio gives an
    event takes 0.7 KB while nobody waits, and a task 2 KB.)"""

    def __init__(self) -> None:
        # Not the base's: nothing of it is used but its type.
        self._rung = False
        self.listeners: list[asyncio.Future[bool]] = []

    def __repr__(self) -> str:
        return f"<Bell {'set' if self._rung else 'unset'}>"

    def is_set(self) -> bool:
        """As an event's."""
        return self._rung

    def set(self) -> None:
        """As an event's, and all who listen hear it."""
        self._rung = True
        for listener in self.listeners:
            _hear(listener, True)

    def clear(self) -> None:
        """As an event's."""
        self._rung = False

    async def wait(self) -> Literal[True]:
        """As an event's."""
        await wait_first(None, self)
        return True


def _hear(listener: asyncio.Future[bool], event: bool) -> None:
    if not listener.done():
        listener.set_result(event)


async def wait_first(timeout: float | None, *events: asyncio.Event) -> bool:
    """Wait until one of the events is set or `timeout` seconds have passed.

    Returns True when an event is set. The events are left as they are.
    """
    if any(event.is_set() for event in events):
        return True
    loop = asyncio.get_running_loop()
    first: asyncio.Future[bool] = loop.create_future()
    bells = [event for event in events if isinstance(event, Bell)]
    waiters = [asyncio.ensure_future(e.wait()) for e in events if not isinstance(e, Bell)]
    for bell in bells:
        bell.listeners.append(first)
    for waiter in waiters:
        waiter.add_done_callback(lambda _: _hear(first, True))
    timer = None if timeout is None else loop.call_later(timeout, _hear, first, False)
    try:
        return await first
    finally:
        if timer is not None:
            timer.cancel()
        for bell in bells:
            bell.listeners.remove(first)
        for waiter in waiters:
            waiter.cancel()


async def together(first: Awaitable[A], second: Awaitable[B]) -> tuple[A, B]:
    """Await both at the same time. The first failure cancels the other and is raised as it is."""
    one = asyncio.ensure_future(first)
    two = asyncio.ensure_future(second)
    try:
        await asyncio.wait((one, two), return_when=asyncio.FIRST_EXCEPTION)
        for task in (one, two):
            if task.done():
                task.result()  # raises what failed, before the other one is looked at
        return one.result(), two.result()
    finally:
        for task in (one, two):
            task.cancel()
        # Nobody is left behind: a cancelled read still closes its connection before we return.
        await asyncio.gather(one, two, return_exceptions=True)


async def to_the_end(*work: Awaitable[None]) -> None:
    """Await all at the same time, also when one has failed. Then the first failure is raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        task.result()


class Occupied:
    """How many are at something: `with` counts one, and `free` is set while nobody is."""

    def __init__(self) -> None:
        self._count = 0
        self.free = Bell()
        self.free.set()

    def __enter__(self) -> None:
        self._count += 1
        self.free.clear()

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if not self._count:
            self.free.set()


class Courtesy:
    """A few places for what would crowd out others: `async with` waits for one. Where nobody has
    left for `patience` seconds, those who are there hang, and there is a place more: nobody keeps
    the others for ever."""

    def __init__(self, places: int, patience: float) -> None:
        self._places = asyncio.Semaphore(places)
        self._patience = patience
        self._moves = 0
        self._lent = 0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Have one of the places."""
        await self._wait()
        try:
            yield
        finally:
            self._moves += 1
            if self._lent:
                self._lent -= 1
            else:
                self._places.release()

    async def _wait(self) -> None:
        while True:
            moves = self._moves
            try:
                async with asyncio.timeout(self._patience):
                    await self._places.acquire()
                    return
            except TimeoutError:
                if moves == self._moves:
                    self._moves += 1
                    self._lent += 1
                    self._places.release()


class Backoff:
    """Growing pauses between tries: doubled each time, capped, with jitter so that many loops that
    lost the same server do not come back in step."""

    def __init__(self, first: float, cap: float, rng: Callable[[], float] = random.random) -> None:
        self._first = first
        self._cap = cap
        self._rng = rng
        self.failures = 0

    def next(self) -> float:
        """Seconds to wait before the next try: between half and all of the current pause."""
        pause = min(self._cap, self._first * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return pause * (0.5 + 0.5 * self._rng())

    def reset(self) -> int:
        """Forget the failures; returns how many there were."""
        failures, self.failures = self.failures, 0
        return failures


def jittered(interval: float, rng: Callable[[], float] = random.random) -> float:
    """`interval` ± 10 %, so that a thousand loops started together drift apart."""
    return interval * (0.9 + 0.2 * rng())
