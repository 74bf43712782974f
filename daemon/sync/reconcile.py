"""The second motion: compare both sides by checksums of chunks, and repair what differs.

A round walks over a table from its newest ids to its oldest. A chunk that is equal costs two sums
and moves no rows. One that differs is cut into parts until the rows that differ are known by their
keys; they are looked at a second time, and then brought to what central has at that moment, in a
transaction of their own. So an edit during the round is neither reverted nor lost: what is written
is never older than what it replaces. Readers see each row's old or new version at every moment.

A round is made of bounded steps and can end anywhere: where it was is its cursor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from daemon import grid, local
from daemon.aio import Clock, together
from daemon.central import Central, Sum
from daemon.errors import TransientError, WppSyncError
from daemon.metrics import Metrics
from daemon.sql import Key, Range, parts
from daemon.sync.commit import Committer

T = TypeVar("T")

_EXAMPLES = 10


@dataclass(slots=True)
class Tally:
    """What a round has found, in rows. `written` and `deleted` were repaired."""

    compared: int = 0
    missing: int = 0
    differing: int = 0
    extra: int = 0
    written: int = 0
    deleted: int = 0
    refused: int = 0
    examples: list[str] = field(default_factory=list)
    compared_to: int | None = None
    """Central's ids up to here were compared; what is newer is not expected yet. None: whole."""

    head: int | None = None
    """Central's newest id when it was looked whether all below it is copied."""

    behind: bool = False
    """The instance has rows above `compared_to` that are not copied, and were not on their way."""

    error: WppSyncError | None = None
    """Why the entity could not be compared to its end."""

    @property
    def differences(self) -> int:
        return self.missing + self.differing + self.extra

    def note(self, kind: str, keys: Iterable[Key]) -> None:
        """Count differences of one kind, and keep a few as examples."""
        found = sorted(keys, key=parts)
        setattr(self, kind, getattr(self, kind) + len(found))
        for key in found[: max(0, _EXAMPLES - len(self.examples))]:
            self.examples.append(f"{kind} {', '.join(map(str, parts(key)))}")


@dataclass(frozen=True, slots=True)
class Differences:
    """Keys by what is wrong with them. Pure."""

    missing: frozenset[Key]
    differing: frozenset[Key]
    extra: frozenset[Key]

    @property
    def all(self) -> frozenset[Key]:
        return self.missing | self.differing | self.extra


def differences(
    theirs: Mapping[Key, int],
    ours: Mapping[Key, int],
    *,
    excluded: Iterable[Key] = (),
    settled: int | None = None,
) -> Differences:
    """What differs between central's rows and local ones, by their checksums.

    `excluded` rows are not expected here as long as central has them. Above `settled` a row that
    central does not show may be on its way, so it is no difference; None: all are.
    """
    expected = set(theirs).difference(excluded)
    extra = set(ours).difference(theirs)
    return Differences(
        missing=frozenset(key for key in expected if key not in ours),
        differing=frozenset(key for key in expected if key in ours and ours[key] != theirs[key]),
        extra=frozenset(key for key in extra if settled is None or parts(key)[0] <= settled),
    )


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far an entity may be compared. Both None for an entity that is compared whole."""

    upto: int | None
    """Central's ids up to here were read; what is newer is not expected yet."""

    settled: int | None
    """Only up to here is a local row that central does not have certainly extra."""


