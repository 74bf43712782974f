"""One instance: lock, migrate, then turn after turn of all that is copied to it.

An instance owns one local connection. It writes on it, and on it stands the lock that makes this
process the instance's only copier; when the connection is lost, the lock is, and all begins again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Literal

from daemon import config, events, orders, state
from daemon.aio import Bell, jittered, wait_first
from daemon.counts import Counts
from daemon.db import Connection
from daemon.errors import PausedError, StoppedError, WppSyncError
from daemon.fitness import Fitness
from daemon.hold import Hold
from daemon.making import Maker
from daemon.migrator import Migrator
from daemon.motions import Motions
from daemon.orders import Orders
from daemon.shared import Shared
from daemon.sync.ahead import Ahead
from daemon.sync.commit import Committed
from daemon.sync.run import PassResult, take_turns
from daemon.throttle import Throttle
from daemon.turns import Turns

InstanceState = Literal[
    "starting", "migrating", "syncing", "idle", "paused", "standby", "backoff", "failed"
]

HEARTBEAT_SECONDS = 15.0
"""The state rows are looked at so often: an idle local connection stays open, and a reset made
elsewhere is seen, also while nothing can be written."""

REST_SECONDS = 900.0
"""An instance that rests opens its connection so often all the same, and sees whether somebody has
changed its state, its orders or its tables."""

_STARTS = 3
"""So often an entity whose state or tables were changed meanwhile starts over within one pass."""


class Instance:
    """One instance in this process."""

    def __init__(self, settings: config.Instance, shared: Shared) -> None:
        self.settings = settings
        self.name = settings.name
        self.shared = shared
        self.state: InstanceState = "starting"
        self.error: WppSyncError | None = None
        self.running = False
        """This process runs the instance's loop: what is in memory is the truth about it."""

        self.wake = Bell()
        """Set it to have the next pass now."""

        self.news = Bell()
        """Set by the shared scans when central has something for it."""

        self.stop = Bell()
        """Set when this instance is to leave: the process ends, or its settings have changed."""

        self.orders = Orders()
        """What an operator has said, as last read."""

        self.counts = Counts(self.name, shared.metrics)
        self.throttle = Throttle(
            self.name,
            shared.clock,
            limit=shared.limit,
            guard=shared.central.guard,
            held=self.counts.held,
        )
        self.turns = Turns(self.name, shared.clock, settings.statement_timeout)
        self.migrator = Migrator(self.name, shared.migrating, shared.metrics)
        self.fitness = Fitness(self.name, shared.central, self.migrator, shared.clock)
        self.hold = Hold(settings, shared.seats, shared.clock, fit=self.fitness.fit)
        self._ahead = Ahead(
            settings.address, settings.database, shared.writers, self.hold.another, shared.clock
        )
        self.maker = Maker(self.name, shared, self.throttle, self._ahead, self._committed)
        self.motions = Motions(settings, shared, self.maker, self.news, self.counts)
        self.entities = self.motions.entities
        self.comparing = asyncio.Lock()
        """Whoever has it may have comparisons made (`Motions.asked`)."""

        self._clock = shared.clock
        self._log = events.logger_of(self.name)
        self._ready = False
        """All migrations are in effect, and nothing keeps the instance from being copied."""

        self._reads_asked = self._reads_done = 0
        """So often state and orders were to be read again, because somebody has changed them on
        purpose; and how many of these have been done."""

        self._heartbeat_at = self._clock()
        self._active_at = float("-inf")
        """When something was written last, or was asked for."""

        self._looks_at = float("inf")
        """When it opens the connection that it has closed for a rest, to look by itself."""

    @property
    def server(self) -> str:
        """Its database, in the operator's words."""
        return f"local {self.name}"

    @property
    def opened(self) -> bool:
        """This process holds the instance's lock and has migrated."""
        return self.hold.usable and self._ready

    @property
    def stalled(self) -> bool:
        """Its loop does not go on, not even after its turn was broken off."""
        return self.turns.stalled and self.migrator.doing is None

    @property
    def writing(self) -> bool:
        """A transaction or a migration is under way, which a stop lets end."""
        connection = self.hold.connection
        return (
            self.migrator.doing is not None
            or (connection is not None and connection.in_transaction)
            or self._ahead.in_transaction
        )

    @property
    def copies(self) -> bool:
        """This process copies the instance, though it may have closed its connection for now."""
        return self.hold.usable or bool(self.motions.resting)

    @property
    def reads_anew(self) -> bool:
        """Somebody has changed state or orders, and they have not been read again yet."""
        return self._reads_done != self._reads_asked

    def expect_new_rows(self) -> None:
        """The next pass asks central anew where its tables end, and compares whole entities now."""
        self.shared.central.expire_heads()
        self.motions.compare_whole = True

    def retry_quarantine(self) -> None:
        """Try the quarantined rows again with the next pass, and have that now."""
        self.motions.retry_quarantine()
        self.start_over()

    def start_over(self) -> None:
        """The state was changed on purpose: have a pass now that reads it again, and try again now
        whatever waits for its next try."""
        self.motions.retry_now()
        self._reads_asked += 1
        self.motions.compare_whole = True  # with what central has from now on
        self.wake.set()

    def look_at_orders(self) -> None:
        """Orders were changed on purpose: have a pass now that reads them."""
        self._reads_asked += 1
        self.wake.set()

    def broke(self, error: WppSyncError) -> None:
        """An error that nobody foresaw has ended the loop."""
        self.error = error
        self.counts.suffered(error)
        self.state = "failed"

    def failed(self, error: WppSyncError, state: Literal["backoff", "failed"]) -> None:
        """A pass has failed."""
        self.counts.suffered(error)
        self.state = state
        if self.error is not None:
            error.since = self.error.since
        self.error = error

    def stand_by(self) -> None:
        """Another daemon copies it."""
        self.forget_what_others_change()
        self.state = "standby"

    def forget_what_others_change(self) -> None:
        """Another daemon copies it: what was true here is not any more."""
        self.motions.forget_what_others_change()
        self.migrator.forget()

    @property
    def somebody_waits(self) -> bool:
        """Something that was asked for is under way."""
        return bool(self.motions.asked) or not self.turns.passes.free.is_set()

    @property
    def due_in(self) -> float:
        """In how many seconds there is something to do that nobody will tell it of."""
        heartbeat = self._heartbeat_at + HEARTBEAT_SECONDS - self._clock()
        return min(heartbeat, self.motions.due_in(self.orders.pauses))

    # --- rest and end -----------------------------------------------------------------------------

    async def rest(self) -> float | None:
        """Close the local connection, where there has been nothing to do for a while and the shared
        scans tell when there is; for how many seconds at most. None: it stays open."""
        if not self._may_rest():
            return None
        async with self.turns.busy:
            connection = self.hold.connection
            try:
                for motion in self.motions.values():
                    await motion.save()
                self.state = "idle"  # that was no syncing
                if connection is None or not self._may_rest():
                    return None
                if not await self.hold.rest(connection):
                    self._active_at = self._clock()
                    return None
            except WppSyncError as error:
                # The next turn meets it, and starts from the state rows.
                self._log.debug("not at rest", error=error.message)
                self.motions.forget_all()
                return None
            self.motions.rest()
            self._ready = False
        self._log.debug("at rest")
        now = self._clock()
        self._looks_at = min(now + jittered(REST_SECONDS), max(now, self.motions.round_due_at))
        return self._looks_at - now

    def _may_rest(self) -> bool:
        return (
            self.running
            and self.state == "idle"
            and not self.somebody_waits
            and not self.wake.is_set()
            and not self.reads_anew
            and self._clock() - self._active_at >= self.shared.rest_after
            and self.motions.can_rest(self.orders.pauses)
        )

    async def let_go(self) -> None:
        """Give the lock back, so that another host may have it."""
        async with self.turns.busy:
            self._ready = False
            await self.hold.release()

    async def close(self) -> None:
        """Write what is known, release the lock, close the connection."""
        try:
            await self.turns.busy.acquire()
        except asyncio.CancelledError:
            # Nobody else would: what goes on there is broken off, and rolled back.
            self._ready = False
            self.motions.forget_all()
            self.motions.end_rest()
            self.hold.abandon()
            raise
        try:
            motions = list(self.motions.values())
            self.motions.forget_all()
            self.motions.end_rest()
            try:
                for motion in motions:
                    if self.hold.usable:
                        await motion.save()
            except WppSyncError as error:
                # Nothing is lost by it: the next start looks at a little more once again.
                self._log.debug("settled id not saved", error=error.message)
            finally:
                self._ready = False
                await self.hold.release()
        finally:
            self.turns.busy.release()

    # --- one pass -------------------------------------------------------------------------------

    async def sync_pass(self, stop: asyncio.Event, skip: Collection[str] = ()) -> PassResult:
        """One pass over all entities but those to skip, until nothing is left to do or a stop is
        asked for (`result.more` says that something is left). What an operator orders meanwhile
        holds from the next turn on.

        Paused entities are skipped. Raises PausedError, StandbyError when another process copies
        this instance, DatabaseError when a server fails, MigrationError. An entity's own trouble is
        in the result and in `Motions.entity_errors`.
        """
        whole, done = PassResult(), set(skip)
        self._active_at = self._clock()
        with self.turns.passes:
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
        async with self.turns.bounded():
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
                await self.motions.begin(connection, skip, watch=self.running)
                self._reads_done = reading
                chosen = again or [name for name in self.motions if name not in skip]
                motions = {n: self.motions[n] for n in chosen if n in self.motions}
                result.add(
                    await take_turns(
                        motions, stop, background=self.running, all_of_them=self.somebody_waits
                    )
                )
                self.motions.start_over_where_changed(result)
                if not result.moved:
                    break
        except BaseException:
            # In doubt the position is read again, never kept.
            self.motions.forget_all()
            raise
        self._note_result(result, skip)
        for entity, error in self.motions.errors.items():
            if entity not in skip:  # those that did not even begin are errors of this pass, too
                result.errors.setdefault(entity, error)
        if result.total:
            self.shared.metrics.pass_duration.observe(self._clock() - began)
        return result

    def _note_result(self, result: PassResult, skip: Collection[str]) -> None:
        self.motions.note(result, skip)
        if errors := self.motions.errors:
            self.error = next(iter(errors.values()))
            self.state = "failed"
        else:
            self.error = None
            self.counts.recent.succeeded()
            self.state = "syncing" if result.more else "idle"

    def _committed(self, commit: Committed) -> None:
        """After each local transaction."""
        if not self.motions.errors:  # else some entity has failed, also while others are copied
            self.state = "syncing"
        if commit.rows or commit.deleted:
            self._active_at = self._clock()
        self.motions.committed(commit.entity)
        self.counts.committed(commit)

    # --- the local connection -------------------------------------------------------------------

    async def _open(self, stop: asyncio.Event) -> Connection:
        """The local connection with the lock on it and all migrations in effect."""
        connection = await self._take()
        if self._ready:
            return connection
        try:
            await self._heed(connection)
            await self.migrator.migrate(connection, stop, self._migration_begins)
            await self.migrator.refuse_tables_without_transactions(connection)
            note = f"{self.name} state"
            self.motions.states, _ = await state.ensure(connection, list(self.entities), note)
            await self.motions.count_quarantine(connection)
            await self.hold.tell_who_copies(connection, now=True)
        except PausedError:
            raise  # whoever is paused keeps the lock: nobody else may take it for free
        except BaseException:
            await self.hold.release()
            raise
        self._ready = True
        self._heartbeat_at = self._clock()  # orders and state were read just now
        if self.motions.resting:  # it was never gone
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
            self.motions.forget_all()
            self._ready = False
            if self.motions.resting or self.fitness.central_fails:
                await self.shared.central.alive()  # else another host's chance is better
        connection = await self.hold.take(daemon=self.running)
        if not had_it:
            if not self.motions.resting or self._clock() < self._looks_at:
                self._active_at = self._clock()  # else it only looks, and rests again
            if self.motions.resting:
                self.wake.set()  # the loop, which waits for long, if somebody else has asked
            if not self.hold.was_ours:
                self.motions.forget_what_was_watched()
        if self.state == "standby":
            self.state = "starting"  # it stands by no more
            self.motions.count_from_now()
        await self.hold.tell_who_copies(connection)
        return connection

    async def _heed(self, connection: Connection) -> None:
        """Do what an operator has said since. Raises PausedError."""
        before, self.orders = self.orders, await orders.read(connection, f"{self.name} orders")
        self.throttle.set(self.orders.rows_per_second)
        for entity in self.orders.pauses:
            await self.motions.pause(entity)
        if before != self.orders:
            self._log.info("orders changed", **self.orders.words)
        if self.orders.pause is not None:
            await self.motions.pause_all()
            self._ready = False  # what is pending then is migrated when it goes on
            self.state = "paused"
            await self.migrator.read(connection)
            self.motions.states = await state.read_any(connection, f"{self.name} state")
            await self.motions.count_quarantine(connection)
            self.orders.refuse_if_paused(self.name)

    async def migrate(self, stop: asyncio.Event) -> list[str]:
        """Put in effect what is pending now; the ids of what ran.

        Raises StandbyError, MigrationError, DatabaseError, StoppedError.
        """
        with self.turns.passes:
            async with self.turns.busy:
                return await self._migrate_now(stop)

    async def _migrate_now(self, stop: asyncio.Event) -> list[str]:
        self.migrator.forget_what_ran()
        connection = await self._take()
        if self._ready:
            self.motions.forget_all()  # their plans are those of the tables of before
            await self._heed(connection)
            self._ready = False  # should it stop half-way
            await self.migrator.migrate(connection, stop, self._migration_begins)
            self._ready = True
        else:
            await self._open(stop)
        self.state = "idle"
        return list(self.migrator.ran)

    def _migration_begins(self) -> None:
        self.state = "migrating"
        self.turns.unbound()  # the table may have any size

    async def _heartbeat(self, connection: Connection) -> None:
        """Keep an idle connection alive, and see a state that somebody else has changed."""
        if self._clock() - self._heartbeat_at < HEARTBEAT_SECONDS and not self.reads_anew:
            return
        self._heartbeat_at = self._clock()
        await self._heed(connection)
        await self.motions.see_what_was_changed(connection)
