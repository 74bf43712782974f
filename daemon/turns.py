"""Whose turn it is at an instance: one at a time, each bounded: none keeps the others out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from daemon.aio import Clock, Occupied
from daemon.errors import WppSyncError

TURN_SECONDS = 1800.0
"""Every wait within a turn is bounded, so that no turn takes nearly as long, but for one that
migrates. One that does is broken off and told."""

_GRACE_SECONDS = 30.0
"""What a turn that is broken off may take to end. Longer, and the instance is stalled."""


class Turns:
    """The turns at one instance."""

    def __init__(self, instance: str, clock: Clock, statement_timeout: float) -> None:
        self.busy = asyncio.Lock()
        """Whoever has it may use the local connection."""

        self.passes = Occupied()
        """Passes that somebody has asked for. While one is under way, the loop leaves all turns to
        it."""

        self.began_at: float | None = None
        """When the loop's turn began, in seconds of the clock; None while it waits."""

        self._name = instance
        self._clock = clock
        self._seconds = max(TURN_SECONDS, 10 * statement_timeout)
        self._limit: asyncio.Timeout | None = None

    @property
    def stalled(self) -> bool:
        """The loop's turn does not end, not even after it was broken off."""
        if self.began_at is None:
            return False
        return self._clock() - self.began_at > self._seconds + _GRACE_SECONDS

    @asynccontextmanager
    async def bounded(self) -> AsyncIterator[None]:
        """A turn, whoever takes it. Raises WppSyncError when it takes too long."""
        async with self.busy:
            try:
                async with asyncio.timeout(self._seconds) as self._limit:
                    yield
            except TimeoutError as error:
                raise WppSyncError(
                    f"{self._name}: one turn took longer than {self._seconds:,.0f} s and was"
                    " broken off",
                    hint="this is a bug in wpp-sync: please report it with the log before this"
                    " line",
                    code="hung",
                ) from error
            finally:
                self._limit = None

    def unbound(self) -> None:
        """The turn that is under way, if one is, may take any time."""
        if self._limit is not None:
            self._limit.reschedule(None)

    async def over(self, seconds: float) -> bool:
        """Wait until what was under way is done; False when it took longer than so many seconds."""
        try:
            async with asyncio.timeout(seconds), self.busy:
                return True
        except TimeoutError:
            return False
