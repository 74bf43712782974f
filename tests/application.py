"""The application as a test plays it: writers whose statements may wait for one another's locks.

A statement that waits is a task; the others go on. `Writers.calm` returns when every statement has
either ended or waits for a lock, so that what a test does next does not depend on the clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import asyncmy
from asyncmy.errors import Error

# Deadlock: the server has rolled the whole transaction back.
_DEADLOCK = 1213
# Duplicate key, lock wait timeout, interrupted: the statement did nothing, the transaction stands.
_REFUSED = frozenset({1062, 1205, 1317})
_NO_SUCH_THREAD = 1094
# The connection is gone, and the transaction with it.
_GONE = frozenset({1053, 1927, 2006, 2013})


class Client:
    """A connection for looking at a server, opened again when it has gone."""

    def __init__(self, server: Mapping[str, object]) -> None:
        self._server = server
        self._raw: Any = None

    async def fetch(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run the statements one by one; the rows of the last one."""
        for attempt in range(2):
            if self._raw is None:
                self._raw = await connect(self._server)
            try:
                rows: list[tuple[Any, ...]] = []
                for statement in statements:
                    rows = await run(self._raw, statement)
                return rows
            except (Error, OSError) as error:
                self.drop()
                if attempt or (isinstance(error, Error) and error.args[0] not in _GONE):
                    raise
        raise AssertionError("not reached")

    async def kill(self, thread_id: int) -> None:
        """End another connection, if it still is there."""
        try:
            await self.fetch(f"KILL CONNECTION {thread_id}")
        except Error as error:
            if error.args[0] != _NO_SUCH_THREAD:
                raise

    def drop(self) -> None:
        """Close without a word."""
        if self._raw is not None:
            self._raw.close()
            self._raw = None


async def connect(server: Mapping[str, object]) -> Any:
    """A connection with autocommit, as the driver gives it."""
    return await asyncmy.connect(
        host=server["host"], port=server["port"], user=server["user"],
        password=server["password"], database=server["database"], charset="utf8mb4",
        autocommit=True,
    )  # fmt: skip


async def run(raw: Any, statement: str) -> list[tuple[Any, ...]]:
    """Run one statement; its rows."""
    async with raw.cursor() as cursor:
        await cursor.execute(statement)
        return list(await cursor.fetchall())


class Writer:
    """One of the application's connections and its transaction."""

    def __init__(self, server: Mapping[str, object]) -> None:
        self.in_transaction = False
        self.waits_since: float | None = None
        """When the statement that now waits was begun, on the test's clock."""

        self.thread_id = 0
        self.work: asyncio.Task[None] | None = None
        self._server = server
        self._raw: Any = None

    @property
    def busy(self) -> bool:
        return self.work is not None and not self.work.done()

    async def begin(self, statements: Sequence[str], now: float) -> None:
        """Start these statements, in the transaction that is open or in a new one. What the server
        refuses ends them; the transaction stays, unless it was a deadlock's victim."""
        assert not self.busy
        if self._raw is None:
            self._raw = await connect(self._server)
            self.thread_id = self._raw.thread_id()
        if not self.in_transaction:
            await run(self._raw, "START TRANSACTION")
            self.in_transaction = True
        self.waits_since = now
        self.work = asyncio.ensure_future(self._execute(statements))

    async def _execute(self, statements: Sequence[str]) -> None:
        try:
            for statement in statements:
                await run(self._raw, statement)
        except Error as error:
            if error.args[0] in _GONE:
                self._gone()
            elif error.args[0] == _DEADLOCK:
                self.in_transaction = False
            elif error.args[0] not in _REFUSED:
                raise

    async def end(self, statement: str) -> None:
        """COMMIT or ROLLBACK."""
        assert not self.busy
        await run(self._raw, statement)
        self.in_transaction = False

    def _gone(self) -> None:
        self._raw.close()
        self._raw = None
        self.in_transaction = False

    async def leave(self) -> None:
        """Close; what was open is rolled back."""
        if self.work is not None:
            self.work.cancel()
            await asyncio.gather(self.work, return_exceptions=True)
        if self._raw is not None:
            self._gone()


class Writers:
    """All of the application's writers on one central database."""

    def __init__(self, server: Mapping[str, object], number: int, admin: Client) -> None:
        self.all = [Writer(server) for _ in range(number)]
        self._admin = admin

    @property
    def idle(self) -> list[Writer]:
        """Those whose statement has ended."""
        return [writer for writer in self.all if not writer.busy]

    @property
    def waiting(self) -> list[Writer]:
        """Those whose statement waits for a lock."""
        return [writer for writer in self.all if writer.busy]

    async def calm(self) -> None:
        """Return when each statement has ended or waits for a lock. Raises what none may raise."""
        before = -1
        while self.waiting:
            ((_, waits),) = await self._admin.fetch(
                "SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'"
            )
            # Twice: the one that was just let go on counts until its thread has woken up.
            if int(waits) == before == len(self.waiting):
                break
            before = int(waits)
            await asyncio.sleep(0.002)
        for writer in self.all:
            if writer.work is not None and writer.work.done():
                writer.work.result()

    async def kill(self, writer: Writer) -> None:
        """The application's process dies: its transaction is rolled back."""
        if writer.thread_id and (writer.busy or writer.in_transaction):
            await self._admin.kill(writer.thread_id)
            await writer.leave()
            # The transaction lives until the server's thread has noticed. Who asks for the list
            # more often than every 0.1 s gets the same one again.
            await asyncio.sleep(0.11)
            question = (
                "SELECT 1 FROM information_schema.INNODB_TRX"
                f" WHERE trx_mysql_thread_id = {writer.thread_id}"
            )
            while await self._admin.fetch(question):  # noqa: ASYNC110 - a server has no event
                await asyncio.sleep(0.11)
            writer.thread_id = 0

    async def give_up(self, writer: Writer) -> None:
        """End a statement that waits, as a lock wait timeout does; the transaction stays."""
        await self._admin.fetch(f"KILL QUERY {writer.thread_id}")
        assert writer.work is not None
        await writer.work
