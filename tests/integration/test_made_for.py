"""State rows say for whom, and of which central rows, they count: for others they mean nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daemon import operations, state
from daemon.demo.central import seed_varied
from daemon.errors import OwnerError
from daemon.instance import Instance
from tests import mirror
from tests.conftest import INCREMENTAL_ONLY
from tests.in_process import a_pass, one, passes_until, settle

if TYPE_CHECKING:
    from tests.conftest import Databases, ServerConfig, Servers

WriteConfig = Callable[..., Path]

ENTITIES = ("messages", "chats", "contacts", "contact_sectors", "schedules")
TABLES = ("wpp_messages", "wpp_chats", "wpp_contacts", "wpp_contact_sectors", "wpp_schedules",
          "wpp_last_messages")  # fmt: skip
SOON: dict[str, Any] = {"sync": {"settle": "1s"}}
MIGRATION = "2026-11-25-003-remember-whom-rows-are-for"


def owners(local: ServerConfig) -> dict[str, tuple[str, str]]:
    found = mirror.rows(local, "SELECT entity, instance, source FROM wpp_sync_state")
    return {entity: (instance, source) for entity, instance, source in found}


def content(local: ServerConfig) -> list[list[list[str]]]:
    return [mirror.rows(local, f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES]


def only(where: str | None) -> dict[str, object]:
    """Entities of which messages alone are interesting."""
    return {**INCREMENTAL_ONLY, "messages": {"hot": None, "where": where}}


async def settled_pass(config: Path, name: str = "nunes") -> int:
    """Until all is settled; the settled id."""
    async with one(config, name) as instance:
        await settle(instance)
        await instance.motions["messages"].save()
        return instance.motions["messages"].state.settled


async def resynced(instance: Instance) -> None:
    def done() -> bool:
        return not any(known.resync for known in instance.motions.states.values())

    await operations.force_full_resync(instance)
    await passes_until(instance, lambda: done() and not instance.motions.errors, 30)


@pytest.mark.parametrize("slip", ["nunez", "Nunes"])
async def test_a_name_that_is_corrected_has_all_its_rows(
    databases: Databases, write_config: WriteConfig, slip: str
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    assert await settled_pass(write_config(central, {slip: local}, **SOON), slip) == 100
    assert mirror.local_ids(local) == []
    async with one(write_config(central, {"nunes": local}, **SOON)) as instance:
        assert await a_pass(instance) == {"messages": 100, "chats": 0}
    assert mirror.differences(central, local) == ""
    assert {name for name, _ in owners(local).values()} == {"nunes"}


async def test_a_condition_that_is_taken_away_leaves_nothing_out(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    config = write_config(central, {"nunes": local}, entities=only("id > 90"), **SOON)
    assert await settled_pass(config) == 100
    assert mirror.local_ids(local) == list(range(91, 101))
    before = owners(local)
    async with one(write_config(central, {"nunes": local}, entities=only(None), **SOON)) as again:
        assert (await a_pass(again))["messages"] == 100, "in the first pass, also without a daemon"
    assert mirror.differences(central, local) == ""
    assert owners(local)["messages"] != before["messages"]
    assert owners(local)["chats"] == before["chats"]


async def test_rows_that_a_new_condition_leaves_out_go_by_the_comparison(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    async with one(write_config(central, {"nunes": local}, **SOON)) as instance:
        await a_pass(instance)
        await operations.reconcile(instance)
    assert mirror.number(local, "SELECT COUNT(reconciled_at) FROM wpp_sync_state") == 2
    config = write_config(central, {"nunes": local}, entities=only("id > 90"), **SOON)
    async with one(config) as instance:
        await settle(instance)
        async with operations._connected(instance, "look") as (connection, note):
            assert "messages" in await state.never_compared(connection, note), "it is due at once"
        found = await operations.reconcile(instance, "messages")
        assert found["messages"].deleted == 90
    assert mirror.local_ids(local) == list(range(91, 101))


async def test_a_rewound_entity_waits_for_its_reset_all_the_same(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
    mirror.run(local, "UPDATE wpp_sync_state SET rewound = 1 WHERE entity = 'messages'")
    async with one(write_config(central, {"nunes": local}, entities=only("id > 9"))) as instance:
        result = await instance.sync_pass(asyncio.Event())
        assert result.errors["messages"].code == "rewound"
        assert mirror.watermarks(local)["messages"] == 10
        await operations.reset_sync_state(instance, "messages")
        assert (await a_pass(instance))["messages"] == 1


async def test_databases_that_are_swapped_are_refused_and_lose_nothing(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    central, nunes = databases
    karsten = servers.new_local()
    mirror.seed(central, seed_varied(["nunes", "karsten"], messages=300))
    # An empty table of theirs is theirs, too: nobody else's rows get in.
    mirror.run(central, "DELETE FROM schedules WHERE instance = 'nunes'")
    more: dict[str, Any] = {**SOON, "entities": {}}
    right = write_config(central, {"nunes": nunes, "karsten": karsten}, **more)
    for name in ("nunes", "karsten"):
        async with one(right, name) as instance:
            await a_pass(instance)
            await operations.reconcile(instance)
    # A table that nobody has remembered anything about, as one that was switched off.
    mirror.run(nunes, "DELETE FROM wpp_sync_state WHERE entity = 'schedules'")
    before = content(nunes)
    assert before[ENTITIES.index("schedules")] == []
    assert mirror.number(central, "SELECT COUNT(*) FROM schedules WHERE instance = 'karsten'")

    swapped = write_config(central, {"nunes": karsten, "karsten": nunes}, **more)
    async with one(swapped, "karsten") as instance:
        await _is_refused(instance)
        await operations.reset_sync_state(instance, "all")
        await _is_refused(instance)
        instance.motions.retry_now()
        only_one = await instance.sync_pass(asyncio.Event(), [e for e in ENTITIES if e != "chats"])
        assert isinstance(only_one.errors["chats"], OwnerError)
        assert content(nunes) == before

    async with one(write_config(central, {"nunes": nunes, "karsten": karsten}, **more)) as instance:
        await a_pass(instance)
        assert content(nunes) == before, "after the reset: the same once more"
    async with one(write_config(central, {"karsten": nunes}, **more), "karsten") as instance:
        await _is_refused(instance)
        await resynced(instance)
        await operations.reconcile(instance)
    assert mirror.differences(central, nunes, "karsten", ENTITIES) == ""
    assert {name for name, _ in owners(nunes).values()} == {"karsten"}


async def _is_refused(instance: Instance) -> None:
    result = await instance.sync_pass(asyncio.Event())
    assert set(result.errors) == set(ENTITIES)
    for error in result.errors.values():
        assert isinstance(error, OwnerError)
        assert "was copied for nunes" in error.message
        assert "wpp-sync resync karsten" in error.hint
    assert not result.total
    for tally in (await operations.reconcile(instance)).values():
        assert isinstance(tally.error, OwnerError)
    found = await operations.reconcile(instance, dry_run=True)
    assert found["contacts"].differences
    assert all(tally.error is None for tally in found.values())
    told = await operations.get_sync_status(instance)
    assert told["error"]["code"] == "another_instance"


async def test_who_copies_rows_of_an_older_version_goes_on_with_them(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    config = write_config(central, {"nunes": local}, **SOON)
    await settled_pass(config)
    mirror.run(
        local,
        "ALTER TABLE wpp_sync_state DROP COLUMN instance, DROP COLUMN source;"
        "UPDATE wpp_sync_state SET last_synced_at = '2026-11-01 10:00:00';"
        f"DELETE FROM wpp_sync_migrations WHERE id = '{MIGRATION}';"
        f"DELETE FROM wpp_sync_migration_journal WHERE id = '{MIGRATION}'",
    )
    async with one(config) as instance:
        told = await operations.get_sync_status(instance)  # before it is migrated
        assert told["sync_state"][0]["settled_id"] == 10
        assert await a_pass(instance) == {"messages": 0, "chats": 0}
        assert instance.motions["messages"].state.settled == 10
    names = {entity: name for entity, (name, _) in owners(local).items()}
    assert names == {"messages": "nunes", "chats": "nunes"}
    at = mirror.rows(local, "SELECT DISTINCT last_synced_at FROM wpp_sync_state")
    assert at == [["2026-11-01 10:00:00"]], "nothing was copied"


async def test_statements_of_an_older_version_leave_the_owner_alone(
    databases: Databases, write_config: WriteConfig
) -> None:
    """Of a daemon that has begun before this one has migrated the database, or of its verbs."""
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    config = write_config(central, {"nunes": local})
    async with one(config) as instance:
        await a_pass(instance)
        before = owners(local)
        mirror.run(
            local,
            "INSERT INTO wpp_sync_state (entity) VALUES ('old') ON DUPLICATE KEY UPDATE"
            " entity = wpp_sync_state.entity, last_synced_at = wpp_sync_state.last_synced_at;"
            "INSERT INTO wpp_sync_state (entity, resync) VALUES ('messages', 0)"
            " ON DUPLICATE KEY UPDATE last_synced_id = 0, settled_id = 0, settled_for = 0,"
            " rewound = 0, reconcile_cursor = NULL, reconciled_at = NULL, derived_at = NULL,"
            " resync = resync OR VALUES(resync), last_synced_at = CURRENT_TIMESTAMP;"
            "UPDATE wpp_sync_state SET last_synced_id = 3, settled_id = 3, settled_for = 3,"
            " resync = 0, rewound = 0, last_synced_at = CURRENT_TIMESTAMP"
            " WHERE entity = 'messages'",
        )
        assert owners(local) == {**before, "old": ("NULL", "NULL")}
        await instance.motions.see_what_was_changed(instance.hold.connection)  # type: ignore[arg-type]
        assert (await a_pass(instance))["messages"] == 7


async def test_an_owner_that_changes_under_the_copier_is_seen_before_anything_is_written(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        mirror.run(local, "UPDATE wpp_sync_state SET instance = 'karsten'")
        mirror.insert_messages(central, range(11, 21))
        result = await instance.sync_pass(asyncio.Event())
        assert isinstance(result.errors["messages"], OwnerError)
    assert mirror.local_ids(local) == list(range(1, 11))


async def test_a_table_of_anothers_without_rows_is_taken_beside_our_own(
    databases: Databases, write_config: WriteConfig
) -> None:
    """As of an entity that was switched off when the name was corrected."""
    central, local = databases
    mirror.seed(central, seed_varied(["nunes", "karsten"], messages=100))
    async with one(write_config(central, {"nunes": local}, **SOON)) as instance:
        await a_pass(instance)
    mirror.run(
        local,
        "UPDATE wpp_sync_state SET instance = 'karsten' WHERE entity = 'messages';"
        "DELETE FROM wpp_chats",
    )
    config = write_config(central, {"karsten": local}, **SOON)
    async with one(config, "karsten") as instance:
        await a_pass(instance)
    assert mirror.differences(central, local, "karsten", ["chats"]) == ""
    assert {name for name, _ in owners(local).values()} == {"karsten"}
