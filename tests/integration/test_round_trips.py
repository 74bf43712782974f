"""Statements that go together: one round trip, up to the first that is refused; and how many round
trips a pass takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daemon import local as rows_to_local
from daemon import state
from daemon.db import Connection
from daemon.errors import MissingError, RowError, StateMovedError, TransientError
from daemon.reads import Wanted
from daemon.sql import Statement
from tests import mirror
from tests.in_process import a_pass, connected, one, parts
from tests.proxy import Proxy

if TYPE_CHECKING:
    from tests.conftest import Databases

WriteConfig = Callable[..., Path]

_NO_SEVERAL = 1
_COM_SET_OPTION = 0x1B


def said(sql: str) -> Statement:
    return Statement(sql, (), "test")


def insert(number: int) -> Statement:
    return said(f"INSERT INTO t VALUES ({number})")


@pytest.fixture(params=["together", "one by one"])
async def connection(
    databases: Databases, request: pytest.FixtureRequest
) -> AsyncIterator[Connection]:
    """To a local database with a table `t` that has the row 1."""
    mirror.run(databases.local, "CREATE TABLE t (id INT PRIMARY KEY) ENGINE=InnoDB")
    mirror.run(databases.local, "INSERT INTO t VALUES (1)")
    async with connected(databases.local) as found:
        if request.param == "one by one":
            await refuse_several(found)
        yield found


async def refuse_several(connection: Connection) -> None:
    """As a proxy that takes one statement at a time."""
    raw: Any = connection._raw
    await raw._execute_command(_COM_SET_OPTION, _NO_SEVERAL.to_bytes(2, "little"))
    await raw.read_packet()


async def ids(connection: Connection) -> list[int]:
    return [int(id_ or 0) for (id_,) in await connection.fetch(said("SELECT id FROM t"))]


async def test_each_is_answered_by_itself(connection: Connection) -> None:
    answers = await connection.exchange(
        [insert(2), said("SELECT id, NULL FROM t"), b"/* x */ SELECT ';', 1 FROM t WHERE id = 9"]
    )
    assert answers.refusal is None
    assert answers.rows == [[], [(b"1", None), (b"2", None)], []]
    assert await connection.fetch_each([said("SELECT 1"), said("SELECT 2")]) == [
        [(b"1",)],
        [(b"2",)],
    ]


async def test_nothing_is_carried_out_behind_a_refusal(connection: Connection) -> None:
    answers = await connection.exchange([insert(2), insert(1), insert(3), said("SELECT 1")])
    assert isinstance(answers.refusal, RowError)
    assert answers.rows == [[]]
    assert connection.usable
    assert await ids(connection) == [1, 2]


async def test_a_transaction_ends_with_what_goes_with_its_commit(connection: Connection) -> None:
    async with connection.transaction(said("SELECT 7"), attempt=[insert(2)]) as transaction:
        assert transaction.opening == [[(b"7",)]]
        assert (transaction.attempt.rows, transaction.attempt.refusal) == ([[]], None)
        transaction.last.append(insert(3))
    await connection.execute(b"ROLLBACK")  # of nothing
    assert await ids(connection) == [1, 2, 3]


async def test_what_is_refused_with_the_commit_undoes_all(connection: Connection) -> None:
    with pytest.raises(RowError):
        async with connection.transaction(attempt=[insert(2)]) as transaction:
            transaction.last.extend([insert(3), insert(1)])
    assert connection.usable, "the lock on it is kept"
    assert await ids(connection) == [1]


async def test_what_is_refused_at_the_beginning_begins_nothing(connection: Connection) -> None:
    with pytest.raises(MissingError):
        async with connection.transaction(said("SELECT 1 FROM nowhere"), attempt=[insert(2)]):
            pytest.fail("it has not begun")
    assert connection.usable
    assert await ids(connection) == [1]


async def test_a_refused_attempt_leaves_the_rest_to_the_block(connection: Connection) -> None:
    async with connection.transaction(
        said("SELECT 7"), attempt=[insert(1), insert(2)]
    ) as transaction:
        assert isinstance(transaction.attempt.refusal, RowError)
        assert transaction.attempt.rows == []
        await connection.execute(insert(4))
    assert await ids(connection) == [1, 4]


async def test_all_of_it_at_once(connection: Connection) -> None:
    assert await connection.at_once(said("SELECT 7"), insert(2), insert(3))
    await connection.execute(b"ROLLBACK")  # of nothing
    assert await ids(connection) == [1, 2, 3]
    assert not connection.in_transaction


async def test_or_nothing_of_it(connection: Connection) -> None:
    assert not await connection.at_once(insert(2), insert(1), insert(3))
    assert connection.usable, "the lock on it is kept"
    assert await ids(connection) == [1]
    assert await connection.at_once(insert(2))
    assert await ids(connection) == [1, 2]


async def test_a_rollback_that_fails_is_a_servers_trouble(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal would say that a row is at fault, and to go on with this connection."""

    async def fails(_: object) -> None:
        raise TransientError("local nunes", 2013, "lost")

    monkeypatch.setattr(connection, "execute", fails)
    with pytest.raises(TransientError):
        await connection.at_once(insert(2), insert(1))
    assert not connection.usable


