"""How the motion of one entity is made, from what stands in both databases now.

What is known of an entity beyond the life of a motion is kept here, and goes into the next one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from daemon import local, schema, state
from daemon.db import Connection
from daemon.entities import Entity
from daemon.errors import MissingError, SchemaError
from daemon.schema import Plan, Table
from daemon.shared import Shared
from daemon.state import State
from daemon.sync import quarantine
from daemon.sync.ahead import Ahead
from daemon.sync.commit import Committed, Committer
from daemon.sync.derived import DerivedTable
from daemon.sync.hot import Hot
from daemon.sync.incremental import Incremental
from daemon.sync.motion import Motion
from daemon.sync.quarantine import Strikes
from daemon.sync.reach import Reach
from daemon.throttle import Throttle
from daemon.watch import Member

_EVERY_KEY = (1 << 63) - 1

Place = Callable[[Plan, State], Member | None]
"""A place in the shared scans, for an entity that is copied in this way from there."""


@dataclass(frozen=True, slots=True)
class Made:
    """A motion that can begin."""

    motion: Motion
    underived: SchemaError | None
    """Why a table cannot be derived; the entity that it is derived from goes on without it."""


@dataclass(slots=True)
class _Learnt:
    """What is known of an entity beyond the life of a motion."""

    reach: Reach
    strikes: Strikes
    note: str = ""
    """The columns that are left out, as last logged."""

    table_was_missing: bool = False
    """Its local table was not there when it was last looked for."""


class Maker:
    """Makes the motions of one instance."""

    def __init__(
        self,
        instance: str,
        shared: Shared,
        throttle: Throttle,
        ahead: Ahead,
        committed: Callable[[Committed], None],
    ) -> None:
        """`ahead`: where pages of a first sync are written on a second connection; `committed` is
        told of each local transaction."""
        self._name = instance
        self._shared = shared
        self._throttle = throttle
        self._ahead = ahead
        self._committed = committed
        self._log = structlog.get_logger().bind(instance=instance)
        self._learnt = defaultdict[str, _Learnt](lambda: _Learnt(Reach(shared.limits), Strikes()))

    async def motion(
        self, connection: Connection, entity: Entity, known: State, place: Place
    ) -> Made:
        """An entity's motion, which goes on from this state row.

        Raises SchemaError where the tables do not fit, DatabaseError.
        """
        source, plan = await self._tables(connection, entity)
        if plan.note and self._learnt[entity.name].note != plan.note:
            self._learnt[entity.name].note = plan.note
            self._log.info("columns left out", entity=entity.name, columns=plan.note)
        if entity.motion == "incremental":
            known = await self._begin_again_if_empty(connection, plan, known)
        note = f"{self._name} {entity.name}"
        derived, underived = await self._derived(connection, entity, source, plan)
        remembered = await state.read_round(connection, entity.name, note)
        committer = await self.committer(connection, plan, known, derived)
        shared, intervals = self._shared, self._shared.intervals
        following = hot = None
        if entity.motion == "incremental":
            following = Incremental(
                committer,
                central=shared.central,
                limits=shared.limits,
                reach=self._learnt[entity.name].reach,
                ahead=self._ahead,
                watched=place(plan, known),
                clock=shared.clock,
            )
        if entity.hot is not None:
            hot = Hot(
                entity.hot, interval=intervals.hot, central=shared.central, clock=shared.clock
            )
        motion = Motion(
            committer,
            following,
            hot,
            remembered=remembered,
            interval=entity.interval or (intervals.reconcile if following else intervals.whole),
            central=shared.central,
            metrics=shared.metrics,
            clock=shared.clock,
        )
        return Made(motion, underived)

    async def _tables(self, connection: Connection, entity: Entity) -> tuple[Table, Plan]:
        """The local table as it stands now, and how the entity is copied to it."""
        table = await schema.read(connection, entity.local, f"{self._name} schema {entity.local}")
        if table is None:
            self._learnt[entity.name].table_was_missing = True
        plan = schema.plan(entity, await self._shared.central.table(entity.central), table)
        assert table is not None  # noqa: S101 - there would be no plan
        return table, plan

    async def plan(self, connection: Connection, entity: Entity) -> Plan:
        """How an entity is copied to its local table as both stand now. Raises SchemaError."""
        return (await self._tables(connection, entity))[1]

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
                connection, entity.name, len(entity.key), f"{self._name} quarantine"
            )
        except MissingError:  # only compared, in a database that this version has not migrated
            waiting, discarded = set(), set()
        return Committer(
            plan,
            self._name,
            known,
            read_plan=lambda: self.plan(connection, entity),
            central=self._shared.central,
            connection=connection,
            max_bytes=self._shared.limits.bytes,
            derived=derived,
            strikes=self._learnt[entity.name].strikes,
            quarantined=waiting,
            discarded=discarded,
            clock=self._shared.clock,
            throttle=self._throttle,
            on_commit=self._committed,
        )

    async def _derived(
        self, connection: Connection, entity: Entity, source: Table, plan: Plan
    ) -> tuple[list[DerivedTable], SchemaError | None]:
        """What can be derived from the entity's table, and why something cannot be: it must not
        keep the rows themselves from being copied."""
        found: list[DerivedTable] = []
        trouble: SchemaError | None = None
        for derived in entity.derived:
            note = f"{self._name} schema {derived.local}"
            target = await schema.read(connection, derived.local, note)
            try:
                found.append(DerivedTable.plan(derived, source, target, plan))
            except SchemaError as error:
                trouble = error
                note = f"{self._name} state"
                await state.write_derived(connection, entity.name, note, compared=False)
                self._log.error(
                    "cannot be derived", entity=entity.name, code=error.code,
                    error=error.message, hint=error.hint, table=derived.local,
                )  # fmt: skip
        return found, trouble

    async def _begin_again_if_empty(
        self, connection: Connection, plan: Plan, known: State
    ) -> State:
        """A table without a row, whose watermark says that rows were copied into it, was made anew
        or emptied, perhaps while no daemon ran: what the watermark claims is not in it. (Or central
        has deleted all of them: then there is little to read, and the watermark is 0 from there.)
        """
        entity, note = plan.entity.name, f"{self._name} {plan.entity.name}"
        was_missing, self._learnt[entity].table_was_missing = (
            self._learnt[entity].table_was_missing,
            False,
        )
        theirs = known.settled_for != known.last_synced_id  # an operator's: he knows why
        if known.last_synced_id <= 0 or known.rewound or (theirs and not was_missing):
            return known
        waiting, discarded = await quarantine.keys(connection, entity, 1, note)
        if waiting | discarded and not was_missing:
            return known
        anything = await local.keys(
            connection, plan, after=-_EVERY_KEY, upto=_EVERY_KEY, limit=1, note=note
        )
        if anything:
            return known
        self._log.warning("local table empty", entity=entity)
        await state.reset(connection, [entity], resync=False, note=note)
        return (await state.read(connection, note))[entity]
