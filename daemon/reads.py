"""Bounded reads of central's new rows; several instances' at once where they lie close together.

A look at what is new wakes everybody who has something there, and each of them wants his few rows
out of the same ids. A statement for each would go past the others' rows again and again. So there
is one such read at a time, and whoever comes meanwhile is read with the next one. Nobody waits for
company: who is alone is read at once.

What an instance is given is what it would have read itself: its own rows, byte for byte
(promise P9), by a statement that was sent after it had asked. Whoever lies behind the end of such a
read is read with the next one; where it failed, by himself.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from daemon import sql
from daemon.aio import Clock
from daemon.db import Connection
from daemon.schema import Plan
from daemon.sql import Row, Statement

Asking = Callable[[str], AbstractAsyncContextManager[Connection]]
"""A connection to central, for a statement of this kind."""


@dataclass(frozen=True, slots=True)
class Page:
    """What one bounded read brought: rows in key order, and up to which id it has looked."""

    rows: tuple[Row, ...]
    after: int
    end: int
    """All ids in (after, end] have been looked at; never more than was scanned."""

    size: int
    """Bytes. Of a page that was read with others: its share by the number of rows."""

    full: bool
    """The read ended at a limit of rows or bytes: there may be more up to where it was asked."""

    seconds: float
    """Of central's time; of a page that was read with others: an equal part."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The instance's rows in (after, upto], at most `rows` and about `max_bytes` of them."""

    plan: Plan
    instance: str
    after: int
    upto: int
    rows: int
    max_bytes: int

    @property
    def kind(self) -> tuple[object, ...]:
        """The same for all that one statement can read."""
        plan, entity = self.plan, self.plan.entity
        return (
            entity.central, entity.instance_column, entity.where, plan.central_index,
            plan.expressions,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """What one statement has read of several instances' rows."""

    rows: Mapping[bytes, Sequence[Row]]
    """Of each owner, in key order."""

    reached: int | None
    """It ended at a limit, behind this id; None: it did not."""

    size: int
    seconds: float
    """For each of those who wanted something."""

    def page(self, wanted: Wanted) -> Page | None:
        """What of it was wanted; None where it ended before."""
        end = wanted.upto if self.reached is None else min(wanted.upto, self.reached)
        if end <= wanted.after:
            return None
        # Others had asked for more, below and above.
        theirs = self.rows.get(wanted.instance.encode(), ())
        rows = [row for row in theirs if wanted.after < key_of(row) <= wanted.upto][: wanted.rows]
        full = len(rows) >= wanted.rows
        if full:
            end = key_of(rows[-1])
        size = self.size * len(rows) // max(1, sum(map(len, self.rows.values())))
        return Page(tuple(wanted.plan.told(rows)), wanted.after, end, size, full, self.seconds)


@dataclass(slots=True, eq=False)
class _Asked:
    """One who waits for a page."""

    wanted: Wanted
    page: Page | None = None
    """None when it was tried in vain: he has to read by himself."""


