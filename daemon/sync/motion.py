"""How one entity of one instance is kept: all that is done to it, step by step, each bounded.

An incremental entity follows the growing end of its table; in between its hot rows are compared
every few seconds, and the whole table in the background. A whole entity is compared at its
interval. A round begins at the same moments for all instances of a process, so that central's sums
serve all of them.
"""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import dataclass, replace
from functools import cache

from daemon import state
from daemon.aio import Clock
from daemon.central import Central, Sum
from daemon.metrics import Metrics
from daemon.schema import Plan
from daemon.sql import Key
from daemon.state import Round, State
from daemon.sync.commit import Committer, Step
from daemon.sync.hot import Hot
from daemon.sync.incremental import Incremental
from daemon.sync.reconcile import Bounds, Reconcile
from daemon.watch import Member, Standing, Watch


def goes_on_at(
    now: float, next_chunk_at: float, pause: float, behind: float, share: float
) -> float:
    """When a round asks again that waits for its chunk's turn, no sooner than after a pause. Pure.
    `share`, from 0 to 1, is another one for each instance: the first of them asks for all, the
    others follow while the chunk behind it waits, `behind` seconds, or within a pause."""
    return max(now + pause, next_chunk_at + share * max(pause, behind))


def round_of(now: float, interval: float, table: str) -> float:
    """When the round began that `now` lies in. Pure. Tables begin at different moments, instances
    that compare the same one at the same."""
    phase = interval * _share_of(table)
    return (now - phase) // interval * interval + phase


@cache
def _share_of(name: str) -> float:
    """From 0 to 1, by the name."""
    return zlib.crc32(name.encode()) % 1000 / 1000


@dataclass(frozen=True, slots=True)
class Resting:
    """One entity of an instance whose local connection is closed: nothing was left to do, and what
    comes is told by the shared scans."""

    state: State
    """The state row as it was left."""

    member: Member | None
    """Its place in the scans of new ids; None for an entity that is compared whole."""

    standings: tuple[Standing, ...]
    position: int
    head: int
    hot_rows: int | None
    compared_before_at: float | None
    instance: str
    plan: Plan
    central: Central
    """Its sums are asked for it, too, until `end`."""

    round_due_at: float | None
    """When its table is to be compared, where nobody else looks meanwhile."""

    @property
    def caught_up(self) -> bool:
        """All that central had a moment ago is here; `quiet_at` says when."""
        return True

    @property
    def settled(self) -> int:
        return self.state.settled

    @property
    def lag_rows(self) -> int:
        """Rows still to be copied: none, or it would not rest."""
        return 0

    @property
    def compared_once_at(self) -> float | None:
        """When both sides were last known to be equal."""
        if self.member is not None:
            return self.compared_before_at
        held = [each.held_at for each in self.standings if each.held_at is not None]
        return max(held, default=self.compared_before_at)

    @property
    def differs(self) -> bool:
        """Central has something else than what it rests upon."""
        return any(each.differs for each in self.standings)

    @property
    def quiet_at(self) -> float:
        """When there was nothing to copy, as last looked for all."""
        if self.member is not None:
            return self.member.quiet_at
        return self.compared_once_at or float("-inf")

    def end(self, *, member: bool = True) -> None:
        """Nobody has to be told any more; `member` False: its place goes to another motion."""
        self.central.leave(self.plan, self.instance)
        for each in self.standings:
            each.leave()
        if self.member is not None:
            self.member.rests = False
            if member:
                self.member.leave()


