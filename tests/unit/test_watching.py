"""The shared looks, on a central that is played: what one table's trouble does to the others."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from time import monotonic
from types import SimpleNamespace
from typing import cast

import pytest

from daemon.aio import Clock
from daemon.central import Central, Sum
from daemon.errors import TransientError
from daemon.ledger import Reading
from daemon.sql import Key, Sums
from daemon.watch import Member, Watch
from tests.in_process import watching


def sums(table: str) -> Sums:
    return Sums(table, ("id",), "", "1", owner="instance")


class Played:
    """A central whose tables have ten rows each; some of them are locked or broken."""

    def __init__(self, connections: int = 8) -> None:
        self.connections = connections
        self.slowness = 1.0
        self.locked: set[str] = set()
        self.broken: set[str] = set()
        self.odd: set[str] = set()
        self.highest = 10
        self.following: int | None = None
        self.asked: list[str] = []
        self.waiting = 0

    async def _answer(self, table: str) -> None:
        self.asked.append(table)
        if table in self.odd:
            raise ValueError("nobody foresaw this")
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
        return self.following or self.highest + 1

    async def totals(self, of: Sums) -> dict[str, Sum]:
        await self._answer(of.table)
        return {"nunes": (self.highest, 1)}

    async def sums_of_keys(self, of: Sums, _keys: Sequence[Key]) -> dict[str, Sum]:
        return await self.totals(of)


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
    async with watching(watch):
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
    async with watching(watch):
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
    async with watching(watch):
        assert await soon(news.is_set)
        assert central.waiting == 1


async def test_however_many_tables_are_locked_some_connections_are_left() -> None:
    central = Played(connections=8)
    watch = watch_over(central)
    central.locked = {str(number) for number in range(20)}
    for table in central.locked:
        watch.join(sums(table), "nunes", asyncio.Event(), 0.01)
    async with watching(watch):
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


async def test_who_begins_to_rest_is_asked_for_at_once_whoever_else_is_not_due() -> None:
    central, now = Played(), [100.0]
    watch = watch_over(central, lambda: now[0])
    watch.expect(sums("contacts"), "nunes", None, (10, 1), asyncio.Event(), 10.0)
    (group,) = watch._groups.values()
    await watch.compare(group)
    later = watch.expect(sums("contacts"), "nunes", None, (10, 1), asyncio.Event(), 60.0)
    for _ in range(3):
        await watch.compare(group)
    assert later.held_at == 100.0
    assert len(central.asked) == 2
    now[0] = 110.0
    await watch.compare(group)
    assert len(central.asked) == 3, "the first one is due again"


async def test_what_nobody_follows_is_not_looked_at() -> None:
    central = Played()
    watch = watch_over(central)
    async with watching(watch):
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


# --- those who rest are not woken all at once ---------------------------------------------------


class Resters:
    """So many who rest, and one who does not, all of whom follow one table."""

    def __init__(self, watch: Watch, many: int) -> None:
        self.awake = asyncio.Event()
        watch.join(sums("messages"), "awake", self.awake, 0.01)
        self.events = [asyncio.Event() for _ in range(many)]
        for number, news in enumerate(self.events):
            watch.join(sums("messages"), str(number), news, 0.01).rests = True

    @property
    def woken(self) -> int:
        return sum(news.is_set() for news in self.events)


def quickly(watch: Watch, wakes_per_second: float = 100.0) -> None:
    watch._herd.WAKES_PER_SECOND = watch._herd._rate = wakes_per_second


async def test_trouble_wakes_one_after_the_other_and_nobody_when_it_is_over() -> None:
    central = Played()
    watch = watch_over(central)
    watch.ERROR_SECONDS = 0.01
    quickly(watch)
    resters = Resters(watch, 200)
    async with watching(watch):
        assert await soon(lambda: "messages" in central.asked)
        central.broken = {"messages"}
        assert await soon(resters.awake.is_set), "who is awake is told at once"
        assert resters.woken <= 2
        await asyncio.sleep(0.5)
        assert 20 < resters.woken < 80
        central.broken = set()
        await asyncio.sleep(0.1)
        woken = resters.woken
        await asyncio.sleep(0.5)
        assert resters.woken == woken, "what was seen before is still known: nobody else need look"


async def test_however_many_rest_they_are_woken_in_bounded_time() -> None:
    central = Played()
    watch = watch_over(central)
    watch.ERROR_SECONDS = 0.01
    quickly(watch, 20.0)
    watch._herd.LONGEST_SECONDS = 0.5
    resters = Resters(watch, 200)
    async with watching(watch):
        assert await soon(lambda: "messages" in central.asked)
        central.broken = {"messages"}
        assert await soon(resters.awake.is_set)
        await asyncio.sleep(0.2)
        assert 20 < resters.woken < 160
        assert await soon(lambda: resters.woken == 200)


@pytest.mark.parametrize("why", ["rewound", "a bug"])
async def test_what_nobody_knows_any_more_wakes_all_though_the_looks_go_on(why: str) -> None:
    central = Played()
    watch = watch_over(central)
    watch.ERROR_SECONDS = 0.01
    quickly(watch)
    resters = Resters(watch, 100)
    async with watching(watch):
        assert await soon(lambda: "messages" in central.asked)
        if why == "rewound":
            central.following, central.highest = 5, 4
        else:
            central.odd = {"messages"}
        assert await soon(resters.awake.is_set)
        central.odd = set()
        assert 0 < resters.woken < 50
        assert await soon(lambda: resters.woken == 100)


async def test_new_rows_wake_at_once() -> None:
    central = Played()
    watch = watch_over(central)
    quickly(watch, 0.1)
    news = [asyncio.Event() for _ in range(20)]
    async with watching(watch):
        for each in news:
            watch.join(sums("messages"), "nunes", each, 0.01).rests = True
        assert await soon(lambda: "messages" in central.asked)
        central.highest = 11
        assert await soon(lambda: all(each.is_set() for each in news))


async def test_who_differ_together_are_woken_one_after_the_other_and_one_at_once() -> None:
    central = Played()
    watch = watch_over(central)
    quickly(watch)
    events = [asyncio.Event() for _ in range(100)]
    for number, news in enumerate(events):
        watch.expect(sums("contacts"), str(number), None, (10, 1), news, 0.5)
    one = asyncio.Event()
    watch.expect(sums("chats"), "nunes", None, (10, 1), one, 0.01)
    async with watching(watch):
        assert await soon(lambda: central.asked.count("contacts") > 0)
        await asyncio.sleep(0.2)
        assert 5 < sum(news.is_set() for news in events) < 60
        assert await soon(lambda: all(news.is_set() for news in events))
        assert not one.is_set()
        central.highest = 11
        assert await soon(one.is_set)


async def test_who_has_left_is_not_woken() -> None:
    central = Played()
    watch = watch_over(central)
    quickly(watch)
    events = [asyncio.Event() for _ in range(20)]
    standings = [
        watch.expect(sums("contacts"), "nunes", None, (9, 1), news, 10.0) for news in events
    ]
    async with watching(watch):
        assert await soon(lambda: any(news.is_set() for news in events))
        for standing in standings:
            standing.leave()
        woken = sum(news.is_set() for news in events)
        await asyncio.sleep(0.4)
        assert sum(news.is_set() for news in events) == woken < 20


# --- nothing is passed over by who rests: played -------------------------------------------------


class Rows(Played):
    """One table with rows of some owners."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, str] = {}
        self.highest = 0

    async def first_new_ids(
        self, of: Sums, *, after: int, upto: int, limit: int
    ) -> tuple[dict[str, Sum], int]:
        await self._answer(of.table)
        new = sorted(id_ for id_ in self.rows if after < id_ <= upto)[:limit]
        owners = [self.rows[id_] for id_ in new]
        end = new[-1] if len(new) == limit else upto
        return {owner: (owners.count(owner), 1) for owner in owners}, end

    def insert(self, owner: str) -> None:
        self.highest += 1
        self.rows[self.highest] = owner


