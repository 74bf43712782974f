"""A pass is cancelled at each of its awaits.

Its own awaits, and those of the tasks that it makes: at the moment when the wait begins, and at the
one when what was waited for is there and nobody has taken it. After each, no task and no connection
is left, no watermark stands above a missing row, and the same instance's next passes come to the
same end as a life that nobody broke. The ordinary run takes a sample, --long every await.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pytest

from daemon.app import Parts
from daemon.db import Pool
from tests import scenario
from tests.scenario import Scenario
from tests.suspensions import Suspensions

if TYPE_CHECKING:
    from tests.conftest import Databases

WriteConfig = Callable[..., Path]
When = Literal["as it begins", "as it ends"]

pytestmark = pytest.mark.timeout(900)


class _Cancelled:
    """Lives in a task that is cancelled at one of its waits; -1: at none."""

    def __init__(self, built: Parts, at: int, when: When) -> None:
        self.waits = 0
        self._task: asyncio.Task[None] | None = None
        self._built = built
        self._at = at
        self._when = when

    async def live(self) -> bool:
        """Returns whether it was cancelled."""
        loop = asyncio.get_running_loop()
        before = asyncio.all_tasks()
        Suspensions(self._reached).watch(loop)
        try:
            self._task = loop.create_task(scenario.live(self._built.instances["nunes"]))
            with suppress(asyncio.CancelledError):
                await self._task
        finally:
            loop.set_task_factory(None)
        left = asyncio.all_tasks() - before
        assert left == set(), f"tasks are left behind: {left}"
        return self._task.cancelled()

    def _reached(self, _number: int, waits_for: asyncio.Future[Any] | None) -> None:
        if waits_for is None:
            return
        number, self.waits = self.waits, self.waits + 1
        if number != self._at:
            return
        assert self._task is not None
        if self._when == "as it begins":
            self._task.cancel()
        else:  # before the task, whose own callback comes after this one
            waits_for.add_done_callback(lambda _: self._task and self._task.cancel())


async def _connections(judge: Scenario, built: Parts) -> str:
    """What is connected and should not be, seconds after the cancellation."""
    pool: Pool = built.central._pool
    instance = built.instances["nunes"]
    deadline = time.monotonic() + 5
    while True:
        found = judge.connections("central"), judge.connections("local")
        wanted = len(pool._idle), int(instance.opened)
        if found == wanted and pool.open == len(pool._idle):
            return ""
        if time.monotonic() > deadline:
            return f"connected (central, local): {found}, known: {wanted}, Pool.open {pool.open}"
        await asyncio.sleep(0.002)


async def _cancelled_life(judge: Scenario, at: int, when: When) -> str:
    """What is wrong after a cancellation, or nothing."""
    judge.reset()
    async with scenario.parts(judge.config) as built:
        life = _Cancelled(built, at, when)
        if not await life.live() and life.waits > at:
            return "it was not cancelled"
        if wrong := judge.wrong() or await _connections(judge, built):
            return wrong
        await scenario.go_on(built.instances["nunes"], judge)
    judge.wait_until_free()
    return judge.wrong()


@pytest.mark.parametrize("when", get_args(When))
@pytest.mark.parametrize(
    ("empty", "wanted"), [(False, 25), (True, 5)], ids=["copying", "first start"]
)
async def test_cancelled_at_each_await(
    databases: Databases, write_config: WriteConfig, empty: bool, wanted: int, when: When,
    pytestconfig: pytest.Config,
) -> None:  # fmt: skip
    central, local = databases
    config = write_config(central, {"nunes": local}, sync=scenario.SYNC)
    async with Scenario(central, local, config, empty=empty) as judge:
        judge.reset()
        async with scenario.parts(config) as built:
            life = _Cancelled(built, -1, when)
            assert not await life.live()
        assert judge.look() == judge.end
        assert life.waits > 150
        every = 1 if pytestconfig.getoption("--long") else life.waits // wanted
        # One more or less from run to run: where it comes to no such await, it just lives on.
        chosen = [*range(4), *range(4, life.waits, every)]
        found = {at: await _cancelled_life(judge, at, when) for at in chosen}
    print(f"cancelled at {len(chosen)} of {life.waits} awaits")  # noqa: T201 - the report's figure
    broken = [f"{at}: {wrong}" for at, wrong in found.items() if wrong]
    assert broken == [], "\n".join(broken)