class Reconcile:
    """One round over one entity of one instance."""

    _LEAF = 300
    """A range with no more rows than this is compared row by row."""

    _LIST = 5_000
    """Rows whose checksums are listed at once."""

    def __init__(
        self,
        *,
        central: Central,
        metrics: Metrics,
        clock: Clock,
        since: float,
        cursor: int | None = None,
        paced: bool = False,
        dry_run: bool = False,
        bulk: bool = True,
    ) -> None:
        self.since = since
        """Central's sums count only from here on, in seconds of the clock."""

        self.cursor = cursor
        """Ids from here on are compared; None before the first chunk and after the last."""

        self.compared_from = cursor
        """Ids from here on are compared and repaired: where another round can go on."""

        self.finished = False
        self.total: Sum | None = (0, 0) if cursor is None else None
        """What central's rows add up to, so far; None where the local ones were not equal, or not
        all were compared."""

        self.tally = Tally()
        self._central = central
        self._metrics = metrics
        self._clock = clock
        self._paced = paced
        self._dry_run = dry_run
        self._bulk = bulk
        self._highest: int | None = None
        self._todo: list[tuple[Range, int]] = []

    @property
    def progress(self) -> float:
        """How much of the table's ids is compared, from 0 to 1."""
        if self.finished:
            return 1.0
        if self._highest is None or self.cursor is None:
            return 0.0
        return max(0.0, 1.0 - self.cursor / max(1, self._highest))

    async def step(
        self, committer: Committer, bounds: Bounds, stop: asyncio.Event, seconds: float
    ) -> bool:
        """Compare for about so long; whether there is more to do at once. False, and not finished:
        it is not this round's turn yet."""
        deadline = self._clock() + seconds
        while not stop.is_set() and not self.finished:
            went_on = True
            if self._todo:
                if not await self._may_repair(committer):
                    break
                await self._look_at_next(committer, bounds)
            else:
                chunk = await self._next_chunk(committer, bounds)
                if self._paced and not await self._central.may_sum(
                    committer.plan, committer.instance, chunk, self.since
                ):
                    return False
                went_on = await self._compare(committer, chunk)
                if went_on:
                    self.cursor = chunk.low
            if went_on and not self._todo:
                self.compared_from = self.cursor
                self.finished = self.cursor is None
            if self._clock() >= deadline:
                break
        return not self.finished

    async def _may_repair(self, committer: Committer) -> bool:
        """Whether rows may be written now. Comparing goes on in any case: only rows cost that."""
        if self._dry_run:
            return True
        if self._bulk:
            await self._central.load.look()
        return committer.throttle.most(bulk=self._bulk) > 0

    async def _paid(self, committer: Committer, reading: Awaitable[T]) -> T:
        """What central is asked for in bulk, row by row, is paid for with its time."""
        began = self._clock()
        found = await reading
        if self._bulk and not self._dry_run:
            committer.throttle.read(self._clock() - began)
        return found

    async def _next_chunk(self, committer: Committer, bounds: Bounds) -> Range:
        plan = committer.plan
        if self._highest is None:
            if bounds.upto is None:
                head = await self._central.head(plan.entity.central, plan.central_key)
                self._highest = head.id
            else:
                self._highest = self.tally.compared_to = bounds.upto
                self.cursor = min(bounds.upto + 1, self.cursor or bounds.upto + 1)
        return self._central.next_chunk(
            plan, committer.instance, self.cursor, self._highest, self.since
        )

    # --- chunks -----------------------------------------------------------------------------------

    async def _compare(self, committer: Committer, chunk: Range) -> bool:
        """Compare a chunk's sums; False when it is too large for that."""
        plan, instance = committer.plan, committer.instance
        theirs, ours = await together(
            self._central.chunk_sum(plan, instance, chunk, self.since),
            local.chunk_sum(committer.connection, plan, chunk, committer.note),
        )
        if theirs is None:
            return False
        self._metrics.reconcile_chunks.labels(instance, committer.entity).inc()
        self.tally.compared += max(theirs[0], ours[0])
        if theirs != ours:
            self.total = None
        elif self.total is not None:
            self.total = self.total[0] + theirs[0], self.total[1] ^ theirs[1]
        if theirs == ours or await self._without_excluded(committer, chunk, theirs, ours):
            return True
        self._todo.append((chunk, max(theirs[0], ours[0])))
        return True

    async def _without_excluded(
        self, committer: Committer, chunk: Range, theirs: Sum, ours: Sum
    ) -> bool:
        """Whether a chunk is equal but for rows in quarantine: a sum is a XOR, so a row is taken
        out of it by adding it once more."""
        inside = [
            key
            for key in committer.excluded
            if (chunk.low is None or parts(key)[0] >= chunk.low)
            and (chunk.high is None or parts(key)[0] < chunk.high)
        ]
        if not inside:
            return False
        plan = committer.plan
        there = await self._central.row_sums_of(plan, committer.instance, inside)
        here = await local.row_sums_of(committer.connection, plan, list(there), committer.note)
        return _less(theirs, there) == _less(ours, here)

    async def _look_at_next(self, committer: Committer, bounds: Bounds) -> None:
        """The next range that differs. It stays to be done when that fails: a round that somebody
        has asked for outlives its motion."""
        before = list(self._todo)
        try:
            await self._look(committer, bounds, *self._todo.pop())
        except BaseException:
            self._todo = before
            raise

    async def _look(self, committer: Committer, bounds: Bounds, chunk: Range, rows: int) -> None:
        """Cut a range that differs into parts, or name its rows that differ."""
        ranges = grid.closed(chunk, self._highest or 0)
        if rows > self._LEAF and len(ranges) > 1:
            # The open ends hold next to nothing: they are listed as they are.
            self._todo += [(each, 0 if None in each else rows) for each in ranges]
            return
        width = grid.width_of_parts(chunk)
        if rows <= self._LEAF or width is None:
            await self._list(committer, bounds, chunk)
            return
        plan = committer.plan
        theirs, ours = await together(
            self._paid(committer, self._central.part_sums(plan, committer.instance, chunk, width)),
            local.part_sums(committer.connection, plan, chunk, width, committer.note),
        )
        for number in sorted(theirs.keys() | ours.keys()):
            there, here = theirs.get(number, (0, 0)), ours.get(number, (0, 0))
            if there != here:
                self._todo.append((grid.part(chunk, width, number), max(there[0], here[0])))

    async def _list(self, committer: Committer, bounds: Bounds, chunk: Range) -> None:
        """Compare a range row by row; what does not fit at once is left for the next time."""
        plan, limit = committer.plan, self._LIST
        while True:
            theirs = await self._paid(
                committer, self._central.row_sums(plan, committer.instance, chunk, limit)
            )
            ours = await local.row_sums(committer.connection, plan, chunk, limit, committer.note)
            # Of several rows with the same first key column some may be cut off.
            ends = [parts(next(reversed(s)))[0] for s in (theirs, ours) if len(s) >= limit]
            if not ends:
                break
            end = min(ends)
            if chunk.low is None or end > chunk.low:
                theirs = {key: total for key, total in theirs.items() if parts(key)[0] < end}
                ours = {key: total for key, total in ours.items() if parts(key)[0] < end}
                if theirs or ours:
                    self._todo.append((Range(end, chunk.high), limit))
                    break
            limit *= 4
        found = differences(theirs, ours, excluded=committer.excluded, settled=bounds.settled)
        await self.examine(committer, bounds, found)

    # --- rows -------------------------------------------------------------------------------------

    async def examine(self, committer: Committer, bounds: Bounds, suspects: Differences) -> None:
        """Look a second time at rows that seemed to differ, and repair those that do."""
        keys = sorted(suspects.all, key=parts)
        for start in range(0, len(keys), Committer.MISSING):
            some = keys[start : start + Committer.MISSING]
            theirs = await self._paid(
                committer, self._central.row_sums_of(committer.plan, committer.instance, some)
            )
            ours = await local.row_sums_of(
                committer.connection, committer.plan, some, committer.note
            )
            found = differences(theirs, ours, excluded=committer.excluded, settled=bounds.settled)
            if self._dry_run:
                found = await self._without_what_comes(committer, found)
            else:
                await self._repair(committer, sorted(found.all, key=parts), bounds.upto)
            # Only now: where the repair fails, they are found once more.
            for kind in ("missing", "differing", "extra"):
                certain = getattr(found, kind)
                self.tally.note(kind, certain)
                if self._dry_run:
                    continue  # who only looks finds the same once more: counted when repaired
                self._metrics.reconcile_differences.labels(
                    committer.instance, committer.entity, kind
                ).inc(len(certain))

    async def _without_what_comes(self, committer: Committer, found: Differences) -> Differences:
        """Without extra rows that stand in central in an open transaction, or by now: who repairs
        leaves them alone (`Committer.repair`)."""
        if not found.extra:
            return found
        plan = committer.plan
        coming = await self._central.in_flight(plan, found.extra)
        there = await self._central.row_sums_of(plan, committer.instance, list(found.extra))
        return replace(found, extra=found.extra.difference(coming, there))

    async def _repair(self, committer: Committer, keys: list[Key], position: int | None) -> None:
        while keys:
            repaired = await committer.repair(keys, position, bulk=self._bulk)
            self.tally.written += repaired.written
            self.tally.deleted += repaired.deleted
            self.tally.refused += repaired.refused
            if len(repaired.left) == len(keys):  # cannot be: at least one row is read
                raise TransientError("central", 2013, f"{committer.entity}: rows cannot be read")
            keys = list(repaired.left)


def _less(total: Sum, rows: Mapping[Key, int]) -> Sum:
    count, xor = total
    for each in rows.values():
        count, xor = count - 1, xor ^ each
    return count, xor
