"""How busy central is: asked once for all instances, and only while somebody wants to know.

Threads at work are asked for with any account. How far a replica is behind takes a privilege, of an
account that has none it is not known: that is said once, and all goes on without it. So it does
where there is no answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from math import inf

from daemon import events, sql
from daemon.aio import Clock
from daemon.db import NO_SUCH_SYNTAX, Connection
from daemon.errors import DatabaseError, TransientError
from daemon.evidence import Validity
from daemon.throttle import Guard, Load

Named = Mapping[str, bytes | None]
"""A row by its columns' names."""

PRIVILEGE = (
    "GRANT REPLICA MONITOR (MariaDB) or REPLICATION CLIENT (MySQL) ON *.* to the account, or set"
    " sync.max_replica_lag to null"
)


def replica_lag(sources: Sequence[Named]) -> float | None:
    """How many seconds a replica is behind the servers that it follows, behind the farthest of
    them; `inf`: it stands still, or does not know; None: it follows nobody. Pure.

    A delay that somebody has ordered (SQL_Delay) is none. One whose threads are both off follows
    nobody: a replica that was promoted often keeps its old settings.
    """
    return max((_lag(each) for each in sources if _follows(each)), default=None)


def _follows(source: Named) -> bool:
    channel = source.get("Channel_Name") or b""
    if channel.startswith(b"group_replication_"):
        return False  # a group says elsewhere how its members are
    threads = (
        ("Replica_IO_Running", "Slave_IO_Running"),
        ("Replica_SQL_Running", "Slave_SQL_Running"),
    )
    return any(_either(source, *names) not in {None, b"No"} for names in threads)


def _lag(source: Named) -> float:
    behind = _either(source, "Seconds_Behind_Source", "Seconds_Behind_Master")
    if behind is None:
        return inf
    return max(0.0, float(behind) - float(source.get("SQL_Delay") or 0))


def _either(source: Named, new: str, old: str) -> bytes | None:
    """MySQL 8.0.22 has given the columns other names; MariaDB has the old ones."""
    return source[new] if new in source else source.get(old)


async def threads_running(connection: Connection, many: int) -> int:
    """How many threads of the server are at work. Where they seem to be more than `many`, those of
    replication are left out: MariaDB counts them while they wait, too, each of a pool of them."""
    running = (await _numbers(connection, sql.threads_running()))["threads_running"]
    if running <= many or not connection.mariadb:
        return running
    known: dict[str, int] = {}
    for statement in sql.replication_threads():
        known |= await _numbers(connection, statement)
    applying = known.get("slaves_running", 0)  # one thread each, and one that receives
    waiting = known.get("slaves_connected", 0) + 2 * applying
    if applying:
        waiting += known.get("slave_parallel_threads", 0)
    return max(1, running - waiting)


async def _numbers(connection: Connection, statement: sql.Statement) -> dict[str, int]:
    rows = await connection.fetch(statement)
    return {(name or b"").decode().lower(): int(value or 0) for name, value in rows}


async def sources(connection: Connection) -> Sequence[Named]:
    """The servers that this one follows. Raises AccessError."""
    statements = sql.replica_status(mariadb=connection.mariadb)
    for statement in statements[:-1]:
        try:
            return await connection.fetch_named(statement)
        except DatabaseError as error:
            if error.errno not in NO_SUCH_SYNTAX:
                raise
    return await connection.fetch_named(statements[-1])


class Lookout:
    """Looks at central's load, and tells the guard."""

    LOAD_AGE = 1.0
    """So long it is believed how busy the server is."""

    PATIENCE = 10.0
    """Seconds for an answer; until then, and when there is none, what was seen last counts."""

    FOLLOWS_AGE = 60.0
    """So long it is believed that it follows nobody, or does not tell."""

    def __init__(
        self,
        guard: Guard,
        clock: Clock,
        asking: Callable[[str], AbstractAsyncContextManager[Connection]],
        validity: Callable[[], Awaitable[Validity]],
    ) -> None:
        self.busy = False
        """More threads are at work than it bears, as last seen."""

        self.unknown: DatabaseError | None = None
        """Why the server does not tell how far it is behind."""

        self._guard = guard
        self._clock = clock
        self._asking = asking
        self._validity = validity
        self._looking = False
        self._looked_at = float("-inf")
        self._lag_again_at = float("-inf")
        self._log = events.get_logger()

    async def look(self) -> None:
        """Ask, if nobody does or has just done so; who comes meanwhile goes on with what is known.

        Who copies does not fail because of it: whether central answers, he sees himself.
        """
        if self._looking or self._clock() - self._looked_at < self.LOAD_AGE:
            return
        self._looking = True
        try:
            await self._look()
        except (DatabaseError, TimeoutError) as error:
            self._log.debug("load unknown", error=str(error) or "no answer in time")
        finally:
            self._looking, self._looked_at = False, self._clock()

    async def _look(self) -> None:
        bearable = self._guard.bearable
        primary = bearable.replica_lag is None or (await self._validity()).exact
        async with self._asking("load") as connection, asyncio.timeout(self.PATIENCE):
            running = await threads_running(connection, bearable.threads_running)
            lag = None if primary else await self._lag_now_and_then(connection)
        self.busy = running > bearable.threads_running
        self._tell(Load(running, lag))

    def _tell(self, load: Load) -> None:
        before = self._guard.trouble
        self._guard.saw(load)
        now = self._guard.trouble
        if now is not None and (before is None or before[0] != now[0]):
            self._log.info("bulk copying slows down", reason=now[1])
        elif now is None and before is not None:
            self._log.info("bulk at full speed")

    async def lag(self) -> float | None:
        """How far central is behind the servers that it follows; `unknown` then says whether that
        is known."""
        async with self._asking("load") as connection:
            return await self._lag(connection)

    async def _lag_now_and_then(self, connection: Connection) -> float | None:
        if self._clock() < self._lag_again_at:
            return None
        before, lag = self.unknown, await self._lag(connection)
        if self.unknown is not None and before is None:
            self._log.info("replica lag unknown", error=self.unknown.message, hint=PRIVILEGE)
        if lag is None:
            self._lag_again_at = self._clock() + self.FOLLOWS_AGE
        return lag

    async def _lag(self, connection: Connection) -> float | None:
        try:
            lag = replica_lag(await sources(connection))
        except TransientError:
            raise
        except DatabaseError as error:  # refused, or a server of another kind
            self.unknown = error
            return None
        self.unknown = None
        return lag
