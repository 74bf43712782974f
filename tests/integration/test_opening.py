"""What an opening asks a local server: little, and what it would be told of each alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from daemon import schema, state
from daemon.sync import quarantine
from tests import mirror
from tests.in_process import a_pass, connected, one

if TYPE_CHECKING:
    from tests.conftest import Databases, Pair

WriteConfig = Callable[..., Path]

NOTE = "nunes"
MOST_STATEMENTS = 40
"""Of an opening and its first pass. MySQL is asked for the indexes of each table alone, and the
client that counts says something, too."""


async def test_an_instance_that_is_up_to_date_is_opened_with_few_statements(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    config = write_config(central, {"nunes": local})
    async with one(config) as instance:
        await a_pass(instance)
    before = mirror.statements_sent(local)
    async with one(config) as instance:
        await instance.take_turn(asyncio.Event())
        asked = mirror.statements_sent(local) - before
        assert instance.motions.keys() == instance.entities.keys()
    assert asked <= MOST_STATEMENTS


async def test_tables_read_together_are_as_if_read_alone(databases: Databases, pair: Pair) -> None:
    local = databases.local
    hidden = "IGNORED" if pair.local == "mariadb" else "INVISIBLE"
    mirror.run(
        local,
        "CREATE TABLE parent (id BIGINT PRIMARY KEY, a INT NOT NULL, b VARCHAR(300), t TEXT,"
        " UNIQUE KEY z (a), UNIQUE KEY y (b, a), KEY x (t(10)), FULLTEXT KEY w (t));"
        "CREATE TABLE child (id BIGINT, n INT DEFAULT 5,"
        f" UNIQUE KEY one (n) {hidden}, KEY two (id));"
        "CREATE TABLE Child (other INT);"
        "CREATE TABLE bare (d DATETIME(3) DEFAULT CURRENT_TIMESTAMP(3));"
        "CREATE VIEW sight AS SELECT id FROM parent;",
    )
    names = ["parent", "child", "Child", "PARENT", "bare", "sight", "nowhere", "it's"]
    async with connected(local) as connection:
        together = await schema.read_all(connection, names, NOTE)
        alone = {name: await schema.read(connection, name, NOTE) for name in names}
        assert together == alone
        assert await schema.read_all(connection, ["parent"], NOTE) == {"parent": alone["parent"]}
        assert await schema.read_all(connection, [], NOTE) == {}
        assert await schema.read_all(connection, ["nowhere", "PARENT"], NOTE) == {
            "nowhere": None,
            "PARENT": alone["PARENT"],
        }
        engines = await schema.engines(connection, ["parent", "sight", "nowhere"], NOTE)
        assert engines == {"parent": "InnoDB", "sight": ""}
    parent, child = alone["parent"], alone["child"]
    assert parent is not None
    assert child is not None
    assert [index.name for index in parent.indexes] == ["PRIMARY", "z", "y", "x"]
    assert [index.usable for index in child.indexes] == [False, True]


async def test_only_rows_that_are_missing_are_made(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
    mirror.run(
        local,
        "DELETE FROM wpp_sync_state WHERE entity = 'chats';"
        "UPDATE wpp_sync_state SET reconcile_cursor = 7, reconciled_at = CURRENT_TIMESTAMP"
        " - INTERVAL 90 SECOND, derived_at = NULL WHERE entity = 'messages';"
        "INSERT INTO wpp_sync_quarantine (entity, id, id2, errno, message, discarded_at) VALUES"
        " ('messages', 1, 0, 1, '', NULL), ('Messages', 2, 0, 1, '', CURRENT_TIMESTAMP),"
        " ('contact_sectors', 1, 2, 1, '', NULL), ('contacts', 9, 0, 1, '', NULL)",
    )
    async with connected(local) as connection:
        states, rounds = await state.ensure(connection, ["messages", "chats"], NOTE)
        assert states == await state.read(connection, NOTE)
        assert states["messages"].last_synced_id == 10
        assert states["chats"].last_synced_id == 0
        messages = rounds["messages"]
        assert messages.cursor == 7
        assert messages.age is not None
        assert 90 <= messages.age < 120
        assert not messages.derived
        assert rounds["chats"] == state.Round(None, None, derived=False)

        widths = {"messages": 1, "chats": 1, "contact_sectors": 2}
        assert await quarantine.keys_of(connection, widths, NOTE) == {
            "messages": ({1}, {2}),
            "chats": (set(), set()),
            "contact_sectors": ({(1, 2)}, set()),
        }
