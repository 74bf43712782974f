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
