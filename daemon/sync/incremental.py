"""The incremental motion: one entity of one instance, following the growing end of a table.

Promise: rows and watermark commit together, the watermark never stands above a row that is not
copied, and ids that become visible late are copied. All that is held in memory (the position, the
settled id ahead of what is stored) can be lost at any moment: the next start goes on from the state
row. After any error a new `Incremental` is made; in doubt the position is read again, never kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from daemon import local
from daemon.aio import Clock, together
from daemon.central import Central
from daemon.db import Connection
from daemon.errors import RewoundError, TransientError
from daemon.ledger import Reading, Told
from daemon.reads import Page, Wanted, key_of
from daemon.state import State
from daemon.sync.ahead import Ahead, Convoy, Turn
from daemon.sync.commit import Committer, Step
from daemon.sync.reach import Limits, Reach
from daemon.watch import Member

_HIGHEST_KEY = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class _Read:
    """A page that is not written yet."""

    page: Page
    sure: int
    """Up to here it is known to be complete for good."""

    parts: int
    """So many of them make a whole batch."""

    bulk: bool
    """Nobody waits for it as for a new row: see `throttle`."""


class Incremental:
    """One entity of one instance."""

    _LOOK_SECONDS = 5.0
    """So often the unsettled tail is looked at for late rows, before it settles."""

    _LOOK_IDS = 20_000
    """At most so many ids of it: the newest, where late rows appear."""

    _SETTLE_SECONDS = 0.25
    """So long at least a step looks at what can be settled."""

    _SAVE_SECONDS = 30.0
    """So often a settled id that moved without any rows is written."""

    _SAVE_WATCHED_SECONDS = 600.0
    """The same, where only other instances' rows have moved it: a restart looks at those again."""

    _KEYS = 5_000
    """Keys compared at once when late rows are looked for."""

    _COUNT_SECONDS = 30.0
    """So often the rows still to be copied are counted, while there are many."""

    _COUNT_IDS = 10_000
    """A head no further ahead than this is reached before it is worth counting."""

    def __init__(
        self,
        committer: Committer,
        *,
        central: Central,
        limits: Limits,
        reach: Reach,
        ahead: Ahead,
        watched: Member | None,
        clock: Clock,
    ) -> None:
        """`watched`: what the shared scans say; None: it has to look at everything by itself."""
        self.committer = committer
        self.plan = committer.plan
        self.position = committer.state.position
        self.settled = committer.state.settled
        self.head = self.position
        self.lag_rows = 0
        """Rows still to be copied, as last counted, less what was copied since."""

        self._instance = committer.instance
        self._entity = committer.entity
        self._note = committer.note
        self._central = central
        self._connection = committer.connection
        self._limits = limits
        self._reach = reach
        self._ahead = ahead
        self._clock = clock
        self._watched = watched
        self._told: Told | None = None
        self._reading = Reading()
        self._resync_until: int | None = None
        self._fell_to: int | None = None
        """A head below the position that means nothing."""

        self._begun = False
        self._bulk = False
        """One page is not enough to reach the head: see `throttle`."""

        self._looked_at = clock()
        self._counted_at = float("-inf")

    @property
    def state(self) -> State:
        """The state row as last read or written."""
        return self.committer.state

    @property
    def watched(self) -> bool:
        """The shared scans know of all that has not settled here, and tell of what comes."""
        if self._told is None or self.settled < self._told.base or self.state.resync:
            return False
        # Of rows that were deleted at the table's end before the scans began they know nothing.
        return self.settled >= self.position or self.position <= max(self._told.upto, self.head)

    @property
    def looks_itself(self) -> float:
        """How soon it has to look by itself for what nobody tells it of, in seconds; infinite where
        the shared scans do."""
        if self.watched:
            return float("inf")
        # What they tell of comes anyhow; what has not settled needs another look.
        return 0.0 if self._told is None or self.state.resync else Central.LOOK_AGE

    @property
    def can_rest(self) -> bool:
        """All is copied, and whatever comes is told."""
        reading = self._reading
        done = self.position >= self.head and not reading.unread(self.position)
        return self.watched and done and reading.suspect is None

    @property
    def quiet(self) -> bool:
        """All that the shared scans have told is heeded, and nothing is left of it."""
        return self._watched is not None and self._watched.heeded and self.can_rest

    def rest(self) -> Member:
        """Its place in the shared scans, for who goes on from the state row."""
        assert self._watched is not None  # noqa: S101 - else it cannot rest
        member, self._watched = self._watched, None
        return member

    def leave(self) -> None:
        """Nothing has to be told any more."""
        if self._watched is not None:
            self._watched.leave()

    @property
    def quiet_at(self) -> float:
        """When the shared scans had nothing to tell that has not been heeded, as last looked."""
        reading = self._reading
        if self._watched is None or not self.watched:
            return float("-inf")
        if reading.suspect is not None or reading.unread(self.position):
            return float("-inf")
        return self._watched.quiet_at

    @property
    def progress(self) -> float | None:
        """How much of a full resync is done, from 0 to 1; None when none is under way."""
        if not self.state.resync:
            return None
        until = self._resync_until
        return min(1.0, max(0, self.settled) / until) if until else 0.0

    # --- the public step ----------------------------------------------------------------------

    async def step(self, stop: asyncio.Event, seconds: float) -> Step:
        """Copy what is new, then look for what came late; about `seconds` long at the most.

        A stop request ends it after the batch that is being written.
        """
        if self.state.rewound:
            self._rewind_noted()
            raise self._rewound("its ids began again below what was read")
        table = self.plan.entity.central
        head = await self._central.head(table, self.plan.central_key, watched=self.watched)
        self.head = head.id
        if self.position == 0 and not self._begun:
            await self._begin_below_zero()
        if head.id >= self.position:
            self._fell_to = None
        elif head.id != self._fell_to:
            await self._refuse_if_rewound(head.id)
        if self.state.resync and self._resync_until is None:
            self._resync_until = await self._last_handed_out()
        await self._heed_scans(head.id)
        deadline = self._clock() + seconds
        await self._count()
        rows = await self._copy(head.id, stop, deadline) if head.id > self.position else 0
        if not stop.is_set():
            await self.committer.retry_if_due()
        late, deleted = await self._settle(stop, deadline)
        if self.position >= head.id:
            self.lag_rows, self._bulk = 0, False  # perhaps the shared scans passed over the rest
        more = self.position < head.id or self._reading.suspect is not None
        return Step(rows, late, deleted, more)

    async def _heed_scans(self, head: int) -> None:
        """Pass over ids that were scanned for all, and hold nothing for us."""
        again_from = self._watched.again_from if self._watched else None
        if again_from is not None:
            if again_from <= self.position:
                await self._refuse_rewound(head, again_from)
            self._rewind_noted()  # a reset came first: all from there on is read anew
        self._told = told = self._watched.take() if self._watched else None
        if told is None:
            return
        self.position = self._reading.heed(told, self.position, head)

    async def save(self) -> None:
        """Write a settled id that moved in memory only; for a graceful stop."""
        if self.settled > self.state.settled:
            await self.committer.commit((), settled=self.settled)

    # --- new rows -------------------------------------------------------------------------------

    async def _begin_below_zero(self) -> None:
        """A watermark of 0 means "nothing yet", but somebody may have given rows ids up to 0."""
        self._begun = True
        lowest = await self._central.lowest(self.plan.entity.central, self.plan.central_key)
        if lowest is not None and lowest <= 0:
            self.position = lowest - 1

    async def _copy(self, upto: int, stop: asyncio.Event, deadline: float) -> int:
        """Page after page up to the head."""
        self._bulk = self._bulk or self.lag_rows > self._limits.rows
        if self._bulk:
            await self._central.load.look()  # also while it keeps us from reading
            await self._sure()  # what is known to be complete before it is read need not be again
        if not self._may_read():
            return 0
        read = await self._read(self.position, upto)
        if not (read.bulk and read.page.full):
            return await self._copy_on_one(read, upto, stop, deadline)
        copied = 0
        # Not for a page that nothing follows in this turn.
        follows = read.page.end < upto and not self._enough([read], stop, deadline)
        if follows and self._ahead.possible:
            copied, left = await self._copy_on_two(read, upto, stop, deadline)
            # A turn that is over ends here, but for one that has brought nothing yet: the next one
            # might not, either.
            over = stop.is_set() or not self._may_read() or (copied and self._clock() >= deadline)
            if over or not left:
                return copied
            read = await self._read(self.position, upto)
        with self._ahead.writing():
            return copied + await self._copy_on_one(read, upto, stop, deadline)

    async def _copy_on_one(
        self, read: _Read, upto: int, stop: asyncio.Event, deadline: float
    ) -> int:
        """Write what was read; the next page is read while this one is written."""
        copied = 0
        while True:
            page = read.page
            if page.end >= upto or self._enough([read], stop, deadline):
                return copied + await self._take(read)
            resolved = self.committer.resolved
            taken, following = await together(self._take(read), self._read(page.end, upto, [read]))
            copied += taken
            if self.committer.resolved != resolved:
                # The collision may have brought newer versions of these rows, or have found that
                # they are gone: they must not come back.
                following = await self._read(page.end, upto)
            read = following

    async def _copy_on_two(
        self, read: _Read, upto: int, stop: asyncio.Event, deadline: float
    ) -> tuple[int, bool]:
        """Write what was read and what follows on two connections. Returns how many rows the table
        took, and whether something is to be written on one instead."""
        copied = 0

        async def following(last: _Read, unwritten: Sequence[_Read]) -> _Read | None:
            if last.page.end >= upto or self._enough(unwritten, stop, deadline):
                return None
            # Three are in memory, one of them read ahead, in place of two whole ones.
            return await self._read(last.page.end, upto, unwritten, parts=2)

        async def write(connection: Connection, read: _Read, turn: Turn) -> None:
            nonlocal copied
            taken = await self._take_ahead(connection, read, turn)
            copied += taken  # not `+= await`: that adds to what it was before the other one's page

        convoy = Convoy(read, following, write)
        with self._ahead.writing():  # at once: another instance asks whether there is room, too
            await self.committer.see_that_the_plan_holds()
            second = self._ahead.second(self._connection, self._note)
            await convoy.run(self._connection, second)
        return copied, convoy.broken

    def _enough(self, unwritten: Sequence[_Read], stop: asyncio.Event, deadline: float) -> bool:
        """No further page is to be read in this step."""
        return stop.is_set() or self._clock() >= deadline or not self._may_read(unwritten)

    def _may_read(self, unwritten: Sequence[_Read] = ()) -> int:
        """So many rows may be read now, while these pages are not written yet."""
        pending = sum(len(read.page.rows) for read in unwritten)
        return self.committer.throttle.most(bulk=self._bulk, pending=pending)

    async def _count(self) -> None:
        """Count what is still to be copied: for the operator's eyes only, so a count that central
        does not finish in time is given up."""
        now = self._clock()
        far = self.head - self.position > self._COUNT_IDS
        if not far or now - self._counted_at < self._COUNT_SECONDS:
            return
        self._counted_at = now
        try:
            self.lag_rows = await self._central.count(
                self.plan, self._instance, after=self.position, upto=self.head
            )
        except TransientError:
            self._counted_at = float("inf")

    async def _read(
        self, after: int, upto: int, unwritten: Sequence[_Read] = (), *, parts: int = 1
    ) -> _Read:
        """The next page, while these ones are not written yet; so many parts make a whole batch.

        The evidence comes first: what is settled before the statement is sent cannot be added to
        while it runs.
        """
        # Before anything is awaited: the page before may be written, and counted, meanwhile.
        rows = max(1, min(self._reach.rows // parts, self._may_read(unwritten)))
        if self._bulk:
            await self._central.load.look()
        sure = self._central.settled_so_far(self.plan.entity.central, self.settled)
        try:
            upto_here = min(upto, after + self._reach.span)
            wanted = Wanted(
                self.plan, self._instance, after, upto_here, rows, self._limits.bytes // parts
            )
            page = await self._central.page(wanted, live=not self._bulk)
        except TransientError:
            self._reach.shrink()  # perhaps it was too much to look at in one statement's time
            raise
        self._reach.learn(page, parts)
        # Ids that hold nothing for us and are passed quickly are no bulk: whoever follows the head
        # has them before him when another instance is seeded.
        costly = page.full or page.seconds > Reach.FAST
        was_bulk, self._bulk = self._bulk, page.end < upto and costly
        if was_bulk:
            self.committer.throttle.read(page.seconds)
        return _Read(page, sure, parts, was_bulk or self._bulk)

    async def _take(self, read: _Read) -> int:
        """Write a page's rows and move the position over all that it has looked at; how many rows
        the table took."""
        taken, rows = 0, read.page.rows
        watermark, settled = self._moved(read)
        if rows:
            began = self._clock()
            taken = await self.committer.commit(
                rows, watermark=watermark, settled=settled, bulk=read.bulk
            )
            self._reach.wrote(len(rows) * read.parts, self._clock() - began)
        self._took(read, settled)
        return taken

    async def _take_ahead(self, connection: Connection, read: _Read, turn: Turn) -> int:
        """The same on one of two connections, when it is its turn. Raises NotAheadError."""
        began, rows = self._clock(), read.page.rows
        if rows:
            taken = await self.committer.commit_ahead(
                self._ahead, connection, rows, turn, lambda: self._moved(read), bulk=read.bulk
            )
            self._reach.wrote(len(rows) * read.parts, self._clock() - began)
        else:
            await self._ahead.wait(turn)
            taken = 0
        # Where the page before has left it: nobody else moves it.
        self._took(read, self._moved(read)[1])
        return taken

    def _moved(self, read: _Read) -> tuple[int, int]:
        """Watermark and settled id with a page that begins at the position."""
        page, settled, watermark = read.page, self.settled, self.state.last_synced_id
        if settled == page.after and not self.state.resync:
            # A full resync has to look at both sides of every id: it settles in `_look` alone.
            settled = max(settled, min(read.sure, page.end))
        if page.rows:
            watermark = max(watermark, key_of(page.rows[-1]))
        return watermark, settled

    def _took(self, read: _Read, settled: int) -> None:
        self.position = read.page.end
        self.settled = settled
        self.lag_rows = max(0, self.lag_rows - len(read.page.rows))

    # --- late rows ------------------------------------------------------------------------------

    async def _settle(self, stop: asyncio.Event, deadline: float) -> tuple[int, int]:
        """Look again at what was read before it was settled, and copy what has appeared there.

        Returns how many rows came late, and how many were removed (only during a full resync).
        """
        late = deleted = 0
        if self._reading.suspect is not None:
            late += await self._look_at_suspects(stop, deadline)
        if self._told is not None and self.watched:
            if self._reading.suspect is None:
                self.settled = max(self.settled, min(self._told.vouched, self.position))
        elif self.settled < self._to_settle:
            if self.settled >= self.head and self._clock() - self._looked_at >= self._LOOK_SECONDS:
                await self._last_handed_out()  # no head shows that what is left has settled
            # First the evidence, then the look, then the claim.
            sure = min(await self._sure(), self._to_settle)
            # A little even where copying took all the time: what is read behind the settled id when
            # its evidence is there has settled, and need not be looked at again.
            deadline = max(deadline, self._clock() + self._SETTLE_SECONDS)
            while self.settled < sure and not stop.is_set() and self._clock() < deadline:
                end, found, gone = await self._look(self.settled, sure, claim=True)
                self.settled = end
                late, deleted = late + found, deleted + gone
            self.position = max(self.position, self.settled)
            if self._clock() - self._looked_at >= self._LOOK_SECONDS:
                late += await self._look_at_tail(stop)
                self._looked_at = self._clock()
        finished = self._resync_finished()
        if finished:
            deleted += await self._remove_what_central_never_had()
        moved = self.settled > self.state.settled
        saved_at = self.committer.saved_at
        pause = self._SAVE_WATCHED_SECONDS if self.watched else self._SAVE_SECONDS
        if finished or (moved and self._clock() - saved_at >= pause):
            await self.committer.commit((), settled=self.settled, finished=finished)
        return late, deleted

    @property
    def _to_settle(self) -> int:
        """Up to here it wants to know that nothing can appear any more: what it has read, and in a
        full resync what stood above the head once and may stand here still."""
        if self._resync_until is None or self.position < self.head:
            return self.position
        return max(self.position, self._resync_until)

    async def _last_handed_out(self) -> int:
        """The last id that the table has handed out, though its row may be deleted by now."""
        following = await self._central.next_id(self.plan.entity.central)
        return self.head if following is None else max(self.head, following - 1)

    async def _sure(self) -> int:
        """Up to here no transaction can add an id any more."""
        entity = self.plan.entity
        return await self._central.settled(entity.central, self.plan.central_key, self.settled)

    async def _look_at_suspects(self, stop: asyncio.Event, deadline: float) -> int:
        """Look where the shared scans have seen something that was not there before."""
        assert self._reading.suspect is not None  # noqa: S101 - the caller asks
        late = 0
        after = max(self.settled, self._reading.suspect)
        while after < self.position:
            if stop.is_set() or self._clock() >= deadline:
                self._reading.suspect = after
                return late
            after, found, _ = await self._look(after, self.position, claim=False)
            late += found
        self._reading.suspect = None
        return late

    async def _look_at_tail(self, stop: asyncio.Event) -> int:
        late = 0
        after = max(self.settled, self.position - self._LOOK_IDS)
        while after < self.position and not stop.is_set():
            after, found, _ = await self._look(after, self.position, claim=False)
            late += found
        return late

    async def _look(self, after: int, upto: int, *, claim: bool) -> tuple[int, int, int]:
        """Compare the keys of both sides in (after, end]; copy what only central has.

        `claim`: up to `end` no id can be added any more, so the settled id moves there with the
        rows, and in a full resync what only the local side has is removed. Returns end, the rows
        copied and the rows removed.
        """
        if after < self.head:  # above it stands next to nothing, and the next id may lie far away
            upto = min(upto, after + self._reach.span)
        theirs = await self._central.keys(
            self.plan, self._instance, after=after, upto=upto, limit=self._KEYS
        )
        end = theirs[-1] if len(theirs) == self._KEYS else upto
        ours = await local.keys(
            self._connection, self.plan, after=after, upto=end, limit=self._KEYS, note=self._note
        )
        if len(ours) == self._KEYS and ours[-1] < end:
            end = ours[-1]
            theirs = [key for key in theirs if key <= end]
        missing = sorted((set(theirs) - set(ours)).difference(self.committer.excluded))
        extra = sorted(set(ours) - set(theirs)) if claim and self.state.resync else []
        copied = 0
        at_once = Committer.MISSING
        for start in range(0, len(missing), at_once):
            copied += await self._copy_late(missing[start : start + at_once])
        if extra:
            await self.committer.commit((), settled=max(self.settled, after), delete=extra)
        return end, copied, len(extra)

    async def _copy_late(self, keys: Sequence[int]) -> int:
        """Fetch and write rows that appeared below the position."""
        copied = 0
        while keys:
            rows, whole = await self._central.rows(
                self.plan, self._instance, keys, self._limits.bytes
            )
            if rows:
                copied += await self.committer.commit(rows, settled=self.settled, late=len(rows))
            if whole or not rows:
                break
            reached = key_of(rows[-1])
            keys = [key for key in keys if key > reached]
        return copied

    def _resync_finished(self) -> bool:
        """A full resync ends when all that stood in central at its beginning has settled."""
        return (
            self.state.resync
            and self._resync_until is not None
            and self.settled >= self._resync_until
        )

    async def _remove_what_central_never_had(self) -> int:
        """Local rows with ids that central has not handed out, as a restored central leaves them.

        Those between its newest row and its next id may be rows in flight, which the application
        wrote here ahead of us: they stay.
        """
        table = self.plan.entity.central
        after = await self._central.next_id(table)
        removed = 0
        while after is not None:
            extra = await local.keys(
                self._connection, self.plan, after=after - 1, upto=_HIGHEST_KEY,
                limit=self._KEYS, note=self._note,
            )  # fmt: skip
            if not extra:
                break
            await self.committer.commit((), settled=self.settled, delete=extra)
            removed += len(extra)
        return removed

    # --- rewound ----------------------------------------------------------------------------------

    async def _refuse_if_rewound(self, head: int) -> None:
        """The head lies below what was read. Rows deleted at the end do that, and harm nothing: the
        table does not hand out their ids again. A TRUNCATE or a restore does."""
        following = await self._central.next_id(self.plan.entity.central)
        if following is None or following <= self.position:
            await self._refuse_rewound(head, following)
        self._fell_to = head  # so that this is not asked again at every poll

    async def _refuse_rewound(self, head: int, following: int | None) -> NoReturn:
        """Ids are handed out again that were read. Raises RewoundError, now and until a reset."""
        table, name = self.plan.entity.central, self._entity
        if self.state.settled_for != self.state.last_synced_id > head:
            self._rewind_noted()
            raise RewoundError(
                f"{name}: the watermark {self.state.last_synced_id} was set above the newest id"
                f" {head} of central {table}",
                hint=f"it goes on when central gets there; or `wpp-sync reset {self._instance}"
                f" {name}`",
            )
        await self.committer.mark_rewound()
        self._rewind_noted()
        raise self._rewound(
            f"it ends at id {head} (next id {following}), but {self.position} was read already"
        )

    def _rewind_noted(self) -> None:
        """The shared scans need not tell of it any more: neither us nor who comes after us."""
        if self._watched is not None:
            self._watched.noted()

    def _rewound(self, why: str) -> RewoundError:
        return RewoundError(
            f"{self._entity}: central {self.plan.entity.central} was truncated or restored: {why};"
            " new rows would get ids that count as copied",
            hint=f"when central is right, run `wpp-sync resync {self._instance}`"
            f" (or `wpp-sync reset {self._instance} {self._entity}`, which removes nothing)",
        )
