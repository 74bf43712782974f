"""What befalls one table is that entity's trouble, and what was lost meanwhile is filled again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon.errors import DatabaseError, TransientError
from tests import mirror
from tests.in_process import a_pass, one, settle

if TYPE_CHECKING:
    from tests.conftest import Databases, Pair, ServerConfig, Servers

WriteConfig = Callable[..., Path]

_accounts = count(1)


def account_without_updates(servers: Servers, local: ServerConfig, table: str) -> ServerConfig:
    """An account of the local server that may do everything but write this table."""
    name, database = f"kept_out{next(_accounts)}", local["database"]
    grants = [
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {database}.{other} TO {name}@'%'"
        for (other,) in mirror.rows(local, "SHOW TABLES")
        if other != table
    ]
    servers.local.execute(
        ";".join(
            [
                f"CREATE USER {name}@'%' IDENTIFIED BY 'kept out'",
                f"GRANT SELECT ON {database}.{table} TO {name}@'%'",
                *grants,
            ]
        )
    )
    return {**local, "user": name, "password": "kept out"}


def insert_chats(central: ServerConfig, ids: Iterable[int]) -> None:
    values = ", ".join(f"({id_}, 'nunes', 'ACTIVE', 'LOW', 0, 0)" for id_ in ids)
    mirror.run(
        central,
        "INSERT INTO chats (id, instance, type, priority, is_finished, is_schedule)"
        f" VALUES {values}",
    )


async def test_a_table_that_may_not_be_written_does_not_keep_the_others(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    insert_chats(central, range(1, 4))
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
    mirror.insert_messages(central, range(11, 21))
    insert_chats(central, range(4, 8))
    kept_out = account_without_updates(servers, local, "wpp_messages")
    async with one(write_config(central, {"nunes": kept_out})) as instance:
        result = await instance.sync_pass(asyncio.Event())
        assert list(result.errors) == ["messages"]
        error = result.errors["messages"]
        assert isinstance(error, DatabaseError)
        assert not isinstance(error, TransientError)
        assert error.errno == 1142
        assert mirror.rows(local, "SELECT COUNT(*) FROM wpp_chats") == [["7"]]
        assert mirror.rows(local, "SELECT COUNT(*) FROM wpp_messages") == [["10"]]
        user = kept_out["user"]
        servers.local.execute(f"GRANT ALL ON {local['database']}.wpp_messages TO {user}@'%'")
        instance.motions.retry_now()
        await a_pass(instance)
        assert instance.state == "idle"
        assert mirror.rows(local, "SELECT COUNT(*) FROM wpp_messages") == [["20"]]


@pytest.mark.parametrize("lost", ["TRUNCATE TABLE wpp_messages", "DELETE FROM wpp_messages"])
async def test_a_table_that_was_emptied_while_no_daemon_ran_is_filled_again(
    databases: Databases, write_config: WriteConfig, lost: str
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    async with one(write_config(central, {"nunes": local})) as instance:
        await settle(instance)
    mirror.run(local, lost)
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        assert mirror.rows(local, "SELECT COUNT(*) FROM wpp_messages") == [["10"]]


async def test_an_empty_table_whose_rows_are_all_in_quarantine_is_not_copied_again(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        mirror.run(local, "ALTER TABLE wpp_messages MODIFY type VARCHAR(2) NOT NULL")
        mirror.insert_messages(central, range(1, 4))
        await a_pass(instance)
        assert instance.motions.states["messages"].last_synced_id == 3
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        assert instance.motions.states["messages"].last_synced_id == 3
        assert mirror.rows(local, "SELECT COUNT(*) FROM wpp_sync_quarantine") == [["3"]]


async def test_a_unique_key_over_a_long_text_is_looked_up_at_a_collision(
    databases: Databases, pair: Pair, write_config: WriteConfig
) -> None:
    """MariaDB keeps such a key as a hash, and says HASH in SHOW INDEX."""
    if pair.local == "mysql":
        pytest.skip("MySQL has no unique keys over whole long texts")
    central, local = databases
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        mirror.run(local, "ALTER TABLE wpp_messages ADD UNIQUE KEY long_one (body)")
        mirror.insert_message(central, 1, body="'a.pdf'")
        mirror.insert_message(central, 2, body="'b.pdf'")
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        mirror.run(
            central,
            "DELETE FROM messages WHERE id = 1;UPDATE messages SET body = 'c.pdf' WHERE id = 2",
        )
        mirror.insert_message(central, 3, body="'a.pdf'")
        mirror.insert_message(central, 4, body="'b.pdf'")
        await a_pass(instance)
        assert mirror.rows(local, "SELECT id, body FROM wpp_messages ORDER BY id") == [
            ["2", "c.pdf"],
            ["3", "a.pdf"],
            ["4", "b.pdf"],
        ]
        assert mirror.rows(local, "SELECT COUNT(*) FROM wpp_sync_quarantine") == [["0"]]


async def test_a_reset_made_elsewhere_is_seen_while_nothing_can_be_written(
    databases: Databases,
    servers: Servers,
    write_config: WriteConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An entity in trouble uses the connection all the time, which must not put the look off."""
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    monkeypatch.setattr("daemon.instance.HEARTBEAT_SECONDS", 0.0)
    async with one(write_config(central, {"nunes": local})) as instance:
        await settle(instance)
        mirror.run(local, "UPDATE wpp_sync_state SET last_synced_id = 0, settled_id = 0")
        instance.hold.connection.used_at = asyncio.get_running_loop().time() + 60  # type: ignore[union-attr]
        await a_pass(instance)
        assert instance.motions.states["messages"].last_synced_id == 10


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("DROP TABLE wpp_last_messages", "CREATE TABLE wpp_last_messages LIKE kept"),
        (
            "ALTER TABLE wpp_last_messages MODIFY body VARCHAR(10) NULL",
            "ALTER TABLE wpp_last_messages MODIFY body LONGTEXT NULL",
        ),
    ],
)
async def test_a_derived_table_that_cannot_be_kept_does_not_keep_its_messages(
    databases: Databases, write_config: WriteConfig, broken: str, mended: str
) -> None:
    central, local = databases
    mirror.run(
        central,
        "INSERT INTO contacts (id, name, instance, is_deleted, is_blocked, is_only_admin,"
        " created_at) VALUES (1, 'a', 'nunes', 0, 0, 0, NOW())",
    )
    mirror.insert_message(central, 1, contact_id="1")
    config = write_config(central, {"nunes": local})
    async with one(config) as instance:
        await a_pass(instance)
    mirror.run(local, f"CREATE TABLE kept LIKE wpp_last_messages; {broken}")
    mirror.insert_message(central, 2, contact_id="1")
    async with one(config) as instance:
        result = await instance.sync_pass(asyncio.Event())
        assert mirror.local_ids(local) == [1, 2]
        assert "wpp_last_messages" in result.errors["messages"].message
        assert str(instance.state) == "failed"
        mirror.insert_message(central, 3, contact_id="1")
        instance.motions.forget("messages")  # a reset, say: it does not wait for what is derived
        await instance.sync_pass(asyncio.Event())
        assert mirror.local_ids(local) == [1, 2, 3]
        assert str(instance.state) == "failed"
        mirror.run(local, mended)
        instance.motions.retry_now()
        await a_pass(instance)
        assert str(instance.state) == "idle"
        await a_pass(instance)
        assert mirror.rows(local, "SELECT id FROM wpp_last_messages") == [["3"]]
