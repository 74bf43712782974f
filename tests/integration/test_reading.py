"""What the daemon costs the central server: a walk along the key, no scans, no writes, signed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon.check import access_of
from daemon.demo.central import seed_bulk
from tests import mirror
from tests.in_process import a_pass, one, parts, settle

if TYPE_CHECKING:
    from tests.conftest import Databases, Pair

WriteConfig = Callable[..., Path]

FOREIGN = 100_000
READS = ("first", "key", "next", "prev", "rnd", "rnd_next", "rnd_deleted", "retry")


def _reads(central: mirror.Server) -> dict[str, int]:
    """The rows that the central server has read so far, but for looks at the end of an index."""
    found = mirror.table_rows_read(central)
    if "Handler_read_rnd_deleted" not in found:  # MySQL counts such looks as key reads, too
        found["Handler_read_key"] -= found["Handler_read_last"]
    return {name: found.get(f"Handler_read_{name}", 0) for name in READS}


def _read_since(central: mirror.Server, before: dict[str, int], question: dict[str, int]) -> int:
    """Rows read since `before`, less what asking costs itself."""
    now = _reads(central)
    return sum(now[name] - before[name] - question[name] for name in READS)


def _cost_of_asking(central: mirror.Server) -> dict[str, int]:
    first, second = _reads(central), _reads(central)
    return {name: second[name] - first[name] for name in READS}


async def test_among_a_hundred_thousand_foreign_rows_only_new_ids_are_looked_at(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    mirror.seed(central, [seed_bulk("karsten", FOREIGN, 20, first_id=100)])
    async with parts(write_config(central, {"nunes": local}, sync={"settle": "1s"})) as built:
        instance = built.instances["nunes"]
        await a_pass(instance)
        for plan in (motion.plan for motion in instance.motions.values()):
            explained = await built.central.explain(plan, "nunes")
            assert access_of(explained) == ("range", "PRIMARY")
            assert "filesort" not in explained
            assert '"sort"' not in explained  # MySQL's word for it
        await settle(instance)
        await settle(instance, "chats")
        question = _cost_of_asking(central)

        before = _reads(central)
        for _ in range(10):
            await a_pass(instance)
        assert _read_since(central, before, question) == 0, "an idle pass reads no row"

        mirror.insert_messages(central, range(200_000, 200_020), "karsten")
        mirror.insert_messages(central, range(200_020, 200_030))
        before = _reads(central)
        assert (await a_pass(instance))["messages"] == 10
        # Reading them, and looking at them a second time before they settle.
        assert _read_since(central, before, question) < 150
    assert mirror.differences(central, local) == ""


async def test_an_index_on_instance_and_id_is_used_where_there_is_one(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.seed(central, [seed_bulk("karsten", 20_000, 20)])
    mirror.insert_messages(central, range(30_000, 30_050))
    mirror.run(central, "ALTER TABLE messages ADD INDEX mine (instance, id)")
    async with parts(write_config(central, {"nunes": local})) as built:
        instance = built.instances["nunes"]
        question = _cost_of_asking(central)
        await a_pass(instance, skip=("messages",))
        before = _reads(central)
        await a_pass(instance, skip=("chats",))
        assert _read_since(central, before, question) < 5_000, "the others' rows are not read"
        explained = await built.central.explain(instance.motions["messages"].plan, "nunes")
        assert access_of(explained) == ("range", "mine")
    assert mirror.differences(central, local) == ""


async def test_sparse_rows_are_found_with_small_statements(
    databases: Databases, write_config: WriteConfig
) -> None:
    """No statement looks at more ids than its span, also where none of them is ours."""
    central, local = databases
    mirror.seed(central, [seed_bulk("karsten", 2_000, 20, first_id=1_000, step=1_000)])
    for id_ in (1, 1_000_001, 2_500_001):
        mirror.insert_message(central, id_)
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
    assert mirror.differences(central, local) == ""


async def test_every_statement_is_signed_bounded_and_read_only(
    databases: Databases, pair: Pair, write_config: WriteConfig
) -> None:
    """Promise P8, read in the server's own log."""
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    mirror.run(
        central,
        "SET GLOBAL log_output = 'TABLE'; TRUNCATE mysql.general_log; SET GLOBAL general_log = 1",
    )
    try:
        async with one(
            write_config(central, {"nunes": local}, sync={"settle": "1s", "batch_rows": 20})
        ) as instance:
            await settle(instance)
            mirror.insert_messages(central, range(200, 210))
            await settle(instance)
    finally:
        mirror.run(central, "SET GLOBAL general_log = 0")
    sent = [
        statement
        for (statement,) in mirror.rows(
            central,
            "SELECT REPLACE(CONVERT(argument USING utf8mb4), '\n', ' ') FROM mysql.general_log"
            " WHERE command_type IN ('Query', 'Prepare', 'Execute') AND thread_id IN"
            " (SELECT thread_id FROM mysql.general_log WHERE CONVERT(argument USING utf8mb4)"
            " LIKE '/* wpp-sync central%')",
        )
    ]
    driver = ("SET AUTOCOMMIT", "SET NAMES", "COMMIT", "ROLLBACK")
    ours = [statement for statement in sent if not statement.upper().startswith(driver)]
    assert len(ours) > 10
    assert [statement for statement in ours if not statement.startswith("/* wpp-sync ")] == []
    assert any("/* wpp-sync nunes messages */" in statement for statement in ours)
    bare = [statement.partition("*/ ")[2] for statement in ours]
    assert {statement.split()[0] for statement in bare} <= {"SELECT", "SET", "SHOW"}
    assert not any("FOR UPDATE" in statement or "SHARE MODE" in statement for statement in bare)
    bound = {"mariadb": "max_statement_time = 60", "mysql": "max_execution_time = 60000"}
    for setting in (bound[pair.central], "READ COMMITTED, READ ONLY"):
        assert any(setting in statement for statement in bare), setting
    batches = [statement for statement in bare if "FORCE INDEX" in statement]
    assert batches
    assert all(" LIMIT " in statement and " <= " in statement for statement in batches)


async def test_no_more_connections_than_allowed_are_opened(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    central, local = databases
    names = [f"i{number}" for number in range(10)]
    for number, name in enumerate(names):
        mirror.insert_messages(central, range(1 + 1_000 * number, 301 + 1_000 * number), name)
    locals_ = {}
    for name in names:
        database = f"{local['database']}_{name}"
        mirror.run(local, f"CREATE DATABASE {database}")
        locals_[name] = {**local, "database": database}
    config = write_config(
        {**central, "max_connections": 3}, locals_, sync={"batch_rows": 10, "settle": "1s"}
    )
    async with parts(config) as built:
        most = 0
        done = asyncio.Event()

        async def watch() -> None:
            nonlocal most
            while not done.is_set():
                open_now = await asyncio.to_thread(
                    mirror.number,
                    central,
                    "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE DB ="
                    f" '{central['database']}' AND ID <> CONNECTION_ID()",
                )
                most = max(most, open_now)

        watching = asyncio.create_task(watch())
        await asyncio.gather(*(a_pass(instance) for instance in built.instances.values()))
        done.set()
        await watching
    assert 1 <= most <= 3
    for name, config_of in locals_.items():
        assert mirror.differences(central, config_of, name) == ""
        mirror.run(local, f"DROP DATABASE {config_of['database']}")
