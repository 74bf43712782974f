"""One instance's life: lock, migrate, then for ever a pass and a wait.

An instance owns one local connection. It writes on it, and on it stands the lock that makes this
process the instance's only copier; when the connection is lost, the lock is, and all begins again.
An error changes nothing but the time of the next try: what was read and not committed is dropped,
and the next pass starts from the state row.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Literal

import structlog

from daemon import config, local, orders, schema, state
from daemon.aio import Backoff, Clock, Courtesy, Occupied, jittered, wait_first
from daemon.central import Central
from daemon.db import Connection
from daemon.entities import Entity
from daemon.errors import (
    DatabaseError,
    MissingError,
    PausedError,
    RewoundError,
    SchemaError,
    StandbyError,
    StateMovedError,
    StoppedError,
    TransientError,
    WppSyncError,
)
from daemon.hold import Hold
from daemon.hosts import Seats
from daemon.metrics import Metrics
from daemon.migrator import Migrating, Migrator
from daemon.orders import Orders
from daemon.recent import Recent
from daemon.schema import Plan, Table
from daemon.seen import EntitySeen, InstanceSeen
from daemon.state import State
from daemon.sync import quarantine
from daemon.sync.commit import Committed, Committer
from daemon.sync.derived import DerivedTable
from daemon.sync.hot import Hot
from daemon.sync.incremental import Incremental, Limits, Reach
from daemon.sync.motion import Motion, Resting
from daemon.sync.quarantine import Strikes
from daemon.sync.reconcile import Reconcile
from daemon.sync.run import PassResult, is_entitys_own, take_turns
from daemon.throttle import Shares, Throttle
from daemon.watch import Member, Watch

InstanceState = Literal[
    "starting", "migrating", "syncing", "idle", "paused", "standby", "backoff", "failed"
]

STANDBY_SECONDS = 2.5
"""So often a standby asks for the lock."""

_AWAY_SECONDS = 4.0
"""So long whoever has handed an instance over leaves it to the one who asked for it."""

_CENTRAL_PATIENCE_SECONDS = 15.0
"""A daemon that cannot read central for so long lets go of the instance: another host may."""

_UNFIT_SECONDS = 600.0
"""So long a daemon does not ask for an instance that it has failed with."""

TURN_SECONDS = 1800.0
"""Every wait within a turn is bounded, so that no turn takes nearly as long, but for one that
migrates. One that does is broken off and told."""

_LONG_TURN_SECONDS = 10.0
"""A turn is not longer, but where it waits for a silent server: from here on the lag grows."""

_GRACE_SECONDS = 30.0
"""What a turn that is broken off may take to end. Longer, and the instance is stalled."""

SLOW_RETRY_SECONDS = 60.0
"""So often what does not mend by itself is tried again: an operator may have mended it."""

HEARTBEAT_SECONDS = 15.0
"""The state rows are looked at so often: an idle local connection stays open, and a reset made
elsewhere is seen, also while nothing can be written."""

REST_SECONDS = 900.0
"""An instance that rests opens its connection so often all the same, and sees whether somebody has
changed its state, its orders or its tables."""

SCHEMA_RETRY_SECONDS = 15.0
"""So often an entity is tried again whose tables are not as they must be."""

_EVERY_KEY = (1 << 63) - 1

_STARTS = 3
"""So often an entity whose state or tables were changed meanwhile starts over within one pass."""


@dataclass(frozen=True, slots=True)
class Intervals:
    """How often tables are compared, in seconds."""

    reconcile: float = 3600.0
    whole: float = 60.0
    hot: float = 5.0


@dataclass(frozen=True, slots=True)
class Shared:
    """What all instances of a process have in common."""

    central: Central
    watch: Watch
    seats: Seats
    migrating: Migrating
    beginning: Courtesy
    """For an instance's first turn, which asks much of everybody: those that are there already are
    not to notice how many others begin."""

    limits: Limits
    limit: Shares
    """Rows that may be written in a second, for all instances together."""

    intervals: Intervals
    rest_after: float
    backoff_max: float
    clock: Clock
    metrics: Metrics


@dataclass(slots=True)
class _Learnt:
    """What is known of an entity beyond the life of a motion."""

    reach: Reach
    strikes: Strikes
    note: str = ""
    """The columns that are left out, as last logged."""

    replanned: bool = False
    """It has a new plan because a server called the old one stale."""

    table_was_missing: bool = False
    """Its local table was not there when it was last looked for."""


class Instance:
    """One instance in this process."""

    def __init__(  # noqa: PLR0915 - a list of what is known, nothing is done
        self, settings: config.Instance, shared: Shared
    ) -> None:
        self.settings = settings
        self.name = settings.name
        self.state: InstanceState = "starting"
        self.error: WppSyncError | None = None
        self.migrator = Migrator(self.name, shared.migrating, shared.metrics)
        self.motions: dict[str, Motion] = {}
        """The entities that are under way; one that cannot go on is in `entity_errors` instead."""

        self.resting: dict[str, Resting] = {}
        """The same, while the local connection is closed because there was nothing to do."""

        self.states: dict[str, State] = {}
        """The state rows as last read or written."""

        self.entity_errors: dict[str, WppSyncError] = {}
        self.derived_errors: dict[str, WppSyncError] = {}
        """Why a table cannot be derived; the entity that it is derived from goes on without it."""

        self.quarantined: dict[str, int] = {}
        """Rows in quarantine, by entity, as last known."""

        self.rows_written = 0
        self.recent = Recent()
        self.running = False
        """This process runs the instance's loop: what is in memory is the truth about it."""

        self.wake = asyncio.Event()
        """Set it to have the next pass now."""

        self.news = asyncio.Event()
        """Set by the shared scans when central has something for it."""

        self.stop = asyncio.Event()
        """Set when this instance is to leave: the process ends, or its settings have changed."""

        self.listener: Callable[[Committed], None] | None = None
        """Told of each commit; for progress bars."""

        self.orders = Orders()
        """What an operator has said, as last read."""

        self.throttle = Throttle(
            self.name,
            shared.clock,
            limit=shared.limit,
            guard=shared.central.guard,
            held=lambda reason, seconds: shared.metrics.throttled_seconds.labels(
                self.name, reason
            ).inc(seconds),
        )

        self.shared = shared
        self._clock = shared.clock
        self._metrics = shared.metrics
        self._log = structlog.get_logger().bind(instance=self.name)
        self.hold = Hold(settings, shared.seats, shared.clock, fit=self._fit)
        self._unfit_until = self._central_failed_at = float("-inf")
        self._ready = False
        """All migrations are in effect, and nothing keeps the instance from being copied."""

        self._listens = False
        """News ends the wait for the next turn."""

        self._turn_began_at: float | None = None
        self._turn_seconds = max(TURN_SECONDS, 10 * settings.statement_timeout)
        self._turn_limit: asyncio.Timeout | None = None
        self._busy = asyncio.Lock()
        self._whole_passes = Occupied()
        """Passes that somebody has asked for. While one is under way, the loop leaves all turns to
        it."""

        self._retry_at: dict[str, float] = {}
        self._learnt = defaultdict[str, _Learnt](lambda: _Learnt(Reach(shared.limits), Strikes()))
        self.asked: dict[str, Reconcile] = {}
        """The comparisons that somebody has asked for (`daemon.comparing`): motions take turns of
        them."""

        self.comparing = asyncio.Lock()
        self._compare_whole = False
        self._reads_asked = self._reads_done = 0
        """So often state and orders were to be read again, because somebody has changed them on
        purpose; and how many of these have been done."""

        self._heartbeat_at = self._began_at = self._clock()
        self._caught_up_at: dict[str, float] = {}
        self._active_at = float("-inf")
        """When something was written last, or was asked for."""

    @property
    def server(self) -> str:
        """Its database, in the operator's words."""
        return f"local {self.name}"

    @property
    def entities(self) -> Mapping[str, Entity]:
        """The entities of this instance that are not switched off."""
        return {name: entity for name, entity in self.settings.entities.items() if entity.enabled}

    @property
    def errors(self) -> Mapping[str, WppSyncError]:
        """What is wrong with single entities."""
        return {**self.derived_errors, **self.entity_errors}

    @property
    def opened(self) -> bool:
        """This process holds the instance's lock and has migrated."""
        return self.hold.usable and self._ready

    @property
    def stalled(self) -> bool:
        """Its loop does not go on, not even after its turn was broken off."""
        if self._turn_began_at is None or self.migrator.doing is not None:
            return False
        return self._clock() - self._turn_began_at > self._turn_seconds + _GRACE_SECONDS

    @property
    def writing(self) -> bool:
        """A transaction or a migration is under way, which a stop lets end."""
        connection = self.hold.connection
        return self.migrator.doing is not None or (
            connection is not None and connection.in_transaction
        )

    @property
    def locked(self) -> bool:
        """This process holds the instance's lock."""
        return self.hold.usable

    @property
    def copies(self) -> bool:
        """This process copies the instance, though it may have closed its connection for now."""
        return self.hold.usable or bool(self.resting)

    @property
    def reads_anew(self) -> bool:
        """Somebody has changed state or orders, and they have not been read again yet."""
        return self._reads_done != self._reads_asked

    @property
    def settling(self) -> str:
        """Which rule of settling is in force, and why, in words."""
        return self.shared.central.settle_words()

    async def learn_settling(self) -> None:
        """Ask central what rule can be in force; the answer stands in `settling`."""
        with suppress(DatabaseError):  # then it says that it is not known
            await self.shared.central.validity()

    def lag_seconds(self, entity: str) -> float:
        """How long ago the entity had last reached the head: at most so old is the first row that
        is not copied yet. 0 when it has reached it; while passes fail it grows. Of an entity that
        is compared whole: how old the last comparison is."""
        motion = self.motions.get(entity) or self.resting.get(entity)
        at = self._caught_up_at.get(entity, self._began_at)
        if motion is not None:
            at = max(at, motion.quiet_at)
        age = max(0.0, self._clock() - at)
        # What was true at the last turn is true, unless there should have been another one since.
        recent = age < max(_LONG_TURN_SECONDS, 3 * self.settings.poll_interval)
        follows = self.entities[entity].motion == "incremental"
        caught_up = motion is not None and motion.caught_up and entity not in self.orders.pauses
        return 0.0 if follows and caught_up and recent else age

    def compared_at(self, entity: str) -> float | None:
        """When both sides of an entity were last compared whole, in seconds since 1970."""
        motion = self.motions.get(entity) or self.resting.get(entity)
        if motion is None or motion.compared_once_at is None:
            return None
        return time.time() - (self._clock() - motion.compared_once_at)

    def seen(self) -> InstanceSeen:
        """What is true of it now; from memory."""
        copies = self.state != "standby"
        pending = self.migrator.pending
        return InstanceSeen(
            self.name,
            self.state,
            {name: self._seen(name) for name in self.entities} if copies else {},
            last_success_timestamp_seconds=self._succeeded_at(),
            migrations_pending=len(pending) if copies and pending is not None else None,
        )

    def _succeeded_at(self) -> float | None:
        """When all was last known to be well, in seconds since 1970."""
        at, looked = self.recent.succeeded_at, self._clock()
        if not self.resting or at is None:
            return at
        members = [each.quiet_at for each in self.resting.values() if each.member is not None]
        return max(at, time.time() - (looked - min(members, default=float("-inf"))))

    def _seen(self, entity: str) -> EntitySeen:
        motion, error = self.motions.get(entity), self.entity_errors.get(entity)
        paused = self.orders.pause is not None or entity in self.orders.pauses
        follows = self.entities[entity].motion == "incremental"
        common = EntitySeen(
            lag_seconds=self.lag_seconds(entity),
            quarantined_rows=self.quarantined.get(entity),
            rewound=int(isinstance(error, RewoundError)) if follows else None,
            entity_failed=int(entity in self.errors),
            entity_paused=int(paused),
        )
        if (resting := self.resting.get(entity)) is not None:
            return replace(
                common,
                lag_rows=0 if follows else None,
                last_synced_id=resting.state.last_synced_id if follows else None,
                settled_id=resting.settled if follows else None,
                compared_timestamp_seconds=self.compared_at(entity),
                reconcile_progress_ratio=1.0,
                resync_progress_ratio=1.0,
                hot_rows=resting.hot_rows,
            )
        if motion is None:
            return common
        resynced = motion.resync_progress
        return replace(
            common,
            # Behind and not counted: nobody knows, and that is not 0.
            lag_rows=(motion.lag_rows or (0 if motion.caught_up else None)) if follows else None,
            last_synced_id=motion.state.last_synced_id if follows else None,
            settled_id=motion.settled if follows else None,
            compared_timestamp_seconds=self.compared_at(entity),
            reconcile_progress_ratio=1.0 if motion.round is None else motion.round.progress,
            resync_progress_ratio=1.0 if resynced is None else resynced,
            hot_rows=motion.hot_rows,
        )

    def expect_new_rows(self) -> None:
        """The next pass asks central anew where its tables end, and compares whole entities now."""
        self.shared.central.expire_heads()
        self._compare_whole = True

    def retry_quarantine(self) -> None:
        """Try the quarantined rows again with the next pass, and have that now."""
        for motion in self.motions.values():
            motion.committer.retry_at = self._clock()
        self.start_over()

    def start_over(self) -> None:
        """The state was changed on purpose: have a pass now that reads it again, and try again now
        whatever waits for its next try."""
        self._retry_at.clear()
        self._reads_asked += 1
        self._compare_whole = True  # with what central has from now on
        self.wake.set()

    def look_at_orders(self) -> None:
        """Orders were changed on purpose: have a pass now that reads them."""
        self._reads_asked += 1
        self.wake.set()

    async def turn_is_over(self, seconds: float) -> bool:
        """Wait until what was under way is done; False when it took longer than so many seconds."""
        try:
            async with asyncio.timeout(seconds), self._busy:
                return True
        except TimeoutError:
            return False

    def broke(self, error: WppSyncError) -> None:
        """An error that nobody foresaw has ended the loop."""
        self.error = error
        self._count(error)
        self.state = "failed"

    # --- life -----------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set. The batch that is being written is finished; then it is closed."""
        backoff = Backoff(1.0, self.shared.backoff_max)
        self.running = True
        try:
            while not stop.is_set():
                await wait_first(None, stop, self._whole_passes.free)
                self.wake.clear()
                self.news.clear()
                self._turn_began_at = self._clock()
                self._listens = False
                pause = await self._turn(stop, backoff)
                self._turn_began_at = None
                await self._wait(pause, stop)
        finally:
            await self.close()

    async def _wait(self, pause: float, stop: asyncio.Event) -> None:
        """Until the next turn: so long, or, after a pass that went well, until there is news; but
        no less than a poll interval after the last one."""
        least = min(pause, jittered(self.settings.poll_interval)) if self._listens else pause
        if not await wait_first(least, stop, self.wake) and pause > least:
            await wait_first(pause - least, stop, self.wake, self.news)

    def _due_in(self) -> float:
        """In how many seconds there is something to do that nobody will tell it of."""
        now = self._clock()
        waits = [self._heartbeat_at + HEARTBEAT_SECONDS - now]
        waits += [motion.due_in for motion in self.motions.values()]
        waits += [
            self._retry_at[entity] - now for entity in self.errors if entity in self._retry_at
        ]
        begun = self.motions.keys() | self.errors.keys() | self.orders.pauses.keys()
        if self.entities.keys() - begun:
            return 0.0  # it was started over
        return min(waits)

    async def _turn(self, stop: asyncio.Event, backoff: Backoff) -> float:
        """One pass with all that may come of it; the seconds to wait before the next."""
        if self.hold.asked_for and not self._somebody_waits():
            self._log.info("handed over", instances=self.shared.seats.taken)
            await self.close()
            self.forget_what_others_change()
            self.state = "standby"
            return _AWAY_SECONDS
        try:
            result = await self.take_turn(stop)
        except PausedError:
            self.error = None
            self._central_failed_at = float("-inf")
            return jittered(HEARTBEAT_SECONDS)
        except StandbyError as error:
            if self.state != "standby":
                self._log.info("standby", reason=error.message)
                self.forget_what_others_change()
            self.error = None
            self._central_failed_at = float("-inf")
            self.state = "standby"
            return jittered(STANDBY_SECONDS)
        except StoppedError:
            return 0.0
        except WppSyncError as error:
            await self._let_go(error)
            transient = isinstance(error, TransientError)
            pause = backoff.next()  # counts it in any case
            if not transient:
                pause = jittered(SLOW_RETRY_SECONDS)
            if isinstance(error, TransientError):
                pause = max(pause, error.retry_after)
            if self._central_failed_at != float("-inf") and self.hold.usable:
                pause = min(pause, _CENTRAL_PATIENCE_SECONDS)
            self._count(error)
            self.state = "backoff" if transient else "failed"
            # How often this is written is the log's business.
            self._log.error(
                "pass failed", code=error.code, error=error.message, hint=error.hint,
                failures=backoff.failures, next_try_s=round(pause, 1),
            )  # fmt: skip
            if self.error is not None:
                error.since = self.error.since
            self.error = error
            return pause
        self._central_failed_at = float("-inf")
        failures = backoff.reset()
        if failures:
            self._log.info("recovered", after_errors=failures)
        return await self._pause_after(result)

    async def _pause_after(self, result: PassResult) -> float:
        """The seconds to wait after a pass that went well."""
        held = self.throttle.hold()
        if result.more:
            return held
        if held > 0:
            return held
        self._listens = True
        if await self._rest():
            return self._rest_seconds()
        return max(jittered(self.settings.poll_interval), self._due_in())

    # --- rest -----------------------------------------------------------------------------------

    async def _rest(self) -> bool:
        """Close the local connection, where there has been nothing to do for a while and the shared
        scans tell when there is; whether it is closed."""
        if not self._may_rest():
            return False
        async with self._busy:
            connection = self.hold.connection
            try:
                for motion in self.motions.values():
                    await motion.save()
                self.state = "idle"  # that was no syncing
                if connection is None or not self._may_rest():
                    return False
                if not await self.hold.rest(connection):
                    self._active_at = self._clock()
                    return False
            except WppSyncError as error:
                # The next turn meets it, and starts from the state rows.
                self._log.debug("not at rest", error=error.message)
                self._forget_motions()
                return False
            watch, hot = self.shared.watch, self.shared.intervals.hot
            self.resting = {
                name: motion.rest(watch, self.news, hot) for name, motion in self.motions.items()
            }
            self.motions.clear()
            self._ready = False
        self._log.debug("at rest")
        return True

    def _may_rest(self) -> bool:
        return (
            self.running
            and self.state == "idle"
            and not self.errors
            and not self._somebody_waits()
            and not self.wake.is_set()
            and not self.reads_anew
            and not self._compare_whole
            and bool(self.motions)
            and self._clock() - self._active_at >= self.shared.rest_after
            and self.motions.keys() == self.entities.keys() - self.orders.pauses.keys()
            and all(motion.can_rest for motion in self.motions.values())
        )

    def _rest_seconds(self) -> float:
        rounds = [each.round_due_at for each in self.resting.values()]
        due = min((at for at in rounds if at is not None), default=float("inf"))
        return min(jittered(REST_SECONDS), max(0.0, due - self._clock()))

    def _end_rest(self) -> None:
        for name, resting in self.resting.items():
            self._remember_quiet(name, resting)
            resting.end()
        self.resting = {}

    async def _let_go(self, error: WppSyncError) -> None:
        """After an error: leave the instance to another host, where that may do better."""
        if not (isinstance(error, DatabaseError) and error.server == "central"):
            self._central_failed_at = float("-inf")
            if not isinstance(error, TransientError):
                self._unfit_until = self._clock() + _UNFIT_SECONDS
            return
        if self._central_failed_at == float("-inf"):
            self._central_failed_at = self._turn_began_at or self._clock()
        if self._clock() - self._central_failed_at < _CENTRAL_PATIENCE_SECONDS:
            return
        try:
            await self.shared.central.alive()  # it may be one heavy statement alone
        except DatabaseError:
            async with self._busy:
                self._ready = False
                await self.hold.release()

    async def _fit(self, connection: Connection) -> bool:
        """Whether this process could copy the instance, as far as can be told without its lock."""
        if self._clock() < self._unfit_until:
            return False
        try:
            await self.shared.central.alive()
            await self.migrator.look(connection)
        except WppSyncError as error:
            self._log.debug("not asked for", reason=error.message)
            return False
        return True

    def forget_what_others_change(self) -> None:
        """Another daemon copies it: what was true here is not any more."""
        self._end_rest()
        self.states = {}
        self.quarantined = {}
        self.entity_errors.clear()
        self.derived_errors.clear()
        self.migrator.forget()

    @asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        """A turn, whoever takes it: one that hangs would keep all others out."""
        try:
            async with asyncio.timeout(self._turn_seconds) as self._turn_limit:
                yield
        except TimeoutError as error:
            raise WppSyncError(
                f"{self.name}: one turn took longer than {self._turn_seconds:,.0f} s and was"
                " broken off",
                hint="this is a bug in wpp-sync: please report it with the log before this line",
                code="hung",
            ) from error
        finally:
            self._turn_limit = None

    async def keep(self, stop: asyncio.Event) -> None:
        """Beside `run`: keep the lock, whatever the instance waits for."""
        await self.hold.keep(stop, self.wake, busy=self._somebody_waits)

    def _somebody_waits(self) -> bool:
        """Something that was asked for is under way."""
        return bool(self.asked) or not self._whole_passes.free.is_set()

    async def close(self) -> None:
        """Write what is known, release the lock, close the connection."""
        try:
            await self._busy.acquire()
        except asyncio.CancelledError:
            # Nobody else would: what goes on there is broken off, and rolled back.
            self._ready = False
            self._forget_motions()
            self._end_rest()
            self.hold.abandon()
            raise
        try:
            motions = dict(self.motions)
            self._forget_motions()
            self._end_rest()
            try:
                for motion in motions.values():
                    if self.hold.usable:
                        await motion.save()
            except WppSyncError as error:
                # Nothing is lost by it: the next start looks at a little more once again.
                self._log.debug("settled id not saved", error=error.message)
            finally:
                self._ready = False
                await self.hold.release()
        finally:
            self._busy.release()

    # --- one pass -------------------------------------------------------------------------------

    async def sync_pass(self, stop: asyncio.Event, skip: Collection[str] = ()) -> PassResult:
        """One pass over all entities but those to skip, until nothing is left to do or a stop is
        asked for (`result.more` says that something is left). What an operator orders meanwhile
        holds from the next turn on.

        Paused entities are skipped. Raises PausedError, StandbyError when another process copies
        this instance, DatabaseError when a server fails, MigrationError. An entity's own trouble is
        in the result and in `entity_errors`.
        """
        whole, done = PassResult(), set(skip)
        self._active_at = self._clock()
        with self._whole_passes:
            while not stop.is_set():
                turn = await self.take_turn(stop, skip)
                whole.add(turn)
                # Each of them has to have reached its end once, not all at the same moment.
                done |= turn.rows.keys() - turn.unfinished
                whole.unfinished -= done
                if not whole.more:
                    break
                await wait_first(self.throttle.hold(), stop)
            else:
                whole.unfinished |= self.entities.keys() - done
        self.wake.set()  # the loop may wait long after an error that is over now
        return whole

    async def take_turn(self, stop: asyncio.Event, skip: Collection[str] = ()) -> PassResult:
        """One turn of each entity; otherwise as `sync_pass`."""
        async with self._busy, self._bounded():
            await self._take()
            if self._ready:
                return await self._turn_of_each(stop, skip)
            async with self.shared.beginning.place():
                return await self._turn_of_each(stop, skip)

    async def _turn_of_each(self, stop: asyncio.Event, skip: Collection[str]) -> PassResult:
        began, reading = self._clock(), self._reads_asked
        try:
            connection = await self._open(stop)
            await self._heartbeat(connection)
            skip = {*skip, *self.orders.pauses}
            result = PassResult()
            for _ in range(_STARTS):
                again = result.moved
                await self._begin_motions(connection, skip)
                self._reads_done = reading
                chosen = again or [name for name in self.motions if name not in skip]
                motions = {n: self.motions[n] for n in chosen if n in self.motions}
                result.add(await take_turns(motions, stop, background=self.running))
                self._start_over_where_changed(result)
                if not result.moved:
                    break
        except BaseException:
            # In doubt the position is read again, never kept.
            self._forget_motions()
            raise
        self._note_result(result, skip)
        for entity, error in self.errors.items():
            if entity not in skip:  # those that did not even begin are errors of this pass, too
                result.errors.setdefault(entity, error)
        if result.total:
            self._metrics.pass_duration.observe(self._clock() - began)
        return result

    def _start_over_where_changed(self, result: PassResult) -> None:
        """Drop the motions whose state or tables somebody else has changed."""
        for entity, error in list(result.errors.items()):
            # The server calls the plan stale. Where a new one is no better, it is an error.
            if isinstance(error, MissingError) and not self._learnt[entity].replanned:
                self._learnt[entity].replanned = True
                self.shared.central.forget_table(self.entities[entity].central)
                result.moved[entity] = result.errors.pop(entity)
        for entity, change in result.moved.items():
            self._log.info("starting over", entity=entity, reason=change.message)
            self._forget_motion(entity)

    def _note_result(self, result: PassResult, skip: Collection[str]) -> None:
        for entity, error in result.errors.items():
            self._forget_motion(entity)
            self._entity_failed(entity, error)
        for entity in [name for name, rows in result.rows.items() if rows]:
            if entity in result.unfinished and entity in self.motions:
                # The next turn is another one's first: a throttle may leave nothing to the last.
                self.motions[entity] = self.motions.pop(entity)
        for entity, motion in self.motions.items():
            if entity not in skip:
                self.states[entity] = motion.state
                if motion.caught_up:
                    at = motion.compared_at if motion.incremental is None else None
                    self._caught_up_at[entity] = self._clock() if at is None else at
                self.quarantined[entity] = len(motion.quarantined)
                self._learnt[entity].replanned = False
                if self.entity_errors.pop(entity, None) is not None:
                    self._log.info("entity recovered", entity=entity)
        if self.errors:
            self.error = next(iter(self.errors.values()))
            self.state = "failed"
        else:
            self.error = None
            self.recent.succeeded()
            self.state = "syncing" if result.more else "idle"

    def _entity_failed(self, entity: str, error: WppSyncError) -> None:
        mends_itself = isinstance(error, SchemaError | MissingError)
        pause = SCHEMA_RETRY_SECONDS if mends_itself else SLOW_RETRY_SECONDS
        known = self.entity_errors.get(entity)
        if known is not None and known.message == error.message:
            error.since = known.since
        self._log.error(
            "entity failed", entity=entity, code=error.code, error=error.message,
            hint=error.hint, next_try_s=pause,
        )  # fmt: skip
        self._count(error, entity)
        self.entity_errors[entity] = error
        self._retry_at[entity] = self._clock() + jittered(pause)

    def _count(self, error: WppSyncError, entity: str = "") -> None:
        self._metrics.errors.labels(self.name, error.code).inc()
        self.recent.suffered(error, entity)

    def _committed(self, commit: Committed) -> None:
        """After each local transaction."""
        if not self.errors:  # else some entity has failed, also while others are copied
            self.state = "syncing"
        labels = (self.name, commit.entity)
        self._metrics.rows.labels(*labels, "upsert").inc(commit.rows)
        self._metrics.rows.labels(*labels, "delete").inc(commit.deleted)
        self._metrics.batch_duration.labels(commit.entity).observe(commit.seconds)
        self.rows_written += commit.rows
        if commit.rows or commit.deleted:
            self._active_at = self._clock()
        if commit.late:
            self._metrics.late_rows.labels(*labels).inc(commit.late)
            self._log.info("late rows copied", entity=commit.entity, rows=commit.late)
        if commit.refused:
            self._log.error(
                "rows quarantined", entity=commit.entity, rows=commit.refused,
                hint=f"wpp-sync quarantine {self.name} list",
            )  # fmt: skip
        motion = self.motions.get(commit.entity)
        if motion is not None:
            self.states[commit.entity] = motion.state
            self.quarantined[commit.entity] = len(motion.quarantined)
        self._log.debug(
            "batch", entity=commit.entity, rows=commit.rows, deleted=commit.deleted,
            seconds=round(commit.seconds, 4), last_synced_id=commit.last_synced_id,
            settled_id=commit.settled_id,
        )  # fmt: skip
        if self.listener is not None:
            self.listener(commit)

    # --- the local connection -------------------------------------------------------------------

    async def _open(self, stop: asyncio.Event) -> Connection:
        """The local connection with the lock on it and all migrations in effect."""
        connection = await self._take()
        if self._ready:
            return connection
        try:
            await self._heed(connection)
            await self._migrate(connection, stop)
            await self._refuse_state_without_transactions(connection)
            await state.ensure(connection, list(self.entities), f"{self.name} state")
            self.states = await state.read(connection, f"{self.name} state")
            await self.hold.tell_who_copies(connection, now=True)
        except PausedError:
            raise  # whoever is paused keeps the lock: nobody else may take it for free
        except BaseException:
            await self.hold.release()
            raise
        self._ready = True
        if self.resting:  # it was never gone
            self._log.debug("wakes up")
            return connection
        count = len(self.migrator.history or ())
        self._log.info("opened", server=connection.version, migrations=count)
        return connection

    async def _take(self) -> Connection:
        """The local connection with the lock on it."""
        if self.stop.is_set():
            raise StoppedError(f"{self.name} is being stopped or restarted", hint="say it again")
        had_it = self.hold.usable
        if not had_it:
            self._forget_motions()
            self._ready = False
            if self.resting or self._central_failed_at != float("-inf"):
                await self.shared.central.alive()  # else another host's chance is better
        connection = await self.hold.take(daemon=self.running)
        if not had_it:
            self._active_at = self._clock()
            if self.resting:
                self.wake.set()  # the loop, which waits for long, if somebody else has asked
                if not self.hold.was_ours:
                    self._end_rest()
        if self.state == "standby":
            self.state = "starting"  # it stands by no more
            self._caught_up_at.clear()
            self._began_at = self._clock()
        await self.hold.tell_who_copies(connection)
        return connection

    async def _heed(self, connection: Connection) -> None:
        """Do what an operator has said since. Raises PausedError."""
        before, self.orders = self.orders, await orders.read(connection, f"{self.name} orders")
        self.throttle.set(self.orders.rows_per_second)
        for entity in self.orders.pauses:
            if (motion := self.motions.get(entity)) is not None:
                with suppress(StateMovedError):
                    await motion.save()
                self._forget_motion(entity)
            self.entity_errors.pop(entity, None)
            self.derived_errors.pop(entity, None)
        if before != self.orders:
            self._log.info("orders changed", **self._words(self.orders))
        if self.orders.pause is not None:
            self._end_rest()
            for motion in self.motions.values():
                with suppress(StateMovedError):
                    await motion.save()
            self._forget_motions()
            self._ready = False  # what is pending then is migrated when it goes on
            self.state = "paused"
            await self.migrator.read(connection)
            self.states = await state.read_any(connection, f"{self.name} state")
            self.orders.refuse_if_paused(self.name)

    @staticmethod
    def _words(said: Orders) -> dict[str, object]:
        return {
            "paused": said.pause is not None,
            "paused_entities": sorted(said.pauses),
            "rows_per_second": said.rows_per_second,
        }

    async def _refuse_state_without_transactions(self, connection: Connection) -> None:
        for name in ("wpp_sync_state", "wpp_sync_quarantine"):
            table = await schema.read(connection, name, f"{self.name} schema {name}")
            if table is not None:
                schema.refuse_without_transactions(table)

    async def migrate(self, stop: asyncio.Event) -> list[str]:
        """Put in effect what is pending now; the ids of what ran.

        Raises StandbyError, MigrationError, DatabaseError, StoppedError.
        """
        with self._whole_passes:
            async with self._busy:
                return await self._migrate_now(stop)

    async def _migrate_now(self, stop: asyncio.Event) -> list[str]:
        self.migrator.forget_what_ran()
        connection = await self._take()
        if self._ready:
            self._forget_motions()  # their plans are those of the tables of before
            await self._heed(connection)
            self._ready = False  # should it stop half-way
            await self._migrate(connection, stop)
            self._ready = True
        else:
            await self._open(stop)
        self.state = "idle"
        return list(self.migrator.ran)

    async def _migrate(self, connection: Connection, stop: asyncio.Event) -> None:
        await self.migrator.migrate(connection, stop, self._migration_begins)

    def _migration_begins(self) -> None:
        self.state = "migrating"
        if self._turn_limit is not None:
            self._turn_limit.reschedule(None)  # the table may have any size

    async def _heartbeat(self, connection: Connection) -> None:
        """Keep an idle connection alive, and see a state that somebody else has changed."""
        if self._clock() - self._heartbeat_at < HEARTBEAT_SECONDS and not self.reads_anew:
            return
        self._heartbeat_at = self._clock()
        await self._heed(connection)
        note = f"{self.name} heartbeat"
        found = await state.read(connection, note)
        never_compared = await state.never_compared(connection, note)
        for entity, motion in list(self.motions.items()):
            now = found.get(entity)
            reset = motion.end_is_written and entity in never_compared
            self._compare_whole = self._compare_whole or reset
            if reset or now is None or not now.same(motion.state):
                self._log.info("starting over", entity=entity, reason="its state row was changed")
                self._forget_motion(entity)

    async def _begin_motions(self, connection: Connection, skip: Collection[str]) -> None:
        """Make a motion for each entity that has none: at the start, after an error, a reset."""
        await self._make_motions(connection, skip)
        if self._compare_whole:
            self._compare_whole = False
            for name, motion in self.motions.items():
                if motion.incremental is None and name not in skip:
                    motion.compare_now()
        for name, asked in self.asked.items():
            if name in self.motions:
                self.motions[name].asked = asked

    async def _make_motions(self, connection: Connection, skip: Collection[str]) -> None:
        for name in self.derived_errors:
            if name in self.motions and self._retry_at.get(name, 0.0) <= self._clock():
                self._forget_motion(name)  # perhaps the derived table was mended
        wanted = [
            entity
            for name, entity in self.entities.items()
            if name not in self.motions
            and name not in skip
            and self._retry_at.get(name, float("-inf")) <= self._clock()
        ]
        if not wanted:
            self._end_rest()
            return
        note = f"{self.name} state"
        await state.ensure(connection, [entity.name for entity in wanted], note)
        self.states = await state.read(connection, note)
        for entity in wanted:
            try:
                self.motions[entity.name] = await self._motion(connection, entity)
            except WppSyncError as error:
                if not is_entitys_own(error):
                    raise
                self._entity_failed(entity.name, error)
        for name, rested in self.resting.items():
            motion = self.motions.get(name)
            if rested.differs and motion is not None and motion.incremental is None:
                motion.compare_now()  # with what central has from now on
        self._end_rest()

    async def _motion(self, connection: Connection, entity: Entity) -> Motion:
        source, plan = await self._tables(connection, entity)
        if plan.note and self._learnt[entity.name].note != plan.note:
            self._learnt[entity.name].note = plan.note
            self._log.info("columns left out", entity=entity.name, columns=plan.note)
        if entity.motion == "incremental":
            await self._begin_again_if_empty(connection, plan)
        note = f"{self.name} {entity.name}"
        derived = await self._derived(connection, entity, source, plan)
        remembered = await state.read_round(connection, entity.name, note)
        committer = await self.committer(connection, plan, self.states[entity.name], derived)
        shared, intervals = self.shared, self.shared.intervals
        following = hot = None
        if entity.motion == "incremental":
            following = Incremental(
                committer,
                central=shared.central,
                limits=shared.limits,
                reach=self._learnt[entity.name].reach,
                watched=self._watched(plan, self.states[entity.name]),
                clock=self._clock,
            )
        if entity.hot is not None:
            hot = Hot(entity.hot, interval=intervals.hot, central=shared.central, clock=self._clock)
        return Motion(
            committer,
            following,
            hot,
            remembered=remembered,
            interval=entity.interval or (intervals.reconcile if following else intervals.whole),
            central=shared.central,
            metrics=self._metrics,
            clock=self._clock,
        )

    def _watched(self, plan: Plan, known: State) -> Member | None:
        """A place in the shared scans, where somebody makes them: for a loop. The one that was kept
        while it rested tells what has come since the state row was left."""
        if not self.running or plan.new_ids is None:
            return None
        rested = self.resting.get(known.entity)
        member = rested.member if rested is not None else None
        if rested and member and member.sums == plan.new_ids and known.same(rested.state):
            del self.resting[known.entity]
            self._remember_quiet(known.entity, rested)
            rested.end(member=False)
            return member
        interval = self.settings.poll_interval
        return self.shared.watch.join(plan.new_ids, self.name, self.news, interval)

    async def committer(
        self,
        connection: Connection,
        plan: Plan,
        known: State,
        derived: Sequence[DerivedTable],
    ) -> Committer:
        """What changes an entity's rows on this connection."""
        entity = plan.entity
        try:
            waiting, discarded = await quarantine.keys(
                connection, entity.name, len(entity.key), f"{self.name} quarantine"
            )
        except MissingError:  # only compared, in a database that this version has not migrated
            waiting, discarded = set(), set()
        return Committer(
            plan,
            self.name,
            known,
            read_plan=lambda: self.plan(connection, entity),
            central=self.shared.central,
            connection=connection,
            max_bytes=self.shared.limits.bytes,
            derived=derived,
            strikes=self._learnt[entity.name].strikes,
            quarantined=waiting,
            discarded=discarded,
            clock=self._clock,
            throttle=self.throttle,
            on_commit=self._committed,
        )

    async def _derived(
        self, connection: Connection, entity: Entity, source: Table, plan: Plan
    ) -> list[DerivedTable]:
        """What can be derived from the entity's table. What cannot is told: it must not keep the
        rows themselves from being copied."""
        found: list[DerivedTable] = []
        self.derived_errors.pop(entity.name, None)
        for derived in entity.derived:
            note = f"{self.name} schema {derived.local}"
            target = await schema.read(connection, derived.local, note)
            try:
                found.append(DerivedTable.plan(derived, source, target, plan))
            except SchemaError as error:
                self.derived_errors[entity.name] = error
                self._retry_at[entity.name] = self._clock() + jittered(SLOW_RETRY_SECONDS)
                note = f"{self.name} state"
                await state.write_derived(connection, entity.name, note, compared=False)
                self._log.error(
                    "cannot be derived", entity=entity.name, code=error.code,
                    error=error.message, hint=error.hint, table=derived.local,
                )  # fmt: skip
        return found

    async def _tables(self, connection: Connection, entity: Entity) -> tuple[Table, Plan]:
        """The local table as it stands now, and how the entity is copied to it."""
        table = await schema.read(connection, entity.local, f"{self.name} schema {entity.local}")
        if table is None:
            self._learnt[entity.name].table_was_missing = True
        plan = schema.plan(entity, await self.shared.central.table(entity.central), table)
        assert table is not None  # noqa: S101 - there would be no plan
        return table, plan

    async def plan(self, connection: Connection, entity: Entity) -> Plan:
        """How an entity is copied to its local table as both stand now. Raises SchemaError."""
        return (await self._tables(connection, entity))[1]

    def _remember_quiet(self, entity: str, at: Motion | Resting) -> None:
        """The lag counts on from what the shared looks have seen last."""
        known = self._caught_up_at.get(entity, self._began_at)
        self._caught_up_at[entity] = max(known, at.quiet_at)

    def _forget_motion(self, entity: str) -> None:
        motion = self.motions.pop(entity, None)
        if motion is not None:
            self._remember_quiet(entity, motion)
            motion.leave()

    def _forget_motions(self) -> None:
        for entity in list(self.motions):
            self._forget_motion(entity)

    async def _begin_again_if_empty(self, connection: Connection, plan: Plan) -> None:
        """A table without a row, whose watermark says that rows were copied into it, was made anew
        or emptied, perhaps while no daemon ran: what the watermark claims is not in it. (Or central
        has deleted all of them: then there is little to read, and the watermark is 0 from there.)
        """
        entity, note = plan.entity.name, f"{self.name} {plan.entity.name}"
        was_missing, self._learnt[entity].table_was_missing = (
            self._learnt[entity].table_was_missing,
            False,
        )
        known = self.states[entity]
        theirs = known.settled_for != known.last_synced_id  # an operator's: he knows why
        if known.last_synced_id <= 0 or known.rewound or (theirs and not was_missing):
            return
        waiting, discarded = await quarantine.keys(connection, entity, 1, note)
        if waiting | discarded and not was_missing:
            return
        anything = await local.keys(
            connection, plan, after=-_EVERY_KEY, upto=_EVERY_KEY, limit=1, note=note
        )
        if not anything:
            self._log.warning("local table empty", entity=entity)
            await state.reset(connection, [entity], resync=False, note=note)
            self.states = await state.read(connection, note)
