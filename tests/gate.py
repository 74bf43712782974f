"""The daemon, one statement at a time: a test holds it before any statement, and does what it likes
to the servers meanwhile.

A gate sees every statement of the tasks that were started under it, on whatever connection, and
lets it go to the real server. It can hold them before a statement that the test names, lose the
answer of one (the server has executed it, the daemon hears no more of that connection), and cut
all connections at once, which is what a kill -9 looks like to the servers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

import pytest

from daemon import sql
from daemon.db import Connection
from daemon.sql import Statement

T = TypeVar("T")

_current: ContextVar[Gate | None] = ContextVar("gate", default=None)

# Seconds that a server gets to execute a statement whose answer is lost.
_LOST_SECONDS = 0.01


def install(patch: pytest.MonkeyPatch) -> None:
    """From now on every statement of a task that was started under a gate passes through it."""
    for name in ("execute", "fetch", "fetch_bounded", "exchange"):
        patch.setattr(Connection, name, _gated(getattr(Connection, name)))


def _gated(method: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    async def call(
        connection: Connection,
        statement: Statement | bytes | Sequence[Statement | bytes],
        *more: Any,
        **named: Any,
    ) -> T:
        gate = _current.get()
        # What sets a session up is of no interest: there is nothing yet that could be lost.
        set_up = isinstance(statement, Statement) and statement.note == connection.name
        if gate is None or set_up:
            return await method(connection, statement, *more, **named)
        text = _text(statement).decode(errors="replace")
        return await gate.let(connection, text, method(connection, statement, *more, **named))

    return call


def _text(statement: Statement | bytes | Sequence[Statement | bytes]) -> bytes:
    if isinstance(statement, bytes):
        return statement
    if isinstance(statement, Statement):
        return sql.render(statement)
    return b"; ".join(map(_text, statement))  # sent together


class Gate:
    """One daemon's gate. It is open at first."""

    def __init__(self) -> None:
        self.statements = 0
        """How many have passed."""

        self.recent: list[str] = []
        """The last of them, for a failure's report."""

        self._connections: list[Connection] = []
        self._hold_before: Callable[[str], bool] | None = None
        self._closed = False
        self._lose_next = False
        self._held: list[asyncio.Future[None]] = []
        self._under_way = 0
        self._changed = asyncio.Event()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task whose statements, and those of its own tasks, pass through here."""
        context = copy_context()
        context.run(_current.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)

    async def go(self, task: asyncio.Task[T], hold_before: Callable[[str], bool] | None) -> bool:
        """Let the task go on until it is about to send a statement that the condition picks (None:
        to its end). Whether it has ended."""
        self._hold_before = hold_before
        self._closed = False
        held, self._held = self._held, []
        for future in held:
            if not future.done():
                future.set_result(None)
        while True:
            self._changed.clear()
            if task.done():
                return True
            if self._held and self._under_way == 0:
                return False
            changed = asyncio.ensure_future(self._changed.wait())
            await asyncio.wait((task, changed), return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()

    def usable(self) -> list[Connection]:
        """The connections that are open, as far as the daemon knows."""
        return [connection for connection in self._connections if connection.usable]

    def lose_next_answer(self) -> None:
        """The next statement is executed, and its connection lost before the answer comes."""
        self._lose_next = True

    def cut(self) -> None:
        """Close all connections without a word, and let nothing more through."""
        for connection in self._connections:
            connection.discard()

    async def let(self, connection: Connection, text: str, call: Awaitable[T]) -> T:
        """Send this statement when it may be sent."""
        if connection not in self._connections:
            self._connections = [c for c in self._connections if c.usable] + [connection]
        if self._closed or (self._hold_before is not None and self._hold_before(text)):
            self._closed = True
            future = asyncio.get_running_loop().create_future()
            self._held.append(future)
            self._changed.set()
            try:
                await future
            except BaseException:
                # Never sent. Closing the coroutine says so to Python.
                call.close()  # type: ignore[attr-defined]
                connection.discard()
                raise
        self.statements += 1
        self.recent = [*self.recent[-39:], text]
        self._under_way += 1
        try:
            if self._lose_next and connection.usable:
                self._lose_next = False
                return await self._lost(connection, call)
            return await call
        finally:
            self._under_way -= 1
            self._changed.set()

    @staticmethod
    async def _lost(connection: Connection, call: Awaitable[T]) -> T:
        transport = connection._raw._transport
        transport.pause_reading()
        sending = asyncio.ensure_future(call)
        try:
            await asyncio.sleep(_LOST_SECONDS)
        finally:
            transport.abort()
        return await sending
