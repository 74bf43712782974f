"""Pages that are written on two connections at the same time: always committed in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.errors import TransientError
from daemon.sync.ahead import Ahead, Convoy, NotAheadError, Turn, Writers

FIRST: Any = "first"
SECOND: Any = "second"


class LostError(TransientError):
    def __init__(self) -> None:
        super().__init__("local", 2013, "lost")


class Table:
    """What a convoy writes to, and what becomes of each page: how many times others go on before
    its rows are written and before it is read, and whether it is refused or its connection lost."""

    def __init__(self, fates: Sequence[tuple[int, int, str]]) -> None:
        self.fates = fates
        self.committed: list[int] = []
        self.wrote: dict[int, str] = {}
        self.at_once = self.most_at_once = 0
        self.reading = False

    async def following(self, last: int, unwritten: Sequence[int]) -> int | None:
        assert not self.reading, "pages are read one after the other"
        assert len(unwritten) <= 2
        self.reading = True
        for _ in range(self.fates[last][0]):
            await asyncio.sleep(0)
        self.reading = False
        return last + 1 if last + 1 < len(self.fates) else None

    async def write(self, connection: Any, page: int, turn: Turn) -> None:
        _, steps, fate = self.fates[page]
        self.wrote[page] = connection
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            for _ in range(steps):
                await asyncio.sleep(0)
            if fate == "refused":
                raise NotAheadError
            if fate == "lost":
                raise LostError
            if not await asyncio.shield(turn):
                raise NotAheadError
            await asyncio.sleep(0)
            if fate == "lost at the end":
                raise LostError
            self.committed.append(page)
        finally:
            self.at_once -= 1


@asynccontextmanager
async def second(*, there: bool = True) -> AsyncIterator[Any]:
    await asyncio.sleep(0)
    if not there:
        raise NotAheadError
    yield SECOND


def convoy(table: Table) -> Convoy[int]:
    return Convoy(0, table.following, table.write)


fates = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, 5),
        st.sampled_from(["well"] * 12 + ["refused", "lost", "lost at the end"]),
    ),
    min_size=1,
    max_size=12,
)


@given(fates, st.booleans())
def test_what_is_committed_is_the_beginning_and_in_order(
    fates: list[tuple[int, int, str]], there: bool
) -> None:
    table = Table(fates)

    async def run() -> tuple[bool, bool]:
        driven = convoy(table)
        try:
            await driven.run(FIRST, second(there=there))
        except LostError:
            return driven.broken, True
        return driven.broken, False

    broken, lost = asyncio.run(asyncio.wait_for(run(), 5))

    assert table.committed == list(range(len(table.committed)))
    troubles = [number for number, (_, _, fate) in enumerate(fates) if fate != "well"]
    assert len(table.committed) <= min(troubles, default=len(fates))
    if not troubles and there:
        assert len(table.committed) == len(fates)
    assert broken == (len(table.committed) < len(fates) or not there)
    assert table.most_at_once <= 2
    assert not lost or any("lost" in fates[page][2] for page in table.wrote)


async def test_two_are_written_at_the_same_time() -> None:
    table = Table([(0, 3, "well")] * 10)
    await convoy(table).run(FIRST, second())
    assert table.most_at_once == 2
    assert set(table.wrote.values()) == {FIRST, SECOND}


async def test_one_page_is_read_ahead_and_no_more() -> None:
    """A connection that has written its page has the next one at once."""
    table = Table([(0, 10**9, "well")] * 9)
    read: list[int] = []

    async def following(last: int, unwritten: Sequence[int]) -> int | None:
        read.append(last + 1)
        return await table.following(last, unwritten)

    task = asyncio.ensure_future(Convoy(0, following, table.write).run(FIRST, second()))
    for _ in range(50):
        await asyncio.sleep(0)
    assert table.at_once == 2
    assert read == [1, 2]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_is_being_read_is_let_go_when_nobody_is_to_write_it() -> None:
    table = Table([(0, 0, "well"), (10**9, 0, "refused"), (0, 0, "well")])
    driven = convoy(table)
    await asyncio.wait_for(driven.run(FIRST, second()), 5)
    assert (table.committed, driven.broken) == ([0], True)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_fails_on_one_lets_the_other_end_its_page() -> None:
    """Broken off, the first connection would be closed, and the lock lost with it."""
    table = Table([(0, 9, "well"), (0, 1, "lost"), (0, 0, "well")])
    driven = convoy(table)
    with pytest.raises(LostError):
        await driven.run(FIRST, second())
    assert table.committed == [0]
    assert driven.broken


async def test_a_stop_by_force_ends_both() -> None:
    table = Table([(0, 10**9, "well")] * 3)
    task = asyncio.ensure_future(convoy(table).run(FIRST, second()))
    for _ in range(10):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert table.at_once == 0
    assert table.committed == []


def test_two_write_to_a_server_and_no_more() -> None:
    writers = Writers()
    assert writers.room("a")
    writers.come("a")
    assert not writers.room("a"), "with two more there would be three"
    assert writers.room("b")
    writers.leave("a")
    assert writers.room("a")


def possible(ahead: Ahead) -> bool:
    return ahead.possible


async def test_it_is_not_tried_again_for_a_while_where_it_failed() -> None:
    now = 0.0

    async def connect() -> Any:
        raise LostError

    ahead = Ahead("a", "nunes", Writers(), connect, lambda: now)
    assert possible(ahead)
    with pytest.raises(NotAheadError):
        await ahead.second(FIRST, "nunes messages").__aenter__()
    assert not possible(ahead)
    now = 31.0
    assert possible(ahead), "its place is free again, too"


async def test_a_server_is_seldom_hung_up_on_that_is_slow_to_let_in() -> None:
    """After 100 such connections in a row it lets that host in no more."""
    now = 0.0

    async def connect() -> Any:
        await asyncio.sleep(60)

    ahead = Ahead("a", "nunes", Writers(), connect, lambda: now)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("daemon.sync.ahead._OPEN_SECONDS", 0.001)
        with pytest.raises(NotAheadError):
            await ahead.second(FIRST, "nunes messages").__aenter__()
    turn: Turn = asyncio.get_running_loop().create_future()
    turn.set_result(False)
    with pytest.raises(NotAheadError):
        await ahead.wait(turn)  # what follows does not shorten it
    now = 1800.0
    assert not possible(ahead)


async def test_whoever_waits_in_vain_for_his_turn_gives_way() -> None:
    """The page before may be waiting for a lock that this one holds."""
    ahead = Ahead("a", "nunes", Writers(), lambda: None, lambda: 0.0)  # type: ignore[arg-type, return-value]
    turn: Turn = asyncio.get_running_loop().create_future()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("daemon.sync.ahead._PATIENCE_SECONDS", 0.001)
        with pytest.raises(NotAheadError):
            await ahead.wait(turn)
    assert not possible(ahead)
