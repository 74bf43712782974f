"""Rows into a local table so that no row ever gets another one's values, and none is cut.

Central has the same unique keys, so a local row that holds a new row's key is stale: central has
deleted it or has given it another value since. The stale rows and the new ones are read again from
central in one statement (one moment, so they cannot contradict each other), the stale ones are
deleted, and all are inserted, within the caller's transaction: readers see all of it or nothing.
Local foreign keys act on a row that central no longer has, not on one that comes back at once.

A row that the table refuses for its own values is found by halving, and returned for the
quarantine; the others go in. A statement that fails changes nothing (InnoDB rolls the statement
back, MySQL manual, "InnoDB Error Handling"), so that needs no savepoint.

A row that the table would change without refusing it is refused by us. Where the plan has columns
that can do that, and a row has a value that is in doubt, the rows are written behind a savepoint
and read back; if one does not stand as it was sent, all that was written is undone, and the others
are written again without it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from daemon import local, sql
from daemon.central import Central
from daemon.db import DUPLICATE_KEY, Answers, Connection
from daemon.errors import CollisionError, RowError, TransientError
from daemon.schema import Plan
from daemon.sql import Key, Row
from daemon.sync.quarantine import Refusal, Strikes

# A batch that collides is halved until the part that does is this small: what is read again to
# resolve it stays small, too.
_RESOLVE_ROWS = 32
# Chains of keys that moved on are followed up to so many rows, and bytes.
_RESOLVE_MOST = 5_000
_RESOLVE_BYTES = 256 << 20

WOULD_CHANGE = 1265
"""The error number of a row that we refuse ourselves: the servers' own for "data truncated"."""


class _ChangedError(Exception):
    """Rows do not stand as they were sent; what was written is to be undone."""

    def __init__(self, problems: Mapping[Key, str]) -> None:
        super().__init__(f"{len(problems)} rows")
        self.problems = problems


