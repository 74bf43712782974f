"""Pages of a first sync on two connections: one is written while the one before it is.

A server takes the statements of one connection one after the other, on one core, and has nothing to
do while the next ones are on their way. So two local connections write pages in turn, each in
a transaction that begins with the rows and waits for its turn to end: when the page before it is
committed, it locks the state row, sees that it is what that one has left, and that the instance's
lock is still held. Rows and watermark commit together as ever, and the watermark never passes what
is not committed.

It is an attempt and nothing else. Whatever stands in a page's way before its turn (a row that is
refused or collides, a deadlock, a connection that cannot be had) undoes it and what follows it, and
the rows are read and written again the other way, which knows what to do.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Generic, TypeVar

from daemon import local, lock
from daemon.aio import Clock, to_the_end
from daemon.db import Connection
from daemon.errors import DatabaseError, TransientError
from daemon.schema import Plan
from daemon.sql import Row

_PATIENCE_SECONDS = 2.0
"""So long rows that are written wait for their turn. The page before may be waiting for a lock that
they hold, which neither server nor client sees."""

_PAUSE_SECONDS = 30.0
"""So long it is not tried again where it could not be done."""

_OPEN_SECONDS = 1.0
"""So long the second connection may take to be there: as long as a turn, which waits for it."""

_SLOW_PAUSE_SECONDS = 3600.0
"""So long it is not tried again where that was not enough. Servers count who hangs up on them
before he is let in, and after 100 times in a row (max_connect_errors) let that host in no more."""


P = TypeVar("P")

Turn = asyncio.Future[bool]
"""Whether the page before is committed, once that is known."""


class NotAheadError(Exception):
    """The page is to be written in its turn."""


class Writers:
    """How many connections of this process copy in bulk to each local server. Three are slower
    than two on a small machine, and many instances of one server are many writers anyway."""

    def __init__(self, most: int = 2) -> None:
        self._most = most
        self._counts = Counter[str]()

    def come(self, server: str) -> None:
        """There is one more."""
        self._counts[server] += 1

    def leave(self, server: str) -> None:
        """There is one less."""
        self._counts[server] -= 1
        if self._counts[server] <= 0:
            del self._counts[server]

    def room(self, server: str) -> bool:
        """Whether two more may write there."""
        return self._counts[server] + 2 <= self._most


class Ahead:
    """The second connection of one instance, while it copies in bulk."""

    def __init__(
        self,
        server: str,
        database: str,
        writers: Writers,
        connect: Callable[[], Awaitable[Connection]],
        clock: Clock,
    ) -> None:
        """`server`: which local server it is, and `database` the instance's there; `connect` opens
        a connection like the first one."""
        self._server = server
        self._database = database
        self._writers = writers
        self._connect = connect
        self._clock = clock
        self._not_before = float("-inf")
        self._second: Connection | None = None

    @property
    def possible(self) -> bool:
        """Whether there is room for a second writer, and none has failed lately."""
        return self._clock() >= self._not_before and self._writers.room(self._server)

    @property
    def in_transaction(self) -> bool:
        """The second connection has a transaction open."""
        return self._second is not None and self._second.in_transaction

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be counted as one who copies in bulk."""
        self._writers.come(self._server)
        try:
            yield
        finally:
            self._writers.leave(self._server)

    @asynccontextmanager
    async def second(self, first: Connection, note: str) -> AsyncIterator[Connection]:
        """The second connection, for as long as the block. Raises NotAheadError, also where it does
        not see the first one's lock: it may have come to another server, or both have come through
        a proxy that numbers connections by itself."""
        with self.writing():
            connection: Connection | None = None
            try:
                try:
                    async with asyncio.timeout(_OPEN_SECONDS):
                        connection = await self._connect()
                        await self.see_the_lock(connection, first, note)
                except TimeoutError as error:
                    raise self._cannot(_SLOW_PAUSE_SECONDS) from error
                except DatabaseError as error:
                    raise self._cannot() from error
                self._second = connection
                yield connection
            finally:
                self._second = None
                if connection is not None:
                    await connection.close()

    @asynccontextmanager
    async def transaction(
        self,
        connection: Connection,
        plan: Plan,
        rows: Sequence[Row],
        turn: Turn,
        note: str,
    ) -> AsyncIterator[None]:
        """Write the rows and wait for their turn; the block ends the transaction.

        Raises NotAheadError, and nothing is written, when that cannot be done. Errors of the block
        are raised as they are.
        """
        in_turn = False
        try:
            async with connection.transaction():
                if any(check.in_doubt(row) for check in plan.checks for row in rows):
                    raise self._cannot()  # they are to be read back, and perhaps refused
                await local.upsert(connection, plan, rows, note)
                await self.wait(turn)
                in_turn = True
                yield
        except DatabaseError as error:
            cannot = self._cannot()  # in its turn, too: the next try is on one
            if in_turn:
                raise
            raise cannot from error

    async def wait(self, turn: Turn) -> None:
        """Until the page before is committed. Raises NotAheadError when it is not."""
        done, _ = await asyncio.wait((turn,), timeout=_PATIENCE_SECONDS)
        if not done or not turn.result():
            raise self._cannot()

    def _cannot(self, pause: float = _PAUSE_SECONDS) -> NotAheadError:
        self._not_before = max(self._not_before, self._clock() + pause)
        return NotAheadError()

    async def see_the_lock(self, connection: Connection, first: Connection, note: str) -> None:
        """That the first connection has it still. To be asked behind the lock on the state row: who
        has it next starts from what is committed here. Raises TransientError."""
        if connection is first:
            return  # it goes with the connection
        if await lock.holder(connection, self._database, note) != first.thread_id:
            raise TransientError(first.name, 2013, "the instance's lock is lost")


