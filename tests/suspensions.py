"""Counts every point at which a coroutine, or a task that it makes, is suspended or goes on.

Between two such points nothing else of the process happens: whatever can befall a pass (it is
cancelled, the process dies) befalls it at one of them. Nothing of this is known to the daemon: the
event loop is told to wrap every task's coroutine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class Suspensions:
    """Calls `reached(number, waits_for)` at each point: 0, 1, 2, … `waits_for` is the future that
    is waited for when a wait begins; None when it has ended."""

    def __init__(self, reached: Callable[[int, asyncio.Future[Any] | None], None]) -> None:
        self.count = 0
        self._reached = reached

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on, each new task of the loop is counted, with all that it awaits."""

        def factory(
            loop: asyncio.AbstractEventLoop,
            coroutine: Coroutine[Any, Any, T] | Generator[Any, None, T],
            **options: Any,
        ) -> asyncio.Task[T]:
            assert asyncio.iscoroutine(coroutine)
            return asyncio.Task(self._counted(coroutine), loop=loop, **options)

        loop.set_task_factory(factory)

    async def _counted(self, coroutine: Coroutine[Any, Any, T]) -> T:
        done: T = await _Steps(coroutine, self._step)
        return done

    def _step(self, waits_for: asyncio.Future[Any] | None) -> None:
        number, self.count = self.count, self.count + 1
        self._reached(number, waits_for)


class _Steps:
    """Drives a coroutine step by step."""

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        step: Callable[[asyncio.Future[Any] | None], None],
    ) -> None:
        self._coroutine = coroutine
        self._step = step

    def __await__(self) -> Generator[Any, Any, Any]:
        error: BaseException | None = None
        while True:
            try:
                if error is None:
                    waits_for = self._coroutine.send(None)
                else:
                    waits_for = self._coroutine.throw(error)
            except StopIteration as done:
                return done.value
            self._step(waits_for)
            error = None
            try:
                yield waits_for
            except BaseException as thrown:  # noqa: BLE001 - it belongs to the coroutine
                error = thrown
            self._step(None)
