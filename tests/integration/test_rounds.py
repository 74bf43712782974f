"""A round that has begun since the last one ended is due, however short ago that was."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon import app, config
from daemon.sync.motion import round_of
from tests import mirror
from tests.in_process import a_pass, one

if TYPE_CHECKING:
    from tests.conftest import Databases

WriteConfig = Callable[..., Path]

HOUR = 3600.0


@pytest.mark.parametrize(("past", "due"), [(0.3, True), (HOUR / 2, False)])
async def test_who_begins_just_after_a_round_has_begun_takes_part_in_it(
    databases: Databases, write_config: WriteConfig, past: float, due: bool
) -> None:
    """`past`: so long after the beginning of a round another motion is made."""
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    path = write_config(central, {"nunes": local}, sync={"reconcile_interval": "1h"})
    async with one(path) as instance:
        instance.running = True
        await a_pass(instance)
        assert instance.motions["messages"].compared_at is not None
    await asyncio.sleep(1.5)
    now = time.monotonic()
    offset = round_of(now, HOUR, "messages") + HOUR + past - now
    async with app.parts(config.load(path), clock=lambda: time.monotonic() + offset) as built:
        instance = built.instances["nunes"]
        instance.running = True
        await a_pass(instance)
        assert (instance.motions["messages"].compared_at is not None) == due


async def test_a_busy_central_that_was_seen_long_ago_puts_no_round_off(
    databases: Databases, write_config: WriteConfig
) -> None:
    """While it is busy, rounds are four times as far apart; whether it is, is asked again then."""
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    path = write_config(central, {"nunes": local}, sync={"reconcile_interval": "1h"})
    now = time.monotonic()
    far = round_of(now, 4 * HOUR, "messages") + 4 * HOUR
    begins = round_of(far + 2 * HOUR, HOUR, "messages")
    assert begins - HOUR >= far
    offset = begins - 4.0 - now
    async with app.parts(config.load(path), clock=lambda: time.monotonic() + offset) as built:
        instance = built.instances["nunes"]
        instance.running = True
        await a_pass(instance)
        messages = instance.motions["messages"]
        compared_at = messages.compared_at
        assert compared_at is not None
        assert compared_at < begins, "not too late"
        built.central.load.busy = True
        await asyncio.sleep(begins + 0.3 - compared_at)
        await a_pass(instance)
        assert messages.compared_at != compared_at
        assert not built.central.load.busy
