"""A turn that hangs is broken off, also one that somebody has asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon import instance as life
from daemon import operations, turns
from daemon.errors import WppSyncError
from daemon.instance import Instance
from tests import mirror
from tests.in_process import a_pass, one

if TYPE_CHECKING:
    from tests.conftest import Databases

WriteConfig = Callable[..., Path]


@pytest.mark.mariadb
@pytest.mark.parametrize(
    "verb",
    [operations.sync_instance, operations.retry_quarantine, operations.reconcile],
)
async def test_a_verb_whose_turn_hangs_ends_and_keeps_nobody_out(
    databases: Databases,
    write_config: WriteConfig,
    monkeypatch: pytest.MonkeyPatch,
    verb: Callable[[Instance], Awaitable[object]],
) -> None:
    central, local = databases

    async def hang(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(turns, "TURN_SECONDS", 0.5)
    config = write_config(central, {"nunes": local}, defaults={"statement_timeout": "50ms"})
    async with one(config) as instance:
        await a_pass(instance)  # a turn that migrates has no bound
        mirror.run(
            local,
            "INSERT INTO wpp_sync_quarantine (entity, id, id2, errno, message)"
            " VALUES ('messages', 9, 0, 1, '')",
        )
        with monkeypatch.context() as patched:
            patched.setattr(life, "take_turns", hang)
            async with asyncio.timeout(10):
                with pytest.raises(WppSyncError) as caught:
                    await verb(instance)
        assert caught.value.code == "hung"
        mirror.insert_message(central, 1)
        assert (await a_pass(instance))["messages"] == 1
    assert mirror.differences(central, local) == ""


@pytest.mark.mariadb
async def test_a_migration_that_a_verb_begins_may_take_longer_than_a_turn(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    central, local = databases
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.5)
    config = write_config(central, {"nunes": local}, defaults={"statement_timeout": "50ms"})
    async with one(config) as instance:
        real = instance.migrator.migrate

        async def slow(*arguments: object) -> None:
            await real(*arguments)  # type: ignore[arg-type]
            await asyncio.sleep(1.0)

        monkeypatch.setattr(instance.migrator, "migrate", slow)
        await operations.sync_instance(instance)
        assert len(instance.migrator.ran) > 20