class Follower:
    """An instance: it reads what it was told of, and rests as soon as it may."""

    def __init__(self, central: Rows, watch: Watch, name: str) -> None:
        self.central, self.name, self.news = central, name, asyncio.Event()
        self.member = watch.join(sums("messages"), name, self.news, 1.0)
        self.position = 0
        self.reading = Reading()
        self.read: set[int] = set()

    def step(self) -> None:
        if self.member.rests and not self.news.is_set():
            return
        self.news.clear()
        self.member.rests = False
        told, head = self.member.take(), self.central.highest
        if told is not None:
            self.position = self.reading.heed(told, self.position, head)
        mine = {id_ for id_, owner in self.central.rows.items() if owner == self.name}
        self.read |= {id_ for id_ in mine if self.position < id_ <= head}
        if self.reading.suspect is not None:
            self.read |= {id_ for id_ in mine if id_ > self.reading.suspect}
            self.reading.suspect = None
        self.position = max(self.position, head)
        self.member.rests = (
            told is not None
            and self.position >= told.base
            and not self.reading.unread(self.position)
            and not self.news.is_set()
        )


async def _history(seed: int) -> None:
    draw, central, now = random.Random(seed), Rows(), [0.0]
    watch = watch_over(central, lambda: now[0])
    watch.SCAN_ROWS = 3
    names = ["nunes", "karsten", "souza", "lima"]
    followers = [Follower(central, watch, name) for name in names]
    (table,) = watch._tables.values()

    async def tick(*, calm: bool) -> None:
        now[0] += draw.random() / 10
        if not calm and draw.random() < 0.1:
            central.broken, central.odd = draw.choice(
                [(set(), set()), ({"messages"}, set()), (set(), {"messages"})]
            )
        if not calm and draw.random() < 0.5:
            central.insert(draw.choice(names))
        if draw.random() < 0.5:
            await watch.look(table)
        if draw.random() < 0.3 and watch._herd._waiting:
            watch._herd._wake(watch._herd._waiting.pop(next(iter(watch._herd._waiting))))
        if draw.random() < 0.7:
            draw.choice(followers).step()

    for _ in range(150):
        await tick(calm=False)
    central.broken, central.odd = set(), set()
    for _ in range(200):
        await tick(calm=True)
    for each in followers:
        missing = {id_ for id_, owner in central.rows.items() if owner == each.name} - each.read
        assert not missing, (seed, each.name, missing)


