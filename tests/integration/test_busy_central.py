"""Central may be busy for ever: comparisons go on, four times slower, and cost no more for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daemon.app import Parts
from daemon.demo.central import seed_bulk_contacts
from daemon.instance import Instance
from daemon.status import compared_at
from daemon.throttle import Bearable
from tests import mirror
from tests.in_process import parts, running, watching

if TYPE_CHECKING:
    from tests.conftest import Databases

WriteConfig = Callable[..., Path]


@asynccontextmanager
async def _running(config: Path) -> AsyncIterator[tuple[Parts, Instance]]:
    """The loop of nunes, beside the shared looks, once all of it is compared."""
    async with parts(config) as built, watching(built.watch):
        nunes = built.instances["nunes"]
        async with running(nunes):
            await _until(lambda: all(compared_at(nunes, name) for name in nunes.entities), 15)
            yield built, nunes


async def _until(condition: Callable[[], bool], seconds: float) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds:g} s"
        await asyncio.sleep(0.05)
    return time.monotonic() - began


def _make_busy(built: Parts) -> None:
    """From now on: more threads are at work than central bears, because one always is."""
    built.central.guard.bearable = Bearable(threads_running=0)


def _sync(**settings: str) -> dict[str, Any]:
    return {"settle": "exact", "reconcile_interval": "1s", "whole_interval": "1s"} | settings


async def test_changes_and_deletes_arrive_at_an_instance_that_is_awake(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    mirror.seed(central, [seed_bulk_contacts("nunes", 50)])
    sync = _sync(rest_after="1000h", hot_interval="1h")
    async with _running(write_config(central, {"nunes": local}, entities={}, sync=sync)) as living:
        built, nunes = living
        _make_busy(built)
        await _until(lambda: built.central.load.busy, 15)
        mirror.run(central, "DELETE FROM messages WHERE id <= 10")
        mirror.run(central, "UPDATE contacts SET name = 'changed' WHERE id <= 10")
        both = ("messages", "contacts")
        await _until(lambda: not mirror.differences(central, local, entities=both), 12)
        assert nunes.hold.usable, "it has not rested"


async def test_whole_tables_are_compared_four_times_less_often(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.seed(central, [seed_bulk_contacts("nunes", 50)])
    config = write_config(central, {"nunes": local}, entities={}, sync=_sync(rest_after="1000h"))
    async with _running(config) as (built, nunes):

        def at() -> float:
            return nunes.motions["contacts"].compared_at or 0.0

        _make_busy(built)
        await _until(lambda: built.central.load.busy, 15)
        ended = {at()}
        while len(ended) < 4:
            await _until(lambda: at() not in ended, 10)
            ended.add(at())
        assert 5.0 < max(ended) - sorted(ended)[1] < 13.0, "eight seconds"


async def test_who_has_nothing_to_do_comes_to_rest(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    mirror.seed(central, [seed_bulk_contacts("nunes", 50)])
    sync = _sync(rest_after="2s", reconcile_interval="30s")
    async with _running(write_config(central, {"nunes": local}, entities={}, sync=sync)) as living:
        built, nunes = living
        nunes.motions["messages"].compare_now()
        _make_busy(built)
        await _until(lambda: built.central.load.busy, 15)
        await _until(lambda: not nunes.hold.usable, 20)


async def test_a_round_that_waits_for_its_turn_takes_none(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No turn every second, each of which asks whether it is its turn."""
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    others = ("chats", "contacts", "contact_sectors", "schedules")
    config = write_config(
        central,
        {"nunes": local},
        entities={name: {"enabled": False} for name in others},
        sync=_sync(rest_after="1000h", hot_interval="1h"),
    )
    async with _running(config) as (built, nunes):
        _make_busy(built)
        built.central._compared_per_second = 20.0  # a chunk of a hundred rows: 20 s, while busy
        waits = built.central.next_chunk_at
        plan = nunes.motions["messages"].plan
        await _until(lambda: waits(plan) > time.monotonic() + 12, 15)
        await _until(lambda: nunes.motions["messages"].round is not None, 5)
        turns: list[float] = []
        take_turn = nunes.take_turn

        async def counted(*args: Any) -> Any:
            turns.append(time.monotonic())
            return await take_turn(*args)

        monkeypatch.setattr(nunes, "take_turn", counted)
        await asyncio.sleep(6)
        assert len(turns) <= 2, "one that was due, and one heartbeat"