async def test_who_is_cancelled_before_the_rollback_leaves_no_transaction(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = asyncio.Event()

    async def hangs(_: object) -> None:
        waits.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(connection, "execute", hangs)
    task = asyncio.create_task(connection.at_once(insert(2), insert(1)))
    await waits.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not connection.usable
    assert not connection.in_transaction


async def test_a_servers_trouble_is_no_refusal(
    databases: Databases, connection: Connection
) -> None:
    """Somebody has the row: to wait once more would be no better."""
    async with connected(databases.local) as other:
        await connection.execute(b"SET SESSION innodb_lock_wait_timeout = 1")
        async with other.transaction():
            await other.execute(insert(2))
            with pytest.raises(TransientError) as caught:
                await connection.at_once(insert(3), insert(2))
        assert caught.value.errno == 1205
    assert connection.usable
    assert await ids(connection) == [1, 2]


# --- passes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "trips"),
    [
        pytest.param(1, 1, id="one row"),
        pytest.param(rows_to_local.INSERT_ROWS, 1, id="few rows"),
        pytest.param(rows_to_local.INSERT_ROWS + 1, 4, id="rows in bulk"),
    ],
)
async def test_so_many_round_trips_a_pass_takes(
    databases: Databases, write_config: WriteConfig, rows: int, trips: int
) -> None:
    central, local = databases
    if trips == 4 and not mirror.number(local, "SELECT VERSION() LIKE '%MariaDB%'"):
        trips = 2  # there are no bulks: they go as literals
    async with Proxy(str(local["host"]), int(str(local["port"]))) as proxy:
        config = write_config(central, {"nunes": {**local, "port": proxy.port}})
        async with one(config) as instance:
            mirror.insert_messages(central, range(1, 201))
            await a_pass(instance)  # connects, migrates, prepares
            proxy.forget()
            mirror.insert_messages(central, range(201, 201 + rows))
            assert (await a_pass(instance))["messages"] == rows
            said = [command.text for command in proxy.commands]
            writing = [text for text in said if "ids */" not in text]
            assert len(writing) == trips, writing
    assert mirror.differences(central, local) == ""


async def sent(
    databases: Databases,
    write_config: WriteConfig,
    change: Callable[[dict[str, object]], None],
    first: str = "",
) -> list[str]:
    """What a pass says to local of a row that is new in central, when `change` was done to it."""
    central, local = databases
    async with Proxy(str(local["host"]), int(str(local["port"]))) as proxy:
        config = write_config(central, {"nunes": {**local, "port": proxy.port}})
        async with one(config) as instance:
            mirror.insert_messages(central, range(1, 11))
            await a_pass(instance)
            if first:
                mirror.run(local, first)
            proxy.forget()
            change(central)
            await a_pass(instance)
            said = [command.text for command in proxy.commands if "ids */" not in command.text]
    assert mirror.differences(central, local) == ""
    return said


def of_a_contact(central: dict[str, object]) -> None:
    mirror.run(
        central,
        "INSERT INTO contacts (id, name, instance, is_deleted, is_blocked, is_only_admin,"
        " created_at) VALUES (7, 'x', 'nunes', 0, 0, 0, NOW(3))",
    )
    mirror.insert_message(central, 20, contact_id="7")


