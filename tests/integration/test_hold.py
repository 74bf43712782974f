"""Who else is about: one daemon's hold on an instance beside other processes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon import db
from daemon import hold as holding
from daemon.app import VERSION
from daemon.errors import StandbyError
from daemon.instance import Instance
from daemon.lock import Lock
from daemon.sql import Statement
from tests import mirror
from tests.in_process import a_pass, one

if TYPE_CHECKING:
    from daemon.db import Connection
    from tests.conftest import Databases

ELSEWHERE = "UPDATE wpp_sync_copier SET host = 'elsewhere', version = '1+0123456789abcdef'"

WriteConfig = Callable[..., Path]


def alone(instance: Instance) -> bool:
    return instance.shared.seats.alone


async def may_rest(instance: Instance) -> bool:
    """Take it, as the loop does, and close the connection again, if nobody seems to be about."""
    return await instance.hold.rest(await instance.hold.take(daemon=True))


async def test_a_verbs_presence_ends_with_it(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    config = write_config(central, {"nunes": local})
    async with one(config) as daemon:
        async with one(config) as verb:
            await a_pass(verb)
            with pytest.raises(StandbyError, match=f"version {re.escape(VERSION)}, since"):
                await daemon.hold.take(daemon=True)
            assert alone(daemon)
        # Whatever host it ran on.
        mirror.run(local, ELSEWHERE)
        assert await may_rest(daemon)


async def test_a_daemons_presence_does_not(databases: Databases, write_config: WriteConfig) -> None:
    central, local = databases
    config = write_config(central, {"nunes": local})
    async with one(config) as daemon:
        async with one(config) as other:
            other.running = True
            await a_pass(other)
            with pytest.raises(StandbyError):
                await daemon.hold.take(daemon=True)
            assert not alone(daemon)
        assert not await may_rest(daemon)


async def test_a_daemon_that_copied_it_before_may_be_there(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    config = write_config(central, {"nunes": local})
    async with one(config) as daemon:
        async with one(config) as other:
            other.running = True
            await a_pass(other)
        mirror.run(local, ELSEWHERE)
        assert alone(daemon)
        assert not await may_rest(daemon)


async def test_who_has_not_room_for_all_keeps_them_open(
    databases: Databases, write_config: WriteConfig
) -> None:
    """Another daemon, started for the others, would take those that rest."""
    central, local = databases
    config = write_config(central, {"nunes": local}, sync={"max_instances": 1})
    async with one(config) as daemon:
        daemon.running = True
        await a_pass(daemon)
        assert not await may_rest(daemon)
    # So it is where there is room for all.
    async with one(write_config(central, {"nunes": local})) as daemon:
        daemon.running = True
        await a_pass(daemon)
        assert await may_rest(daemon)


async def test_of_many_busy_ones_few_look_for_another_daemon_until_it_comes(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    central, local = databases
    monkeypatch.setattr(holding, "_KEEP_SECONDS", 0.1)
    looks = 0
    asked_by = Lock.asked_by

    async def counted(lock: Lock, connection: Connection) -> tuple[int | None, bool]:
        nonlocal looks
        looks += 1
        return await asked_by(lock, connection)

    monkeypatch.setattr(Lock, "asked_by", counted)

    async def seen(daemon: Instance, *, busy: bool) -> int:
        nonlocal looks
        looks = 0
        connection = daemon.hold.connection
        assert connection is not None
        for _ in range(120):
            await asyncio.sleep(0.01)
            if busy:
                await connection.fetch(Statement("SELECT 1", (), "test"))
        return looks

    async with one(write_config(central, {"nunes": local})) as daemon:
        stop, wake = asyncio.Event(), asyncio.Event()
        await daemon.hold.take(daemon=True)
        assert alone(daemon)
        keeping = asyncio.create_task(daemon.hold.keep(stop, wake, busy=lambda: False))
        for number in range(40_000):  # those that rest do not look
            daemon.shared.seats.take(f"i{number}")
        assert await seen(daemon, busy=True) > 5  # the only one
        monkeypatch.setattr(db, "open_connections", lambda: {"central": 1, "local": 40_000})
        assert await seen(daemon, busy=True) <= 1
        assert await seen(daemon, busy=False) > 5  # so that the server hears of it
        daemon.shared.seats.saw_another()
        assert await seen(daemon, busy=True) > 5
        stop.set()
        await keeping
