"""What compares both sides keeps nobody waiting, and forgets nothing that it was asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daemon import comparing, operations
from daemon.central import Central, Sum
from daemon.demo import central as central_data
from daemon.errors import MissingError, SchemaError, StoppedError
from daemon.sql import Key
from daemon.sync import derived
from daemon.sync.commit import Committer, Repaired
from daemon.sync.hot import Hot, next_moment
from tests import mirror
from tests.in_process import a_pass, one, parts, running, settle

if TYPE_CHECKING:
    from tests.conftest import Databases, Servers

WriteConfig = Callable[..., Path]

EVERYTHING: dict[str, object] = {"entities": {}, "sync": {"settle": "1s"}}


def seed(databases: Databases, messages: int = 400) -> None:
    mirror.seed(
        databases.central, central_data.seed_varied(["nunes", "karsten"], messages=messages)
    )


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        await asyncio.sleep(0.1)


async def test_a_long_round_over_one_table_does_not_keep_the_others_from_theirs(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    seed(databases)
    mirror.seed(central, [central_data.seed_bulk("nunes", 30_000, 50, first_id=100_000)])
    sync = {"settle": "1s", "reconcile_rows_per_second": 1_000, "whole_interval": "1s"}
    config = write_config(
        central, {"nunes": {**local, "poll_interval": "200ms"}}, entities={}, sync=sync
    )

    def under_way() -> bool:
        messages, contacts = i.motions.get("messages"), i.motions.get("contacts")
        compared = contacts is not None and contacts.compared_at is not None
        return compared and messages is not None and messages.round is not None

    async with one(config) as i, running(i):
        await until(under_way)
        for name in ("first", "second"):
            mirror.run(central, f"UPDATE contacts SET name = '{name}' WHERE instance = 'nunes'")
            here = "SELECT DISTINCT name FROM wpp_contacts"
            await until(lambda: mirror.rows(local, here) == [[name]])  # noqa: B023 - not kept
        assert under_way(), "or the round was too short to be in anybody's way"


async def test_two_comparisons_of_one_entity_at_a_time_both_end(
    databases: Databases, write_config: WriteConfig
) -> None:
    seed(databases)
    async with one(write_config(databases.central, {"nunes": databases.local}, **EVERYTHING)) as i:
        await settle(i)
        async with asyncio.timeout(30):
            found = await asyncio.gather(*(operations.reconcile(i, "contacts") for _ in range(3)))
        assert all(tallies["contacts"].compared > 0 for tallies in found)


@pytest.mark.parametrize("here", [True, False], ids=["by this process", "by another"])
async def test_a_reset_entity_without_a_watermark_is_compared_with_the_next_pass(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    central, local = databases
    seed(databases)
    sync = {"settle": "1s", "whole_interval": "1h"}
    config = write_config(central, {"nunes": local}, entities={}, sync=sync)
    names = "SELECT DISTINCT name FROM wpp_contacts"
    async with one(config) as i:
        await a_pass(i)
        mirror.run(central, "UPDATE contacts SET name = 'new' WHERE instance = 'nunes'")
        await a_pass(i)
        assert mirror.rows(local, names) != [["new"]], "it is not due by itself"
        if here:
            await operations.reset_sync_state(i, "contacts")
        else:
            async with one(config) as other:
                await operations.reset_sync_state(other, "contacts")
            monkeypatch.setattr("daemon.instance.HEARTBEAT_SECONDS", 0.0)
        await a_pass(i)
        assert mirror.rows(local, names) == [["new"]]


async def test_what_was_given_up_is_tried_again_after_a_reset(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    seed(databases)
    async with one(write_config(central, {"nunes": local}, **EVERYTHING)) as i:
        await a_pass(i)
        mirror.run(
            local, "ALTER TABLE wpp_contact_sectors ADD CONSTRAINT few CHECK (sector_id < 1000000)"
        )
        contact = mirror.rows(local, "SELECT MIN(id) FROM wpp_contacts")[0][0]
        mirror.run(central, f"INSERT INTO contacts_sectors VALUES ({contact}, 1000001)")
        await operations.reconcile(i, "contact_sectors")
        assert await operations.discard_quarantine(i) == 1
        given_up = "SELECT COUNT(*) FROM wpp_sync_quarantine WHERE discarded_at IS NOT NULL"
        assert mirror.rows(local, given_up) == [["1"]]
        mirror.run(local, "ALTER TABLE wpp_contact_sectors DROP CONSTRAINT few")
        await operations.reset_sync_state(i, "contact_sectors")
        await a_pass(i)
        there = "SELECT COUNT(*) FROM wpp_contact_sectors WHERE sector_id = 1000001"
        assert mirror.rows(local, there) == [["1"]]
        assert mirror.rows(local, "SELECT COUNT(*) FROM wpp_sync_quarantine") == [["0"]]


async def test_a_range_whose_repair_was_broken_off_is_compared_again(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody changes the state row in the middle of a comparison that was asked for."""
    central, local = databases
    seed(databases)
    real = Committer.repair
    first = iter([True])

    async def repair(
        committer: Committer, keys: Sequence[Key], position: int | None, *, bulk: bool
    ) -> Repaired:
        if next(first, False):
            mirror.run(
                local,
                "UPDATE wpp_sync_state SET settled_id = settled_id - 1 WHERE entity = 'messages'",
            )
        return await real(committer, keys, position, bulk=bulk)

    async with one(write_config(central, {"nunes": local}, **EVERYTHING)) as i:
        await settle(i)
        wrong = mirror.local_ids(local)[-5]  # not in the last chunk of the walk
        mirror.run(local, f"UPDATE wpp_messages SET body = 'wrong' WHERE id = {wrong}")
        with monkeypatch.context() as patched:
            patched.setattr(Committer, "repair", repair)
            found = (await operations.reconcile(i, "messages"))["messages"]
        assert next(first, None) is None, "or nothing was broken off"
        assert (found.differing, found.written) == (1, 1)
        assert mirror.differences(central, local) == ""


