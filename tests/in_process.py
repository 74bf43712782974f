"""The daemon's parts in the test's own process, pass by pass, without loops and sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from daemon import app, config, db
from daemon.app import Parts
from daemon.config import Server
from daemon.db import Connection
from daemon.instance import Instance
from daemon.loop import Loop
from daemon.sync.commit import Committed
from daemon.sync.motion import Motion
from daemon.watch import Watch

if TYPE_CHECKING:
    from tests.conftest import ServerConfig


@asynccontextmanager
async def parts(path: Path) -> AsyncIterator[Parts]:
    """Everything that a daemon with this configuration is made of, closed at the end."""
    async with app.parts(config.load(path)) as built:
        # A head counts as new for 0.1 s; a test's rows are often younger than that.
        built.central.HEAD_AGE = 0.0
        yield built


@asynccontextmanager
async def connected(local: ServerConfig) -> AsyncIterator[Connection]:
    """A local database as the daemon connects to it."""
    connection = await db.connect(Server.model_validate(local), "local nunes", "local")
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def watching(watch: Watch) -> AsyncIterator[asyncio.Task[None]]:
    """The watch looks meanwhile, as the process has it do."""

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            await watch.run(group)

    task = asyncio.ensure_future(run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task


@asynccontextmanager
async def one(path: Path, name: str = "nunes") -> AsyncIterator[Instance]:
    """One instance of that configuration."""
    async with parts(path) as built:
        yield built.instances[name]


@asynccontextmanager
async def running(*instances: Instance) -> AsyncIterator[None]:
    """The instances' loops go on meanwhile, as they do in the daemon."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for loop in map(Loop, instances):
            group.create_task(loop.run(stop))
            group.create_task(loop.keep(stop))
        try:
            yield
        finally:
            stop.set()


async def a_pass(instance: Instance, skip: tuple[str, ...] = ()) -> dict[str, int]:
    """One pass, which must succeed; the rows copied by entity, late ones not included."""
    result = await instance.sync_pass(asyncio.Event(), skip)
    assert instance.motions.entity_errors == {}
    return result.rows


async def passes_until(
    instance: Instance, condition: Callable[[], bool], seconds: float = 10.0
) -> None:
    """Pass after pass until the condition holds."""
    deadline = time.monotonic() + seconds
    while True:
        await instance.sync_pass(asyncio.Event())
        if condition():
            return
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        await asyncio.sleep(0.05)


async def settle(instance: Instance, entity: str = "messages") -> None:
    """Pass after pass until everything that was read is settled."""
    await passes_until(instance, lambda: _settled(instance.motions.get(entity)))


def _settled(motion: Motion | None) -> bool:
    return motion is not None and motion.settled >= motion.position


def listen(instance: Instance) -> list[Committed]:
    """The list that every commit of the instance is added to from now on."""
    commits: list[Committed] = []
    instance.counts.listener = commits.append
    return commits