class Motion:
    """One entity of one instance."""

    _ROUND_SECONDS = 0.25
    """So long a step compares in the background, before new rows are looked for again."""

    _HOT_SECONDS = 0.5
    """So long a step compares hot rows, before new rows are looked for again."""

    _PACE_SECONDS = 1.0
    """So soon a comparison in the background goes on, or asks again whether it is its turn."""

    _SPREAD_SECONDS = 10.0
    """A round begins for all instances within so long, so that the others' new rows are not kept
    waiting by all of them at once; central's sums serve them all the same."""

    _QUIET_SECONDS = 15.0
    """So often a step looks in any case whether there is something to do."""

    _SAVE_SECONDS = 30.0
    """So often the place of a running round is written."""

    _REMEMBER_SECONDS = 600.0
    """So often the end of a round is written where one follows the other within minutes."""

    def __init__(
        self,
        committer: Committer,
        incremental: Incremental | None,
        hot: Hot | None,
        *,
        remembered: Round,
        interval: float,
        central: Central,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self.committer = committer
        self.incremental = incremental
        self.hot = hot
        self.round: Reconcile | None = None
        """The comparison of the whole table that is under way."""

        self._round_waits = False
        """It is not its turn yet."""

        self.asked: Reconcile | None = None
        """A comparison that somebody has asked for."""

        self.compared_at: float | None = None
        """When the last one of this motion ended, in seconds of the clock."""

        self.compared_once_at = None if remembered.age is None else clock() - remembered.age
        """When the last one ended, perhaps before this process began."""

        self.end_is_written = remembered.age is not None
        """The state row says that a round has ended. Where it does no more, somebody has reset the
        entity: of one without a watermark nothing else changes."""

        self._interval = interval
        self._share = _share_of(committer.instance)
        self._central = central
        self._metrics = metrics
        self._clock = clock
        self._cursor = remembered.cursor
        self._stepped_at = float("-inf")
        self._round_saved_at = clock()
        self._end_saved_at = float("-inf")
        # A round that ended within the interval need not be repeated after a restart; one that was
        # under way goes on. A whole entity is compared at once: nothing else says what it lacks.
        recent = (
            incremental is not None
            and remembered.cursor is None
            and remembered.age is not None
            and remembered.age < interval
        )
        self._done = float("-inf")
        if recent and remembered.age is not None:
            # The round in which it ended: the one that has begun since is not done.
            self._done = round_of(clock() - remembered.age, interval, committer.plan.entity.central)
        self._total: Sum | None = None
        """What central's rows added up to in the last round, if nothing differed."""

        self._total_at = float("-inf")
        self._asked_at: float | None = None
        self._resync_seen: tuple[float, float] | None = None
        self._derived_todo = [] if remembered.derived else list(committer.derived)
        self._derived_after: tuple[int] | None = None
        # Already now, so that the first chunk that anybody asks for is summed for this one, too.
        central.join(committer.plan, committer.instance)

    # --- what it looks like from outside ----------------------------------------------------------

    @property
    def plan(self) -> Plan:
        return self.committer.plan

    @property
    def state(self) -> State:
        return self.committer.state

    @property
    def quarantined(self) -> set[Key]:
        return self.committer.quarantined

    @property
    def position(self) -> int:
        """Central ids up to here were read; 0 for an entity that is compared whole."""
        return self.incremental.position if self.incremental else 0

    @property
    def settled(self) -> int:
        return self.incremental.settled if self.incremental else 0

    @property
    def head(self) -> int:
        return self.incremental.head if self.incremental else 0

    @property
    def lag_rows(self) -> int:
        return self.incremental.lag_rows if self.incremental else 0

    @property
    def hot_rows(self) -> int | None:
        """How many rows were hot when they were compared last; None where none can be."""
        return self.hot.rows if self.hot else None

    @property
    def derived_compared(self) -> bool:
        """Nothing that is derived from the table waits to be compared with it."""
        return not self._derived_todo

    @property
    def caught_up(self) -> bool:
        """All that central had a moment ago is here: the end is reached, or the round that was due
        is done."""
        if self.incremental is not None:
            return self.incremental.position >= self.incremental.head
        return self.compared_at is not None and self.round is None

    @property
    def quiet_at(self) -> float:
        """When there was nothing to copy that is not copied, as last looked for all; long ago where
        that is not known."""
        if self.incremental is None or not self.caught_up:
            return float("-inf")
        return self.incremental.quiet_at

    @property
    def due_in(self) -> float:
        """In how many seconds it has something to do that nobody will tell it of."""
        now = self._clock()
        waits = [self._round_due_at() - now]
        if self.incremental is not None:
            waits.append(self.incremental.looks_itself)
        if self.hot is not None:
            waits.append(self.hot.due_in(self.committer.written_at))
        if self.quarantined:
            waits.append(self.committer.retry_at - now)
        if self.asked is not None or self._derived_todo:
            waits.append(0.0)
        return max(0.0, min(waits))

    def _round_due_at(self, spread: float = 0.0) -> float:
        now = self._clock()
        if self._asked_at is not None or (self.incremental is None and self.state.resync):
            return now
        if self.round is not None:
            if not self._round_waits:
                return now + self._PACE_SECONDS
            pause = self._PACE_SECONDS * self._central.slowness
            central, plan = self._central, self.plan
            at, behind = central.next_chunk_at(plan), central.chunk_pause(plan)
            return goes_on_at(now, at, pause, behind, self._share)
        current, interval = self._current_round(), self._round_interval
        spread = self._share * min(max(self._SPREAD_SECONDS, spread), interval / 5)
        return current + spread + (interval if self._done >= current else 0.0)

    @property
    def _round_interval(self) -> float:
        """So far apart rounds are now: farther while central is busy, as with those who rest."""
        return self._interval * self._central.slowness

    @property
    def resync_progress(self) -> float | None:
        """How much of a full resync is done, from 0 to 1; None when none is under way."""
        if not self.state.resync:
            return None
        if self.incremental is not None:
            return self.incremental.progress
        return self.round.progress if self.round else 0.0

    @property
    def eta_seconds(self) -> float | None:
        """How long a full resync will still take, by how it went so far; None when not known."""
        done = self.resync_progress
        if done is None:
            self._resync_seen = None
            return None
        if self._resync_seen is None:
            self._resync_seen = (self._clock(), done)
        at, before = self._resync_seen
        if done <= before:
            return None
        return (1.0 - done) * (self._clock() - at) / (done - before)

    def compare_now(self) -> None:
        """The next step begins a round, whatever was compared before. One that is under way is
        given up: it goes at its own pace, and what it has compared may have changed since."""
        self.round = None
        self._asked_at = self._clock()

    def bounds(self) -> Bounds:
        """How far both sides can be compared now."""
        if self.incremental is None:
            return Bounds(None, None)
        return Bounds(self.incremental.position, self.incremental.settled)

    # --- steps ------------------------------------------------------------------------------------

    async def step(self, stop: asyncio.Event, seconds: float, *, background: bool = True) -> Step:
        """Copy what is new, then compare what is due; about `seconds` long at the most.

        `background` False: an incremental entity's table is not compared. A stop request ends it
        after the transaction that is under way.
        """
        self._stepped_at = self._clock()
        if self.incremental is not None:
            did = await self.incremental.step(stop, seconds)
            if did.more:
                return did
            if self.asked is not None:
                # What it finds is told to somebody: nothing else repairs it meanwhile.
                return replace(did, more=await self._asked_step(self.asked, stop, seconds))
            more = await self._hot_step(stop)
            if background:
                await self._round_step(stop, self._ROUND_SECONDS)
        else:
            await self.committer.retry_if_due()
            if self.asked is not None:
                return Step(0, 0, 0, more=await self._asked_step(self.asked, stop, seconds))
            did = await self._round_step(stop, seconds)
            more = did.more
        await self._derived_step(stop)
        # In the background a part of what is derived is enough with each pass.
        more = more or (not background and not self.derived_compared)
        return did if more == did.more else replace(did, more=more)

    @property
    def quiet(self) -> bool:
        """A step would find nothing to do: nothing was told since the last one, and nothing is due.
        Many instances have something new in one table, and nothing in the others."""
        if self.round is not None or (self.incremental and not self.incremental.quiet):
            return False
        return self._clock() - self._stepped_at < self._QUIET_SECONDS and self.due_in > 0

    @property
    def can_rest(self) -> bool:
        """Nothing is to be done until central has something new, or a round is due."""
        if self.quarantined or self.asked or self._derived_todo or self.state.resync:
            return False
        if self.round is not None or self._round_due_at() <= self._clock():
            return False
        if self.hot is not None and not self.hot.can_rest(self.committer.written_at):
            return False
        if self.incremental is not None:
            return self.incremental.can_rest
        # What was written since is not in the sum.
        return self._total is not None and self._total_at > self.committer.written_at

    def rest(self, watch: Watch, news: asyncio.Event, hot_interval: float) -> Resting:
        """End this motion, and have it told to `news` when another one has something to do.

        Its state row must have been saved. Only where it `can_rest`.
        """
        instance, sums = self.committer.instance, self.plan.central_sums
        standings = []
        if self.hot is not None and self.hot.keys:
            standings.append(
                watch.expect(sums, instance, self.hot.keys, self.hot.total, news, hot_interval)
            )
        if self._total is not None and self.incremental is None:
            standings.append(watch.expect(sums, instance, None, self._total, news, self._interval))
        member = self.incremental.rest() if self.incremental else None
        if member is not None:
            member.rests = True
        return Resting(
            state=self.state,
            member=member,
            standings=tuple(standings),
            position=self.position,
            head=self.head,
            hot_rows=self.hot_rows,
            compared_before_at=self.compared_once_at,
            instance=instance,
            plan=self.plan,
            central=self._central,
            # All have to open their connections for it.
            round_due_at=self._round_due_at(watch.spread) if self.incremental else None,
        )

    def leave(self) -> None:
        """This motion ends, another one may follow it."""
        self._central.leave(self.plan, self.committer.instance)
        if self.incremental is not None:
            self.incremental.leave()

    async def save(self) -> None:
        """Write what moved in memory only; for a graceful stop."""
        if self.incremental is not None:
            await self.incremental.save()
        if self.round is not None:
            await self._save_round(self.round, ended=False)

    async def _hot_step(self, stop: asyncio.Event) -> bool:
        """A turn of the hot rows; whether some of them are left."""
        if self.hot is None or not self.hot.due:
            return False
        repairing = self._new_round(self._clock(), cursor=None, bulk=False)
        bounds = self.bounds()
        return await self.hot.step(self.committer, repairing, bounds, stop, self._HOT_SECONDS)

    async def _asked_step(self, asked: Reconcile, stop: asyncio.Event, seconds: float) -> bool:
        """A turn of the comparison that somebody asked for; whether there is more of it."""
        await asked.step(self.committer, self.bounds(), stop, seconds)
        if asked.finished:
            self.asked = None
            await self._end_round(asked)
        return not asked.finished

    def _new_round(
        self, since: float, cursor: int | None, *, paced: bool = False, bulk: bool = True
    ) -> Reconcile:
        return Reconcile(
            central=self._central,
            metrics=self._metrics,
            clock=self._clock,
            since=since,
            cursor=cursor,
            paced=paced,
            bulk=bulk,
        )

    def _current_round(self) -> float:
        return self._round_at(self._round_interval)

    def _round_at(self, interval: float) -> float:
        return round_of(self._clock(), interval, self.plan.entity.central)

    def _begin_round(self) -> Reconcile | None:
        """The round that is due, if one is."""
        whole = self.incremental is None
        if self._asked_at is not None or (whole and self.state.resync):
            since = self._asked_at if self._asked_at is not None else self._clock()
            self._asked_at = self._cursor = None
            return self._new_round(since, None)
        current = self._current_round()
        if current <= self._done:
            return None
        cursor, self._cursor = self._cursor, None
        # What was never compared is copied as quickly as can be.
        paced = not whole or self.compared_at is not None
        return self._new_round(current, cursor, paced=paced)

    async def _round_step(self, stop: asyncio.Event, seconds: float) -> Step:
        if self.round is None:
            if self._central.slowness > 1.0 and self._round_at(self._interval) > self._done:
                await self._central.load.look()  # what was seen last may be long ago
            self.round = self._begin_round()
            self._round_saved_at = self._clock()
        if self.round is None or stop.is_set():
            return Step(0, 0, 0, more=False)
        before = (self.round.tally.written, self.round.tally.deleted)
        more = await self.round.step(self.committer, self.bounds(), stop, seconds)
        self._round_waits = not more
        tally = self.round.tally
        if self.round.finished:
            await self._end_round(self.round)
        elif self._clock() - self._round_saved_at >= self._SAVE_SECONDS:
            await self._save_round(self.round, ended=False)
        return Step(tally.written - before[0], 0, tally.deleted - before[1], more)

    async def _end_round(self, done: Reconcile) -> None:
        self.round = None  # one that was under way has nothing to do any more, either
        self._done = max(done.since, self._done)
        self.compared_at = self.compared_once_at = self._clock()
        self._total, self._total_at = done.total, self._clock()
        if self.incremental is not None:
            self._derived_todo, self._derived_after = list(self.committer.derived), None
        elif self.state.resync:
            await self.committer.commit((), finished=True)
        if self._clock() - self._end_saved_at >= min(self._interval, self._REMEMBER_SECONDS):
            self._end_saved_at = self._clock()
            await self._save_round(done, ended=True)

    async def _save_round(self, done: Reconcile, *, ended: bool) -> None:
        self._round_saved_at = self._clock()
        await state.write_round(
            self.committer.connection,
            self.committer.entity,
            None if ended else done.compared_from,
            ended=ended,
            # An entity that is compared whole has no other way to be synced.
            synced=ended and self.incremental is None,
            note=self.committer.note,
        )
        self.end_is_written = self.end_is_written or ended

    async def _derived_step(self, stop: asyncio.Event) -> None:
        """Compare what is derived from the table with the table, a bounded part of it at a time."""
        if not self._derived_todo or stop.is_set():
            return
        table = self._derived_todo[0]
        self._derived_after = await self.committer.rebuild(table, self._derived_after)
        if self._derived_after is None:
            self._derived_todo.pop(0)
            if not self._derived_todo:
                await state.write_derived(
                    self.committer.connection, self.committer.entity, self.committer.note
                )
