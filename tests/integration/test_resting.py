"""An instance at rest opens its connection now and then by itself, and only to look."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon import instance as instance_module
from daemon.demo.central import seed_bulk, seed_varied
from daemon.sync.commit import Step
from daemon.sync.hot import Hot
from daemon.sync.motion import Motion
from tests import mirror
from tests.in_process import parts, running, watching

if TYPE_CHECKING:
    from tests.conftest import Databases

WriteConfig = Callable[..., Path]

REST_AFTER = 3.0


async def test_who_has_only_looked_rests_again_at_once(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it open for `sync.rest_after` each time, a quarter of those at rest would be open."""
    central, local = databases
    mirror.seed(central, seed_varied(["nunes", "karsten"], messages=50))
    monkeypatch.setattr(instance_module, "REST_SECONDS", 1.5)
    sync = {"rest_after": f"{REST_AFTER:g}s", "settle": "1s", "whole_interval": "1s"}
    config = write_config(central, {"nunes": local}, entities={}, sync=sync)
    async with parts(config) as built, watching(built.watch):
        nunes = built.instances["nunes"]
        async with running(nunes):

            async def until(there: bool, seconds: float) -> float:
                began = time.monotonic()
                while nunes.hold.usable is not there:
                    assert time.monotonic() - began < seconds
                    await asyncio.sleep(0.01)
                return time.monotonic() - began

            await until(there=True, seconds=10)
            await until(there=False, seconds=30)
            for _ in range(3):
                await until(there=True, seconds=5)
                assert await until(there=False, seconds=10) < REST_AFTER / 2
            mirror.insert_messages(central, [90_000])
            await until(there=True, seconds=5)
            assert await until(there=False, seconds=10) > REST_AFTER / 2, "there was something"
            assert mirror.differences(central, local) == ""


async def test_entities_with_nothing_to_do_are_passed_over(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New messages of many instances are no reason to look at their chats each time."""
    central, local = databases
    mirror.seed(central, seed_varied(["nunes"], messages=50))
    config = write_config(central, {"nunes": local}, entities={}, sync={"settle": "1s"})
    steps: Counter[str] = Counter()
    step = Motion.step

    async def counted(
        motion: Motion, stop: asyncio.Event, seconds: float, *, background: bool = True
    ) -> Step:
        steps[motion.committer.entity] += 1
        return await step(motion, stop, seconds, background=background)

    monkeypatch.setattr(Motion, "step", counted)
    async with parts(config) as built, watching(built.watch):
        nunes = built.instances["nunes"]

        async def until_equal() -> None:
            began = time.monotonic()
            while mirror.differences(central, local):
                assert time.monotonic() - began < 10
                await asyncio.sleep(0.05)

        async with running(nunes):
            began = time.monotonic()
            while "chats" not in nunes.motions or not nunes.motions["chats"].can_rest:
                assert time.monotonic() - began < 30
                await asyncio.sleep(0.05)
            steps.clear()
            for id_ in range(90_000, 90_008):
                mirror.insert_messages(central, [id_])
                await until_equal()
            assert steps["messages"] >= 8
            assert steps["chats"] <= 2, steps
            mirror.run(
                central,
                "INSERT INTO chats (id, type, instance, is_finished, started_at)"
                " VALUES (90000, 'RECEIVED', 'nunes', 0, NOW(3))",
            )
            await until_equal()
            assert mirror.number(local, "SELECT COUNT(*) FROM wpp_chats WHERE id = 90000") == 1
            # Who asks for a pass gets one of all of them.
            steps.clear()
            await nunes.sync_pass(asyncio.Event())
            assert steps.keys() == nunes.motions.keys()


async def test_hot_rows_that_are_left_are_not_passed_over(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are no reason to tell anybody anything, and not due again for an hour."""
    central, local = databases
    mirror.seed(central, [seed_bulk("nunes", 200, 50)])
    mirror.run(central, "UPDATE messages SET status = 'SENT'")
    monkeypatch.setattr(Hot, "_PAGE", 20)
    monkeypatch.setattr(Motion, "_HOT_SECONDS", 0.0)  # a page with each step
    sync = {"settle": "1s", "hot_interval": "1h", "reconcile_interval": "1h"}
    config = write_config(central, {"nunes": local}, entities={}, sync=sync)
    async with parts(config) as built, watching(built.watch):
        nunes = built.instances["nunes"]

        async def until(condition: Callable[[Motion], bool]) -> None:
            began = time.monotonic()
            while (motion := nunes.motions.get("messages")) is None or not condition(motion):
                assert time.monotonic() - began < 12
                await asyncio.sleep(0.05)

        async with running(nunes):
            await until(lambda motion: motion.quiet)
            hot = nunes.motions["messages"].hot
            assert hot is not None
            assert hot.rows == 200
            hot.due_at = before = time.monotonic()
            nunes.wake.set()
            await until(lambda _: hot.swept_at >= before)
