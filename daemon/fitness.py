"""Whether this process does well by an instance, or had better leave it to another daemon."""

from __future__ import annotations

from daemon import events
from daemon.aio import Clock
from daemon.central import Central
from daemon.db import Connection
from daemon.errors import DatabaseError, TransientError, WppSyncError
from daemon.migrator import Migrator

CENTRAL_PATIENCE_SECONDS = 15.0
"""A daemon that cannot read central for so long lets go of the instance: another host may."""

_UNFIT_SECONDS = 600.0
"""So long a daemon does not ask for an instance that it has failed with."""


class Fitness:
    """How this process has done by one instance."""

    def __init__(self, instance: str, central: Central, migrator: Migrator, clock: Clock) -> None:
        self._central = central
        self._migrator = migrator
        self._clock = clock
        self._unfit_until = self._central_failed_at = float("-inf")
        self._log = events.logger_of(instance)

    @property
    def central_fails(self) -> bool:
        """Central could not be read, as last tried."""
        return self._central_failed_at != float("-inf")

    def central_answers(self) -> None:
        """Whatever it was is over."""
        self._central_failed_at = float("-inf")

    async def gives_up(self, error: WppSyncError, began_at: float | None) -> bool:
        """Whether another host may do better than this one, after an error of a turn that began
        then (in seconds of the clock)."""
        if not (isinstance(error, DatabaseError) and error.server == "central"):
            self.central_answers()
            if not isinstance(error, TransientError):
                self._unfit_until = self._clock() + _UNFIT_SECONDS
            return False
        if not self.central_fails:
            self._central_failed_at = began_at or self._clock()
        if self._clock() - self._central_failed_at < CENTRAL_PATIENCE_SECONDS:
            return False
        try:
            await self._central.alive()  # it may be one heavy statement alone
        except DatabaseError:
            return True
        return False

    async def fit(self, connection: Connection) -> bool:
        """Whether this process could copy the instance, as far as can be told without its lock."""
        if self._clock() < self._unfit_until:
            return False
        try:
            await self._central.alive()
            await self._migrator.look(connection)
        except WppSyncError as error:
            self._log.debug("not asked for", reason=error.message)
            return False
        return True
