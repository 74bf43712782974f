"""Tables that change while the daemon copies: a clear state, and by itself again when mended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon.errors import MissingError, SchemaError, WppSyncError
from daemon.instance import Instance
from daemon.sync.commit import Committer
from tests import mirror
from tests.in_process import a_pass, one, settle

if TYPE_CHECKING:
    from tests.conftest import Databases

WriteConfig = Callable[..., Path]

# How an index is hidden from the optimizer and shown again, by each family of servers.
_SHOWN = {"IGNORED": "NOT IGNORED", "INVISIBLE": "VISIBLE"}


@pytest.fixture
def plans_are_always_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Committer, "_PLAN_SECONDS", 0.0)
    monkeypatch.setattr("daemon.central.Central.TABLE_AGE", -1.0)


async def failing(instance: Instance, entity: str = "messages") -> WppSyncError:
    """A pass in which this entity fails and the other one does not."""
    result = await instance.sync_pass(asyncio.Event())
    assert list(result.errors) == [entity]
    assert instance.state == "failed"
    return result.errors[entity]


async def mended(instance: Instance) -> None:
    """What happens when the time for the next try has come."""
    instance.motions.retry_now()
    await a_pass(instance)
    assert instance.state == "idle"


async def test_a_column_that_appears_on_both_sides_is_copied_from_the_next_rows_on(
    databases: Databases, write_config: WriteConfig, plans_are_always_looked_at: None
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        mirror.run(central, "ALTER TABLE messages ADD COLUMN mood VARCHAR(20) NULL")
        mirror.insert_message(central, 11, mood="'early'")
        await a_pass(instance)
        assert "mood" in instance.motions["messages"].plan.only_central
        mirror.run(local, "ALTER TABLE wpp_messages ADD COLUMN mood VARCHAR(20) NULL")
        mirror.insert_message(central, 12, mood="'calm'")
        await a_pass(instance)
        assert mirror.rows(local, "SELECT id, mood FROM wpp_messages WHERE id > 10") == [
            ["11", "NULL"],
            ["12", "calm"],
        ]


async def test_an_idle_instance_does_not_look_at_its_tables(
    databases: Databases, write_config: WriteConfig, plans_are_always_looked_at: None
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    async with one(write_config(central, {"nunes": local})) as instance:
        await settle(instance)
        before = mirror.statements_sent(local)
        for _ in range(20):
            await a_pass(instance)
        assert mirror.statements_sent(local) - before <= 3


@pytest.mark.parametrize("side", ["central", "local"])
async def test_a_column_that_vanishes_is_left_out_at_once(
    databases: Databases, write_config: WriteConfig, side: str
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        where, table = (central, "messages") if side == "central" else (local, "wpp_messages")
        mirror.run(where, f"ALTER TABLE {table} DROP COLUMN file_name")
        mirror.insert_messages(central, range(11, 21))
        assert (await a_pass(instance))["messages"] == 10
        assert "file_name" in instance.motions["messages"].plan.note


async def test_a_column_that_must_be_filled_stops_the_entity_until_it_need_not(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        mirror.run(local, "ALTER TABLE wpp_messages ADD COLUMN own INT NOT NULL")
        mirror.insert_messages(central, range(11, 21))
        error = await failing(instance)
        assert "own of local wpp_messages must be filled" in error.message
        assert mirror.watermarks(local)["messages"] == 10
        assert mirror.number(local, "SELECT COUNT(*) FROM wpp_sync_quarantine") == 0
        mirror.run(local, "ALTER TABLE wpp_messages ALTER COLUMN own SET DEFAULT 7")
        await mended(instance)
    assert mirror.local_ids(local) == list(range(1, 21))


async def test_a_local_column_that_becomes_a_generated_one_is_left_out(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        mirror.run(
            local,
            "ALTER TABLE wpp_messages DROP COLUMN file_name,"
            " ADD COLUMN file_name LONGTEXT AS (CONCAT('to ', `to`)) VIRTUAL",
        )
        mirror.insert_messages(central, range(11, 21))
        assert (await a_pass(instance))["messages"] == 10


async def test_a_missing_central_table_stops_its_entity_and_is_found_again(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        mirror.run(central, "RENAME TABLE messages TO gone")
        error = await failing(instance)
        assert isinstance(error, SchemaError)
        assert "there is no table messages in the central database" in error.message
        mirror.run(central, "RENAME TABLE gone TO messages")
        mirror.insert_messages(central, range(11, 21))
        instance.shared.central.TABLE_AGE = 0.0
        await mended(instance)
    assert mirror.differences(central, local, entities=["messages"]) == ""


async def test_a_missing_local_table_stops_its_entity_and_is_filled_when_it_is_made_anew(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        mirror.run(local, "CREATE TABLE spare LIKE wpp_messages; DROP TABLE wpp_messages")
        mirror.insert_messages(central, range(11, 21))
        error = await failing(instance)
        assert isinstance(error, SchemaError)
        assert "there is no table wpp_messages in the local database" in error.message
        await failing(instance)
        assert mirror.watermarks(local)["messages"] == 10
        mirror.run(local, "RENAME TABLE spare TO wpp_messages")
        await mended(instance)
    assert mirror.differences(central, local, entities=["messages"]) == ""


async def test_a_local_table_that_comes_back_with_its_rows_is_not_read_again(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        mirror.run(local, "RENAME TABLE wpp_messages TO aside")
        mirror.insert_messages(central, range(11, 21))
        await failing(instance)
        mirror.run(local, "RENAME TABLE aside TO wpp_messages")
        instance.motions.retry_now()
        assert (await a_pass(instance))["messages"] == 10


async def test_a_local_type_that_became_too_narrow_and_wide_again(
    databases: Databases, write_config: WriteConfig, plans_are_always_looked_at: None
) -> None:
    """What it refuses goes to quarantine, and comes back with the schema change."""
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    config = write_config(central, {"nunes": local})
    async with one(config) as instance:
        await a_pass(instance)
        mirror.run(local, "ALTER TABLE wpp_messages MODIFY body VARCHAR(10)")
        mirror.insert_message(central, 11, body="'a long one, too long'")
        mirror.insert_message(central, 12, body="'short'")
        await a_pass(instance)
        assert mirror.rows(local, "SELECT id, errno FROM wpp_sync_quarantine") == [["11", "1406"]]
        mirror.run(local, "ALTER TABLE wpp_messages MODIFY body TEXT")
        mirror.insert_message(central, 13)
        await a_pass(instance)
        assert mirror.number(local, "SELECT COUNT(*) FROM wpp_sync_quarantine") == 0
    assert mirror.local_ids(local) == list(range(1, 14))


async def test_the_index_that_a_batch_walks_along_may_be_dropped_or_hidden(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.run(central, "CREATE INDEX mine ON messages (instance, id)")
    mirror.insert_messages(central, range(1, 11))
    config = write_config(central, {"nunes": local})
    async with one(config) as instance:
        await a_pass(instance)
        assert instance.motions["messages"].plan.central_index == "mine"
        hide = "IGNORED" if "MariaDB" in await instance.shared.central.server() else "INVISIBLE"
        mirror.run(central, f"ALTER TABLE messages ALTER INDEX mine {hide}")
        mirror.insert_messages(central, range(11, 21))
        assert (await a_pass(instance))["messages"] == 10
        assert instance.motions["messages"].plan.central_index == "PRIMARY"
    mirror.run(central, f"ALTER TABLE messages ALTER INDEX mine {_SHOWN[hide]}")
    async with one(config) as instance:
        await a_pass(instance)
        assert instance.motions["messages"].plan.central_index == "mine"
        mirror.run(central, "DROP INDEX mine ON messages")
        mirror.insert_messages(central, range(21, 31))
        assert (await a_pass(instance))["messages"] == 10


async def test_what_no_new_plan_mends_is_an_error_and_not_tried_at_once_again(
    databases: Databases, write_config: WriteConfig
) -> None:
    """A trigger that names a table which does not exist: the columns are as they were."""
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        mirror.run(
            local,
            "CREATE TRIGGER t BEFORE INSERT ON wpp_messages FOR EACH ROW"
            " INSERT INTO nowhere VALUES (1)",
        )
        mirror.insert_messages(central, range(11, 21))
        error = await failing(instance)
        assert isinstance(error, MissingError)
        assert error.errno == 1146
        before = mirror.statements_sent(local)
        await failing(instance)
        assert mirror.statements_sent(local) - before <= 3, "it waits for its next try"
        mirror.run(local, "DROP TRIGGER t")
        await mended(instance)
    assert mirror.local_ids(local) == list(range(1, 21))
