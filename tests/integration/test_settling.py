"""When an id is settled, on a real server: what it testifies, and what waits for it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon import evidence, operations
from daemon.app import Parts
from daemon.errors import TransientError
from daemon.instance import Instance
from daemon.settle import Window
from tests import mirror
from tests.in_process import a_pass, parts, passes_until, settle

if TYPE_CHECKING:
    from tests.conftest import Databases, Pair, ServerConfig, Servers

WriteConfig = Callable[..., Path]

EXACT: dict[str, object] = {"sync": {"settle": "exact"}}
INSERT = (
    "INSERT INTO messages (instance, `from`, `to`, type, is_forwarded, is_edited, body, timestamp,"
    " sent_at, status) VALUES ('nunes', '1', '2', 'chat', 0, 0, 'x', '3', NOW(3), 'SENT')"
)


def settled(instance: Instance) -> int:
    return instance.motions["messages"].settled


async def passes_for(instance: Instance, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        await a_pass(instance)
        await asyncio.sleep(0.05)


async def test_with_the_list_of_transactions_ids_settle_within_seconds(
    databases: Databases, write_config: WriteConfig
) -> None:
    mirror.insert_messages(databases.central, range(1, 101))
    async with parts(write_config(databases.central, {"nunes": databases.local})) as built:
        instance = built.instances["nunes"]
        began = time.monotonic()
        await settle(instance)
        assert time.monotonic() - began < 10, "the timed rule would take a minute"
        status = await operations.get_sync_status(instance)
        assert status["settling"].startswith("exact: the account has PROCESS")


async def test_a_transaction_that_stays_open_holds_the_settled_id_below_its_row(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    async with parts(write_config(central, {"nunes": local}, **EXACT)) as built:
        instance = built.instances["nunes"]
        await settle(instance)
        with mirror.Session(central) as writer:
            writer.execute(f"BEGIN; {INSERT}")
            mirror.insert_messages(central, range(20, 31))
            await passes_until(instance, lambda: instance.motions["messages"].position == 30)
            await passes_for(instance, 3)
            assert settled(instance) == 10
            writer.execute("COMMIT")
        await settle(instance)
        assert settled(instance) == 30
    assert mirror.local_ids(local) == [*range(1, 12), *range(20, 31)]


async def test_by_time_alone_a_row_in_flight_holds_it_all_the_same(
    databases: Databases, write_config: WriteConfig
) -> None:
    """A transaction that stays open longer than the settle time loses nothing."""
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    async with parts(write_config(central, {"nunes": local}, sync={"settle": "1s"})) as built:
        instance = built.instances["nunes"]
        with mirror.Session(central) as writer:
            writer.execute(f"BEGIN; {INSERT}; {INSERT}")
            mirror.insert_messages(central, range(20, 31))
            await passes_for(instance, 4)
            assert instance.motions["messages"].position == 30
            assert settled(instance) == 10
            writer.execute("COMMIT")
        await settle(instance)
    assert mirror.local_ids(local) == [*range(1, 13), *range(20, 31)]


async def test_a_rolled_back_row_leaves_a_hole_and_nothing_waits_for_it(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    async with parts(write_config(central, {"nunes": local}, **EXACT)) as built:
        instance = built.instances["nunes"]
        with mirror.Session(central) as writer:
            writer.execute(f"BEGIN; {INSERT}")
            mirror.insert_messages(central, range(20, 31))
            await passes_for(instance, 2)
            assert settled(instance) == 0
            writer.execute("ROLLBACK")
        await settle(instance)
        assert settled(instance) == 30


async def test_an_insert_that_waits_for_anothers_key_is_waited_for(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_message(central, 1, wwebjs_id="'m'")
    same = INSERT.replace("`from`", "wwebjs_id, `from`")
    async with parts(write_config(central, {"nunes": local}, **EXACT)) as built:
        instance = built.instances["nunes"]
        await settle(instance)
        with mirror.Session(central) as holder, mirror.Session(central) as waiter:
            holder.execute("BEGIN; " + same.replace("'nunes',", "'karsten', 'same',"))
            insert = same.replace("'nunes',", "'nunes', 'same',")
            waiting = asyncio.create_task(asyncio.to_thread(waiter.execute, insert))
            await asyncio.sleep(0.3)
            mirror.insert_messages(central, range(20, 31))
            await passes_for(instance, 3)
            assert settled(instance) == 1
            holder.execute("ROLLBACK")
            await waiting
        await settle(instance)
    assert mirror.differences(central, local) == ""
    assert len(mirror.local_ids(local)) == 13


def account(servers: Servers, config: ServerConfig, *grants: str) -> ServerConfig:
    name = f"a{config['database']}"
    servers.central.execute(f"CREATE USER {name}@'%' IDENTIFIED BY 'secret'")
    for grant in grants:
        servers.central.execute(f"GRANT {grant} TO {name}@'%'")
    return {**config, "user": name, "password": "secret"}


async def words(built: Parts) -> str:
    await built.central.validity()
    return built.central.settle_words()


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("auto", "timed: an id settles 60 s after it was seen; not exact, because the account"),
        ("exact", "none: sync.settle asks for exact, but the account lacks the PROCESS privilege"),
        (
            "5s",
            "timed: an id settles 5 s after it was seen (sync.settle); an INSERT that waits longer",
        ),
        ("90s", "timed: an id settles 90 s after it was seen (sync.settle)"),
    ],
)
async def test_without_process_the_timed_rule_is_in_force_and_it_says_so(
    databases: Databases, servers: Servers, write_config: WriteConfig, setting: str, expected: str
) -> None:
    limited = account(servers, databases.central, f"SELECT ON {databases.central['database']}.*")
    config = write_config(limited, {"nunes": databases.local}, sync={"settle": setting})
    async with parts(config) as built:
        assert (await words(built)).startswith(expected)


async def test_auto_follows_how_long_central_lets_an_insert_wait(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    limited = account(servers, databases.central, f"SELECT ON {databases.central['database']}.*")
    servers.central.execute("SET GLOBAL innodb_lock_wait_timeout = 200")
    try:
        async with parts(write_config(limited, {"nunes": databases.local})) as built:
            assert "timed: an id settles 210 s after it was seen" in await words(built)
            await a_pass(built.instances["nunes"])
            assert built.central._tables["messages"].settling.rule.timed == 210
    finally:
        servers.central.execute("SET GLOBAL innodb_lock_wait_timeout = 50")


async def test_exact_without_evidence_settles_nothing_and_copies_all_the_same(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    limited = account(servers, databases.central, f"SELECT ON {databases.central['database']}.*")
    mirror.insert_messages(databases.central, range(1, 11))
    async with parts(write_config(limited, {"nunes": databases.local}, **EXACT)) as built:
        instance = built.instances["nunes"]
        await passes_for(instance, 2.5)
        assert settled(instance) == 0
    assert mirror.differences(databases.central, databases.local) == ""


async def test_a_read_only_server_is_no_witness(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    servers.central.execute("SET GLOBAL read_only = 1")
    try:
        async with parts(write_config(databases.central, {"nunes": databases.local})) as built:
            assert "not exact, because the server is read-only" in await words(built)
    finally:
        servers.central.execute("SET GLOBAL read_only = 0")


async def test_the_settled_id_survives_a_restart(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    mirror.insert_messages(central, range(500, 600), "karsten")
    config = write_config(central, {"nunes": local}, **EXACT)
    async with parts(config) as built:
        await settle(built.instances["nunes"])
    async with parts(config) as built:
        await a_pass(built.instances["nunes"])
        assert settled(built.instances["nunes"]) >= 599
    assert mirror.watermarks(local)["messages"] == 10


async def test_a_look_at_rows_in_flight_that_fails_leaves_no_dirty_reader_behind(
    databases: Databases, write_config: WriteConfig
) -> None:
    """It waited for a lock on the table for too long; what comes next on its connection must not
    see rows that nobody has committed."""
    source = {**databases.central, "statement_timeout": "500ms"}
    mirror.run(databases.central, "CREATE TABLE altered (id INT PRIMARY KEY)")
    async with parts(write_config(source, {"nunes": databases.local})) as built:
        with mirror.Session(databases.central) as ddl, mirror.Session(databases.central) as writer:
            ddl.execute("LOCK TABLES altered WRITE")
            writer.execute(f"BEGIN; {INSERT}")
            async with built.central._asking("test") as connection:
                with pytest.raises(TransientError):
                    await evidence.in_flight(connection, "altered", "id", "PRIMARY", Window(0, 10))
            assert (await built.central.head("messages", "id")).id == 0
            await a_pass(built.instances["nunes"])
    assert mirror.local_ids(databases.local) == []


def upsert(*bodies: str, key: str) -> str:
    """A message with that key, and further ones: one statement, which draws all ids at first."""
    columns = "(instance, wwebjs_id, `from`, `to`, type, is_forwarded, is_edited, body, timestamp,"
    values = ", ".join(
        f"('nunes', {repr(key) if number == 0 else 'NULL'}, '1', '2', 'chat', 0, 0, '{body}', '3',"
        " NOW(3), 'SENT')"
        for number, body in enumerate(bodies)
    )
    return (
        f"INSERT INTO messages {columns} sent_at, status) VALUES {values}"
        " ON DUPLICATE KEY UPDATE body = VALUES(body)"
    )


async def test_a_list_of_transactions_that_others_keep_from_being_renewed_is_no_evidence(
    databases: Databases, write_config: WriteConfig, pair: Pair
) -> None:
    """Read every few milliseconds, the server's list never changes. A statement that has drawn its
    ids and waits for a lock with nothing inserted is to be seen there alone."""
    if pair.central == "mysql":
        pytest.skip("on MySQL other INSERTs wait behind the one that waits, until they time out")
    central, local = databases
    mirror.insert_message(central, 1, wwebjs_id="'key'")
    async with parts(write_config(central, {"nunes": local}, **EXACT)) as built:
        instance = built.instances["nunes"]
        await settle(instance)
        over = threading.Event()

        def watch() -> None:
            with mirror.Session(central) as watcher:
                while not over.wait(0.02):
                    watcher.execute("SELECT COUNT(*) FROM information_schema.INNODB_TRX")

        with mirror.Session(central) as holder, mirror.Session(central) as waiter:
            watching = asyncio.create_task(asyncio.to_thread(watch))
            try:
                await asyncio.sleep(0.5)
                holder.execute("BEGIN; UPDATE messages SET body = 'held' WHERE id = 1")
                waiter.execute("BEGIN")
                waiting = asyncio.create_task(
                    asyncio.to_thread(waiter.execute, upsert("again", "late", key="key"))
                )
                await asyncio.sleep(0.5)
                # Beyond the gap before 'key', which the waiting statement has locked.
                mirror.insert_message(central, 20, wwebjs_id="'z'")
                await passes_for(instance, 4)
                held_at = settled(instance)
            finally:
                over.set()
                holder.execute("COMMIT")
                await asyncio.gather(watching, waiting)
            assert held_at == 1
            waiter.execute("COMMIT")
        await settle(instance)
    assert mirror.local_ids(local) == mirror.central_ids(central)
    assert len(mirror.local_ids(local)) == 3


async def test_a_row_that_waits_for_a_unique_key_is_in_flight_whatever_index_is_cheapest(
    databases: Databases, write_config: WriteConfig
) -> None:
    """MySQL would skip through a small index that the waiting row is not in yet."""
    central, local = databases
    mirror.run(central, "ALTER TABLE messages ADD INDEX small (is_edited)")
    mirror.insert_messages(central, [1])
    mirror.run(
        central,
        "INSERT INTO messages (id, instance, `from`, `to`, type, is_forwarded, is_edited, body,"
        " timestamp, sent_at, status) WITH RECURSIVE n AS (SELECT 2 AS id UNION ALL SELECT id + 1"
        " FROM n WHERE id < 1000) SELECT id, 'nunes', '1', '2', 'chat', 0, 0, REPEAT('x', 3000),"
        " '3', NOW(3), 'SENT' FROM n",
    )
    mirror.rows(central, "ANALYZE TABLE messages")
    async with parts(write_config(central, {"nunes": local})) as built:
        holder, waiter = mirror.Session(central), mirror.Session(central)
        with holder, waiter:
            holder.execute("BEGIN; UPDATE messages SET wwebjs_id = 'wanted' WHERE id = 1")
            waiting = asyncio.to_thread(waiter.execute, upsert("late", key="wanted"))
            task = asyncio.create_task(waiting)
            await asyncio.sleep(0.5)
            async with built.central._asking("test") as connection:
                _, found = await evidence.in_flight(
                    connection, "messages", "id", "PRIMARY", Window(0, 2000)
                )
            assert found == {1001}
            holder.execute("ROLLBACK")
            await task


async def test_a_full_resync_ends_although_the_newest_rows_are_deleted_meanwhile(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 31))
    async with parts(write_config(central, {"nunes": local}, sync={"settle": "1s"})) as built:
        instance = built.instances["nunes"]
        await a_pass(instance)
        await operations.force_full_resync(instance)
        await a_pass(instance)
        assert instance.motions["messages"].state.resync
        mirror.run(central, "DELETE FROM messages WHERE id > 20")
        await passes_until(instance, lambda: not instance.motions["messages"].state.resync)
