"""Both sides are compared by checksums, and what differs is repaired: nothing else is moved."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon import comparing, operations
from daemon.central import Central
from daemon.demo import central as central_data
from daemon.instance import Instance
from daemon.sync.hot import Hot
from daemon.sync.reconcile import Reconcile
from tests import mirror
from tests.in_process import a_pass, listen, one, parts, passes_until, settle

if TYPE_CHECKING:
    from tests.conftest import Databases, ServerConfig, Servers

WriteConfig = Callable[..., Path]

ENTITIES = ("messages", "chats", "contacts", "contact_sectors", "schedules")
EVERYTHING: dict[str, object] = {"entities": {}, "sync": {"settle": "1s"}}


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of a few hundred rows is cut as one of millions would be."""
    monkeypatch.setattr(Reconcile, "_LEAF", 4)
    monkeypatch.setattr(Reconcile, "_LIST", 16)
    monkeypatch.setattr(Hot, "_PAGE", 8)
    monkeypatch.setattr(Hot, "_BLOCK", 4)


def seed(databases: Databases, messages: int = 400) -> None:
    mirror.seed(
        databases.central, central_data.seed_varied(["nunes", "karsten"], messages=messages)
    )


def unequal(databases: Databases) -> str:
    return mirror.differences(databases.central, databases.local, entities=ENTITIES)


async def found_by(
    instance: Instance, entity: str | None = None, *, dry_run: bool
) -> dict[str, tuple[int, int, int]]:
    """Missing, differing and extra rows by entity, where there are any."""
    tallies = await operations.reconcile(instance, entity, dry_run=dry_run)
    counts = {name: (t.missing, t.differing, t.extra) for name, t in tallies.items()}
    return {name: count for name, count in counts.items() if any(count)}


def counted(instance: Instance) -> float:
    """The differences that the metrics tell of."""
    (counter,) = instance.shared.metrics.reconcile_differences.collect()
    return sum(sample.value for sample in counter.samples)


async def test_entities_without_a_watermark_are_copied_whole(
    databases: Databases, write_config: WriteConfig, small_steps: None
) -> None:
    seed(databases)
    async with one(write_config(databases.central, {"nunes": databases.local}, **EVERYTHING)) as i:
        rows = await a_pass(i)
        assert all(rows[entity] > 0 for entity in ENTITIES)
        assert unequal(databases) == ""
        assert await found_by(i, dry_run=True) == {}
        commits = listen(i)
        await a_pass(i)
        assert commits == [], "what is equal is not written"


async def test_every_kind_of_difference_is_found_and_repaired(
    databases: Databases, write_config: WriteConfig, small_steps: None
) -> None:
    central, local = databases
    seed(databases)
    async with one(write_config(central, {"nunes": local}, **EVERYTHING)) as i:
        await settle(i)
        await settle(i, "chats")
        ids = mirror.local_ids(local)
        mirror.run(
            local,
            f"UPDATE wpp_messages SET body = 'other' WHERE id IN ({ids[3]}, {ids[-5]});"
            f"DELETE FROM wpp_messages WHERE id IN ({ids[10]}, {ids[20]}, {ids[30]});"
            f"UPDATE wpp_messages SET id = {ids[5]} + 100000 WHERE id = {ids[5]};"
            "UPDATE wpp_contacts SET name = CONCAT(name, ' ') ORDER BY id LIMIT 2;"
            "DELETE FROM wpp_contact_sectors ORDER BY contact_id LIMIT 3;"
            "INSERT INTO wpp_contact_sectors VALUES (1, 99), (1, 98);"
            "UPDATE wpp_schedules SET sector_id = -5 ORDER BY id DESC LIMIT 1",
        )
        expected = {
            "messages": (4, 2, 0),  # the extra one lies above what was ever read
            "contacts": (0, 2, 0),
            "contact_sectors": (3, 0, 2),
            "schedules": (0, 1, 0),
        }
        before = counted(i)
        assert await found_by(i, dry_run=True) == expected
        assert await found_by(i, dry_run=True) == expected, "a dry run changes nothing"
        assert counted(i) == before, "and counts nothing"
        assert await found_by(i, dry_run=False) == expected
        assert counted(i) == before + sum(map(sum, expected.values()))
        mirror.run(local, f"DELETE FROM wpp_messages WHERE id = {ids[5]} + 100000")
        assert unequal(databases) == ""
        assert await found_by(i, dry_run=True) == {}


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["central", "local"]),
        st.sampled_from(ENTITIES),
        st.sampled_from(["update", "delete", "insert", "null"]),
        st.integers(0, 10_000),
    ),
    min_size=1,
    max_size=12,
)