async def test_what_is_derived_takes_another_round_trip(
    databases: Databases, write_config: WriteConfig
) -> None:
    """The questions go with the row, and what they lead to with the state."""
    said = [
        text for text in await sent(databases, write_config, of_a_contact) if "messages */" in text
    ]
    assert len(said) == 2, said
    assert mirror.rows(databases.local, "SELECT id FROM wpp_last_messages") == [["20"]]


async def test_a_row_that_stands_there_already_is_updated(
    databases: Databases, write_config: WriteConfig
) -> None:
    """An application writes into both databases, say: nothing is lost but a round trip, and then
    that is known."""
    said = await sent(
        databases,
        write_config,
        lambda central: mirror.insert_messages(central, range(20, 22)),
        first="INSERT INTO wpp_messages (id, instance, `from`, `to`, type, is_forwarded, is_edited,"
        " body, timestamp, sent_at, status)"
        " SELECT 20, instance, `from`, `to`, type, is_forwarded, is_edited, 'ours', timestamp,"
        " sent_at, status FROM wpp_messages WHERE id = 10",
    )
    assert len(said) == 4, said  # the attempt, its end, and the two of an upsert
    assert [text for text in said if "ON DUPLICATE KEY" in text]


@pytest.mark.parametrize(
    "change",
    [
        "SET last_synced_id = 5",
        "SET settled_id = settled_id + 1",
        "SET settled_for = 5",
        "SET resync = 1",
        "SET rewound = 1",
        "SET instance = 'Nunes'",
        "SET instance = NULL",
        "SET source = 'x'",
        "SET source = NULL",
        "",
    ],
)
async def test_the_fence_refuses_what_see_would(
    databases: Databases, write_config: WriteConfig, change: str
) -> None:
    _, local = databases
    async with one(write_config(databases.central, {"nunes": local})) as instance:
        await a_pass(instance)
        known, connection = instance.motions["messages"].state, instance.hold.connection
        assert connection is not None
        assert await connection.at_once(state.fence(known, "test"))
        mirror.run(
            local,
            f"UPDATE wpp_sync_state {change} WHERE entity = 'messages'"
            if change
            else "DELETE FROM wpp_sync_state WHERE entity = 'messages'",
        )
        assert not await connection.at_once(state.fence(known, "test"))
        now = (await state.read(connection, "test")).get("messages")
        assert now is None or await connection.at_once(state.fence(now, "test"))


async def test_rows_that_were_sent_before_the_state_was_seen_are_not_kept(
    databases: Databases, write_config: WriteConfig
) -> None:
    """Somebody has changed the state row: what went with the lock on it is undone."""
    central, local = databases
    async with parts(write_config(central, {"nunes": local})) as built:
        mirror.insert_messages(central, range(1, 11))
        instance = built.instances["nunes"]
        await a_pass(instance)
        committer = instance.motions["messages"].committer
        mirror.insert_messages(central, [99])
        mirror.run(local, "UPDATE wpp_sync_state SET last_synced_id = 5 WHERE entity = 'messages'")
        wanted = Wanted(committer.plan, "nunes", after=10, upto=99, rows=10, max_bytes=1 << 20)
        page = await built.central.page(wanted, live=False)
        assert len(page.rows) == 1, "which the table would take"
        with pytest.raises(StateMovedError):
            await committer.commit(page.rows, watermark=99)
        assert 99 not in mirror.local_ids(local)
        assert mirror.watermarks(local)["messages"] == 5


async def test_where_statements_go_one_by_one_all_is_as_before(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    real = Connection.set_up

    async def set_up(connection: Connection) -> None:
        await real(connection)
        await refuse_several(connection)

    monkeypatch.setattr(Connection, "set_up", set_up)
    central, local = databases
    async with one(write_config(central, {"nunes": local})) as instance:
        for first in (1, 51, 101):
            mirror.insert_messages(central, range(first, first + 50))
            await a_pass(instance)
        mirror.run(central, "UPDATE messages SET wwebjs_id = 'moved' WHERE id = 3")
        mirror.insert_message(central, 200)
        mirror.run(central, "UPDATE messages SET wwebjs_id = 'key 3' WHERE id = 200")
        await a_pass(instance)
    assert mirror.local_ids(local) == [*range(1, 151), 200]