class Convoy(Generic[P]):
    """Pages that are read one after the other, written at the same time on several connections, and
    committed in order. One more is read meanwhile: a connection that has nothing to write is a core
    that has nothing to do. It ends with the last one, or behind the first that could not be
    written."""

    def __init__(
        self,
        first: P,
        following: Callable[[P, Sequence[P]], Awaitable[P | None]],
        write: Callable[[Connection, P, Turn], Awaitable[None]],
    ) -> None:
        """`following`: reads what comes after a page, while these ones are not written yet; None:
        nothing. `write`: writes a page, waits for its turn, commits; or raises NotAheadError."""
        self.broken = False
        """A page could not be read or written."""

        self._first: P | None = first
        self._coming: asyncio.Future[P | None] | None = None
        self._following = following
        self._write = write
        self._unwritten: list[P] = []
        self._reading = asyncio.Lock()
        self._turn: Turn = asyncio.get_running_loop().create_future()
        self._turn.set_result(True)

    async def run(self, first: Connection, second: AbstractAsyncContextManager[Connection]) -> None:
        """Write on these connections. What fails on one of them lets the other one end its page."""

        async def beside() -> None:
            try:
                async with second as connection:
                    await self._lane(connection)
            except NotAheadError:
                self.broken = True

        try:
            await to_the_end(self._lane(first), beside())
        finally:
            if self._coming is not None:  # nobody writes it any more
                self._coming.cancel()
                await asyncio.gather(self._coming, return_exceptions=True)

    async def _lane(self, connection: Connection) -> None:
        while (read := await self._read()) is not None:
            page, before, mine = read
            written = False
            try:
                await self._write(connection, page, before)
                written = True
            except NotAheadError:
                pass  # it is told by what follows
            finally:
                self._unwritten.remove(page)
                self.broken = self.broken or not written
                mine.set_result(written)

    async def _read(self) -> tuple[P, Turn, Turn] | None:
        """The next page, the turn that it waits for, and the one that follows it."""
        async with self._reading:
            if self.broken:
                return None
            # A page is kept no longer than it is needed: it may have megabytes.
            page, self._first = self._first, None
            if self._coming is not None:
                coming, self._coming = self._coming, None
                try:
                    page = await coming
                except BaseException:
                    self.broken = True  # the other one does not ask once more
                    raise
            if page is None:
                return None
            self._unwritten.append(page)
            self._coming = asyncio.ensure_future(self._following(page, self._unwritten))
            before, self._turn = self._turn, asyncio.get_running_loop().create_future()
            return page, before, self._turn
