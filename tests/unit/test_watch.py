"""The shared looks, on a central that is played: what one table's trouble does to the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from types import SimpleNamespace
from typing import cast

import pytest

from daemon.aio import Clock
from daemon.central import Central, Sum
from daemon.errors import TransientError
from daemon.sql import Key, Sums
from daemon.watch import Watch


def sums(table: str) -> Sums:
    return Sums(table, ("id",), "", "1", owner="instance")


class Played:
    """A central whose tables have ten rows each; some of them are locked or broken."""

    def __init__(self, connections: int = 8) -> None:
        self.connections = connections
        self.slowness = 1.0
        self.locked: set[str] = set()
        self.broken: set[str] = set()
        self.highest = 10
        self.asked: list[str] = []
        self.waiting = 0

    async def _answer(self, table: str) -> None:
        self.asked.append(table)
        if table in self.broken:
            raise TransientError("central", 1205, "broken")
        if table in self.locked:
            self.waiting += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.waiting -= 1

    async def head(self, table: str, _key: str) -> SimpleNamespace:
        await self._answer(table)
        return SimpleNamespace(id=self.highest)

    async def first_new_ids(
        self, of: Sums, *, after: int, upto: int, limit: int
    ) -> tuple[dict[str, Sum], int]:
        await self._answer(of.table)
        return {"nunes": (1, 1)}, upto

    async def new_ids(self, of: Sums, *, after: int, upto: int) -> dict[str, Sum]:
        await self._answer(of.table)
        return {"nunes": (1, 1)}

    async def settled(self, _table: str, _key: str, floor: int) -> int:
        return floor

    async def next_id(self, _table: str) -> int:
        return self.highest + 1

    async def totals(self, of: Sums) -> dict[str, Sum]:
        await self._answer(of.table)
        return {"nunes": (self.highest, 1)}

    async def sums_of_keys(self, of: Sums, _keys: Sequence[Key]) -> dict[str, Sum]:
        return await self.totals(of)


@asynccontextmanager
async def running(watch: Watch) -> AsyncIterator[None]:
    task = asyncio.ensure_future(watch.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task


def watch_over(central: Played, clock: Clock = monotonic) -> Watch:
    return Watch(cast(Central, central), clock)


async def soon(happens: Callable[[], bool]) -> bool:
    for _ in range(200):
        if happens():
            return True
        await asyncio.sleep(0.01)
    return False


async def test_a_locked_table_keeps_nobody_waiting_but_its_own() -> None:
    central, news, others = Played(), asyncio.Event(), asyncio.Event()
    watch = watch_over(central)
    central.locked = {"messages"}
    watch.join(sums("messages"), "nunes", others, 0.01)
    watch.join(sums("chats"), "nunes", news, 0.01)
    async with running(watch):
        assert await soon(lambda: "chats" in central.asked)
        central.highest = 11
        assert await soon(news.is_set)
        assert central.waiting == 1
    assert central.waiting == 0, "all end together"


async def test_a_broken_table_is_its_own_trouble() -> None:
    central, news = Played(), asyncio.Event()
    watch = watch_over(central)
    central.broken = {"messages"}
    watch.join(sums("messages"), "nunes", asyncio.Event(), 0.01)
    member = watch.join(sums("chats"), "nunes", news, 0.01)
    async with running(watch):
        assert await soon(lambda: member.take() is not None)
        before = central.asked.count("chats")
        await asyncio.sleep(0.2)
        assert central.asked.count("chats") - before > 5, "it is not slowed down, either"


@pytest.mark.parametrize("keys", [None, [(1,)]])
async def test_a_locked_table_delays_no_other_sums(keys: list[Key] | None) -> None:
    central, news = Played(), asyncio.Event()
    watch = watch_over(central)
    central.locked = {"contacts"}
    watch.expect(sums("contacts"), "nunes", keys, (10, 1), asyncio.Event(), 0.01)
    watch.expect(sums("schedules"), "nunes", keys, (9, 1), news, 0.01)
    async with running(watch):
        assert await soon(news.is_set)
        assert central.waiting == 1


async def test_however_many_tables_are_locked_some_connections_are_left() -> None:
    central = Played(connections=8)
    watch = watch_over(central)
    central.locked = {str(number) for number in range(20)}
    for table in central.locked:
        watch.join(sums(table), "nunes", asyncio.Event(), 0.01)
    async with running(watch):
        await asyncio.sleep(0.2)
        assert central.waiting == 4


async def test_while_central_is_busy_sums_are_asked_for_less_often_but_asked_for() -> None:
    central, time = Played(), iter(range(1_000_000))
    watch = watch_over(central, lambda: float(next(time)))  # a second each time somebody looks
    standing = watch.expect(sums("contacts"), "nunes", None, (10, 1), asyncio.Event(), 10.0)
    (group,) = watch._groups.values()

    async def asked_within(seconds: int) -> int:
        central.asked.clear()
        for _ in range(seconds):
            await watch.compare(group)
        return len(central.asked)

    assert await asked_within(400) == pytest.approx(40, abs=1)
    central.slowness = 4.0
    await asked_within(40)
    assert await asked_within(400) == pytest.approx(10, abs=1)
    assert standing.held_at is not None
    central.slowness = 1.0
    await asked_within(40)
    assert await asked_within(400) == pytest.approx(40, abs=1)


async def test_what_nobody_follows_is_not_looked_at() -> None:
    central = Played()
    watch = watch_over(central)
    async with running(watch):
        member = watch.join(sums("messages"), "nunes", asyncio.Event(), 0.01)
        standing = watch.expect(sums("chats"), "nunes", None, (10, 1), asyncio.Event(), 0.01)
        assert await soon(lambda: {"messages", "chats"} <= set(central.asked))
        member.leave()
        standing.leave()
        await asyncio.sleep(0.6)
        central.asked.clear()
        await asyncio.sleep(0.6)
        assert central.asked == []
        news = asyncio.Event()
        watch.join(sums("messages"), "nunes", news, 0.01)
        assert await soon(lambda: "messages" in central.asked), "until somebody does again"
