"""What was done to one local database: `wpp_sync_migrations`, and beside it the journal.

The journal says before and after each statement how far a migration came, because MySQL's DDL
commits by itself. Both tables come into being with the first migration, which alone is run without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

from daemon.db import Connection
from daemon.errors import MissingError
from daemon.migrations.drift import Recorded, reached
from daemon.migrations.files import Migration
from daemon.sql import Row, Statement

JournalState = Literal["ready", "running", "failed", "done"]

_LONGEST_ERROR = 2000


@dataclass(frozen=True, slots=True)
class Applied:
    """A row of wpp_sync_migrations. `executed_at` is UTC, `YYYY-MM-DD HH:MM:SS`."""

    id: str
    description: str
    executed_at: str


async def history(connection: Connection, note: str) -> tuple[Applied, ...]:
    """What has run here, in order of ids; nothing when the table is not there yet."""
    try:
        rows = await connection.fetch(
            Statement(
                "SELECT id, description, executed_at FROM wpp_sync_migrations ORDER BY id", (), note
            )
        )
    except MissingError:
        return ()  # the first migration creates it
    return _history(tuple(rows))


async def read(connection: Connection, note: str) -> Mapping[str, Recorded] | None:
    """The journal by migration; None when there is none yet."""
    try:
        rows = await connection.fetch(
            Statement(
                "SELECT id, origin, checksum, statement, statements, reached, state, started_at,"
                " finished_at, error, version FROM wpp_sync_migration_journal ORDER BY id",
                (),
                note,
            )
        )
    except MissingError:
        return None
    return _journal(tuple(rows))


# A thousand databases say the same, but for the times: each row is kept once, and so is the whole
# of what many say.


@lru_cache(maxsize=64)
def _history(rows: tuple[Row, ...]) -> tuple[Applied, ...]:
    return tuple(_applied(*map(_text, row)) for row in rows)


@lru_cache(maxsize=64)
def _journal(rows: tuple[Row, ...]) -> Mapping[str, Recorded]:
    found: dict[str, Recorded] = {}
    for row in rows:
        id_, origin, checksum, statement, statements, *rest = map(_text, row)
        found[id_] = _recorded(id_, origin, checksum, int(statement), int(statements), *rest)
    return MappingProxyType(found)


_applied = lru_cache(maxsize=1024)(Applied)
_recorded = lru_cache(maxsize=1024)(Recorded)


@lru_cache(maxsize=4096)
def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


class Journal:
    """Writes the journal of one instance."""

    def __init__(self, connection: Connection, note: str, version: str, *, there: bool) -> None:
        self._connection = connection
        self._note = note
        self._version = version
        self._there = there

    async def begin(self, migration: Migration, statement: int) -> None:
        """The statement of that number is about to run: if no more is heard, it may have."""
        await self._write(migration, statement - 1, "running")

    async def reached(self, migration: Migration, statement: int) -> None:
        """The statements up to that number are in effect."""
        await self._write(migration, statement, "ready")

    async def failed(self, migration: Migration, statement: int, error: str) -> None:
        """The server refused the statement of that number: it is not in effect."""
        await self._write(migration, statement - 1, "failed", error[:_LONGEST_ERROR])

    async def done(self, migration: Migration) -> None:
        """The whole migration is in effect: the record that others read, and ours, together."""
        async with self._connection.transaction():
            await self._connection.execute(
                Statement(
                    "INSERT INTO wpp_sync_migrations (id, description) VALUES (%s, %s)"
                    " ON DUPLICATE KEY UPDATE description = VALUES(description)",
                    (migration.id, migration.description),
                    self._note,
                )
            )
            await self._write(migration, len(migration.statements), "done")

    async def adopt(self, migrations: Sequence[Migration]) -> None:
        """Remember what these look like: they ran before there was a journal."""
        for migration in migrations:
            await self._write(migration, len(migration.statements), "done", version="")

    async def _write(
        self,
        migration: Migration,
        statement: int,
        state: JournalState,
        error: str | None = None,
        version: str | None = None,
    ) -> None:
        if not self._there:
            self._there = await read(self._connection, self._note) is not None
            if not self._there:
                return
        finished = "CURRENT_TIMESTAMP" if state == "done" and version is None else "NULL"
        await self._connection.execute(
            Statement(
                "INSERT INTO wpp_sync_migration_journal (id, origin, checksum, statement,"
                " statements, reached, state, finished_at, error, version)"
                f" VALUES (%s, %s, %s, %s, %s, %s, %s, {finished}, %s, %s)"
                " ON DUPLICATE KEY UPDATE origin = VALUES(origin), checksum = VALUES(checksum),"
                " statement = VALUES(statement), statements = VALUES(statements),"
                " reached = VALUES(reached), state = VALUES(state),"
                " finished_at = VALUES(finished_at), error = VALUES(error),"
                " version = VALUES(version)",
                (
                    migration.id,
                    migration.origin,
                    migration.checksum,
                    statement,
                    len(migration.statements),
                    reached(migration, statement),
                    state,
                    error,
                    self._version if version is None else version,
                ),
                self._note,
            )
        )
