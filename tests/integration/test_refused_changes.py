"""A row that a local column would change in silence is refused like one that it does not take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon import local as local_tables
from daemon import operations
from daemon.errors import SchemaError
from daemon.sync import quarantine
from tests import mirror
from tests.in_process import a_pass, one

if TYPE_CHECKING:
    from tests.conftest import Databases

WriteConfig = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("way")

CUT = "'abcde     '"
"""Ten characters, of which a VARCHAR(5) keeps the first five without an error."""


async def prepared(databases: Databases, config: Path, change: str) -> None:
    async with one(config) as instance:
        await a_pass(instance)
    mirror.run(databases.local, f"ALTER TABLE wpp_messages {change}")


def refused(databases: Databases) -> dict[int, tuple[int, str]]:
    found = mirror.rows(databases.local, "SELECT id, errno, message FROM wpp_sync_quarantine")
    return {int(id_): (int(errno), message) for id_, errno, message in found}


def stand(databases: Databases) -> dict[int, str]:
    """id -> body, in brackets so that blanks are seen."""
    found = mirror.rows(databases.local, "SELECT id, CONCAT('<', body, '>') FROM wpp_messages")
    return {int(id_): body for id_, body in found}


async def test_the_reason_names_the_column_and_both_values(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    await prepared(databases, config, "MODIFY body VARCHAR(5)")
    mirror.insert_message(databases.central, 1, body="'abcde'")
    mirror.insert_message(databases.central, 2, body=CUT)
    mirror.insert_message(databases.central, 3, body="'ab   '")
    async with one(config) as instance:
        await a_pass(instance)
        assert instance.motions.quarantined["messages"] == 1
        assert instance.motions["messages"].state.last_synced_id == 3
    assert stand(databases) == {1: "<abcde>", 3: "<ab   >"}
    ((errno, message),) = refused(databases).values()
    assert errno == 1265
    assert "column body (varchar(5)) does not keep the value" in message
    assert "'abcde     ' was sent, 'abcde' would stand" in message


async def test_a_row_that_stood_before_stays_as_it_was(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    await prepared(databases, config, "MODIFY body VARCHAR(5)")
    for id_ in range(1, 6):
        mirror.insert_message(databases.central, id_, body="'old'")
    async with one(config) as instance:
        await a_pass(instance)
        mirror.run(databases.central, f"UPDATE messages SET body = {CUT} WHERE id IN (2, 3)")
        mirror.run(databases.central, "UPDATE messages SET body = 'new' WHERE id IN (1, 5)")
        await operations.reset_sync_state(instance, "messages")
        await a_pass(instance)
    assert stand(databases) == {1: "<new>", 2: "<old>", 3: "<old>", 4: "<old>", 5: "<new>"}
    assert set(refused(databases)) == {2, 3}


async def test_it_goes_in_when_the_column_was_widened(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    await prepared(databases, config, "MODIFY body VARCHAR(5)")
    mirror.insert_message(databases.central, 1, body=CUT)
    mirror.insert_message(databases.central, 2, body="'abc'")
    async with one(config) as instance:
        await a_pass(instance)
        assert (await operations.retry_quarantine(instance)).left == 1
        mirror.run(databases.local, "ALTER TABLE wpp_messages MODIFY body LONGTEXT")
        assert (await operations.retry_quarantine(instance)).left == 0
    assert mirror.differences(databases.central, databases.local) == ""


async def test_what_an_earlier_statement_of_a_refused_batch_wrote_is_undone_too(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch goes out in several statements. The first writes a row that would be cut; the last is
    refused by the server, before anybody has looked."""
    monkeypatch.setattr(local_tables, "_STATEMENT_BYTES", 3_000)
    config = write_config(databases.central, {"nunes": databases.local})
    await prepared(databases, config, "MODIFY body VARCHAR(5)")
    for id_ in range(1, 41):
        body = {2: CUT, 39: "'much too long'"}.get(id_, "'good'")
        mirror.insert_message(databases.central, id_, body=body)
    async with one(config) as instance:
        await a_pass(instance)
    assert {id_: errno for id_, (errno, _) in refused(databases).items()} == {2: 1265, 39: 1406}
    assert stand(databases) == {id_: "<good>" for id_ in range(1, 41) if id_ not in {2, 39}}


async def test_a_key_that_a_refused_row_would_have_given_up_is_not_taken_from_it(
    databases: Databases, write_config: WriteConfig
) -> None:
    """Row 1 hands its key to row 2, but may not change itself: both ways, no row is blended."""
    config = write_config(databases.central, {"nunes": databases.local})
    await prepared(databases, config, "MODIFY body VARCHAR(5)")
    mirror.insert_message(databases.central, 1, wwebjs_id="'key'", body="'one'")
    mirror.insert_message(databases.central, 3, wwebjs_id="'other'", body="'three'")
    async with one(config) as instance:
        await a_pass(instance)
        mirror.run(
            databases.central,
            f"UPDATE messages SET wwebjs_id = 'moved', body = {CUT} WHERE id = 1",
        )
        mirror.insert_message(databases.central, 2, wwebjs_id="'key'", body="'two'")
        mirror.insert_message(databases.central, 4, wwebjs_id="'last'", body=CUT)
        await operations.reset_sync_state(instance, "messages")
        await a_pass(instance)
    found = mirror.rows(databases.local, "SELECT id, wwebjs_id, body FROM wpp_messages ORDER BY id")
    assert [row for row in found if row[0] != "1"] == [["2", "key", "two"], ["3", "other", "three"]]
    assert set(refused(databases)) == {1, 4}


