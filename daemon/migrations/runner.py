"""Puts migrations in effect on one local database, under the instance's lock.

MySQL's DDL commits by itself, so a crash can come between a statement and its record. Each
statement is therefore looked at before it runs: what stands already is not run, and what stands
with another definition is refused. What changes rows commits together with its record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from daemon.db import Connection
from daemon.errors import DatabaseError, MigrationError, StoppedError, TransientError, WppSyncError
from daemon.migrations import drift, holders, journal
from daemon.migrations.cost import Cost, cost
from daemon.migrations.drift import Recorded, Standing
from daemon.migrations.files import Migration
from daemon.migrations.grammar import ChangeRows, understand
from daemon.migrations.journal import Applied, Journal
from daemon.migrations.shadow import Shadow, Verdict
from daemon.sql import Statement

# The closed list of refusals that mean "this is so already": table exists, column exists, index
# exists, cannot drop what is not there, foreign key exists. Where nothing could be looked at, and
# the statement was under way when the last run ended, they are believed.
ALREADY_THERE = frozenset({1050, 1060, 1061, 1091, 1826})

_LOCK_WAIT_TIMEOUT = 1205
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Doing:
    """Where a migration is: the statement that is looked at or under way."""

    migration: Migration
    statement: int
    verdict: Verdict | None = None
    """None while it is being looked at."""

    finished: bool = False
    """It is the last one, and it is in effect."""

    already_there: int = 0
    """So many of its statements stood already."""

    @property
    def words(self) -> str:
        total = len(self.migration.statements)
        return f"{self.migration.id}: statement {self.statement} of {total}"


@dataclass(frozen=True, slots=True)
class Step:
    """What a dry run says of one statement. `state`: run, stands, refused, fails or unsure."""

    migration: str
    statement: int
    text: str
    state: str
    words: str
    cost: str
    rows: int | None
    """Of the table, as the server estimates it."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What would happen to one database."""

    warnings: tuple[str, ...]
    pending: tuple[Migration, ...]
    steps: tuple[Step, ...]

    @property
    def refused(self) -> bool:
        """Whether it would stop on the way."""
        return any(step.state in {"refused", "fails"} for step in self.steps)


async def look(connection: Connection, migrations: Sequence[Migration], note: str) -> Standing:
    """How this database stands to these files. Raises MigrationError where nothing may be done."""
    applied, recorded = await record(connection, note)
    return drift.standing(migrations, [row.id for row in applied], recorded)


async def record(
    connection: Connection, note: str
) -> tuple[tuple[Applied, ...], Mapping[str, Recorded] | None]:
    """What has run here, as written down: history, and journal where there is one."""
    return await journal.history(connection, note), await journal.read(connection, note)


async def apply(
    connection: Connection,
    standing: Standing,
    *,
    version: str,
    lock_wait_timeout: float,
    note: str,
    stop: asyncio.Event,
    told: Callable[[Doing], None],
) -> None:
    """Put in effect what is pending, in order, and record it.

    `lock_wait_timeout` (s) bounds the wait for readers of a table: a DDL statement that waits makes
    every later reader wait behind it. `told` hears of each statement, before it is looked at and
    when it is known what is to be done. Raises MigrationError; TransientError when it may just be
    tried again; StoppedError between two statements when `stop` is set.
    """
    entries = await journal.read(connection, note)
    book = Journal(connection, note, version, there=entries is not None)
    await book.adopt(standing.adopted)
    if not standing.pending:
        return
    run = _Run(connection, note, standing, book, stop, told)
    await run.begin(max(1, int(lock_wait_timeout)))
    try:
        for migration in standing.pending:
            await run.one(migration)
    finally:
        if connection.usable:
            await run.end()


