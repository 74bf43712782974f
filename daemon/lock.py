"""The lock that makes a process an instance's only copier: GET_LOCK on the connection that writes.

A lost connection is a lost lock; nothing else has to be remembered, and nothing cleaned up.
"""

from __future__ import annotations

import asyncio
import hashlib

from daemon import db, events, sql
from daemon.aio import Clock
from daemon.db import Connection
from daemon.errors import DatabaseError, StandbyError, TransientError

_LONGEST_NAME = 64
_SAME_RUN_SECONDS = 3.0

SILENCE_SECONDS = 10
"""A daemon that is not heard of for so long has lost its locks: its host may have died without a
word. Together with a standby's pace this is below 15 s."""

VERB_SILENCE_SECONDS = 120
"""The same for a process that does one thing and ends: it has nobody who speaks while it waits for
a long statement of central's."""

_ASKED_FOR = "wpp-next."
_STOOD_BY = "wpp-wait."
_VERB = "wpp-verb."


def lock_name(database: str, prefix: str = "wpp-sync.") -> str:
    """The name of the lock that makes a process the only copier of a local database.

    GET_LOCK's names are server-wide, so the schema is in it. MySQL takes two names that differ only
    by case for one, and schemas may differ so: one with capitals is told apart by its hash.
    """
    name = f"{prefix}{database}"
    if len(name) <= _LONGEST_NAME and name == name.lower():
        return name
    return prefix + hashlib.sha256(name.encode()).hexdigest()[:40]


async def holder(connection: Connection, database: str, note: str) -> int | None:
    """The connection id on that server that holds a database's lock, if one does."""
    ((found, _me),) = await connection.fetch(sql.lock_holder(lock_name(database), note))
    return None if found is None else int(found)


class Lock:
    """The lock of one instance, as this process sees it."""

    def __init__(self, instance: str, database: str, clock: Clock) -> None:
        self.name = lock_name(database)
        self._next = lock_name(database, _ASKED_FOR)
        self._wait = lock_name(database, _STOOD_BY)
        self._verb = lock_name(database, _VERB)
        self._server = f"local {instance}"
        self._note = f"{instance} lock"
        self._database = database
        self._asking = self._waiting = False
        self._known: Connection | None = None
        self._clock = clock
        self._ours: set[int] = set()
        """Our connections that asked the running server for the lock: each may hold it still."""

        self._server_began = 0.0
        self._seen: tuple[int, str] = (0, "")
        self._log = events.logger_of(instance)

    async def take(self, connection: Connection) -> None:
        """Become the instance's only copier, or raise StandbyError."""
        if connection is not self._known:
            await self._forget_what_a_restart_ended(connection)
            self._known, self._asking, self._waiting = connection, False, False
        # Before it is asked: the answer may be lost on its way.
        self._ours.add(connection.thread_id)
        for _ in range(20):
            ((got,),) = await connection.fetch(sql.get_lock(self.name, self._note))
            if got == b"1":
                self._ours = {connection.thread_id}
                await self.ask(connection, wanted=False)  # others may ask us for it from here on
                await self.stand_by(connection, wanted=False)
                return
            held_by = await holder(connection, self._database, self._note)
            if held_by is None:
                continue  # released in between
            if held_by not in self._ours:
                self._ours.discard(connection.thread_id)
                raise StandbyError(
                    f"{self._server}: another wpp-sync holds the lock {self.name} (connection"
                    f" {held_by} of that server{await self._from_where(connection, held_by)})",
                    hint="that process copies this instance; SHOW PROCESSLIST tells where it runs",
                )
            # Our own connection of before, whose loss the server has not noticed yet.
            try:
                await connection.execute(sql.kill(held_by, self._note))
            except DatabaseError as error:
                if error.errno != db.NO_SUCH_CONNECTION:  # by now it has
                    raise
            await asyncio.sleep(0.05)
        raise TransientError(self._server, 1205, f"the lock {self.name} cannot be had")

    async def tell_verb(self, connection: Connection) -> None:
        """Be seen to be a process that does one thing and ends; before it is taken."""
        await connection.fetch(sql.get_lock(self._verb, self._note))

    async def held_by_verb(self, connection: Connection) -> bool:
        """Whether such a process has it: nobody is there any more when that has ended."""
        question = sql.are_used_locks(self.name, self._verb, self._note)
        ((holder, verb),) = await connection.fetch(question)
        return holder is not None and holder == verb

    async def ask(self, connection: Connection, *, wanted: bool) -> bool:
        """Ask whoever has the lock for it, or do so no more; whether we ask now. One daemon at a
        time can."""
        if wanted and not self._asking:
            ((got,),) = await connection.fetch(sql.get_lock(self._next, self._note))
            self._asking = got == b"1"
        elif self._asking and not wanted:
            await connection.execute(sql.release_lock(self._next, self._note))
            self._asking = False
        return self._asking

    async def stand_by(self, connection: Connection, *, wanted: bool) -> None:
        """Be seen to wait for it, or no more. One of those who wait is enough."""
        if wanted and not self._waiting:
            ((got,),) = await connection.fetch(sql.get_lock(self._wait, self._note))
            self._waiting = got == b"1"
        elif self._waiting and not wanted:
            await connection.execute(sql.release_lock(self._wait, self._note))
            self._waiting = False

    async def stood_by(self, connection: Connection) -> bool:
        """Whether another daemon waits for the lock that we have."""
        ((by,),) = await connection.fetch(sql.is_used_lock(self._wait, self._note))
        return by is not None and int(by) != connection.thread_id

    async def asked_by(self, connection: Connection) -> tuple[int | None, bool]:
        """The connection of another daemon that asks for the lock that we have, if one does; and
        whether one waits for it."""
        question = sql.are_used_locks(self._next, self._wait, self._note)
        ((asks, waits),) = await connection.fetch(question)
        me = connection.thread_id
        asked_by = None if asks is None or int(asks) == me else int(asks)
        return asked_by, waits is not None and int(waits) != me

    async def release(self, connection: Connection) -> None:
        """Give it back, so that the next one need not wait for the server to see that the
        connection is closed. Where that cannot be done any more, it happens by itself."""
        try:
            if connection.usable:
                await connection.execute(sql.release_lock(self.name, self._note))
                await self.ask(connection, wanted=False)
        except DatabaseError as error:
            self._log.debug("lock not released", error=error.message)

    async def _from_where(self, connection: Connection, held_by: int) -> str:
        """The host of the one who holds it, in words; asked once for each. Threads of the same
        account can be seen without a privilege."""
        if self._seen[0] != held_by:
            threads = await connection.fetch(sql.process_list(self._note))
            hosts = [row[2] for row in threads if int(row[0] or 0) == held_by]
            host = (hosts[0] or b"").decode(errors="replace") if hosts else ""
            self._seen = (held_by, f", from {host}" if host else "")
        return self._seen[1]

    async def _forget_what_a_restart_ended(self, connection: Connection) -> None:
        """Connection ids begin again when the server does, and ours may be somebody else's now."""
        ((_, uptime),) = await connection.fetch(sql.uptime(self._note))
        began = self._clock() - int(uptime or 0)
        if abs(began - self._server_began) >= _SAME_RUN_SECONDS:
            self._ours.clear()
        self._server_began = began