# For each entity: both tables, a text or number to change, a column to empty, and whose rows.
TABLES = {
    "messages": ("messages", "wpp_messages", "type = CONCAT(type, 'x')", "chat_id"),
    "chats": ("chats", "wpp_chats", "is_schedule = 1 - is_schedule", "finished_by"),
    "contacts": ("contacts", "wpp_contacts", "name = CONCAT(name, ' ')", "customer_id"),
    "schedules": ("schedules", "wpp_schedules", "scheduled_for = scheduled_for + 1", "sector_id"),
}
NEXT_SECTOR = iter(range(1_000_000, 9_000_000))


def change(databases: Databases, side: str, entity: str, kind: str, number: int) -> None:
    server: ServerConfig = databases.central if side == "central" else databases.local
    if entity == "contact_sectors":
        table = "contacts_sectors" if side == "central" else "wpp_contact_sectors"
        first, second = (
            ("contactId", "sectorId") if side == "central" else ("contact_id", "sector_id")
        )
        found = mirror.rows(server, f"SELECT {first}, {second} FROM {table}")
        if found and kind in {"delete", "update"}:
            one_, other = found[number % len(found)]
            mirror.run(server, f"DELETE FROM {table} WHERE {first} = {one_} AND {second} = {other}")
        owned = mirror.rows(databases.central, "SELECT id FROM contacts WHERE instance = 'nunes'")
        if owned and kind in {"insert", "update", "null"}:
            (contact,) = owned[number % len(owned)]
            mirror.run(server, f"INSERT INTO {table} VALUES ({contact}, {next(NEXT_SECTOR)})")
        return
    there, here, update, nullable = TABLES[entity]
    table = there if side == "central" else here
    # Only ids that central has: a local row above them is none of ours yet.
    ids = [id_ for (id_,) in mirror.rows(server, f"SELECT id FROM {table} ORDER BY id")]
    if not ids:
        return
    id_ = ids[number % len(ids)]
    if kind == "delete":
        mirror.run(server, f"DELETE FROM {table} WHERE id = {id_}")
    elif kind == "null":
        mirror.run(server, f"UPDATE {table} SET {nullable} = NULL WHERE id = {id_}")
    elif kind == "update":
        mirror.run(server, f"UPDATE {table} SET {update} WHERE id = {id_}")
    elif side == "central" and entity == "messages":
        mirror.insert_message(server, None)


def keys_that_differ(databases: Databases) -> int:
    compared = mirror.comparisons(databases.central, databases.local, entities=ENTITIES)
    return sum(c.missing + c.extra + c.differing for c in compared)


