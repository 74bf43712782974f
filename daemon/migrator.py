"""One instance's migrations: what has run, what is pending, and where the one that runs is.

`daemon.migrations` does the work on a connection; this knows the instance that it is done for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from daemon import events, schema
from daemon.aio import Courtesy
from daemon.db import Connection
from daemon.metrics import Metrics
from daemon.migrations import drift, runner
from daemon.migrations.drift import Recorded, Standing
from daemon.migrations.files import Catalogue
from daemon.migrations.journal import Applied
from daemon.migrations.runner import Doing, Preview
from daemon.sql import Statement

_REMIND_SECONDS = 30.0
"""So often a statement that takes its time is logged."""


@dataclass(frozen=True, slots=True)
class Migrating:
    """What migrations rest on, for all instances of a process."""

    catalogue: Catalogue
    places: Courtesy
    """For changing a database: many of them lie on one server."""

    lock_wait_timeout: float
    """Seconds."""

    version: str
    """The daemon's."""


class Migrator:
    """The migrations of one instance."""

    def __init__(self, instance: str, shared: Migrating, metrics: Metrics) -> None:
        self.history: tuple[Applied, ...] | None = None
        """What has run here; None: not known yet."""

        self.journal: Mapping[str, Recorded] = {}
        self.warnings: tuple[str, ...] = ()
        """What is odd about the history of this database."""

        self.doing: Doing | None = None
        """The migration that is under way."""

        self.ran: list[str] = []
        """The ids of what has run in this process."""

        self._name = instance
        self._note = f"{instance} migrate"
        self._shared = shared
        self._metrics = metrics
        self._log = events.logger_of(instance)
        self._reminder: asyncio.TimerHandle | None = None

    @property
    def pending(self) -> list[str] | None:
        """The ids of what is not in effect yet, as last known; None: not known yet."""
        if self.history is None:
            return None
        done = {row.id for row in self.history}
        return [m.id for m in self._shared.catalogue.migrations if m.id not in done]

    def forget_what_ran(self) -> None:
        """`ran` is empty from here on."""
        self.ran = []

    def forget(self) -> None:
        """Another process may change the database from here on."""
        self.history, self.journal, self.warnings = None, {}, ()

    async def read(self, connection: Connection) -> None:
        """Know what stands written in the database. Raises DatabaseError."""
        self.history, self.journal = await self.recorded(connection)

    async def recorded(
        self, connection: Connection
    ) -> tuple[tuple[Applied, ...], Mapping[str, Recorded]]:
        """What stands written in the database: history and journal. Raises DatabaseError."""
        history, journal = await runner.record(connection, self._note)
        return history, journal or {}

    async def look(self, connection: Connection) -> Standing:
        """How the database stands to the files. Raises MigrationError where nothing may be done."""
        standing = await runner.look(connection, self._shared.catalogue.migrations, self._note)
        self.warnings = standing.warnings
        return standing

    async def foresee(self, connection: Connection) -> Preview:
        """What `migrate` would do; changes nothing. The connection's session is used up by it."""
        return await runner.preview(connection, self._shared.catalogue.migrations, self._note)

    async def migrate(
        self, connection: Connection, stop: asyncio.Event, began: Callable[[], None]
    ) -> None:
        """Put in effect what is pending; `began` is called when there is something to do.

        The connection holds the instance's lock. Raises MigrationError, DatabaseError,
        StoppedError.
        """
        warned = set(self.warnings)
        history, journal = await runner.record(connection, self._note)
        files = self._shared.catalogue.migrations
        standing = drift.standing(files, [row.id for row in history], journal)
        self.warnings = standing.warnings
        for warning in standing.warnings:
            if warning not in warned:
                self._log.warning("odd migrations", problem=warning)
        if not standing.pending and not standing.adopted:
            self.history, self.journal = history, journal or {}
            return
        if standing.pending:
            began()  # also while it waits for its turn
        async with self._shared.places.place():
            await self._apply(connection, standing, stop)
        await self.read(connection)

    async def create_ahead(self, connection: Connection, migration: str) -> None:
        """Create the tables of one migration before its turn, which then finds them as they are to
        be, and records it. Whoever else does the same at this moment does no harm, so that no lock
        is needed. Raises DatabaseError."""
        (found,) = (each for each in self._shared.catalogue.migrations if each.id == migration)
        for statement in found.statements:  # CREATE TABLE IF NOT EXISTS, all of them
            await connection.execute(Statement(statement, (), self._note))

    async def refuse_tables_without_transactions(self, connection: Connection) -> None:
        """Raise SchemaError where what the daemon writes down would not be rolled back."""
        ours = ("wpp_sync_state", "wpp_sync_quarantine")
        engines = await schema.engines(connection, ours, f"{self._name} schema")
        for name in ours:
            if name in engines:
                schema.refuse_without_transactions(name, engines[name])

    async def _apply(self, connection: Connection, standing: Standing, stop: asyncio.Event) -> None:
        try:
            await runner.apply(
                connection,
                standing,
                version=self._shared.version,
                lock_wait_timeout=self._shared.lock_wait_timeout,
                note=self._note,
                stop=stop,
                told=self._told,
            )
        finally:
            self.doing = None
            self._remind_no_more()

    def _told(self, doing: Doing) -> None:
        """Where the one that runs is."""
        self._remind_no_more()
        migration, total = doing.migration, len(doing.migration.statements)
        if self.doing is None or self.doing.migration is not migration:
            self._log.info("migrating", migration=migration.id, statements=total)
        self.doing = doing
        if doing.finished:
            self.ran.append(migration.id)
            self._metrics.migrations_applied.labels(self._name).inc()
            self._log.info(
                "migration applied", migration=migration.id, statements=total,
                already_there=doing.already_there,
            )  # fmt: skip
        elif doing.verdict is not None:
            self._remind(doing, 0.0)

    def _remind(self, doing: Doing, seconds: float) -> None:
        """Log a statement when it begins, and then every so often while it runs."""
        which = {
            "migration": doing.migration.id,
            "statement": doing.statement,
            "of": len(doing.migration.statements),
        }
        if seconds:
            self._log.info("statement runs", **which, seconds=round(seconds))
        else:
            self._log.debug("statement begins", **which)
        loop = asyncio.get_running_loop()
        later = seconds + _REMIND_SECONDS
        self._reminder = loop.call_later(_REMIND_SECONDS, self._remind, doing, later)

    def _remind_no_more(self) -> None:
        if self._reminder is not None:
            self._reminder.cancel()
            self._reminder = None