@dataclass(slots=True)
class Writer:
    """Writes one entity's rows, always inside the caller's transaction."""

    connection: Connection
    central: Central
    plan: Plan
    instance: str
    strikes: Strikes
    resolved: int = 0
    """How often rows were read again to resolve a collision: what was read before is older."""

    touched: set[Key] = field(default_factory=set)
    """The rows that a collision has brought in or removed beside those that were to be written;
    emptied by whoever has read it."""

    _fresh: set[Key] = field(default_factory=set)
    """The rows that a collision has brought to what central has had since the batch was read."""

    @property
    def _note(self) -> str:
        return f"{self.instance} {self.plan.entity.name}"

    def attempt(self, rows: Sequence[Row]) -> bytes | None:
        """The one statement that writes these rows, where one does: then it may be sent with others
        before it, and `write` be told what the server says to it."""
        if not rows or self._doubtful(rows):
            return None
        return local.upsert_at_once(self.connection, self.plan, rows, self._note)

    def insert(self, rows: Sequence[Row]) -> bytes | None:
        """The one statement that inserts these rows, where one does and nothing has to be looked at
        afterwards. It is refused where a row stands there already."""
        if self._doubtful(rows):
            return None
        return local.insert_at_once(self.connection, self.plan, rows, self._note)

    async def write(self, rows: Sequence[Row], answers: Answers | None = None) -> list[Refusal]:
        """Upsert the rows of one transaction; returns those that the table refuses. `answers`: to
        `attempt` and what was sent behind it; nothing where that was not sent.

        Raises SchemaError when it refuses all, DatabaseError for a server's trouble.
        """
        self._fresh.clear()
        with self.strikes.batch(self.plan.entity.name):
            return await self._write(rows, answers)

    async def _write(self, rows: Sequence[Row], answers: Answers | None = None) -> list[Refusal]:
        if self._fresh:  # what the batch holds of them is older
            rows = [row for row in rows if self.plan.key(row) not in self._fresh]
            if not rows:
                return []
        try:
            await self._upsert(rows, answers)
            return []
        except _ChangedError as error:
            refusals, rest = self._part(rows, error.problems)
            return refusals + (await self._write(rest) if rest else [])
        except CollisionError:
            collided = True
        except RowError as error:
            collided = error.errno in DUPLICATE_KEY
            if not collided and len(rows) == 1:
                return [self._refuse(rows[0], error)]
        if collided and len(rows) <= _RESOLVE_ROWS:
            return await self._resolve(rows)
        middle = len(rows) // 2
        return await self._write(rows[:middle]) + await self._write(rows[middle:])

    def _doubtful(self, rows: Sequence[Row]) -> list[Row]:
        """Those that have to be looked at when they are written."""
        checks = self.plan.checks
        return [row for row in rows if any(c.in_doubt(row) for c in checks)] if checks else []

    async def _upsert(self, rows: Sequence[Row], answers: Answers | None = None) -> None:
        """Raises _ChangedError, and nothing is written, when rows would not stand as sent."""
        if answers is not None and not answers.rows and answers.refusal is not None:
            raise answers.refusal
        if answers is not None and answers.rows:
            pass  # the server has taken them
        elif doubtful := self._doubtful(rows):
            await self._upsert_and_look(rows, doubtful)
        else:
            await local.upsert(self.connection, self.plan, rows, self._note)
        self.strikes.taken()

    async def _upsert_and_look(self, rows: Sequence[Row], doubtful: Sequence[Row]) -> None:
        # A refusal has to undo everything, too: several statements may have been sent, and what
        # the first of them wrote has not been looked at yet.
        async with self.connection.savepoint():
            await local.upsert(self.connection, self.plan, rows, self._note)
            problems = await local.changed(self.connection, self.plan, doubtful, self._note)
            if problems:
                raise _ChangedError(problems)

    def _part(
        self, rows: Sequence[Row], problems: Mapping[Key, str]
    ) -> tuple[list[Refusal], list[Row]]:
        """The refusals of the rows that would be changed, and the other rows."""
        refusals: list[Refusal] = []
        rest: list[Row] = []
        for row in rows:
            problem = problems.get(self.plan.key(row))
            if problem is None:
                rest.append(row)
                self.strikes.taken()  # as if they had been written one by one
            else:
                error = RowError(self.connection.name, WOULD_CHANGE, problem)
                refusals.append(self._refuse(row, error))
        return refusals, rest

    def _refuse(self, row: Row, error: RowError | CollisionError) -> Refusal:
        errno, message = error.errno, error.message
        if isinstance(error, CollisionError):
            errno, message = 1062, "another row of the local table holds its unique key"
        refusal = Refusal(self.plan.key(row), errno, message)
        self.strikes.refused(self.plan.entity.name, refusal)
        return refusal

    async def _resolve(self, rows: Sequence[Row]) -> list[Refusal]:
        """Make way for rows whose unique keys stale rows hold."""
        self.resolved += 1
        keys = {self.plan.key(row) for row in rows}
        news: Sequence[Row] = rows
        while True:
            # Follow the keys that stale rows have been given since: a chain, a row a round.
            while news and (stale := await self._holders(news) - keys):
                keys |= stale
                news = await self._read(stale)
            # All of them again in one statement. Central may have gone on meanwhile.
            fresh = await self._read(keys)
            stale = await self._holders(fresh) - keys
            if not stale:
                break
            news = fresh
        note = f"{self._note} collision"
        still_there = {self.plan.key(row) for row in fresh}
        self.touched |= keys
        try:
            await local.delete(
                self.connection, self.plan, sorted(keys - still_there, key=sql.parts), note
            )
        except RowError as error:  # other local rows refer to what is to go
            if len(rows) == 1:
                return [self._refuse(rows[0], error)]
            middle = len(rows) // 2
            return await self._resolve(rows[:middle]) + await self._resolve(rows[middle:])
        await local.lift(self.connection, self.plan, sorted(still_there, key=sql.parts), note)
        refusals = await self._insert(fresh)
        self._fresh |= keys
        return refusals

    async def _holders(self, rows: Sequence[Row]) -> frozenset[Key]:
        note = f"{self._note} collision"
        return await local.holders(self.connection, self.plan, rows, note)

    async def _read(self, keys: Collection[Key]) -> list[Row]:
        """These rows as central has them at one moment. Raises TransientError beyond a bound."""
        name = self.plan.entity.name
        if len(keys) > _RESOLVE_MOST:
            raise TransientError(
                self.connection.name, 1206, f"{name}: more than {_RESOLVE_MOST:,} rows collide"
            )
        rows, whole = await self.central.rows(
            self.plan, self.instance, sorted(keys, key=sql.parts), _RESOLVE_BYTES
        )
        if not whole:
            raise TransientError(
                self.connection.name, 1206, f"{name}: colliding rows exceed 256 MiB"
            )
        return rows

    async def _insert(self, rows: Sequence[Row]) -> list[Refusal]:
        """Rows for which the way is free: what still collides is refused. (The local table's keys
        are stricter than central's, by a collation, say.)"""
        if not rows:
            return []
        try:
            await self._upsert(rows)
            return []
        except _ChangedError as error:
            refusals, rest = self._part(rows, error.problems)
            return refusals + await self._insert(rest)
        except (CollisionError, RowError) as error:
            if len(rows) == 1:
                return [self._refuse(rows[0], error)]
        middle = len(rows) // 2
        return await self._insert(rows[:middle]) + await self._insert(rows[middle:])