async def test_who_rests_misses_nothing_whatever_fails_meanwhile() -> None:
    for seed in range(300):
        await _history(seed)


# --- ids that are handed out again ---------------------------------------------------------------


async def looks(watch: Watch) -> None:
    for table in list(watch._tables.values()):
        await watch.look(table)


async def grown(central: Played, watch: Watch, *, instance: str = "nunes") -> Member:
    """One who follows a table that ends at 20."""
    member = watch.join(sums("messages"), instance, asyncio.Event(), 0.01)
    central.highest = 20
    await looks(watch)
    return member


async def refilled(central: Played, watch: Watch) -> None:
    """It is emptied by TRUNCATE, and has more rows than ever when it is looked at next but one."""
    central.highest, central.following = 0, 1
    await looks(watch)
    central.highest, central.following = 50, 51
    await looks(watch)


async def test_a_rewind_is_told_until_it_is_noted_to_whoever_takes_the_place() -> None:
    central = Played()
    watch = watch_over(central)
    member = await grown(central, watch)
    other = await grown(central, watch, instance="karsten")
    await refilled(central, watch)
    assert [member.again_from, member.again_from] == [1, 1]
    member.leave()  # it could not be written
    member = watch.join(sums("messages"), "nunes", asyncio.Event(), 0.01)
    assert [member.again_from] == [1]
    member.noted()
    assert [member.again_from, other.again_from] == [None, 1], "each notes it for itself"
    late = watch.join(sums("messages"), "late", asyncio.Event(), 0.01)
    assert late.again_from is None, "its state row tells of a time that nobody here knows"


async def test_who_had_no_place_when_the_ids_began_again_is_told_too() -> None:
    """Its entity was paused, or its local server away."""
    central = Played()
    watch = watch_over(central)
    member = await grown(central, watch)
    await grown(central, watch, instance="karsten")
    member.leave()
    await refilled(central, watch)
    central.highest, central.following = 30, 31
    await looks(watch)
    member = watch.join(sums("messages"), "nunes", asyncio.Event(), 0.01)
    assert member.again_from == 1, "of several the lowest"
    watch.forget_rewinds("nunes")
    member = watch.join(sums("messages"), "nunes", asyncio.Event(), 0.01)
    assert member.again_from is None, "another process has copied it meanwhile"


@pytest.mark.parametrize("seen", ["it ended there again", "it is asked again"])
async def test_rows_that_were_deleted_at_the_end_hide_no_later_truncate(seen: str) -> None:
    central = Played()
    watch = watch_over(central)
    member = await grown(central, watch)
    watch.AGAIN_SECONDS = 1000.0
    central.highest, central.following = 0, 21
    await looks(watch)
    assert member.again_from is None
    if seen == "it ended there again":
        central.highest, central.following = 30, 31
        await looks(watch)
    else:
        watch.AGAIN_SECONDS = 0.0
    await refilled(central, watch)
    assert member.again_from == 1


async def test_a_bug_in_a_look_hides_no_truncate() -> None:
    central = Played()
    watch = watch_over(central)
    member = await grown(central, watch)
    central.odd = {"messages"}
    await looks(watch)
    central.odd = set()
    await refilled(central, watch)
    assert member.again_from == 1