@dataclass(slots=True)
class _Lane:
    """Those who want pages of a kind, one read after the other."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: set[_Asked] = field(default_factory=set)
    users: int = 0


class Reads:
    """The pages that instances ask of central for."""

    NEAR_IDS = 20_000
    """Only pages that look at so few ids are read with others': 0.4 µs of central's time for each
    id, for all of them together."""

    ROWS = 5_000
    """At most so many rows in one such read. When many are behind, this is what they share: a pass
    with five rows costs little more than one with one."""

    def __init__(self, asking: Asking, clock: Clock) -> None:
        self._asking = asking
        self._clock = clock
        self._lanes = defaultdict[tuple[object, ...], _Lane](_Lane)

    async def page(self, wanted: Wanted, *, live: bool) -> Page:
        """A page, read with others' where it is `live`: few rows at the end of the table. Raises
        DatabaseError."""
        # Nobody is given a page of no ids: he would wait for one for ever.
        near = 0 < wanted.upto - wanted.after <= self.NEAR_IDS
        owned = wanted.plan.entity.instance_column is not None  # else they follow others' rows
        if live and near and owned and wanted.plan.entity.through is None:
            page = await self._with_others(_Asked(wanted))
            if page is not None:
                return page
        async with self._asking("batch") as connection:
            return await self._alone(connection, wanted)

    async def _with_others(self, asked: _Asked) -> Page | None:
        kind = asked.wanted.kind
        lane = self._lanes[kind]
        lane.users += 1
        lane.waiting.add(asked)
        try:
            while asked in lane.waiting:
                async with lane.lock:
                    if asked in lane.waiting:  # nobody before has read for us, or tried
                        await self._read(lane)
        finally:
            lane.waiting.discard(asked)
            lane.users -= 1
            if not lane.users:
                del self._lanes[kind]
        return asked.page

    async def _read(self, lane: _Lane) -> None:
        """Read for all who wait by now. Where that fails, the others meet it themselves."""
        asked: Collection[_Asked] = ()
        try:
            async with self._asking("batch") as connection:
                # Not before: more have come while a connection was waited for.
                asked, lane.waiting = lane.waiting, set()
                if len(asked) == 1:
                    (one,) = asked
                    one.page = await self._alone(connection, one.wanted)
                else:
                    found = await self._together(connection, [each.wanted for each in asked])
                    for each in asked:
                        each.page = found.page(each.wanted)
                    # One by one they would go past all that the others have there. The lowest of
                    # them has its page with each read.
                    lane.waiting |= {each for each in asked if each.page is None}
        except BaseException:
            if not asked:
                lane.waiting.clear()
            raise

    async def _alone(self, connection: Connection, wanted: Wanted) -> Page:
        plan, instance = wanted.plan, wanted.instance
        statement = _statement(
            plan, plan.expressions, sql.mine(plan.entity, instance),
            after=wanted.after, upto=wanted.upto, limit=wanted.rows,
            note=f"{instance} {plan.entity.name}",
        )  # fmt: skip
        began = self._clock()
        found, size = await connection.fetch_bounded(statement, wanted.max_bytes, wanted.rows)
        seconds = self._clock() - began
        full = len(found) >= wanted.rows or size >= wanted.max_bytes
        end = key_of(found[-1]) if full and found else wanted.upto
        return Page(tuple(plan.told(found)), wanted.after, end, size, full, seconds)

    async def _together(self, connection: Connection, wanted: Sequence[Wanted]) -> Found:
        plan = wanted[0].plan
        entity, most = plan.entity, min(each.max_bytes for each in wanted)
        whose = sql.quote(entity.instance_column or "")
        statement = _statement(
            plan, (*plan.expressions, sql.named(whose)),
            sql.theirs(entity, whose, [each.instance for each in wanted]),
            after=min(each.after for each in wanted), upto=max(each.upto for each in wanted),
            limit=self.ROWS, note=f"new rows {entity.central}",
        )  # fmt: skip
        began = self._clock()
        found, size = await connection.fetch_bounded(statement, most, self.ROWS)
        seconds = self._clock() - began
        rows: dict[bytes, list[Row]] = defaultdict(list)
        for *row, name in found:
            rows[(name or b".")[:-1]].append(tuple(row))
        full = len(found) >= self.ROWS or size >= most
        reached = key_of(found[-1]) if full and found else None
        # Else a read for all that takes long made bulk copying of what each has new.
        return Found(rows, reached, size, seconds / len(wanted))


def _statement(
    plan: Plan,
    expressions: Sequence[str],
    whose: Statement,
    *,
    after: int,
    upto: int,
    limit: int,
    note: str,
) -> Statement:
    table, key, index = plan.entity.central, plan.central_key, plan.central_index
    return sql.batch(
        table, expressions, key, index, whose, after=after, upto=upto, limit=limit, note=note
    )


def key_of(row: Row) -> int:
    """The key of a row that a Plan read: its first column."""
    return int(row[0] or 0)