async def test_any_edits_on_both_sides_are_found_exactly_and_repaired(
    databases: Databases,
    write_config: WriteConfig,
    small_steps: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seed(databases, 150)
    config = write_config(databases.central, {"nunes": databases.local}, **EVERYTHING)
    async with one(config) as i:
        await settle(i)
        await settle(i, "chats")
    examples = 0

    async def check(changes: list[tuple[str, str, str, int]]) -> None:
        for each in changes:
            change(databases, *each)
        async with one(config) as instance:  # no daemon runs
            differing = keys_that_differ(databases)
            tallies = await operations.reconcile(instance, dry_run=True)
            assert sum(t.differences for t in tallies.values()) == differing
            assert keys_that_differ(databases) == differing, "a dry run changes nothing"
            await operations.reconcile(instance)
            # Extra rows above the settled id wait until they have settled.
            await settle(instance)
            await operations.reconcile(instance)
            assert unequal(databases) == ""

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(CHANGES)
    def explore(changes: list[tuple[str, str, str, int]]) -> None:
        nonlocal examples
        examples += 1
        asyncio.run_coroutine_threadsafe(check(changes), loop).result()

    loop = asyncio.get_running_loop()
    await asyncio.to_thread(explore)
    assert examples >= 12


async def test_a_table_in_sync_costs_two_sums_a_chunk_and_moves_no_rows(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.seed(central, [central_data.seed_bulk("nunes", 5000, 50)])
    async with parts(write_config(central, {"nunes": local}, sync={"settle": "1s"})) as built:
        i = built.instances["nunes"]
        await settle(i)
        before = mirror.statements_sent(central)
        commits = listen(i)
        assert await found_by(i, "messages", dry_run=False) == {}
        assert mirror.statements_sent(central) - before <= 20
        assert commits == []


async def test_ten_times_the_table_moves_the_same_rows_for_the_same_changes(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    central, local = databases
    listed: list[int] = []
    real = Central.row_sums

    async def counted(*args: object, **kwargs: object) -> dict[object, int]:
        found = await real(*args, **kwargs)  # type: ignore[arg-type]
        listed.append(len(found))
        return found  # type: ignore[return-value]

    monkeypatch.setattr(Central, "row_sums", counted)
    moved: list[tuple[int, int]] = []
    config = write_config(central, {"nunes": local}, sync={"settle": "1s"})
    for first, rows in ((1, 2_000), (2_001, 18_000)):
        mirror.seed(central, [central_data.seed_bulk("nunes", rows, 50, first_id=first)])
        async with one(config) as i:
            await settle(i)
            mirror.run(central, "UPDATE messages SET body = 'new' WHERE id IN (17, 1117, 1900)")
            commits = listen(i)
            listed.clear()
            assert await found_by(i, "messages", dry_run=False) == {"messages": (0, 3, 0)}
            moved.append((sum(c.rows for c in commits), sum(listed)))
            mirror.run(central, "UPDATE messages SET body = 'old' WHERE id IN (17, 1117, 1900)")
            await operations.reconcile(i, "messages")
    assert moved[0][0] == moved[1][0] == 3
    assert max(moved[0][1], moved[1][1]) <= 3 * Reconcile._LEAF, "and lists no more of them"


async def test_what_is_in_quarantine_is_no_difference_as_long_as_central_has_it(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    seed(databases)
    async with one(write_config(central, {"nunes": local}, **EVERYTHING)) as i:
        await settle(i)
        mirror.run(
            local, "ALTER TABLE wpp_contacts MODIFY name VARCHAR(191) NOT NULL CHECK (name <> 'no')"
        )
        contact = mirror.rows(local, "SELECT MIN(id) FROM wpp_contacts")[0][0]
        mirror.run(central, f"UPDATE contacts SET name = 'no' WHERE id = {contact}")
        tallies = await operations.reconcile(i, "contacts")
        assert (tallies["contacts"].differing, tallies["contacts"].refused) == (1, 1)
        assert mirror.rows(local, "SELECT entity, id FROM wpp_sync_quarantine") == [
            ["contacts", contact]
        ]
        assert await found_by(i, "contacts", dry_run=False) == {}
        mirror.run(central, f"DELETE FROM contacts WHERE id = {contact}")
        assert await found_by(i, "contacts", dry_run=False) == {"contacts": (0, 0, 1)}
        assert mirror.rows(local, "SELECT COUNT(*) FROM wpp_sync_quarantine") == [["0"]]
        assert mirror.rows(local, f"SELECT COUNT(*) FROM wpp_contacts WHERE id = {contact}") == [
            ["0"]
        ]


async def test_a_refused_row_with_a_key_of_two_columns_is_kept_with_both(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    seed(databases)
    async with one(write_config(central, {"nunes": local}, **EVERYTHING)) as i:
        await settle(i)
        mirror.run(local, "ALTER TABLE wpp_contact_sectors ADD CHECK (sector_id < 1000000)")
        contact = mirror.rows(local, "SELECT MIN(id) FROM wpp_contacts")[0][0]
        mirror.run(central, f"INSERT INTO contacts_sectors VALUES ({contact}, 1000001)")
        tallies = await operations.reconcile(i, "contact_sectors")
        assert tallies["contact_sectors"].refused == 1
        assert mirror.rows(local, "SELECT entity, id, id2 FROM wpp_sync_quarantine") == [
            ["contact_sectors", contact, "1000001"]
        ]
        assert await found_by(i, "contact_sectors", dry_run=True) == {}
        assert await operations.discard_quarantine(i) == 1
        assert await found_by(i, "contact_sectors", dry_run=False) == {}


async def test_an_edit_during_a_round_is_neither_reverted_nor_lost(
    databases: Databases,
    write_config: WriteConfig,
    small_steps: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the look that finds a difference and the repair, the row changes once more."""
    central, local = databases
    seed(databases)
    real = Reconcile.examine
    edits: Iterator[str] = iter(
        ["name = 'second'", "name = 'third'", "name = 'fourth'", *["name = 'last'"] * 100]
    )

    async def examine(*args: object) -> None:
        mirror.run(central, f"UPDATE contacts SET {next(edits)} WHERE instance = 'nunes'")
        await real(*args)  # type: ignore[arg-type]

    async with one(write_config(central, {"nunes": local}, **EVERYTHING)) as i:
        await settle(i)
        mirror.run(central, "UPDATE contacts SET name = 'first' WHERE instance = 'nunes'")
        with monkeypatch.context() as patched:
            patched.setattr(Reconcile, "examine", examine)
            await operations.reconcile(i, "contacts")
        names = {name for (name,) in mirror.rows(local, "SELECT DISTINCT name FROM wpp_contacts")}
        assert "first" not in names, "what is written is what central has at that moment"
        await operations.reconcile(i, "contacts")
        assert unequal(databases) == ""


async def test_a_row_in_flight_that_stands_here_already_is_not_deleted(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    seed(databases)
    columns = "id, name, phone, instance, is_deleted"
    values = "(900000, 'ahead', '1', 'nunes', 0)"
    async with one(write_config(central, {"nunes": local}, **EVERYTHING)) as i:
        await settle(i)
        with mirror.Session(central) as application:
            application.execute(
                "BEGIN; INSERT INTO contacts"
                " (id, name, phone, instance, is_deleted, is_blocked, is_only_admin, created_at)"
                " VALUES (900000, 'ahead', '1', 'nunes', 0, 0, 0, NOW())"
            )
            mirror.run(local, f"INSERT INTO wpp_contacts ({columns}) VALUES {values}")
            await operations.reconcile(i, "contacts")
            there = "SELECT COUNT(*) FROM wpp_contacts WHERE id = 900000"
            assert mirror.rows(local, there) == [["1"]]
            application.execute("ROLLBACK")
        await operations.reconcile(i, "contacts")
        assert mirror.rows(local, there) == [["0"]]


async def test_a_row_that_moves_to_another_instance_leaves_here_and_appears_there(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    seed(databases)
    async with one(write_config(central, {"nunes": local}, **EVERYTHING)) as i:
        await settle(i)
        mirror.run(
            central,
            "UPDATE contacts SET instance = 'karsten', phone = NULL WHERE instance = 'nunes'"
            " ORDER BY id LIMIT 5;"
            "UPDATE contacts SET instance = 'nunes', phone = NULL WHERE instance = 'Nunes'"
            " ORDER BY id LIMIT 2",
        )
        await operations.reconcile(i)
        assert unequal(databases) == ""


async def test_one_walk_over_central_serves_all_instances(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    central, _ = databases
    names = [f"inst{number}" for number in range(12)]
    mirror.seed(central, central_data.seed_varied(names, messages=1200))
    locals_ = {name: servers.new_local() for name in names}

    async def queries(count: int) -> int:
        chosen = {name: locals_[name] for name in names[:count]}
        config = write_config(central, chosen, entities={"messages": {"enabled": False}})
        async with parts(config) as built:
            instances = list(built.instances.values())
            for each in instances:
                await each.sync_pass(asyncio.Event())
            # A round that all begin at the same moment, as it is in a daemon.
            since = time.monotonic()
            counted = built.metrics.central_queries.labels("checksum")
            before = counted._value.get()
            for each in instances:
                for motion in each.motions.values():
                    round_ = motion._new_round(since, None)
                    while not round_.finished:
                        await round_.step(motion.committer, motion.bounds(), asyncio.Event(), 1.0)
                    assert round_.tally.differences == 0
            return int(counted._value.get() - before)

    try:
        assert await queries(12) == await queries(2)
    finally:
        for config in locals_.values():
            servers.local.execute(f"DROP DATABASE {config['database']}")


@pytest.mark.parametrize("how", ["paused", "entity paused", "behind", "on their way"])
async def test_equal_up_to_where_it_was_copied_is_not_equal(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(comparing, "_ON_THEIR_WAY_SECONDS", 1.0 if how == "behind" else 30.0)
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    async with one(write_config(central, {"nunes": local})) as i:
        await a_pass(i)
        mirror.insert_messages(central, [90], instance="karsten")
        assert not (await operations.reconcile(i, "messages", dry_run=True))["messages"].behind
        mirror.insert_messages(central, range(11, 21))
        if "paused" in how:
            await operations.pause(i, "messages" if how == "entity paused" else None)
        looking = asyncio.ensure_future(operations.reconcile(i, "messages", dry_run=True))
        if how == "on their way":
            await asyncio.sleep(0.2)
            await a_pass(i)
        found = (await looking)["messages"]
        assert (found.differences, found.compared_to, found.head) == (0, 10, 90)
        assert found.behind == (how != "on their way")


@pytest.mark.parametrize("when", ["settled", "not settled", "and started again"])
async def test_rows_deleted_at_the_end_of_a_quiet_table_are_found_and_removed(
    databases: Databases, write_config: WriteConfig, when: str
) -> None:
    """No new row comes to show that they have settled."""
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    config = write_config(central, {"nunes": local}, sync={"settle": "1s"})
    async with one(config) as i:
        await a_pass(i)
        if when == "settled":
            await settle(i)
        mirror.run(central, "DELETE FROM messages WHERE id > 90")
        await a_pass(i)
        if when != "and started again":
            assert await found_by(i, "messages", dry_run=True) == {"messages": (0, 0, 10)}
            await settle(i)
            assert await found_by(i, "messages", dry_run=False) == {"messages": (0, 0, 10)}
    if when == "and started again":
        async with one(config) as i:
            await a_pass(i)
            await settle(i)
            assert await found_by(i, "messages", dry_run=False) == {"messages": (0, 0, 10)}
    assert mirror.local_ids(local) == list(range(1, 91))


@pytest.mark.parametrize("settle_by", ["1s", "exact"])
async def test_a_resync_removes_rows_that_were_deleted_at_the_end(
    databases: Databases, write_config: WriteConfig, settle_by: str
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    config = write_config(central, {"nunes": local}, sync={"settle": settle_by})
    async with one(config) as i:
        await settle(i)
        mirror.run(central, "DELETE FROM messages WHERE id > 90")
        await operations.force_full_resync(i)
        with mirror.Session(central) as application:
            # One of the deleted ids is on its way again, and here ahead of its commit.
            application.execute(
                "BEGIN; INSERT INTO messages (id, instance, `from`, `to`, type, is_forwarded,"
                " is_edited, body, timestamp, sent_at, status) VALUES"
                " (95, 'nunes', '1', '2', 'chat', 0, 0, 'x', '3', NOW(3), 'READ')"
            )
            deadline = time.monotonic() + 4
            while time.monotonic() < deadline:
                await i.sync_pass(asyncio.Event())
                await asyncio.sleep(0.1)
            assert 95 in mirror.local_ids(local)
            assert i.motions.states["messages"].resync
            application.execute("ROLLBACK")
        await passes_until(i, lambda: not i.motions.states["messages"].resync, 20.0)
    assert mirror.local_ids(local) == list(range(1, 91))


async def test_a_row_that_stands_here_ahead_of_its_commit_is_no_difference(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    async with one(write_config(central, {"nunes": local})) as i:
        await a_pass(i)
        with mirror.Session(central) as application:
            application.execute(
                "BEGIN; INSERT INTO messages (id, instance, `from`, `to`, type, is_forwarded,"
                " is_edited, body, timestamp, sent_at, status) VALUES"
                " (9999, 'nunes', '1', '2', 'chat', 0, 0, 'x', '3', NOW(3), 'READ')"
            )
            mirror.insert_messages(central, [10_000])
            await a_pass(i)
            mirror.run(local, "UPDATE wpp_messages SET id = 9999 WHERE id = 10")
            found = await found_by(i, "messages", dry_run=True)
            assert found == {"messages": (1, 0, 0)}, "10 is missing, 9999 comes"
            application.execute("ROLLBACK")
        assert await found_by(i, "messages", dry_run=True) == {"messages": (1, 0, 1)}
