"""Rows flow from central into local: all of them, in bounded batches, with their watermark."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon import operations
from daemon.demo.central import lookalikes, seed_bulk, seed_varied
from daemon.errors import RewoundError, SchemaError, UsageError
from daemon.reads import Page, Wanted
from daemon.settle import Head
from daemon.sync.commit import Committed
from daemon.sync.incremental import Incremental
from tests import mirror
from tests.in_process import a_pass, listen, one, parts, passes_until, settle

if TYPE_CHECKING:
    from tests.conftest import Databases, Servers

WriteConfig = Callable[..., Path]

SOON: dict[str, object] = {"sync": {"settle": "1s"}}
NUNES = {"wpp_instance": "nunes", "entity": "messages"}


async def test_three_instances_among_lookalikes_are_copied_value_for_value(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    central = databases.central
    names = ["nunes", "karsten", "ondas"]
    mirror.seed(central, seed_varied(names, messages=3_000))
    locals_ = {"nunes": databases.local, "karsten": servers.new_local()}
    locals_["ondas"] = servers.new_local()
    async with parts(write_config(central, locals_)) as built:
        await asyncio.gather(*(a_pass(instance) for instance in built.instances.values()))
    for name in names:
        assert mirror.differences(central, locals_[name], name) == ""
        assert len(mirror.local_ids(locals_[name])) > 500


async def test_names_are_compared_byte_for_byte(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    """Promise P9, also where all of the lookalikes are instances themselves."""
    names = ["nunes", *lookalikes("nunes")]
    mirror.seed(databases.central, seed_varied(["nunes"], messages=400))
    for number, name in enumerate(names):
        mirror.insert_message(databases.central, 50_000 + number, name)
    locals_ = {name: servers.new_local() for name in names}
    async with parts(write_config(databases.central, locals_, **SOON)) as built:
        for instance in built.instances.values():
            await a_pass(instance)
        late = {name: mirror.insert_message(databases.central, None, name) for name in names}
        for name, instance in built.instances.items():
            assert await a_pass(instance) == {"messages": 1, "chats": 0}
            await settle(instance)
            assert mirror.local_ids(locals_[name])[-1] == late[name]
    for name in names:
        assert mirror.differences(databases.central, locals_[name], name) == "", repr(name)


async def test_local_databases_whose_names_differ_only_by_case_are_two(
    servers: Servers, write_config: WriteConfig
) -> None:
    """`database: wpp_{instance}` makes such names, and each has a lock of its own."""
    central = servers.new_central()
    mirror.insert_message(central, 1, "nunes")
    mirror.insert_message(central, 2, "Nunes")
    locals_ = {
        "nunes": servers.local.create_database("wpp_nunes"),
        "Nunes": servers.local.create_database("wpp_Nunes"),
    }
    async with parts(write_config(central, locals_)) as built:
        for instance in built.instances.values():
            await a_pass(instance)
    assert mirror.local_ids(locals_["nunes"]) == [1]
    assert mirror.local_ids(locals_["Nunes"]) == [2]


async def test_a_small_batch_size_makes_many_batches(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.seed(central, seed_varied(["nunes", "karsten"], messages=500))
    async with one(write_config(central, {"nunes": local}, sync={"batch_rows": 10})) as instance:
        commits = listen(instance)
        rows = await a_pass(instance)
    sizes = [commit.rows for commit in commits if commit.entity == "messages"]
    assert max(sizes) == 10
    assert sum(sizes) == rows["messages"] == len(mirror.central_ids(central))
    assert len(sizes) >= rows["messages"] / 10
    assert mirror.differences(central, local) == ""


async def test_a_batch_is_bounded_in_bytes_too(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.seed(central, [seed_bulk("nunes", 30, 60_000)])
    mirror.insert_messages(central, range(100, 600))
    config = write_config(central, {"nunes": local}, sync={"batch_bytes": "64KiB"})
    async with one(config) as instance:
        commits = listen(instance)
        await a_pass(instance)
    large = [commit.rows for commit in commits if commit.last_synced_id <= 30]
    assert sum(large) == 30
    assert max(large) <= 2
    assert max(commit.rows for commit in commits) > 50, "small rows fill the batches again"
    assert mirror.differences(central, local) == ""


async def test_rows_and_watermark_become_visible_in_the_same_moment(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.seed(central, [seed_bulk("nunes", 4_000, 200)])
    seen: set[tuple[int, int]] = set()
    stop = threading.Event()

    def watch() -> None:
        with mirror.Session(local) as session:
            while not stop.is_set():
                ((mark, highest),) = session.execute(
                    "SELECT (SELECT last_synced_id FROM wpp_sync_state WHERE entity = 'messages'),"
                    " (SELECT COALESCE(MAX(id), 0) FROM wpp_messages)"
                )
                seen.add((int(mark), int(highest)))

    async with one(write_config(central, {"nunes": local}, sync={"batch_rows": 20})) as instance:
        await a_pass(instance, skip=("messages",))
        await operations.reset_sync_state(instance, "all")  # makes the row, so that it can be seen
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            await a_pass(instance)
        finally:
            stop.set()
            watcher.join()
    assert len(seen) > 10
    assert [pair for pair in seen if pair[0] != pair[1]] == []


# --- late rows -----------------------------------------------------------------------------------


async def test_an_id_that_becomes_visible_after_a_higher_one_is_copied(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    config = write_config(central, {"nunes": local}, sync={"settle": "2s"})
    async with parts(config) as built:
        instance = built.instances["nunes"]
        with mirror.Session(central) as writer:
            writer.execute("BEGIN")
            writer.execute(_insert("late"))
            later = mirror.insert_message(central, None)
            await a_pass(instance)
            assert mirror.local_ids(local) == [later]
            assert instance.motions["messages"].position == later
            writer.execute("COMMIT")
        await settle(instance)
        assert mirror.local_ids(local) == [later - 1, later]
        late = built.metrics.registry.get_sample_value("wpp_sync_late_rows_total", NUNES)
        assert late == 1
        assert instance.motions["messages"].settled == later
    assert mirror.differences(central, local) == ""


def _insert(body: str, id_: str = "NULL") -> str:
    return (
        "INSERT INTO messages (id, instance, `from`, `to`, type, is_forwarded, is_edited, body,"
        f" timestamp, sent_at, status) VALUES ({id_}, 'nunes', '1', '2', 'chat', 0, 0, '{body}',"
        " '3', NOW(3), 'SENT')"
    )


async def test_a_late_row_does_not_wait_until_it_is_settled(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Incremental, "_LOOK_SECONDS", 0.0)
    central, local = databases
    async with one(write_config(central, {"nunes": local}, sync={"settle": "1h"})) as instance:
        with mirror.Session(central) as writer:
            writer.execute(f"BEGIN; {_insert('late')}")
            later = mirror.insert_message(central, None)
            await a_pass(instance)
            writer.execute("COMMIT")
        await a_pass(instance)
        assert mirror.local_ids(local) == [later - 1, later]
        assert instance.motions["messages"].settled == 0, "nothing is claimed for it"


async def test_a_late_row_is_copied_although_the_daemon_was_restarted_in_between(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    config = write_config(central, {"nunes": local}, sync={"settle": "2s"})
    with mirror.Session(central) as writer:
        writer.execute(f"BEGIN; {_insert('late')}")
        later = mirror.insert_message(central, None)
        async with one(config) as instance:
            await a_pass(instance)
        writer.execute("COMMIT")
    async with one(config) as instance:
        await settle(instance)
    assert mirror.local_ids(local) == [later - 1, later]


async def test_late_rows_in_the_middle_of_a_first_sync_are_copied(
    databases: Databases, write_config: WriteConfig
) -> None:
    """The row that was missing lies far below the position, beyond one look's number of ids."""
    central, local = databases
    mirror.seed(central, [seed_bulk("nunes", 3_000, 100, first_id=1, step=10)])
    async with one(write_config(central, {"nunes": local}, sync={"settle": "2s"})) as instance:
        with mirror.Session(central) as writer:
            writer.execute(f"BEGIN; {_insert('low', '55')}; {_insert('high', '29000')}")
            await a_pass(instance)
            assert len(mirror.local_ids(local)) == 3_000
            writer.execute("COMMIT")
        await settle(instance)
    assert mirror.differences(central, local) == ""


