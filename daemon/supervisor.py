"""One task for each instance, isolated from the others. Knows tasks, not databases."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from daemon.aio import Backoff, wait_first
from daemon.errors import internal
from daemon.instance import Instance


class Supervisor:
    """Runs the instances until it is stopped."""

    def __init__(self, instances: Iterable[Instance], *, backoff_max: float) -> None:
        self._instances = tuple(instances)
        self._backoff_max = backoff_max
        self._log = structlog.get_logger()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set and every instance has finished its batch."""
        async with asyncio.TaskGroup() as group:
            for instance in self._instances:
                group.create_task(self._guard(instance, stop), name=f"instance {instance.name}")

    async def _guard(self, instance: Instance, stop: asyncio.Event) -> None:
        """Run one instance; an error that nobody foresaw is told, and its loop started again.

        It is a bug in the daemon, but it stays this instance's: the others go on.
        """
        backoff = Backoff(1.0, self._backoff_max)
        while not stop.is_set():
            try:
                await instance.run(stop)
            except Exception as error:  # noqa: BLE001 - the isolation that the class promises
                pause = backoff.next()
                told = internal(error)
                instance.broke(told)
                self._log.error(
                    "instance loop broke", instance=instance.name, error=told.message,
                    hint=told.hint, next_try_s=round(pause, 1),
                )  # fmt: skip
                await wait_first(pause, stop)
