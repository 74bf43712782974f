"""One task for each instance, isolated from the others. Knows tasks, not databases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from daemon import events
from daemon.aio import Backoff, wait_first
from daemon.errors import internal
from daemon.instance import Instance
from daemon.loop import Loop

Left = Callable[[Instance, Instance | None], None]
"""Told when an instance has left for good, with the one that takes its place, if one does."""


_PATIENCE_SECONDS = 3.0
"""So long an instance that is to leave may wait for a server outside of a transaction."""


class Supervisor:
    """Runs instances until it is stopped; which ones, may change meanwhile."""

    def __init__(
        self,
        instances: Mapping[str, Instance],
        *,
        backoff_max: float,
        left: Left = lambda _gone, _next: None,
    ) -> None:
        self._wanted = dict(instances)
        self._backoff_max = backoff_max
        self._left = left
        self._running: dict[str, Instance] = {}
        self._tasks: dict[Instance, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._log = events.get_logger()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set and every instance has finished its batch."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self.apply(self._wanted)
            await stop.wait()
            self.apply({})
            self._group = None  # whoever is told to run from here on would never be told to stop

    def apply(self, wanted: Mapping[str, Instance]) -> None:
        """From here on exactly these run; those that ran before are left alone.

        Another one leaves after its batch; where a name has a new instance, that one begins when
        the old one has left.
        """
        self._wanted = dict(wanted)
        if self._group is None:
            return
        leaving = []
        for name, instance in list(self._running.items()):
            if wanted.get(name) is not instance:
                instance.stop.set()
                leaving.append(instance)
                if name not in wanted:
                    del self._running[name]
        if leaving:
            self._group.create_task(self._see_off(leaving), name="see off")
        for name, instance in wanted.items():
            if self._running.get(name) is not instance:
                self._running[name] = instance
                # Also before its turn has come: whoever asks for something meets a daemon's.
                instance.running = True
                before = [each for each in self._tasks if each.name == name]
                guard = self._guard(instance, before)
                self._tasks[instance] = self._group.create_task(guard, name=f"instance {name}")

    @property
    def instances(self) -> list[Instance]:
        """Those that run, also those that are leaving."""
        return list(self._tasks)

    async def _see_off(self, leaving: Iterable[Instance]) -> None:
        """An instance that is to leave finishes its batch; one that waits for a server that does
        not answer, is broken off."""
        tasks = {self._tasks[each]: each for each in leaving if each in self._tasks}
        pause = _PATIENCE_SECONDS
        while tasks:
            done, _ = await asyncio.wait(tasks, timeout=pause, return_when=asyncio.ALL_COMPLETED)
            for task in done:
                del tasks[task]
            for task, instance in tasks.items():
                if not instance.writing:
                    task.cancel()
            pause = 1.0

    async def wait_for(self, instances: Iterable[Instance]) -> None:
        """Until these, which `apply` no longer wants, have left."""
        tasks = [self._tasks[each] for each in instances if each in self._tasks]
        if tasks:
            await asyncio.wait(tasks)

    async def _guard(self, instance: Instance, before: Iterable[Instance]) -> None:
        """Run one instance; an error that nobody foresaw is told, and its loop started again.

        It is a bug in the daemon, but it stays this instance's: the others go on.
        """
        backoff = Backoff(1.0, self._backoff_max)
        try:
            await self.wait_for(before)
            while not instance.stop.is_set():
                try:
                    loop = Loop(instance)
                    async with asyncio.TaskGroup() as group:
                        group.create_task(loop.keep(instance.stop))
                        await loop.run(instance.stop)
                except Exception as error:  # noqa: BLE001 - the isolation that the class promises
                    pause = backoff.next()
                    told = internal(error)
                    instance.broke(told)
                    self._log.error(
                        "instance loop broke", instance=instance.name, code=told.code,
                        error=told.message, hint=told.hint, next_try_s=round(pause, 1),
                    )  # fmt: skip
                    await wait_first(pause, instance.stop)
        finally:
            del self._tasks[instance]
            self._left(instance, self._running.get(instance.name))
