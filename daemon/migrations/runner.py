"""Puts migrations in effect on one local database, under the instance's lock.

MySQL's DDL commits by itself, so a crash can come between a statement and its record. A migration
is recorded when all of it is in effect; one that was interrupted runs again from its first
statement, and what already stands is recognised by the server's error number and skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from daemon.db import Connection
from daemon.errors import DatabaseError, MigrationError, MissingError, TransientError
from daemon.migrations.files import Migration
from daemon.sql import Statement

# The closed list of refusals that mean "this is so already": table exists, column exists, index
# exists, cannot drop what is not there, foreign key exists.
ALREADY_THERE = frozenset({1050, 1060, 1061, 1091, 1826})


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
    return tuple(
        Applied(*((value or b"").decode("utf-8", "replace") for value in row)) for row in rows
    )


async def apply(
    connection: Connection,
    migrations: Sequence[Migration],
    *,
    lock_wait_timeout: float,
    note: str,
    on_start: Callable[[Migration], None],
    on_done: Callable[[Migration, int], None],
) -> None:
    """Run what has not run here yet, in order, and record it. `on_done` is told how many of its
    statements were skipped because what they do stood already.

    `lock_wait_timeout` (s) bounds the wait for readers of a table: a DDL statement that waits makes
    every later reader wait behind it. Raises MigrationError, or TransientError when it may just be
    tried again.
    """
    applied = {row.id for row in await history(connection, note)}
    pending = [migration for migration in migrations if migration.id not in applied]
    if not pending:
        return
    await connection.execute(
        Statement("SET SESSION lock_wait_timeout = %s", (max(1, int(lock_wait_timeout)),), note)
    )
    for migration in pending:
        on_start(migration)
        skipped = 0
        for number, statement in enumerate(migration.statements, 1):
            skipped += await _run(connection, migration, number, statement, note)
        await connection.execute(
            Statement(
                "INSERT INTO wpp_sync_migrations (id, description) VALUES (%s, %s)"
                " ON DUPLICATE KEY UPDATE description = VALUES(description)",
                (migration.id, migration.description),
                note,
            )
        )
        on_done(migration, skipped)


async def _run(
    connection: Connection, migration: Migration, number: int, statement: str, note: str
) -> int:
    """One statement; returns 1 when what it does stands already, else 0."""
    text = Statement(statement.replace("%", "%%"), (), f"{note} {migration.id}")
    try:
        await connection.execute(text, timeout=None)
    except DatabaseError as error:
        if error.errno in ALREADY_THERE:
            return 1
        total = len(migration.statements)
        before = (
            "nothing of it is in effect"
            if number == 1
            else "statement 1 is in effect"
            if number == 2
            else f"statements 1 to {number - 1} are in effect"
        )
        message = f"migration {migration.id} stopped at statement {number} of {total} ({before})"
        if isinstance(error, TransientError):
            raise TransientError(
                error.server, error.errno, f"{message}: {error.message}", hint="it is tried again"
            ) from error
        raise MigrationError(
            f"{message}: {error.message}",
            hint="mend the cause, then start again or run `wpp-sync sync`: it goes on from there,"
            " and what already stands is recognised and skipped",
        ) from error
    return 0