async def test_rows_that_are_resolved_after_a_collision_are_looked_at_too(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    await prepared(databases, config, "MODIFY body VARCHAR(5)")
    mirror.insert_message(databases.central, 1, wwebjs_id="'a'", body="'one'")
    mirror.insert_message(databases.central, 2, wwebjs_id="'b'", body="'two'")
    async with one(config) as instance:
        await a_pass(instance)
        mirror.run(databases.central, "DELETE FROM messages WHERE id = 1")
        mirror.run(databases.central, "UPDATE messages SET wwebjs_id = 'c' WHERE id = 2")
        mirror.insert_message(databases.central, 3, wwebjs_id="'a'", body=CUT)
        mirror.insert_message(databases.central, 4, wwebjs_id="'b'", body="'four'")
        await a_pass(instance)
    assert stand(databases) == {2: "<two>", 4: "<four>"}
    assert set(refused(databases)) == {3}


async def test_nothing_is_read_back_where_no_value_is_in_doubt(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    await prepared(databases, config, "MODIFY body VARCHAR(20)")
    mirror.insert_messages(databases.central, range(1, 101))

    def savepoints() -> int:
        ((_, number),) = mirror.rows(databases.local, "SHOW GLOBAL STATUS LIKE 'Com_savepoint'")
        return int(number)

    before = savepoints()
    async with one(config) as instance:
        await a_pass(instance)
        assert len(instance.motions["messages"].plan.checks) == 1
        assert savepoints() == before
        mirror.insert_message(databases.central, 200, body="'ends with a blank '")
        await a_pass(instance)
        assert savepoints() > before
    assert mirror.differences(databases.central, databases.local) == ""


async def test_many_changed_rows_among_good_ones_are_no_broken_table(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    await prepared(databases, config, "MODIFY body VARCHAR(5)")
    most = 3 * quarantine.MOST_STRIKES
    mirror.insert_messages(databases.central, range(1, most + 1))
    mirror.run(
        databases.central,
        f"UPDATE messages SET body = IF(id % 2, {CUT}, 'good') WHERE id <= {most}",
    )
    async with one(config) as instance:
        await a_pass(instance)
    assert len(refused(databases)) == len(stand(databases)) == most // 2


async def test_a_table_that_would_change_every_row_is_a_failed_entity(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    await prepared(databases, config, "MODIFY body VARCHAR(5)")
    mirror.insert_messages(databases.central, range(1, 2 * quarantine.MOST_STRIKES))
    mirror.run(databases.central, f"UPDATE messages SET body = {CUT}")
    async with one(config) as instance:
        result = await instance.sync_pass(asyncio.Event())
        error = result.errors["messages"]
    assert isinstance(error, SchemaError)
    assert error.code == "table_refuses"
    assert "column body (varchar(5)) does not keep the value" in error.message
    assert stand(databases) == {}
    assert refused(databases) == {}


async def test_a_local_key_that_is_no_integer_stops_the_entity(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    await prepared(databases, config, "MODIFY id DOUBLE NOT NULL")
    mirror.insert_message(databases.central, 1)
    async with one(config) as instance:
        result = await instance.sync_pass(asyncio.Event())
    assert "the primary key id of local wpp_messages is double" in str(result.errors["messages"])
    assert stand(databases) == {}


async def test_null_for_a_timestamp_that_would_become_now(
    databases: Databases, write_config: WriteConfig
) -> None:
    """Without explicit_defaults_for_timestamp, NULL means the current time to such a column."""
    config = write_config(databases.central, {"nunes": databases.local})
    mirror.run(databases.central, "ALTER TABLE messages MODIFY body DATETIME NULL")
    before = mirror.number(databases.local, "SELECT @@GLOBAL.explicit_defaults_for_timestamp")
    mirror.run(databases.local, "SET GLOBAL explicit_defaults_for_timestamp = 0")
    try:
        await prepared(
            databases, config, "MODIFY body TIMESTAMP NOT NULL DEFAULT '2001-01-01 00:00:00'"
        )
        mirror.insert_message(databases.central, 1, body="'2026-01-01 00:00:00'")
        mirror.insert_message(databases.central, 2, body="NULL")
        async with one(config) as instance:
            await a_pass(instance)
    finally:
        mirror.run(databases.local, f"SET GLOBAL explicit_defaults_for_timestamp = {before}")
    assert stand(databases).keys() == {1}
    assert refused(databases).keys() == {2}
