"""The motions of one instance: which entities are under way, which rest, which have failed.

A motion is made from what stands in both databases (`daemon.making`), and forgotten whenever that
may be another: after an error, a reset, a change of the tables.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress

from daemon import config, events, state
from daemon.aio import jittered
from daemon.counts import Counts
from daemon.db import Connection
from daemon.entities import Entity
from daemon.errors import MissingError, SchemaError, StateMovedError, WppSyncError
from daemon.making import Made, Maker
from daemon.schema import Plan
from daemon.shared import Shared
from daemon.state import State
from daemon.sync import quarantine
from daemon.sync.motion import Motion, Resting
from daemon.sync.reconcile import Reconcile
from daemon.sync.run import PassResult, is_entitys_own
from daemon.watch import Member

SLOW_RETRY_SECONDS = 60.0
"""So often what does not mend by itself is tried again: an operator may have mended it."""

SCHEMA_RETRY_SECONDS = 15.0
"""So often an entity is tried again whose tables are not as they must be."""


class Motions(Mapping[str, Motion]):
    """By entity, those that are under way; one that cannot go on is in `entity_errors` instead."""

    def __init__(
        self,
        settings: config.Instance,
        shared: Shared,
        maker: Maker,
        news: asyncio.Event,
        counts: Counts,
    ) -> None:
        """`news` is set when central has something for the instance."""
        self.entities: Mapping[str, Entity] = {
            name: entity for name, entity in settings.entities.items() if entity.enabled
        }
        """Those that are not switched off."""

        self.resting: dict[str, Resting] = {}
        """Those that were under way, while the local connection is closed because there was nothing
        to do."""

        self.states: dict[str, State] = {}
        """The state rows as last read or written."""

        self.quarantined: dict[str, int] = {}
        """Rows in quarantine, by entity, as last known."""

        self.entity_errors: dict[str, WppSyncError] = {}
        self.derived_errors: dict[str, WppSyncError] = {}
        """Why a table cannot be derived; the entity that it is derived from goes on without it."""

        self.asked: dict[str, Reconcile] = {}
        """The comparisons that somebody has asked for (`daemon.comparing`): motions take turns of
        them."""

        self.compare_whole = False
        """Whole entities are to be compared when they are begun next."""

        self._under_way: dict[str, Motion] = {}
        self._name = settings.name
        self._poll_interval = settings.poll_interval
        self._shared = shared
        self._clock = shared.clock
        self._maker = maker
        self._news = news
        self._counts = counts
        self._log = events.logger_of(self._name)
        self._retry_at: dict[str, float] = {}
        self._derive_at: dict[str, float] = {}
        """When that is tried again which could not be derived; the entity does not wait for it."""

        self._replanned: set[str] = set()
        """Those that have a new plan because a server called the old one stale."""

        self._counted_from = self._clock()
        self._caught_up_at: dict[str, float] = {}

    def __getitem__(self, entity: str) -> Motion:
        return self._under_way[entity]

    def __iter__(self) -> Iterator[str]:
        return iter(self._under_way)

    def __len__(self) -> int:
        return len(self._under_way)

    # --- what is known ----------------------------------------------------------------------------

    @property
    def errors(self) -> Mapping[str, WppSyncError]:
        """What is wrong with single entities."""
        return {**self.derived_errors, **self.entity_errors}

    def at(self, entity: str) -> Motion | Resting | None:
        """The entity as it is under way, or as it rests."""
        return self.get(entity) or self.resting.get(entity)

    def caught_up_at(self, entity: str) -> float:
        """When the entity had last reached the head, or was last compared where it is compared
        whole, in seconds of the clock."""
        known, motion = self._caught_up_at.get(entity, self._counted_from), self.at(entity)
        return known if motion is None else max(known, motion.quiet_at)

    def count_from_now(self) -> None:
        """Nothing is known of how far another daemon was behind: the lag counts from now on."""
        self._caught_up_at.clear()
        self._counted_from = self._clock()

    def due_in(self, paused: Collection[str]) -> float:
        """In how many seconds there is something to do that nobody will tell of; inf: never."""
        now = self._clock()
        waits = [motion.due_in for motion in self.values()]
        for errors, retry_at in (
            (self.entity_errors, self._retry_at),
            (self.derived_errors, self._derive_at),
        ):
            waits += [retry_at[entity] - now for entity in errors if entity in retry_at]
        begun = self.keys() | self.errors.keys() | set(paused)
        if self.entities.keys() - begun:
            return 0.0  # it was started over
        return min(waits, default=float("inf"))

    # --- from turn to turn ------------------------------------------------------------------------

    async def begin(self, connection: Connection, skip: Collection[str], *, watch: bool) -> None:
        """Make a motion for each entity that has none: at the start, after an error, a reset.

        `watch`: there is a loop, which the shared scans tell of news. Raises DatabaseError.
        """
        await self._make(connection, skip, watch=watch)
        if self.compare_whole:
            self.compare_whole = False
            for name, motion in self.items():
                if motion.incremental is None and name not in skip:
                    motion.compare_now()
        for name, asked in self.asked.items():
            if name in self:
                self[name].asked = asked

    def start_over_where_changed(self, result: PassResult) -> None:
        """Drop the motions whose state or tables somebody else has changed."""
        for entity, error in list(result.errors.items()):
            # The server calls the plan stale. Where a new one is no better, it is an error.
            if isinstance(error, MissingError) and entity not in self._replanned:
                self._replanned.add(entity)
                self._shared.central.forget_table(self.entities[entity].central)
                result.moved[entity] = result.errors.pop(entity)
        for entity, change in result.moved.items():
            self._start_over(entity, change.message)

    def note(self, result: PassResult, skip: Collection[str]) -> None:
        """Know what a turn of all but those to skip has come to."""
        for entity, error in result.errors.items():
            self.forget(entity)
            self._entity_failed(entity, error)
        for entity in [name for name, rows in result.rows.items() if rows]:
            if entity in result.unfinished and entity in self:
                # The next turn is another one's first: a throttle may leave nothing to the last.
                self._under_way[entity] = self._under_way.pop(entity)
        for entity, motion in self.items():
            if entity not in skip:
                self._know(entity, motion)
                if motion.caught_up and entity in result.rows:
                    at = motion.compared_at if motion.incremental is None else None
                    self._caught_up_at[entity] = self._clock() if at is None else at
                self._replanned.discard(entity)
                if self.entity_errors.pop(entity, None) is not None:
                    self._log.info("entity recovered", entity=entity)

    async def see_what_was_changed(self, connection: Connection) -> None:
        """Start over where somebody else has changed the state. Raises DatabaseError."""
        note = f"{self._name} heartbeat"
        found = await state.read(connection, note)
        never_compared = await state.never_compared(connection, note)
        for entity, motion in list(self.items()):
            now = found.get(entity)
            reset = motion.end_is_written and entity in never_compared
            self.compare_whole = self.compare_whole or reset
            if reset or now is None or not now.same(motion.state):
                self._start_over(entity, "its state row was changed")

    async def count_quarantine(self, connection: Connection) -> None:
        """Know what lies in quarantine, also of those that are not begun: paused, or failed.

        Raises DatabaseError where the server fails.
        """
        try:
            found = await quarantine.counts(connection, f"{self._name} quarantine")
        except WppSyncError as error:
            if not is_entitys_own(error):
                raise
            return  # there is no such table yet; or each entity will say what is wrong with it
        self.quarantined = {entity: found.get(entity, 0) for entity in self.entities}

    def committed(self, entity: str) -> None:
        """Know what a transaction of the entity has come to."""
        motion = self.get(entity)
        if motion is not None:
            self._know(entity, motion)

    def retry_now(self) -> None:
        """Whatever waits for its next try is tried with the next turn."""
        self._retry_at.clear()
        self._derive_at.clear()

    def retry_quarantine(self) -> None:
        """The next turn tries the quarantined rows again."""
        for motion in self.values():
            motion.committer.retry_at = self._clock()

    async def pause(self, entity: str) -> None:
        """Leave one entity off. Raises DatabaseError."""
        await self._put_away(entity)
        self.entity_errors.pop(entity, None)
        self.derived_errors.pop(entity, None)

    async def pause_all(self) -> None:
        """Leave all of them off. Raises DatabaseError."""
        self.end_rest()
        for entity in list(self):
            await self._put_away(entity)

    async def _put_away(self, entity: str) -> None:
        motion = self.get(entity)
        if motion is not None:
            with suppress(StateMovedError):
                await motion.save()
            self.forget(entity)

    def forget(self, entity: str) -> None:
        """Its next motion starts from the state row."""
        motion = self._under_way.pop(entity, None)
        if motion is not None:
            self._remember_quiet(entity, motion)
            motion.leave()

    def forget_all(self) -> None:
        """As `forget`."""
        for entity in list(self):
            self.forget(entity)

    def forget_what_others_change(self) -> None:
        """Another daemon copies the instance: what was true here is not any more."""
        self.forget_what_was_watched()
        self.states = {}
        self.quarantined = {}
        self.entity_errors.clear()
        self.derived_errors.clear()

    def forget_what_was_watched(self) -> None:
        """Another process has copied the instance, if only for a moment."""
        self.end_rest()
        self._shared.watch.forget_rewinds(self._name)

    def _start_over(self, entity: str, reason: str) -> None:
        self._log.info("starting over", entity=entity, reason=reason)
        self.forget(entity)

    def _remember_quiet(self, entity: str, at: Motion | Resting) -> None:
        """The lag counts on from what the shared looks have seen last."""
        known = self._caught_up_at.get(entity, self._counted_from)
        self._caught_up_at[entity] = max(known, at.quiet_at)

    def _know(self, entity: str, motion: Motion) -> None:
        self.states[entity] = motion.state
        self.quarantined[entity] = len(motion.quarantined)

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
        self._counts.suffered(error, entity)
        self.entity_errors[entity] = error
        self._retry_at[entity] = self._clock() + jittered(pause)

    # --- rest -------------------------------------------------------------------------------------

    def can_rest(self, paused: Collection[str]) -> bool:
        """Nothing is to be done until central has something new, or a round is due."""
        return (
            not self.errors
            and not self.compare_whole
            and bool(self)
            and self.keys() == self.entities.keys() - set(paused)
            and all(motion.can_rest for motion in self.values())
        )

    def rest(self) -> None:
        """End them all, whose state rows must have been saved. Only where they `can_rest`."""
        watch, hot = self._shared.watch, self._shared.intervals.hot
        self.resting = {name: motion.rest(watch, self._news, hot) for name, motion in self.items()}
        self._under_way.clear()

    @property
    def round_due_at(self) -> float:
        """When the first table of those that rest is to be compared, in seconds of the clock; inf:
        none is."""
        rounds = [each.round_due_at for each in self.resting.values()]
        return min((at for at in rounds if at is not None), default=float("inf"))

    def end_rest(self) -> None:
        """What they rested upon counts no more."""
        for name, resting in self.resting.items():
            self._remember_quiet(name, resting)
            resting.end()
        self.resting = {}

    # --- how they are made ------------------------------------------------------------------------

    async def _make(self, connection: Connection, skip: Collection[str], *, watch: bool) -> None:
        for name in self.derived_errors:
            if name in self and self._derive_at.get(name, 0.0) <= self._clock():
                self.forget(name)  # perhaps the derived table was mended
        wanted = [
            entity
            for name, entity in self.entities.items()
            if name not in self
            and name not in skip
            and self._retry_at.get(name, float("-inf")) <= self._clock()
        ]
        if not wanted:
            self.end_rest()
            return
        standing = await self._maker.look(connection, wanted, self.entities.values())
        self.states = dict(standing.states)
        for entity in wanted:
            try:
                made = await self._maker.motion(
                    connection, entity, standing, self._place if watch else _nowhere
                )
            except WppSyncError as error:
                if not is_entitys_own(error):
                    raise
                self._entity_failed(entity.name, error)
            else:
                self._begun(entity.name, made)
        for name, rested in self.resting.items():
            motion = self.get(name)
            if rested.differs and motion is not None and motion.incremental is None:
                motion.compare_now()  # with what central has from now on
        self.end_rest()

    def _begun(self, entity: str, made: Made) -> None:
        self._under_way[entity] = made.motion
        self.states[entity] = made.motion.state
        self.derived_errors.pop(entity, None)
        if made.underived is not None:
            self.derived_errors[entity] = made.underived
            self._derive_at[entity] = self._clock() + jittered(SLOW_RETRY_SECONDS)

    def _place(self, plan: Plan, known: State) -> Member | None:
        """A place in the shared scans. The one that was kept while it rested tells what has come
        since the state row was left."""
        if plan.new_ids is None:
            return None
        rested = self.resting.get(known.entity)
        member = rested.member if rested is not None else None
        if rested and member and member.sums == plan.new_ids and known.same(rested.state):
            del self.resting[known.entity]
            self._remember_quiet(known.entity, rested)
            rested.end(member=False)
            return member
        interval = self._poll_interval
        return self._shared.watch.join(plan.new_ids, self._name, self._news, interval)


def _nowhere(_plan: Plan, _known: State) -> None:
    """Nobody makes the shared scans."""