class _Run:
    """One run over the pending migrations of one database."""

    def __init__(
        self,
        connection: Connection,
        note: str,
        standing: Standing,
        book: Journal,
        stop: asyncio.Event,
        told: Callable[[Doing], None],
    ) -> None:
        self._connection = connection
        self._note = note
        self._standing = standing
        self._book = book
        self._stop = stop
        self._told = told
        self._shadow = Shadow(connection, f"{note} look")
        self._lock_wait_timeout = 1

    async def begin(self, lock_wait_timeout: int) -> None:
        """The session's settings for migrations."""
        self._lock_wait_timeout = lock_wait_timeout
        await self._execute(f"SET SESSION lock_wait_timeout = {lock_wait_timeout}")

    async def end(self) -> None:
        """The session's settings for copying again, whatever the statements have done to them."""
        await self._execute("SET SESSION foreign_key_checks = 1, unique_checks = 1, autocommit = 1")
        await self._connection.set_up()

    async def one(self, migration: Migration) -> None:
        begin = self._standing.begin_at(migration)
        for setting in migration.statements[: begin - 1]:
            if setting[:3].upper() == "SET":
                await self._execute(setting)
        there = 0
        total = len(migration.statements)
        for number in range(begin, total + 1):
            if self._stop.is_set():
                raise StoppedError(
                    f"{self._note}: stopped before statement {number} of {total} of {migration.id}",
                    hint="it goes on from there",
                )
            there += await self._statement(migration, number, there)
        await self._book.done(migration)
        self._told(Doing(migration, total, finished=True, already_there=there))

    async def _statement(self, migration: Migration, number: int, there: int) -> int:
        """One statement; returns 1 when what it does stood already, else 0."""
        text = migration.statements[number - 1]
        self._told(Doing(migration, number, already_there=there))
        try:
            verdict = await self._shadow.judge(text)
            in_doubt = self._standing.in_doubt(migration, number)
            if verdict.refused and not (verdict.unsure and in_doubt):
                raise _RefusedError(verdict.refused)
            if verdict.run is not None:
                self._told(Doing(migration, number, verdict, already_there=there))
                await self._do(migration, number, text, verdict)
        except (_RefusedError, DatabaseError) as error:
            raise await self._stopped(migration, number, error) from error
        if verdict.run is None:
            await self._book.reached(migration, number)
        return int(verdict.run is None)

    async def _do(self, migration: Migration, number: int, text: str, verdict: Verdict) -> None:
        assert verdict.run is not None  # noqa: S101 - the caller looked
        if isinstance(understand(text), ChangeRows):
            async with self._connection.transaction():
                await self._execute(verdict.run, migration.id)
                await self._book.reached(migration, number)
            return
        await self._book.begin(migration, number)
        try:
            await self._execute(verdict.run, migration.id)
        except DatabaseError as error:
            believed = verdict.unsure and self._standing.in_doubt(migration, number)
            if not (error.errno in ALREADY_THERE and believed):
                raise
        await self._book.reached(migration, number)

    async def _stopped(
        self, migration: Migration, number: int, error: _RefusedError | DatabaseError
    ) -> WppSyncError:
        """Write down why it goes no further, and say so."""
        total = len(migration.statements)
        so_far = (
            "nothing of it is in effect"
            if number == 1
            else "statement 1 is in effect"
            if number == 2
            else f"statements 1 to {number - 1} are in effect"
        )
        reason = error.message if isinstance(error, DatabaseError) else str(error)
        locked = isinstance(error, DatabaseError) and error.errno == _LOCK_WAIT_TIMEOUT
        if locked:
            reason += await self._who_holds(migration.statements[number - 1])
        if self._connection.usable and (locked or not isinstance(error, TransientError)):
            await self._book.failed(migration, number, reason)
        message = f"migration {migration.id} stopped at statement {number} of {total} ({so_far})"
        if isinstance(error, TransientError):
            again = TransientError(
                error.server, error.errno, f"{message}: {reason}", hint="it is tried again"
            )
            # Those who waited behind it have their turn first.
            again.retry_after = float(self._lock_wait_timeout) if locked else 0.0
            return again
        return MigrationError(
            f"{message}: {reason}",
            hint="mend the cause, then start again or run `wpp-sync migrate`: it goes on from"
            " there, and what already stands is recognised and skipped",
        )

    async def _who_holds(self, text: str) -> str:
        said = understand(text)
        return await holders.words(self._connection, getattr(said, "table", ""), self._note)

    async def _execute(self, text: str, migration: str = "") -> None:
        statement = Statement(text.replace("%", "%%"), (), f"{self._note} {migration}".strip())
        await self._connection.execute(statement, timeout=None)


class _RefusedError(Exception):
    """It stands with another definition."""


async def preview(connection: Connection, migrations: Sequence[Migration], note: str) -> Preview:
    """What `apply` would do, found out without changing anything.

    Needs the privilege CREATE TEMPORARY TABLES. Raises MigrationError where nothing may be done.
    """
    standing = await look(connection, migrations, note)
    shadow = Shadow(connection, note, keep=True)
    steps: list[Step] = []
    try:
        for migration in standing.pending:
            for number in range(standing.begin_at(migration), len(migration.statements) + 1):
                steps.append(await _foresee(connection, shadow, migration, number, note))
                if steps[-1].state in {"refused", "fails"}:
                    return Preview(standing.warnings, standing.pending, tuple(steps))
    finally:
        if connection.usable:
            await shadow.close()
    return Preview(standing.warnings, standing.pending, tuple(steps))


async def _foresee(
    connection: Connection, shadow: Shadow, migration: Migration, number: int, note: str
) -> Step:
    text = migration.statements[number - 1]
    verdict = await shadow.judge(text)
    said = understand(verdict.run or text)
    state, words = "run", "would run"
    if verdict.refused:
        state, words = "refused", f"would be refused: {verdict.refused}"
    elif verdict.run is None:
        state, words = "stands", "stands already"
    elif verdict.fails:
        state, words = "fails", f"would fail: {verdict.fails}"
    elif verdict.unsure:
        state, words = "unsure", f"would run; whether it stands already: {verdict.unsure}"
    price, rows = "", None
    if verdict.run is not None and state != "fails":
        found = cost(said, verdict.before, verdict.after, mariadb=connection.mariadb)
        price = "changes rows" if isinstance(said, ChangeRows) else found.words
        if found != Cost.INSTANT and verdict.table:
            rows = await _row_estimate(connection, verdict.table, note)
    return Step(migration.id, number, verdict.run or text, state, words, price, rows)


async def _row_estimate(connection: Connection, table: str, note: str) -> int | None:
    rows = await connection.fetch(
        Statement(
            "SELECT TABLE_ROWS FROM information_schema.TABLES"
            " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s AND TABLE_TYPE = 'BASE TABLE'",
            (table,),
            note,
        )
    )
    return None if not rows or rows[0][0] is None else int(rows[0][0])


def shown(statement: str) -> str:
    """The beginning of a statement, on one line."""
    line = " ".join(statement.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
