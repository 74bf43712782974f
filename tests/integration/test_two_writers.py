"""A first sync on two connections, with real servers: it ends as it does on one, whatever comes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daemon import db
from daemon import local as rows_to_local
from daemon.db import Connection
from daemon.errors import TransientError
from daemon.instance import Instance
from daemon.reads import Page, Wanted
from daemon.schema import Plan
from daemon.sql import Row, Statement
from tests import mirror
from tests.in_process import a_pass, listen, one, passes_until
from tests.mirror import Server

if TYPE_CHECKING:
    from tests.conftest import Databases

WriteConfig = Callable[..., Path]
Write = Callable[[Connection, Plan, Sequence[Row], str], Awaitable[None]]

pytestmark = pytest.mark.usefixtures("way")

ROWS = 400
SYNC = {"batch_rows": 20}
"""So that there are many pages of ten rows."""


class Writes:
    """Who wrote how many pages, and what is to happen at some of them."""

    def __init__(self) -> None:
        self.pages: Counter[int] = Counter()
        self.at_once = self.most_at_once = 0
        self.before: Callable[[Connection, Sequence[Row]], Awaitable[None]] | None = None
        self.after: Callable[[Connection, Sequence[Row]], Awaitable[None]] | None = None

    def around(self, real: Write) -> Write:
        async def upsert(
            connection: Connection, plan: Plan, rows: Sequence[Row], note: str
        ) -> None:
            self.pages[connection.thread_id] += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                if self.before is not None:
                    await self.before(connection, rows)
                await real(connection, plan, rows, note)
                if self.after is not None:
                    await self.after(connection, rows)
            finally:
                self.at_once -= 1

        return upsert


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Writes:
    seen = Writes()
    monkeypatch.setattr(rows_to_local, "upsert", seen.around(rows_to_local.upsert))
    return seen


def ids(rows: Sequence[Row]) -> set[int]:
    return {int(row[0] or 0) for row in rows}


async def gone(server: Server, thread_id: int) -> None:
    """Wait until the server has ended this connection."""
    for _ in range(200):
        if str(thread_id) not in {row[0] for row in mirror.rows(server, "SHOW PROCESSLIST")}:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it is still there")


async def until_equal(instance: Instance, databases: Databases) -> None:
    await passes_until(instance, lambda: mirror.differences(*databases) == "")


async def test_both_write_and_commit_in_order(
    databases: Databases, write_config: WriteConfig, writes: Writes
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, ROWS + 1))
    mirror.insert_messages(central, range(ROWS + 1, ROWS + 30), "karsten")
    async with one(write_config(central, {"nunes": local}, sync=SYNC)) as instance:
        commits = listen(instance)
        assert (await a_pass(instance))["messages"] == ROWS
    assert len(writes.pages) == 2
    assert min(writes.pages.values()) > 5
    watermarks = [each.last_synced_id for each in commits if each.rows]
    assert watermarks == sorted(set(watermarks)), "never ahead of what is committed"
    assert mirror.watermarks(local)["messages"] == ROWS
    assert mirror.differences(central, local) == ""


async def test_rows_never_stand_above_a_gap(
    databases: Databases, write_config: WriteConfig, writes: Writes
) -> None:
    """However long the page before takes, what follows is not seen by others until then."""
    central, local = databases
    mirror.insert_messages(central, range(1, ROWS + 1))
    gaps: list[str] = []

    async def look(_connection: Connection, rows: Sequence[Row]) -> None:
        await asyncio.sleep(0.03 if min(ids(rows)) % 3 else 0)
        there = mirror.local_ids(local)
        if there != list(range(1, len(there) + 1)):
            gaps.append(f"{there}")
        if mirror.watermarks(local).get("messages", 0) != len(there):
            gaps.append(f"watermark {mirror.watermarks(local)}, {len(there)} rows")

    writes.after = look
    async with one(write_config(central, {"nunes": local}, sync=SYNC)) as instance:
        await until_equal(instance, databases)
    assert gaps == []
    assert writes.most_at_once == 2


async def test_refused_rows_are_quarantined_as_ever(
    databases: Databases, write_config: WriteConfig, writes: Writes
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, ROWS + 1))
    async with one(write_config(central, {"nunes": local}, sync=SYNC)) as instance:
        await a_pass(instance)
        mirror.run(local, "ALTER TABLE wpp_messages MODIFY body VARCHAR(30)")
        mirror.insert_messages(central, range(ROWS + 1, 2 * ROWS + 1))
        mirror.run(central, f"UPDATE messages SET body = '{'x' * 40}' WHERE id IN (477, 478, 690)")
        await passes_until(instance, lambda: len(mirror.local_ids(local)) == 2 * ROWS - 3)
        assert instance.motions.quarantined["messages"] == 3
    assert len(writes.pages) > 1


async def test_a_key_that_a_stale_row_holds(
    databases: Databases, write_config: WriteConfig, writes: Writes
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 21))
    async with one(write_config(central, {"nunes": local}, sync=SYNC)) as instance:
        await a_pass(instance)
        mirror.run(central, "DELETE FROM messages WHERE id IN (3, 9)")
        mirror.insert_messages(central, range(21, ROWS + 1))
        mirror.run(
            central,
            "UPDATE messages SET wwebjs_id = 'key 3' WHERE id = 111;"
            "UPDATE messages SET wwebjs_id = 'key 9' WHERE id = 305;",
        )
        await until_equal(instance, databases)


async def test_the_second_connection_cannot_be_had(
    databases: Databases, write_config: WriteConfig, writes: Writes, monkeypatch: pytest.MonkeyPatch
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, ROWS + 1))
    tried = 0

    async def another() -> Connection:
        nonlocal tried
        tried += 1
        raise TransientError("local nunes", 1040, "Too many connections")

    async with one(write_config(central, {"nunes": local}, sync=SYNC)) as instance:
        monkeypatch.setattr(instance.maker._ahead, "_connect", another)
        await until_equal(instance, databases)
    assert len(writes.pages) == 1
    assert tried <= 1, "not again at once"


@pytest.mark.parametrize("which", ["first", "second"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_connection_is_lost_on_the_way(
    databases: Databases, write_config: WriteConfig, writes: Writes, which: str, when: str
) -> None:
    """The lock goes with the first one: then nothing may be committed any more."""
    central, local = databases
    mirror.insert_messages(central, range(1, ROWS + 1))
    async with one(write_config(central, {"nunes": local}, sync=SYNC)) as instance:
        lost: list[int] = []

        async def lose(connection: Connection, rows: Sequence[Row]) -> None:
            first = instance.hold.connection
            assert first is not None
            is_first = connection is first
            if lost or min(ids(rows)) <= 200 or is_first != (which == "first"):
                return
            lost.append(connection.thread_id)
            mirror.run(local, f"KILL CONNECTION {connection.thread_id}")

        setattr(writes, when, lose)
        with suppress(TransientError):
            await a_pass(instance)
        assert lost
        there = mirror.local_ids(local)
        assert there == list(range(1, len(there) + 1))
        assert mirror.watermarks(local)["messages"] == len(there)
        await until_equal(instance, databases)


async def test_the_lock_is_lost_while_the_second_one_writes(
    databases: Databases, write_config: WriteConfig, writes: Writes
) -> None:
    """Another daemon may have taken over: what was not committed is not."""
    central, local = databases
    mirror.insert_messages(central, range(1, ROWS + 1))
    async with one(write_config(central, {"nunes": local}, sync=SYNC)) as instance:
        lost: list[int] = []

        async def lose(connection: Connection, rows: Sequence[Row]) -> None:
            first = instance.hold.connection
            assert first is not None
            if lost or connection is first or min(ids(rows)) < 100:
                return
            lost.append(len(mirror.local_ids(local)))
            mirror.run(local, f"KILL CONNECTION {first.thread_id}")
            await gone(local, first.thread_id)

        writes.after = lose
        with pytest.raises(TransientError):
            await a_pass(instance)
        (before,) = lost
        assert len(mirror.local_ids(local)) == before, "nothing was committed without the lock"
        await until_equal(instance, databases)


async def test_a_reset_on_the_way_starts_over(
    databases: Databases, write_config: WriteConfig, writes: Writes
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, ROWS + 1))
    done = False

    async def reset(connection: Connection, rows: Sequence[Row]) -> None:
        nonlocal done
        if not done and min(ids(rows)) > 200:
            done = True
            # In a thread: the other connection may just have the row, and has to go on.
            await asyncio.to_thread(
                mirror.run,
                local,
                "UPDATE wpp_sync_state SET last_synced_id = 0, settled_id = 0, settled_for = 0"
                " WHERE entity = 'messages'",
            )

    writes.after = reset
    async with one(write_config(central, {"nunes": local}, sync=SYNC)) as instance:
        commits = listen(instance)
        await until_equal(instance, databases)
        await passes_until(instance, lambda: mirror.watermarks(local)["messages"] == ROWS)
    assert done
    assert sum(each.rows for each in commits) > ROWS, "all from the beginning"


async def test_the_latest_messages_follow(
    databases: Databases, write_config: WriteConfig, writes: Writes
) -> None:
    """What is derived from a page sees what the page before has written."""
    central, local = databases
    mirror.run(
        central,
        "INSERT INTO contacts"
        " (id, name, instance, is_deleted, is_blocked, is_only_admin, created_at) VALUES "
        + ",".join(f"({id_}, 'c', 'nunes', 0, 0, 0, NOW())" for id_ in range(1, 8)),
    )
    mirror.insert_messages(central, range(1, ROWS + 1))
    # Of each contact's messages the newest is one of the first, of most of them.
    mirror.run(
        central,
        "UPDATE messages SET contact_id = 1 + id % 7,"
        " sent_at = '2026-01-01' + INTERVAL (id * 37 % 401) MINUTE",
    )
    async with one(write_config(central, {"nunes": local}, sync=SYNC)) as instance:
        await until_equal(instance, databases)
    latest = (
        "SELECT contact_id, id FROM (SELECT contact_id, id, ROW_NUMBER() OVER"
        " (PARTITION BY contact_id ORDER BY sent_at DESC, id DESC) AS place FROM wpp_messages) m"
        " WHERE place = 1 ORDER BY contact_id"
    )
    derived = "SELECT contact_id, id FROM wpp_last_messages ORDER BY contact_id"
    assert mirror.rows(local, derived) == mirror.rows(local, latest)
    assert mirror.number(local, "SELECT COUNT(*) FROM wpp_last_messages") == 7
    assert len(writes.pages) == 2


async def test_nobody_is_left_behind(
    databases: Databases, write_config: WriteConfig, writes: Writes
) -> None:
    """The second connection ends with the copying."""
    central, local = databases
    mirror.insert_messages(central, range(1, ROWS + 1))
    async with one(write_config(central, {"nunes": local}, sync=SYNC)) as instance:
        await a_pass(instance)
        assert len(writes.pages) == 2
        first: Any = instance.hold.connection
        other = (set(writes.pages) - {first.thread_id}).pop()
        await gone(local, other)


async def test_a_proxy_that_numbers_connections_by_itself(
    databases: Databases, write_config: WriteConfig, writes: Writes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or one that brings the second connection to another server: whether the lock is held cannot
    be seen from there. That is no reason to fail."""
    central, local = databases
    mirror.insert_messages(central, range(1, ROWS + 1))
    connect = db.connect

    async def by_proxy(*args: Any, **options: Any) -> Connection:
        connection = await connect(*args, **options)
        connection.thread_id += 1_000_000
        return connection

    monkeypatch.setattr(db, "connect", by_proxy)
    async with one(write_config(central, {"nunes": local}, sync=SYNC)) as instance:
        assert (await a_pass(instance))["messages"] == ROWS
    assert len(writes.pages) == 1
    assert mirror.differences(central, local) == ""


