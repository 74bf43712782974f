"""The bulk protocol is used where the server has it, and done without where it does not work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncmy
import pytest

from daemon import driver
from daemon import local as rows_to_local
from tests import mirror
from tests.in_process import a_pass, one

if TYPE_CHECKING:
    from tests.conftest import Databases, Pair, Servers

WriteConfig = Callable[..., Path]


@pytest.fixture(autouse=True)
def few_rows_are_no_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_to_local, "INSERT_ROWS", 1)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each bulk command had."""
    sizes: list[int] = []
    real = driver.Prepared.execute

    async def execute(self: driver.Prepared, raw: Any, statement: bytes, packet: bytes) -> None:
        assert statement.startswith(b"/* wpp-sync nunes "), "it is signed"
        await real(self, raw, statement, packet)
        sizes.append(len(packet))

    monkeypatch.setattr(driver.Prepared, "execute", execute)
    return sizes


async def test_it_is_used_where_the_server_has_it(
    databases: Databases, write_config: WriteConfig, pair: Pair, used: list[int]
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    async with one(write_config(central, {"nunes": local})) as instance:
        assert (await a_pass(instance))["messages"] == 100
        mirror.insert_message(central, 200)
        await a_pass(instance)
    assert len(used) == (1 if pair.local == "mariadb" else 0), "not for a single row"
    assert mirror.differences(central, local) == ""


async def test_a_long_row_that_comes_alone_goes_as_it_would_with_others(
    databases: Databases, servers: Servers, write_config: WriteConfig, pair: Pair, used: list[int]
) -> None:
    """As a literal its quotes would be doubled, and it would not fit."""
    central, local = databases
    servers.local.execute("SET GLOBAL max_allowed_packet = 1048576")
    try:
        async with one(write_config(central, {"nunes": local})) as instance:
            await instance.migrate(asyncio.Event())
            for server, table in ((central, "messages"), (local, "wpp_messages")):
                mirror.run(server, f"ALTER TABLE {table} MODIFY body LONGTEXT")
            mirror.insert_message(central, 1, body="REPEAT(CHAR(39), 600000)")
            await a_pass(instance)
            quarantined = instance.motions.quarantined["messages"]
    finally:
        servers.local.execute("SET GLOBAL max_allowed_packet = 16777216")
    if pair.local == "mariadb":
        assert quarantined == 0
        assert len(used) == 1
        assert mirror.number(local, "SELECT LENGTH(body) FROM wpp_messages") == 600_000
    else:
        assert quarantined == 1, "there is no other way"


@pytest.mark.parametrize("errno", sorted(driver.UNABLE))
async def test_a_server_that_cannot_after_all_gets_literals(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch, errno: int
) -> None:
    asked = 0

    async def refuse(self: driver.Prepared, raw: Any, statement: bytes, packet: bytes) -> None:
        nonlocal asked
        asked += 1
        raise asyncmy.errors.OperationalError(errno, "refused")

    monkeypatch.setattr(driver.Prepared, "execute", refuse)
    monkeypatch.setattr(driver, "offers_bulk", lambda _raw: True)
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        mirror.insert_messages(central, range(101, 201))
        await a_pass(instance)
    assert asked == 1, "it is asked once a connection"
    assert mirror.differences(central, local) == ""


async def test_an_unknown_driver_sends_literals(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch, used: Any
) -> None:
    monkeypatch.setattr(driver, "unfit", lambda: "asyncmy 9.9.9 is none of 0.2.18")
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
    assert used == []
    assert mirror.differences(central, local) == ""


async def test_a_table_that_is_changed_meanwhile_takes_rows_as_before(
    databases: Databases, write_config: WriteConfig, used: list[int], pair: Pair
) -> None:
    """The server prepares the statement anew."""
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        mirror.run(local, "ALTER TABLE wpp_messages MODIFY body LONGTEXT, ADD KEY further (`to`)")
        mirror.insert_messages(central, range(101, 201))
        await a_pass(instance)
    assert len(used) == (2 if pair.local == "mariadb" else 0)
    assert mirror.differences(central, local) == ""


async def test_a_server_that_prepares_no_more_statements_gets_literals(
    databases: Databases, write_config: WriteConfig, used: list[int]
) -> None:
    """Error 1461, in the middle of a transaction."""
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    mirror.run(local, "SET GLOBAL max_prepared_stmt_count = 0")
    try:
        async with one(write_config(central, {"nunes": local})) as instance:
            await a_pass(instance)
    finally:
        mirror.run(local, "SET GLOBAL max_prepared_stmt_count = 16382")
    assert used == []
    assert mirror.differences(central, local) == ""


async def test_rows_that_exceed_the_packet_are_split_by_bytes(
    databases: Databases, write_config: WriteConfig, pair: Pair, used: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(rows_to_local, "_STATEMENT_BYTES", 4_000)
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
    if pair.local == "mariadb":
        assert len(used) > 1
        assert max(used) <= 4_000
    assert mirror.differences(central, local) == ""