@pytest.mark.parametrize("dry_run", [True, False])
async def test_an_entity_that_cannot_be_compared_does_not_keep_the_others_from_it(
    databases: Databases, write_config: WriteConfig, dry_run: bool
) -> None:
    central, local = databases
    seed(databases)
    async with one(write_config(central, {"nunes": local}, **EVERYTHING)) as i:
        await settle(i)
        mirror.run(local, "DROP TABLE wpp_messages; UPDATE wpp_contacts SET name = 'wrong'")
        found = await operations.reconcile(i, dry_run=dry_run)
        assert isinstance(found["messages"].error, SchemaError)
        assert found["contacts"].differing > 0
        assert found["contacts"].error is None
        with pytest.raises(SchemaError):
            await operations.reconcile(i, "messages", dry_run=dry_run)
        told = {each["entity"]: each["error"] for each in operations.tallies(found)["entities"]}
        assert told["contacts"] is None
        assert "wpp_messages" in told["messages"]["message"]


@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_comparison_that_is_stopped_does_not_pass_for_a_whole_one(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch, dry_run: bool
) -> None:
    seed(databases)
    stop = asyncio.Event()
    real = Central.chunk_sum

    async def chunk_sum(*args: Any) -> Any:
        stop.set()
        return await real(*args)

    config = write_config(databases.central, {"nunes": databases.local}, **EVERYTHING)
    async with one(config) as i:
        await settle(i)
        monkeypatch.setattr(Central, "chunk_sum", chunk_sum)
        with pytest.raises(StoppedError):
            await operations.reconcile(i, dry_run=dry_run, stop=stop)