async def test_no_turn_waits_for_a_second_connection_that_is_long_in_coming(
    databases: Databases, write_config: WriteConfig, writes: Writes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a server looks up the name of each client's host."""
    central, local = databases
    mirror.insert_messages(central, range(1, ROWS + 1))
    async with one(write_config(central, {"nunes": local}, sync=SYNC)) as instance:
        connect = instance.maker._ahead._connect

        async def slow() -> Connection:
            await asyncio.sleep(8)
            return await connect()

        monkeypatch.setattr(instance.maker._ahead, "_connect", slow)
        began = time.monotonic()
        assert (await a_pass(instance))["messages"] == ROWS
        assert time.monotonic() - began < 5
        assert not instance.maker._ahead.possible
    assert len(writes.pages) == 1


async def test_a_stop_lets_the_second_one_end_its_page(
    databases: Databases, write_config: WriteConfig, writes: Writes
) -> None:
    """Whoever is to leave is broken off where nothing is written (`Supervisor`)."""
    central, local = databases
    mirror.insert_messages(central, range(1, ROWS + 1))
    stop = asyncio.Event()
    seen: list[bool] = []
    async with one(write_config(central, {"nunes": local}, sync=SYNC)) as instance:

        async def slow(connection: Connection, rows: Sequence[Row]) -> None:
            first = instance.hold.connection
            assert first is not None
            if connection is first or seen:
                return
            stop.set()
            for _ in range(300):
                if not first.in_transaction:
                    break
                await asyncio.sleep(0.01)
            seen.append(instance.writing)

        writes.before = slow
        await instance.sync_pass(stop)
        assert seen == [True]
        assert not instance.writing


async def test_central_is_asked_once_for_a_page_that_it_does_not_give(
    databases: Databases, write_config: WriteConfig, writes: Writes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that hangs would keep a turn for twice as long."""
    central, local = databases
    mirror.insert_messages(central, range(1, ROWS + 1))
    async with one(write_config(central, {"nunes": local}, sync=SYNC)) as instance:
        page, asked = instance.shared.central.page, 0

        async def hangs(wanted: Wanted, *, live: bool) -> Page:
            nonlocal asked
            if wanted.after < 100:
                return await page(wanted, live=live)
            asked += 1
            await asyncio.sleep(0.1)
            raise TransientError("central", 1969, "too long")

        monkeypatch.setattr(instance.shared.central, "page", hangs)
        with pytest.raises(TransientError, match="too long"):
            await a_pass(instance)
        assert asked == 1
        monkeypatch.undo()
        await until_equal(instance, databases)


async def test_a_turn_that_is_over_does_not_go_on_with_one(
    databases: Databases, write_config: WriteConfig, writes: Writes
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, ROWS + 1))
    stop = asyncio.Event()
    async with one(write_config(central, {"nunes": local}, sync=SYNC)) as instance:

        async def refuse(connection: Connection, rows: Sequence[Row]) -> None:
            if min(ids(rows)) > 100:
                stop.set()
                raise TransientError("local nunes", 1213, "deadlock")

        writes.before = refuse
        result = await instance.sync_pass(stop)
        assert result.more
        assert 0 < result.rows["messages"] <= 100, "and nothing was tried again after the stop"


async def test_what_fails_in_its_turn_is_tried_again_on_one(
    databases: Databases, write_config: WriteConfig, writes: Writes, monkeypatch: pytest.MonkeyPatch
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 31))
    async with one(write_config(central, {"nunes": local}, sync=SYNC)) as instance:
        ahead = instance.maker._ahead

        async def lost(connection: Connection, first: Connection, note: str) -> None:
            if connection is not first and connection.in_transaction:
                raise TransientError("local nunes", 2013, "lost")

        async def until_the_second_is_there(_: Connection, rows: Sequence[Row]) -> None:
            await asyncio.sleep(0.2 if min(ids(rows)) == 1 else 0)

        writes.after = until_the_second_is_there
        monkeypatch.setattr(ahead, "see_the_lock", lost)
        with pytest.raises(TransientError):
            await a_pass(instance)
        assert not ahead.possible
        await until_equal(instance, databases)


async def test_refused_rows_with_others_in_between_are_no_broken_table(
    databases: Databases, write_config: WriteConfig, writes: Writes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written ahead was taken, too."""
    central, local = databases
    mirror.insert_messages(central, range(1, 31))
    async with one(write_config(central, {"nunes": local}, sync=SYNC)) as instance:
        await a_pass(instance)
        strikes = instance.motions["messages"].committer._writer.strikes
        strikes.count = 99
        mirror.insert_messages(central, range(31, ROWS + 1))
        await a_pass(instance)
        assert strikes.count == 0
    assert len(writes.pages) > 1


async def test_of_large_rows_no_more_are_read_than_there_is_room_for(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 41))
    async with one(write_config(central, {"nunes": local}, sync=SYNC)) as instance:
        await a_pass(instance)

        async def read(size: str, max_bytes: int, limit: int = 40) -> tuple[int, bool]:
            connection = await instance.hold.another()
            statement = Statement(
                f"SELECT id, {size} FROM wpp_messages ORDER BY id LIMIT {limit}", (), "test"
            )
            rows, _ = await connection.fetch_bounded(statement, max_bytes, limit)
            usable = connection.usable
            await connection.close()
            return len(rows), usable

        assert await read("REPEAT('x', 300000)", 1_000_000) == (4, False)
        assert await read("REPEAT('x', 3000000)", 1_000_000) == (1, False)
        assert await read("REPEAT('x', 3000000)", 1_000_000, 1) == (1, True), "that was all"
        assert await read("REPEAT('x', 30)", 1_000_000) == (40, True)
        assert await read("REPEAT('x', 98)", 3_000) == (31, False)
        growing = "REPEAT('x', IF(id < 3, 10, 300000))"
        assert await read(growing, 1_000_000) <= (18, False)


async def test_where_little_may_be_written_no_second_connection_is_opened(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    central, local = databases
    async with one(write_config(central, {"nunes": local}, sync=SYNC)) as instance:
        await a_pass(instance)
        mirror.insert_messages(central, range(1, ROWS + 1))
        ahead, opened = instance.maker._ahead, 0
        connect = ahead._connect

        async def another() -> Connection:
            nonlocal opened
            opened += 1
            return await connect()

        monkeypatch.setattr(ahead, "_connect", another)
        instance.throttle.set(10)
        await asyncio.sleep(1.1)  # until some may be written
        turn = await instance.take_turn(asyncio.Event())
        assert turn.more
        assert 0 < turn.rows["messages"] < 20
        assert opened == 0
        instance.throttle.set(None)
        await until_equal(instance, databases)
        assert opened > 0