async def test_a_rolled_back_id_is_no_reason_to_wait(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    async with one(write_config(central, {"nunes": local}, **SOON)) as instance:
        with mirror.Session(central) as writer:
            writer.execute(f"BEGIN; {_insert('never')}; ROLLBACK")
        later = mirror.insert_message(central, None)
        await settle(instance)
        assert instance.motions["messages"].settled == later
    assert mirror.local_ids(local) == [later]


# --- position, idleness --------------------------------------------------------------------------


async def test_the_position_never_claims_more_than_was_scanned(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that come while a pass runs lie above the head that it has seen: for the next one."""
    central, local = databases
    mirror.insert_messages(central, range(1, 5_000), "karsten")
    mirror.insert_messages(central, range(5_000, 5_100))
    mirror.insert_messages(central, range(5_100, 9_000), "karsten")
    config = write_config(central, {"nunes": local}, sync={"batch_rows": 10})
    async with parts(config) as built:
        instance = built.instances["nunes"]
        pages: list[tuple[int, Page]] = []
        ask_head, ask_page = built.central.head, built.central.page

        async def head(table: str, key: str, *, watched: bool = False) -> Head:
            found = await ask_head(table, key, watched=watched)
            if table == "messages":
                mirror.insert_message(central, None)
            return found

        async def page(wanted: Wanted, *, live: bool) -> Page:
            found = await ask_page(wanted, live=live)
            if wanted.plan.entity.name == "messages":
                pages.append((wanted.upto, found))
            return found

        monkeypatch.setattr(built.central, "head", head)
        monkeypatch.setattr(built.central, "page", page)
        await a_pass(instance, skip=("messages",))
        for turn in (1, 2):
            pages.clear()
            started_at = instance.motions["messages"].position if turn == 2 else 0
            await a_pass(instance)
            motion = instance.motions["messages"]
            assert pages[0][1].after == started_at
            for (_, before), (_, after) in pairwise(pages):
                assert after.after == before.end, "nothing is left out between two pages"
            for upto, found in pages:
                assert found.end <= upto
                if found.full:
                    assert found.end == int(found.rows[-1][0] or 0)
            assert motion.position == pages[-1][1].end == motion.head
            highest = max(mirror.central_ids(central))
            assert motion.position < highest, "the newest row came after the head was seen"
        monkeypatch.undo()
        await a_pass(instance)
    assert mirror.differences(central, local) == ""


async def test_an_idle_instance_costs_one_head_for_all_and_nothing_else(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    names = [f"instance{number}" for number in range(5)]
    for number, name in enumerate(names):
        mirror.insert_messages(databases.central, range(1 + 100 * number, 50 + 100 * number), name)
    locals_ = {name: servers.new_local() for name in names}
    async with parts(write_config(databases.central, locals_, **SOON)) as built:
        instances = list(built.instances.values())
        for instance in instances:
            await settle(instance)
            await settle(instance, "chats")
        built.central.HEAD_AGE = 60.0
        counted = built.metrics.registry.get_sample_value

        def queries() -> float:
            kinds = ("head", "batch", "ids", "rows", "count", "schema")
            name = "wpp_sync_central_queries_total"
            return sum(counted(name, {"kind": kind}) or 0.0 for kind in kinds)

        for instance in instances:
            await a_pass(instance)
        before = queries(), mirror.statements_sent(databases.central)
        before_local = mirror.statements_sent(locals_["instance0"])
        for _ in range(10):
            for instance in instances:
                assert await a_pass(instance) == {"messages": 0, "chats": 0}
        assert queries() == before[0]
        asked = mirror.statements_sent(databases.central) - before[1]
        asked_local = mirror.statements_sent(locals_["instance0"]) - before_local
        # The client that asks how many there were sends some itself, but not 50 times two.
        assert asked <= 3
        assert asked_local <= 3
        built.central.HEAD_AGE = 0.0
        await a_pass(instances[0])
        assert queries() == before[0] + 2, "one head for each table, when it is time"


# --- reset, resync, skip -------------------------------------------------------------------------


async def test_a_reset_pulls_everything_again(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.seed(central, seed_varied(["nunes"], messages=300))
    async with one(write_config(central, {"nunes": local}, **SOON)) as instance:
        copied = await a_pass(instance)
        await settle(instance)
        assert await a_pass(instance) == {"messages": 0, "chats": 0}
        assert await operations.reset_sync_state(instance, "messages") == ["messages"]
        assert mirror.watermarks(local)["messages"] == 0
        again = await a_pass(instance)
        assert again == {"messages": copied["messages"], "chats": 0}
        with pytest.raises(UsageError):
            await operations.reset_sync_state(instance, "contacts")
    assert mirror.differences(central, local) == ""


async def test_a_full_resync_repairs_and_removes(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.seed(central, seed_varied(["nunes", "karsten"], messages=400))
    async with one(write_config(central, {"nunes": local}, **SOON)) as instance:
        await a_pass(instance)
        ids = mirror.local_ids(local)
        mirror.run(
            central,
            f"DELETE FROM messages WHERE id IN ({ids[3]}, {ids[50]});"
            f"UPDATE messages SET status = 'REVOKED', wwebjs_id = 'changed' WHERE id = {ids[7]};"
            f"DELETE FROM chats WHERE id = {mirror.local_ids(local, 'chats')[2]}",
        )
        foreign = mirror.central_ids(central, "karsten")[5]
        mirror.run(
            local,
            "UPDATE wpp_messages SET body = 'spoilt', is_edited = 1 - is_edited;"
            "DELETE FROM wpp_messages WHERE id % 5 = 0;"
            "INSERT INTO wpp_messages (id, instance, `from`, `to`, type, body, timestamp, sent_at,"
            f" status) VALUES ({foreign}, 'nunes', '', '', '', '', '', NOW(), '')",
        )
        assert await operations.force_full_resync(instance) == ["messages", "chats"]
        await passes_until(
            instance, lambda: not any(s.resync for s in instance.motions.states.values())
        )
    assert mirror.differences(central, local) == ""


async def test_a_full_resync_removes_local_rows_above_centrals_newest_id(
    databases: Databases, write_config: WriteConfig
) -> None:
    """As a restored central database leaves them."""
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    async with one(write_config(central, {"nunes": local}, **SOON)) as instance:
        await a_pass(instance)
        mirror.run(central, "TRUNCATE messages")
        mirror.insert_messages(central, range(1, 41))
        await instance.sync_pass(asyncio.Event())
        assert isinstance(instance.motions.entity_errors["messages"], RewoundError)
        await operations.force_full_resync(instance)
        await passes_until(
            instance, lambda: not any(s.resync for s in instance.motions.states.values())
        )
    assert mirror.local_ids(local) == list(range(1, 41))


async def test_an_interrupted_resync_goes_on(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 301))
    config = write_config(central, {"nunes": local}, sync={"settle": "1s", "batch_rows": 10})
    async with one(config) as instance:
        await a_pass(instance)
        mirror.run(central, "DELETE FROM messages WHERE id IN (5, 250)")
        await operations.force_full_resync(instance)
        stop = asyncio.Event()

        def after_some(commit: Committed) -> None:
            if commit.last_synced_id >= 100:
                stop.set()

        instance.counts.listener = after_some
        while not stop.is_set():
            await instance.sync_pass(stop)
    assert 100 <= mirror.watermarks(local)["messages"] < 300
    async with one(config) as instance:
        assert instance.motions.states == {}
        await passes_until(
            instance,
            lambda: (
                bool(instance.motions.states)
                and not any(s.resync for s in instance.motions.states.values())
            ),
        )
    assert mirror.differences(central, local) == ""


async def test_what_is_skipped_is_left_alone(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.seed(central, seed_varied(["nunes"], messages=200))
    async with one(write_config(central, {"nunes": local})) as instance:
        result = await operations.sync_instance(instance, ["messages", "contacts"])
        assert set(result.rows) == {"chats"}
        assert mirror.local_ids(local) == []
        assert mirror.watermarks(local).get("messages", 0) == 0
        with pytest.raises(UsageError):
            await operations.sync_instance(instance, ["mesages"])
        await operations.sync_instance(instance)
    assert mirror.differences(central, local) == ""


# --- the state row is an interface ---------------------------------------------------------------

BY_HAND = pytest.mark.parametrize(
    "by_hand",
    [
        "UPDATE wpp_sync_state SET last_synced_id = 20 WHERE entity = 'messages'",
        "DELETE FROM wpp_sync_state WHERE entity = 'messages'",
        "DELETE FROM wpp_sync_state",
    ],
    ids=["lowered", "deleted", "emptied"],
)


@BY_HAND
async def test_a_state_row_changed_while_the_daemon_was_stopped_is_honoured(
    databases: Databases, write_config: WriteConfig, by_hand: str
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    config = write_config(central, {"nunes": local}, **SOON)
    async with one(config) as instance:
        await settle(instance)
    mirror.run(local, f"{by_hand}; DELETE FROM wpp_messages WHERE id > 60")
    mirror.run(local, "UPDATE wpp_messages SET body = 'spoilt' WHERE id > 50")
    async with one(config) as instance:
        rows = await a_pass(instance)
    assert rows["messages"] == (80 if "= 20" in by_hand else 100)
    assert mirror.differences(central, local) == ""


@BY_HAND
async def test_a_state_row_changed_while_the_daemon_idles_is_honoured(
    databases: Databases,
    write_config: WriteConfig,
    by_hand: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("daemon.instance.HEARTBEAT_SECONDS", 0.0)
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    async with one(write_config(central, {"nunes": local}, **SOON)) as instance:
        await settle(instance)
        mirror.run(local, f"{by_hand}; DELETE FROM wpp_messages WHERE id > 60")
        await passes_until(instance, lambda: len(mirror.local_ids(local)) == 100, 3)
        assert mirror.watermarks(local)["messages"] == 100
    assert mirror.differences(central, local) == ""


@BY_HAND
async def test_a_state_row_changed_while_the_daemon_copies_is_honoured(
    databases: Databases, write_config: WriteConfig, by_hand: str
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 301))
    config = write_config(central, {"nunes": local}, sync={"batch_rows": 10})
    async with one(config) as instance:
        done: list[int] = []

        def intervene(commit: Committed) -> None:
            if commit.entity == "messages" and commit.last_synced_id >= 100 and not done:
                done.append(commit.last_synced_id)
                mirror.run(local, f"{by_hand}; DELETE FROM wpp_messages WHERE id BETWEEN 30 AND 90")

        commits: list[Committed] = []

        def note(commit: Committed) -> None:
            if commit.entity == "messages":
                commits.append(commit)
            intervene(commit)

        instance.counts.listener = note
        await a_pass(instance)
        changed = [c.last_synced_id for c in commits].index(done[0]) + 1
        assert commits[changed].last_synced_id <= 30, "nobody's change is undone"
    assert mirror.watermarks(local)["messages"] == 300
    assert mirror.differences(central, local) == ""


async def test_a_watermark_raised_by_hand_loses_nothing(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    config = write_config(central, {"nunes": local}, **SOON)
    async with one(config) as instance:
        await a_pass(instance)
    mirror.insert_messages(central, range(101, 201))
    mirror.run(local, "UPDATE wpp_sync_state SET last_synced_id = 180 WHERE entity = 'messages'")
    async with one(config) as instance:
        await settle(instance)
    assert mirror.differences(central, local) == ""


# --- rewound --------------------------------------------------------------------------------


async def test_a_central_table_that_starts_again_stops_its_entity_with_a_clear_error(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    mirror.seed(central, seed_varied(["nunes"], messages=50, first_id=1_000))
    config = write_config(central, {"nunes": local}, **SOON)
    async with one(config) as instance:
        await a_pass(instance)
        before = mirror.local_ids(local)
        mirror.run(central, "TRUNCATE messages")
        mirror.insert_messages(central, range(1, 11))
        mirror.run(
            central,
            "INSERT INTO chats (instance, type, priority, is_finished, is_schedule)"
            " VALUES ('nunes', 'ACTIVE', 'LOW', 0, 0)",
        )
        result = await instance.sync_pass(asyncio.Event())
        error = result.errors["messages"]
        assert isinstance(error, RewoundError)
        assert "truncated or restored" in error.message
        assert "wpp-sync reset nunes messages" in error.hint
        status = await operations.get_sync_status(instance)
        rewound = {part["entity"]: part["rewound"] for part in status["sync_state"]}
        assert rewound == {"messages": True, "chats": False}
        assert result.rows["chats"] == 1
        assert mirror.differences(central, local, entities=["chats"]) == ""
        assert mirror.local_ids(local) == before, "nothing is touched"
    async with one(config) as instance:
        result = await instance.sync_pass(asyncio.Event())
        assert isinstance(result.errors["messages"], RewoundError), "also after a restart"
        await operations.reset_sync_state(instance, "messages")
        await a_pass(instance)
        assert mirror.watermarks(local)["messages"] == 10


async def test_a_table_that_was_emptied_by_truncate_is_rewound_too(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        mirror.run(central, "TRUNCATE messages")
        result = await instance.sync_pass(asyncio.Event())
        assert isinstance(result.errors["messages"], RewoundError)


@pytest.mark.parametrize("how_many", [1, 5, 100])
async def test_deleting_the_newest_rows_is_no_rewind(
    databases: Databases, write_config: WriteConfig, how_many: int
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    async with one(write_config(central, {"nunes": local}, **SOON)) as instance:
        await settle(instance)
        mirror.run(central, f"DELETE FROM messages WHERE id > {100 - how_many}")
        await a_pass(instance)
        await a_pass(instance)
        new = mirror.insert_message(central, None)
        assert new == 101
        await a_pass(instance)
        assert mirror.local_ids(local) == list(range(1, 102)), "deletes are the next issue's"
        await settle(instance)
        assert mirror.watermarks(local)["messages"] == 101


# --- unusual ids and tables ----------------------------------------------------------------------


async def test_ids_of_zero_and_below_are_copied_too(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.run(
        central,
        "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO';"
        " INSERT INTO messages (id, instance, `from`, `to`, type, is_forwarded, is_edited, body,"
        " timestamp, sent_at, status) VALUES (-7, 'nunes', '1', '2', 'chat', 0, 0, '', '3', NOW(3),"
        " 'SENT'), (0, 'nunes', '1', '2', 'chat', 0, 0, '', '3', NOW(3), 'SENT')",
    )
    async with one(write_config(central, {"nunes": local}, **SOON)) as instance:
        assert (await a_pass(instance))["messages"] == 2
        mirror.insert_messages(central, range(5, 8))
        await settle(instance)
    assert mirror.differences(central, local) == ""


@pytest.mark.parametrize("table", ["wpp_messages", "wpp_sync_state"])
async def test_a_table_without_transactions_is_refused(
    databases: Databases, write_config: WriteConfig, table: str
) -> None:
    """Promise P2 could not be kept."""
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    config = write_config(central, {"nunes": local})
    async with one(config) as instance:
        await a_pass(instance, skip=("messages",))
    # MyISAM has keys of 1,000 bytes at most, fewer than 255 characters of utf8mb4 (error 1071).
    ids = ("wwebjs_id", "wwebjs_id_stanza", "waba_id", "gupshup_id")
    if table == "wpp_messages":
        drops = ", ".join(f"DROP KEY uq_{column}" for column in ids)
        mirror.run(local, f"ALTER TABLE {table} {drops}")
    mirror.run(local, f"ALTER TABLE {table} ENGINE = MyISAM")
    async with one(config) as instance:
        try:
            result = await instance.sync_pass(asyncio.Event())
            error: Exception = result.errors["messages"]
        except SchemaError as refused:
            error = refused
    assert f"local {table} is a table of the engine MyISAM" in str(error)
    assert mirror.local_ids(local) == []
    mirror.run(local, f"ALTER TABLE {table} ENGINE = InnoDB")
    if table == "wpp_messages":
        adds = ", ".join(f"ADD UNIQUE KEY uq_{column} ({column})" for column in ids)
        mirror.run(local, f"ALTER TABLE {table} {adds}")
    async with one(config) as instance:
        await a_pass(instance)
    assert mirror.differences(central, local) == ""
