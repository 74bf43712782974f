"""The shared reader of the central database. SELECT only, and as little of it as can be.

However many instances ask for the same thing at the same time, it is asked once: a table's head is
probed by whoever comes first, and the answer serves all who come within `HEAD_AGE`. Connections are
bounded by the pool; every statement is bounded in time by the server and in size by the caller.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from daemon import db, evidence, schema, sql
from daemon.aio import Clock
from daemon.db import Connection, Pool
from daemon.errors import DatabaseError
from daemon.evidence import Validity
from daemon.metrics import Metrics
from daemon.schema import Plan, Table
from daemon.settle import Head, Rule, Settling, Writers
from daemon.sql import Row, Statement

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page:
    """What one bounded read brought: rows in key order, and up to which id it has looked."""

    rows: tuple[Row, ...]
    after: int
    end: int
    """All ids in (after, end] have been looked at; never more than was scanned."""

    size: int
    full: bool
    """The read ended at a limit of rows or bytes: there may be more up to where it was asked."""

    seconds: float


class _Shared:
    """What is known of one central table."""

    def __init__(self, rule: Rule) -> None:
        self.lock = asyncio.Lock()
        self.settling = Settling(rule)
        self.looked_at = float("-inf")
        self.looking = False
        self.unfinished = False
        self.head: Head | None = None
        self.failed: tuple[float, DatabaseError] | None = None
        self.table: Table | None = None
        self.table_at = float("-inf")


class Central:
    """The central database as all instances of this process see it."""

    HEAD_AGE = 0.1
    """A head this many seconds old is as good as a new one: what is newer comes with the next."""

    LOOK_AGE = 1.0
    """So often rows in flight are looked for, while anything is unsettled."""

    LOOK_SECONDS = 0.25
    """So long one such look takes at the most; what is left is looked at with the next."""

    WRITERS_AGE = 0.5
    """So long the list of transactions is shared. What it proves depends on when it was asked."""

    ROLES_AGE = 60.0
    """So long it is believed that the server is (not) a primary."""

    TABLE_AGE = 10.0
    """So long a table's definition is shared; who finds it stale asks again afterwards."""

    def __init__(self, pool: Pool, *, rule: Rule, clock: Clock, metrics: Metrics) -> None:
        self.database = pool.database
        self.rule = rule
        self._pool = pool
        self._clock = clock
        self._metrics = metrics
        self._roles_lock = asyncio.Lock()
        self._validity = Validity(False, "not asked yet")
        self._validity_at = float("-inf")
        self._writers_lock = asyncio.Lock()
        self._writers: Writers | None = None
        self._writers_at = float("-inf")
        self._tables: dict[str, _Shared] = defaultdict(lambda: _Shared(self.rule))

    async def head(self, table: str, key: str) -> Head:
        """The highest visible id of the table (0 when it is empty), at most HEAD_AGE old."""
        shared = self._tables[table]
        asked_at = self._clock()
        async with shared.lock:
            if shared.failed is not None and shared.failed[0] >= asked_at:
                # It failed while we waited: a thousand instances do not try one after the other.
                raise shared.failed[1]
            if shared.head is None or self._clock() - shared.head.at > self.HEAD_AGE:
                try:
                    ((highest, server_at),) = await self._fetch(
                        "head", sql.head(table, key, f"head {table}")
                    )
                except DatabaseError as error:
                    shared.failed = (self._clock(), error)
                    raise
                shared.head = Head(int(highest or 0), self._clock(), float(server_at or 0))
                shared.settling.saw_head(shared.head)
            return shared.head

    def expire_heads(self) -> None:
        """From here on only heads count that are asked for now: somebody wants to see his rows."""
        for shared in self._tables.values():
            shared.head = None

    async def settled(self, table: str, key: str, floor: int) -> int:
        """Up to this id no transaction can add an id to the table any more, for a caller that knows
        it up to `floor`. Costs a bounded look at the newest ids, shared by all who ask."""
        shared = self._tables[table]
        pause = self.LOOK_SECONDS if shared.unfinished else self.LOOK_AGE
        # Whoever comes while another one looks goes on with what is known: nobody has to wait for
        # the first look at a large table.
        if not shared.looking and self._clock() - shared.looked_at >= pause:
            shared.looking = True
            try:
                await self._look(shared, table, key, floor)
            finally:
                shared.looking = False
                shared.looked_at = self._clock()
        return shared.settling.sure(floor)

    def settled_so_far(self, table: str, floor: int) -> int:
        """As `settled`, from what is known already."""
        return self._tables[table].settling.sure(floor)

    async def _look(self, shared: _Shared, table: str, key: str, floor: int) -> None:
        """Gather evidence: first the transactions, then the rows in flight."""
        settling = shared.settling
        if settling.wants_writers() and (await self.validity()).exact:
            writers = await self._writing(table)
            if writers is not None:
                settling.saw_writers(writers)
        deadline = self._clock() + self.LOOK_SECONDS
        known = await self.table(table) if shared.table is None else shared.table
        index = schema.key_index(known, key) if known is not None else ""
        window = settling.question(floor, self._clock())
        while window is not None and self._clock() < deadline:
            async with self._asking("in_flight") as connection:
                looked_to, found = await evidence.in_flight(
                    connection, table, key, index or "PRIMARY", window
                )
            settling.answer(window, looked_to, found, self._clock())
            window = None if found else settling.question(floor, self._clock())
        shared.unfinished = window is not None
        since = settling.in_flight[1] if settling.in_flight else None
        self._metrics.oldest_in_flight.labels(table).set(
            0.0 if since is None else self._clock() - since
        )

    async def _writing(self, table: str) -> Writers | None:
        """The list of transactions, shared by all tables: asked for each of them, one right after
        the other, the server would give the second one what it gave the first one, or older news.
        """
        async with self._writers_lock:
            if self._clock() - self._writers_at > self.WRITERS_AGE:
                async with self._asking("transactions") as connection:
                    self._writers = await evidence.writers(connection, table, self._clock)
                self._writers_at = self._clock()
            return self._writers

    async def validity(self) -> Validity:
        """Whether the server's list of transactions counts as exact evidence, and why (not);
        asked again now and then, because a failover changes it."""
        async with self._roles_lock:
            if self._clock() - self._validity_at > self.ROLES_AGE:
                async with self._asking("roles") as connection:
                    self._validity = await evidence.validity(connection)
                self._validity_at = self._clock()
                self.rule = self.rule.above(self._validity.lock_wait)
                for shared in self._tables.values():
                    shared.settling.rule = self.rule
            return self._validity

    def settle_words(self) -> str:
        """Which rule of settling is in force and why, for people; as last seen."""
        timed = f"an id settles {self.rule.timed:g} s after it was seen" if self.rule.timed else ""
        valid = self._validity
        if not self.rule.exact:
            words = f"timed: {timed} (sync.settle)"
            if valid.lock_wait is not None and valid.lock_wait >= (self.rule.timed or 0.0):
                words += (
                    "; an INSERT that waits longer for a lock may be missed: central's"
                    f" innodb_lock_wait_timeout is {valid.lock_wait:g} s"
                )
            return words
        if valid.exact:
            return f"exact: {valid.reason}" + (f"; at the latest {timed}" if timed else "")
        if timed:
            return f"timed: {timed}; not exact, because {valid.reason}"
        return f"none: sync.settle asks for exact, but {valid.reason}; nothing settles"

    async def table(self, name: str) -> Table | None:
        """What the table looks like; None when there is none that we may see."""
        shared = self._tables[name]
        async with shared.lock:
            if self._clock() - shared.table_at > self.TABLE_AGE:
                async with self._asking("schema") as connection:
                    shared.table = await schema.read(connection, name, f"schema {name}")
                shared.table_at = self._clock()
            return shared.table

    def forget_table(self, name: str) -> None:
        """What is known of the table's definition is stale."""
        self._tables[name].table_at = float("-inf")

    async def lowest(self, table: str, key: str) -> int | None:
        """The lowest visible id; None when the table is empty."""
        ((found,),) = await self._fetch("head", sql.lowest(table, key, f"lowest {table}"))
        return None if found is None else int(found)

    async def next_id(self, table: str) -> int | None:
        """The id that the table would hand out next; None when it hands out none."""
        rows = await self._fetch("schema", sql.next_auto_increment(table, f"next id {table}"))
        return int(rows[0][0]) if rows and rows[0][0] is not None else None

    async def page(
        self, plan: Plan, instance: str, *, after: int, upto: int, rows: int, max_bytes: int
    ) -> Page:
        """The instance's rows in (after, upto], at most `rows` and about `max_bytes` of them."""
        statement = sql.batch(
            plan.entity.central,
            plan.expressions,
            plan.central_key,
            plan.central_index,
            self._mine(plan, instance),
            after=after,
            upto=upto,
            limit=rows,
            note=f"{instance} {plan.entity.name}",
        )
        async with self._asking("batch") as connection:
            began = self._clock()
            found, size = await connection.fetch_bounded(statement, max_bytes, rows)
            seconds = self._clock() - began
        full = len(found) >= rows or size >= max_bytes
        end = key_of(found[-1]) if full and found else upto
        return Page(tuple(found), after, end, size, full, seconds)

    async def keys(
        self, plan: Plan, instance: str, *, after: int, upto: int, limit: int
    ) -> list[int]:
        """The keys of the instance's rows in (after, upto], in order."""
        statement = sql.batch(
            plan.entity.central,
            [sql.quote(plan.central_key)],
            plan.central_key,
            plan.central_index,
            self._mine(plan, instance),
            after=after,
            upto=upto,
            limit=limit,
            note=f"{instance} {plan.entity.name} ids",
        )
        return [key_of(row) for row in await self._fetch("ids", statement)]

    async def rows(
        self, plan: Plan, instance: str, keys: Sequence[int], max_bytes: int
    ) -> tuple[list[Row], bool]:
        """Those of the rows with these keys that are the instance's, in key order, from one moment;
        and whether that is all of them (False: cut off at `max_bytes`)."""
        statement = sql.by_keys(
            plan.entity.central,
            plan.expressions,
            plan.central_key,
            self._mine(plan, instance),
            keys,
            f"{instance} {plan.entity.name} rows",
        )
        async with self._asking("rows") as connection:
            found, size = await connection.fetch_bounded(statement, max_bytes, len(keys))
        return found, size < max_bytes or len(found) == len(keys)

    async def count(self, plan: Plan, instance: str, *, after: int, upto: int) -> int:
        """How many rows the instance has in (after, upto]."""
        statement = sql.count(
            plan.entity.central,
            plan.central_key,
            self._mine(plan, instance),
            after=after,
            upto=upto,
            note=f"{instance} {plan.entity.name} count",
        )
        ((number,),) = await self._fetch("count", statement)
        return int(number or 0)

    async def explain(self, plan: Plan, instance: str) -> str:
        """How central would walk a batch: `type` and key of EXPLAIN, for `wpp-sync check`."""
        statement = sql.batch(
            plan.entity.central,
            plan.expressions,
            plan.central_key,
            plan.central_index,
            self._mine(plan, instance),
            after=0,
            upto=1 << 62,
            limit=1000,
            note=f"{instance} {plan.entity.name} explain",
        )
        statement = statement._replace(sql="EXPLAIN FORMAT=JSON " + statement.sql)
        ((answer,),) = await self._fetch("explain", statement)
        return (answer or b"").decode("utf-8", "replace")

    async def server(self) -> str:
        """The server's version, as it gives it itself."""
        async with self._asking("check") as connection:
            return connection.version

    async def grants(self) -> list[str]:
        """What the account may do, as SHOW GRANTS prints it."""
        async with self._asking("check") as connection:
            return await db.grants(connection)

    def _mine(self, plan: Plan, instance: str) -> Statement:
        return sql.owner(plan.entity.instance_column, instance, plan.entity.where)

    async def _fetch(self, kind: str, statement: Statement) -> list[Row]:
        async with self._asking(kind) as connection:
            return await connection.fetch(statement)

    @asynccontextmanager
    async def _asking(self, kind: str) -> AsyncIterator[Connection]:
        async with self._pool.connection() as connection:
            self._metrics.central_queries.labels(kind).inc()
            began = self._clock()
            try:
                yield connection
            finally:
                self._metrics.central_query_duration.labels(kind).observe(self._clock() - began)


def key_of(row: Row) -> int:
    """The key of a row that a Plan read: its first column."""
    return int(row[0] or 0)