async def test_a_sync_now_does_not_wait_for_the_pace_of_a_round_that_is_under_way(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    seed(databases)
    sync = {"settle": "1s", "reconcile_rows_per_second": 1_000, "whole_interval": "1s"}
    names = "SELECT DISTINCT name FROM wpp_contacts"
    async with one(write_config(central, {"nunes": local}, entities={}, sync=sync)) as i:
        await a_pass(i)
        # So many rows that a chunk of them keeps the next one waiting for seconds.
        mirror.seed(central, [seed_contacts(1000, 9000)])
        await operations.sync_instance(i)
        contacts = i.motions["contacts"]
        await asyncio.sleep(1.1)
        await a_pass(i)
        assert contacts.round is not None, "or no round is under way"
        mirror.run(central, "UPDATE contacts SET name = 'new' WHERE instance = 'nunes'")
        await operations.sync_instance(i)
        assert mirror.rows(local, names) == [["new"]]


def seed_contacts(first: int, rows: int) -> str:
    return (
        "INSERT INTO contacts (id, name, phone, instance, is_deleted, is_blocked, is_only_admin,"
        f" created_at) SELECT seq, 'old', seq, 'nunes', 0, 0, 0, NOW()"
        f" FROM ({numbers(first, rows)}) AS numbers;"
    )


def numbers(first: int, count: int) -> str:
    """A subquery with the numbers from `first` on, in a column named seq."""
    digits = " UNION ALL ".join(f"SELECT {digit} AS d" for digit in range(10))
    tables = ", ".join(f"({digits}) AS t{place}" for place in range(5))
    value = " + ".join(f"t{place}.d * {10**place}" for place in range(5))
    return f"SELECT {first} + {value} AS seq FROM {tables} WHERE {value} < {count}"


@pytest.mark.parametrize("verb", ["reconcile", "resync", "first sync"])
async def test_an_operator_has_what_is_derived_mended(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Also without a daemon, and where it is more than one step compares."""
    central, local = databases
    seed(databases)
    monkeypatch.setattr(derived, "_RANGE_ROWS", 5)
    config = write_config(central, {"nunes": local}, **EVERYTHING)
    last_messages = "SELECT * FROM wpp_last_messages ORDER BY instance, contact_id"
    async with one(config) as i:
        await settle(i)
        right = mirror.rows(local, last_messages)
        mirror.run(
            local,
            "UPDATE wpp_last_messages SET body = 'wrong';"
            "UPDATE wpp_last_messages SET id = id + 1000000, contact_id = contact_id + 1000000"
            " ORDER BY contact_id DESC LIMIT 1",
        )
        if verb == "reconcile":
            await operations.reconcile(i, "messages")
        elif verb == "resync":
            await operations.force_full_resync(i)
            await a_pass(i)
    if verb == "first sync":  # by this version
        mirror.run(local, "UPDATE wpp_sync_state SET derived_at = NULL")
        async with one(config) as i:
            await a_pass(i)
    assert mirror.rows(local, last_messages) == right


async def test_a_round_that_was_under_way_goes_on_after_a_restart(
    databases: Databases, write_config: WriteConfig
) -> None:
    """Although another one has ended not long before it."""
    central, local = databases
    seed(databases)
    config = write_config(central, {"nunes": local}, **EVERYTHING)
    async with one(config) as i:
        await settle(i)
    mirror.run(
        local,
        "UPDATE wpp_sync_state SET reconciled_at = CURRENT_TIMESTAMP, reconcile_cursor = 1024"
        " WHERE entity = 'messages'",
    )
    lowest = mirror.local_ids(local)[0]
    mirror.run(local, f"DELETE FROM wpp_messages WHERE id = {lowest}")
    async with one(config) as i, running(i):
        await until(lambda: lowest in mirror.local_ids(local))


async def test_hot_rows_do_not_keep_new_rows_waiting_however_many_they_are(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    central, local = databases
    mirror.seed(central, [central_data.seed_bulk("nunes", 3_000, 50)])
    mirror.run(central, "UPDATE messages SET status = 'SENT'")
    monkeypatch.setattr(Hot, "_PAGE", 20)
    monkeypatch.setattr(Hot, "_BLOCK", 10)
    monkeypatch.setattr(Central, "GATHER_SECONDS", 0.02)  # 300 blocks: six seconds at least
    changed = "SELECT COUNT(*) FROM wpp_messages WHERE status = 'READ'"
    async with one(write_config(central, {"nunes": local}, **EVERYTHING)) as i:
        await settle(i)
        mirror.run(central, "UPDATE messages SET status = 'READ' WHERE id IN (1, 1500, 3000)")
        i.motions["messages"].hot.due_at = 0.0  # type: ignore[union-attr]
        longest, began = 0.0, time.monotonic()
        while mirror.rows(local, changed) != [["3"]]:
            before = time.monotonic()
            assert before - began < 60, "the lowest ids get their turn, too"
            await i.take_turn(asyncio.Event())
            longest = max(longest, time.monotonic() - before)
        assert longest < 3.0


async def test_a_row_that_central_commits_while_it_is_looked_for_is_not_deleted(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application has written it here ahead of its commit."""
    central, local = databases
    seed(databases)
    real = Central.in_flight

    async def in_flight(*args: Any) -> Any:
        application.execute("COMMIT")
        return await real(*args)

    async with one(write_config(central, {"nunes": local}, **EVERYTHING)) as i:
        await settle(i)
        with mirror.Session(central) as application:
            application.execute(
                "BEGIN; INSERT INTO contacts"
                " (id, name, phone, instance, is_deleted, is_blocked, is_only_admin, created_at)"
                " VALUES (900000, 'ahead', '1', 'nunes', 0, 0, 0, NOW())"
            )
            mirror.run(
                local,
                "INSERT INTO wpp_contacts (id, name, phone, instance, is_deleted)"
                " VALUES (900000, 'ahead', '1', 'nunes', 0)",
            )
            monkeypatch.setattr(Central, "in_flight", in_flight)
            tally = (await operations.reconcile(i, "contacts"))["contacts"]
        assert (tally.extra, tally.deleted) == (1, 0)
        assert mirror.rows(local, "SELECT COUNT(*) FROM wpp_contacts WHERE id = 900000") == [["1"]]


async def test_whoever_asks_together_with_a_cancelled_one_has_an_answer_all_the_same(
    databases: Databases, write_config: WriteConfig
) -> None:
    seed(databases)
    config = write_config(databases.central, {"nunes": databases.local}, **EVERYTHING)
    async with parts(config) as built:
        i = built.instances["nunes"]
        await settle(i)
        plan, keys = i.motions["messages"].plan, mirror.local_ids(databases.local)[:5]

        def ask() -> asyncio.Task[Sum]:
            return asyncio.create_task(built.central.key_sum(plan, "nunes", keys))

        expected = await ask()
        first, *others = [ask() for _ in range(3)]
        await asyncio.sleep(0)
        first.cancel()
        assert await asyncio.gather(*others) == [expected, expected]


async def test_whoever_asks_together_hears_the_same_error(
    databases: Databases, write_config: WriteConfig
) -> None:
    """A table that may not be read is one entity's trouble, for each instance that asks for it."""
    seed(databases)
    config = write_config(databases.central, {"nunes": databases.local}, **EVERYTHING)
    async with parts(config) as built:
        i = built.instances["nunes"]
        await settle(i)
        plan = i.motions["messages"].plan
        mirror.run(databases.central, "RENAME TABLE messages TO elsewhere")
        asked = [built.central.key_sum(plan, "nunes", [key]) for key in range(3)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(error) for error in found] == [MissingError] * 3


async def test_a_chunk_whose_rows_lie_dense_behind_thin_ones_is_made_smaller(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the pass goes on: new rows do not wait for it."""
    central, local = databases
    mirror.seed(central, [central_data.seed_bulk("nunes", 60_000, 50)])
    mirror.insert_message(central, 1 << 30)
    async with parts(write_config(central, {"nunes": local}, **EVERYTHING)) as built:
        i = built.instances["nunes"]
        await settle(i)
        monkeypatch.setattr(built.central, "CHUNK_MOST_SECONDS", 0.03)
        monkeypatch.setattr(built.central, "CHUNK_SECONDS", (0.005, 0.02))
        built.central._shifts["messages"] = 30  # as after a long thin part
        wrong = mirror.local_ids(local)[100]
        mirror.run(local, f"UPDATE wpp_messages SET body = 'wrong' WHERE id = {wrong}")
        found = await asyncio.gather(
            *(comparing.look(i, ["messages"], asyncio.Event()) for _ in range(3))
        )
        assert [each["messages"].differing for each in found] == [1, 1, 1]
        assert (await operations.reconcile(i, "messages"))["messages"].written == 1
        assert built.central._shifts["messages"] < 20


async def test_hot_rows_of_all_instances_are_due_at_the_same_few_moments(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    """So that what they ask of central does not grow with their number."""
    seed(databases)
    other = servers.new_local()
    config = write_config(
        databases.central, {"nunes": databases.local, "karsten": other}, **EVERYTHING
    )
    async with parts(config) as built:
        for i in built.instances.values():
            await a_pass(i)
            await asyncio.sleep(0.3)
        for name, i in built.instances.items():
            due = i.motions["messages"].hot.due_at  # type: ignore[union-attr]
            assert next_moment(due - 5.0, 5.0, name) == pytest.approx(due)
    servers.local.execute(f"DROP DATABASE {other['database']}")
