"""This process's hold on one instance: the local connection that writes, with the lock on it.

While another daemon has the lock, a connection stands by and asks for it again and again. Nothing
is held that is not on the connection: when it is lost, the lock is, and all begins again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from daemon import config, db, events, hosts
from daemon.aio import Bell, Clock, wait_first
from daemon.db import Connection
from daemon.errors import DatabaseError, StandbyError
from daemon.hosts import Copier, Seats
from daemon.lock import SILENCE_SECONDS, VERB_SILENCE_SECONDS, Lock

_KEEP_SECONDS = 4.0
"""So often at least the server hears of whoever has the lock."""

_ASKING_AT_ONCE = 40
"""While no other daemon is about, so many of the instances that have much to do look for one in
that time: that is enough to see it, and then all of them look."""

_TELL_SECONDS = 2.0
"""So often, at the most, is written how many instances this daemon copies."""

_SLOW_SECONDS = 30.0
"""So long an instance is not given again to a daemon that did not take it."""

Fit = Callable[[Connection], Awaitable[bool]]
"""Whether this daemon could copy the instance, were it given it."""


class Hold:
    """The connection and the lock of one instance."""

    def __init__(self, settings: config.Instance, seats: Seats, clock: Clock, *, fit: Fit) -> None:
        self.connection: Connection | None = None
        """The one that carries the lock."""

        self.copier: Copier | None = None
        """Who copies the instance while this process stands by, as he has written it."""

        self.asked_for = False
        """Another daemon asks for the instance, and should have it."""

        self._settings = settings
        self._server = f"local {settings.name}"
        self._note = f"{settings.name} copier"
        self._seats = seats
        self._clock = clock
        self._lock = Lock(settings.name, settings.database, clock)
        self._waiting: Connection | None = None
        self._fit = fit
        self._told_at, self._told = float("-inf"), 0
        self._asked_with: int | None = None
        """So many instances this daemon copied when it last wrote that it asks for this one."""

        self._given_to: int | None = None
        self._did_not_come: tuple[int | None, float] = (None, 0.0)
        """Connections of daemons that asked for it: the one that it was given to, and one that was
        given it and did not take it. A frozen daemon asks until its lock is lost."""

        self.was_ours = False
        """Nobody else has copied the instance since this process did, as seen when it was taken."""

        self._not_alone_until = float("-inf")
        self._looked_at = clock()
        """When it was last looked who asks for the lock."""

        self._resting = False
        self._taken = Bell()
        """There is a connection to be kept."""

        self._log = events.logger_of(settings.name)

    @property
    def usable(self) -> bool:
        """This process has the lock."""
        return self.connection is not None and self.connection.usable

    async def take(self, *, daemon: bool) -> Connection:
        """The connection, with the lock on it. Raises StandbyError, DatabaseError.

        `daemon`: not a process that does one thing and ends, so that it is one of several that
        share the instances.
        """
        if self.connection is not None and self.connection.usable:
            return self.connection
        self.connection = None
        connection = await self._standing_by(daemon=daemon)
        try:
            if not daemon:
                await self._lock.tell_verb(connection)
            await self._lock.take(connection)
        except StandbyError as standby:
            self._given_to = None
            if not await self._lock.held_by_verb(connection):
                self._seats.saw_another()
            self.copier = await hosts.read(connection, self._note)
            self._resting = False
            await self._ask_for_it(connection, daemon=daemon)
            raise self._by_name(standby) from None
        except BaseException:
            await self.release()
            raise
        self.connection, self._waiting = connection, None
        self._resting = False
        self._taken.set()
        if daemon and not self._seats.take(self._settings.name):
            raise await self._no_room()  # another one has had the last place meanwhile
        if daemon:
            await self._see_who_was_here(connection)
        self._did_not_come = (self._given_to, self._clock())
        self._given_to = self.copier = self._asked_with = None
        self.asked_for = False
        return connection

    async def another(self) -> Connection:
        """A further connection, to write beside the one with the lock, and silent no longer than
        that. Raises DatabaseError."""
        return await db.connect(
            self._settings, self._server, "local", longest_silence=SILENCE_SECONDS
        )

    async def _see_who_was_here(self, connection: Connection) -> None:
        self.was_ours = False
        before = await hosts.read(connection, self._note)
        self.was_ours = hosts.is_us(before)
        if hosts.may_be_there(before):
            self._not_alone_until = self._clock() + hosts.ALONE_SECONDS

    async def _standing_by(self, *, daemon: bool) -> Connection:
        """A connection that may ask for the lock. Raises StandbyError when this daemon has enough
        to do."""
        if not self._resting:
            self._seats.lose(self._settings.name)
        if daemon and not self._seats.room(self._settings.name):
            raise await self._no_room()
        if self._waiting is None or not self._waiting.usable:
            self._seats.forgo(self._settings.name)
            # Also while it stands by: who asks for an instance and dies must not be given it.
            seconds = SILENCE_SECONDS if daemon else VERB_SILENCE_SECONDS
            self._waiting = await db.connect(
                self._settings, self._server, "local", longest_silence=seconds
            )
            self._asked_with = None
        return self._waiting

    async def _no_room(self) -> StandbyError:
        self.copier = None
        await self.release()
        return StandbyError(
            f"{self._settings.name}: this daemon copies {self._seats.taken} instances already, its"
            " sync.max_instances",
            hint="another daemon with this configuration copies it, or none",
        )

    async def _ask_for_it(self, connection: Connection, *, daemon: bool) -> None:
        """Ask the daemon that has the lock for it, where it has many and this one has few."""
        if not daemon:
            await self.release()
            return
        await self._lock.stand_by(connection, wanted=True)
        name, theirs = self._settings.name, 0 if self.copier is None else self.copier.instances
        wanted = self._seats.wish(name, theirs)
        if wanted and self._asked_with is None and not await self._fit(connection):
            wanted = False
        if not await self._lock.ask(connection, wanted=wanted):
            self._seats.forgo(name)
            self._asked_with = None
        elif self._asked_with != self._seats.taken:
            self._asked_with = self._seats.taken
            await hosts.write_asker(connection, self._seats, self._note)

    def _by_name(self, standby: StandbyError) -> StandbyError:
        """The refusal, with what whoever copies it has written of himself. One that has the lock
        and has not opened the instance yet, or is paused, has written nothing: hence "last"."""
        if (who := self.copier) is None:
            return standby
        return StandbyError(
            f"{standby.message}; the last to copy it: pid {who.pid} on host {who.host},"
            f" version {who.version}, since {who.since} UTC",
            hint=standby.hint,
        )

    async def tell_who_copies(self, connection: Connection, *, now: bool = False) -> None:
        """So that other daemons know who it is, and how many instances he has."""
        due = self._seats.taken != self._told and self._clock() - self._told_at >= _TELL_SECONDS
        if now or due:
            self._told_at, self._told = self._clock(), self._seats.taken
            await hosts.write(connection, self._seats, self._note)

    async def keep(
        self, stop: asyncio.Event, wake: asyncio.Event, *, busy: Callable[[], bool]
    ) -> None:
        """Keep the lock, whatever the instance waits for, and see who asks for it, until `stop`.

        Not handed over while it is `busy`.
        """
        # Those of all instances spread over the interval.
        pause = _KEEP_SECONDS * random.random()  # noqa: S311 - nothing secret depends on it
        while not await wait_first(pause, stop):
            if not await wait_first(None, self._taken, stop) or stop.is_set():
                return
            connection, pause = self.connection, _KEEP_SECONDS
            if connection is None or not connection.usable:
                continue
            if self._others_look():
                silent = self._clock() - connection.used_at
                if silent < _KEEP_SECONDS:
                    pause -= silent  # who copies all the time need not be kept
                    continue
            self._looked_at = self._clock()
            try:
                by, stood_by = await self._lock.asked_by(connection)
                if stood_by:
                    self._seats.saw_another()
                if by is None or self._did_not_come_lately(by) or busy():
                    continue
                asker = await hosts.read_asker(connection, self._note)
            except DatabaseError as error:
                # Whoever uses the connection next is told, too, and knows what to do.
                self._log.debug("lock not kept", error=error.message)
                continue
            if asker is not None and self._seats.give(asker):
                self.asked_for, self._given_to = True, by
                wake.set()

    def _others_look(self) -> bool:
        """Others of ours look whether another daemon is about."""
        now = self._clock()
        if not self._seats.alone or now < self._not_alone_until:
            return False
        busy = db.open_connections()["local"]  # those at rest do not look
        return now - self._looked_at < _KEEP_SECONDS * busy / _ASKING_AT_ONCE

    def _did_not_come_lately(self, who: int) -> bool:
        known, at = self._did_not_come
        return who == known and self._clock() - at < _SLOW_SECONDS

    async def rest(self, connection: Connection) -> bool:
        """Close the connection, and with it the lock, but stay who copies the instance; unless
        another daemon is about, which would take it."""
        if not self._seats.alone or self._clock() < self._not_alone_until:
            return False
        if await self._lock.stood_by(connection):
            self._seats.saw_another()
            return False
        self.connection, self._resting = None, True
        self._taken.clear()
        try:
            await self._lock.release(connection)
        finally:
            await connection.close()
        return True

    def abandon(self) -> None:
        """Give it back without a word: the server sees that the connection is gone."""
        held, self.connection = self.connection, None
        waiting, self._waiting = self._waiting, None
        self._seats.leave(self._settings.name)
        self.asked_for = self._resting = False
        self._taken.clear()
        for connection in (held, waiting):
            if connection is not None:
                connection.discard()

    async def release(self) -> None:
        """Give the lock back, if we have it, and ask for it no more."""
        held, self.connection = self.connection, None
        waiting, self._waiting = self._waiting, None
        self._seats.leave(self._settings.name)
        self.asked_for = self._resting = False
        self._taken.clear()
        try:
            if held is not None:
                await self._lock.release(held)
        finally:
            for connection in (held, waiting):
                if connection is not None:
                    await connection.close()
