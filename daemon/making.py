"""How the motion of one entity is made, from what stands in both databases now.

What is known of an entity beyond the life of a motion is kept here, and goes into the next one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeVar

from daemon import events, local, schema, state
from daemon.db import Connection
from daemon.entities import Entity
from daemon.errors import MissingError, OwnerError, SchemaError, WppSyncError
from daemon.schema import Plan, Table
from daemon.shared import Shared
from daemon.sql import Key
from daemon.state import Round, State
from daemon.sync import quarantine
from daemon.sync.ahead import Ahead
from daemon.sync.commit import Committed, Committer
from daemon.sync.derived import DerivedTable
from daemon.sync.hot import Hot
from daemon.sync.incremental import Incremental
from daemon.sync.motion import Motion
from daemon.sync.quarantine import Strikes
from daemon.sync.reach import Reach
from daemon.sync.run import is_entitys_own
from daemon.throttle import Throttle
from daemon.watch import Member

T = TypeVar("T")

_EVERY_KEY = (1 << 63) - 1

Place = Callable[[Plan, State], Member | None]
"""A place in the shared scans, for an entity that is copied in this way from there."""


@dataclass(frozen=True, slots=True)
class Made:
    """A motion that can begin."""

    motion: Motion
    underived: SchemaError | None
    """Why a table cannot be derived; the entity that it is derived from goes on without it."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands in the local database of the entities that begin, as just read."""

    states: Mapping[str, State]
    rounds: Mapping[str, Round]
    quarantined: Mapping[str, tuple[set[Key], set[Key]]]
    """The keys of an entity's rows that wait in quarantine, and of those that were given up."""

    tables: Mapping[str, Table | None]
    """By name. What could not be read of all together, and is not here, is read of each alone, so
    that the trouble is told whose it is."""

    refused: OwnerError | None = None
    """Why nothing of it may be changed: it is another instance's."""


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
        self._log = events.logger_of(instance)
        self._learnt = defaultdict[str, _Learnt](lambda: _Learnt(Reach(shared.limits), Strikes()))

    async def look(
        self, connection: Connection, entities: Collection[Entity], every: Collection[Entity]
    ) -> Standing:
        """What stands there of these entities, out of `every` one that the instance has; each has
        a state row from here on.

        Raises DatabaseError.
        """
        names, note = [entity.name for entity in entities], f"{self._name} state"
        states, rounds = await state.ensure(connection, names, note)
        refused = None
        if others := state.others(states, [entity.name for entity in every], self._name):
            refused = await self._refusal(connection, states, every, set(others.values()))
            if refused is None:
                # All at once: of a half there would be rows, and the other half another's.
                await state.reset(connection, [*others], resync=False, disown=True, note=note)
                self._log.info("renamed", before=sorted(set(others.values())))
                states, rounds = await state.ensure(connection, names, note)
        widths = {entity.name: len(entity.key) for entity in entities}
        wanted = [entity.local for entity in entities]
        wanted += [derived.local for entity in entities for derived in entity.derived]
        return Standing(
            states,
            rounds,
            await _unless_somebodys_own(
                quarantine.keys_of(connection, widths, f"{self._name} quarantine")
            ),
            await _unless_somebodys_own(
                schema.read_all(connection, wanted, f"{self._name} schema")
            ),
            refused,
        )

    async def _refusal(
        self,
        connection: Connection,
        states: Mapping[str, State],
        entities: Collection[Entity],
        others: Collection[str],
    ) -> OwnerError | None:
        """Why nothing of a database is changed that was copied for others, as a whole: beside
        their contacts our schedules have no business, either. None: there is no row of theirs, as
        where the instance's name was a slip."""
        note = f"{self._name} state"
        for entity in entities:
            known = states.get(entity.name)
            if known is None or known.instance == self._name:
                continue
            if await _or_in_doubt(local.has_rows(connection, entity.local, note)):
                return self._anothers(others)
        return None

    def _anothers(self, others: Collection[str]) -> OwnerError:
        return OwnerError(
            f"this database was copied for {', '.join(sorted(others))}: nothing is written to it,"
            f" nothing deleted, for {self._name}",
            hint="correct the names and databases of the instances and reload; if it is"
            f" {self._name}'s now: `wpp-sync resync {self._name}`",
        )

    async def motion(
        self, connection: Connection, entity: Entity, standing: Standing, place: Place
    ) -> Made:
        """An entity's motion, which goes on from what stands there.

        Raises SchemaError where the tables do not fit or are another instance's, DatabaseError.
        """
        if standing.refused is not None:
            raise standing.refused
        source, plan = await self._tables(connection, entity, standing.tables)
        if plan.note and self._learnt[entity.name].note != plan.note:
            self._learnt[entity.name].note = plan.note
            self._log.info("columns left out", entity=entity.name, columns=plan.note)
        known, remembered = await self._claimed(
            connection, entity, standing.states[entity.name], standing.rounds[entity.name]
        )
        quarantined = standing.quarantined.get(entity.name)
        if quarantined is None:
            quarantined = await self._quarantined(connection, entity)
        if entity.motion == "incremental" and await self._should_not_be_empty(
            connection, plan, known, quarantined
        ):
            self._log.warning("local table empty", entity=entity.name)
            known, remembered = await self._anew(connection, entity)
        derived, underived = await self._derived(connection, entity, source, plan, standing.tables)
        if underived is not None:
            remembered = replace(remembered, derived=False)
        committer = self._committer(connection, plan, known, derived, quarantined)
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

    async def _claimed(
        self, connection: Connection, entity: Entity, known: State, remembered: Round
    ) -> tuple[State, Round]:
        """The state row as it counts for this instance and the rows that it copies.

        Raises OwnerError.
        """
        what = state.claim(known, self._name, entity.source)
        if what == "another's":
            raise self._anothers([known.instance or ""])  # since a moment ago
        if what == "other source":
            self._log.info("other rows wanted", entity=entity.name)
            known, remembered = await self._anew(connection, entity)
        if what != "ours":
            note = f"{self._name} {entity.name}"
            known = await state.adopt(connection, known, self._name, entity.source, note)
        return known, remembered

    async def _anew(self, connection: Connection, entity: Entity) -> tuple[State, Round]:
        """Begin at the start again: every row is read, and the whole table compared."""
        note = f"{self._name} {entity.name}"
        await state.reset(connection, [entity.name], resync=False, disown=False, note=note)
        states, rounds = await state.ensure(connection, [entity.name], note)
        return states[entity.name], rounds[entity.name]

    async def _tables(
        self,
        connection: Connection,
        entity: Entity,
        known: Mapping[str, Table | None] = MappingProxyType({}),
    ) -> tuple[Table, Plan]:
        """The local table as it stands now, and how the entity is copied to it."""
        table = await self._table(connection, entity.local, known)
        if table is None:
            self._learnt[entity.name].table_was_missing = True
        plan = schema.plan(entity, await self._shared.central.table(entity.central), table)
        assert table is not None  # noqa: S101 - there would be no plan
        return table, plan

    async def _table(
        self, connection: Connection, name: str, known: Mapping[str, Table | None]
    ) -> Table | None:
        """One of those that were just read, or read now."""
        if name in known:
            return known[name]
        return await schema.read(connection, name, f"{self._name} schema {name}")

    async def plan(self, connection: Connection, entity: Entity) -> Plan:
        """How an entity is copied to its local table as both stand now. Raises SchemaError."""
        return (await self._tables(connection, entity))[1]

    async def committer(self, connection: Connection, plan: Plan, known: State) -> Committer:
        """What changes an entity's rows on this connection, and nothing that is derived."""
        try:
            quarantined = await self._quarantined(connection, plan.entity)
        except MissingError:  # only compared, in a database that this version has not migrated
            quarantined = (set(), set())
        return self._committer(connection, plan, known, (), quarantined)

    async def _quarantined(
        self, connection: Connection, entity: Entity
    ) -> tuple[set[Key], set[Key]]:
        note = f"{self._name} quarantine"
        return await quarantine.keys(connection, entity.name, len(entity.key), note)

    def _committer(
        self,
        connection: Connection,
        plan: Plan,
        known: State,
        derived: Sequence[DerivedTable],
        quarantined: tuple[set[Key], set[Key]],
    ) -> Committer:
        entity, (waiting, discarded) = plan.entity, quarantined
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
        self,
        connection: Connection,
        entity: Entity,
        source: Table,
        plan: Plan,
        known: Mapping[str, Table | None],
    ) -> tuple[list[DerivedTable], SchemaError | None]:
        """What can be derived from the entity's table, and why something cannot be: it must not
        keep the rows themselves from being copied."""
        found: list[DerivedTable] = []
        trouble: SchemaError | None = None
        for derived in entity.derived:
            target = await self._table(connection, derived.local, known)
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

    async def _should_not_be_empty(
        self,
        connection: Connection,
        plan: Plan,
        known: State,
        quarantined: tuple[set[Key], set[Key]],
    ) -> bool:
        """Whether the table has no row and its watermark says that rows were copied into it. Then
        it was made anew or emptied, perhaps while no daemon ran: what the watermark claims is not
        in it. (Or central has deleted all of them: then there is little to read, and the watermark
        is 0 from there.)
        """
        entity, note = plan.entity.name, f"{self._name} {plan.entity.name}"
        was_missing, self._learnt[entity].table_was_missing = (
            self._learnt[entity].table_was_missing,
            False,
        )
        theirs = known.settled_for != known.last_synced_id  # an operator's: he knows why
        if known.last_synced_id <= 0 or known.rewound or (theirs and not was_missing):
            return False
        if any(quarantined) and not was_missing:
            return False
        return not await local.keys(
            connection, plan, after=-_EVERY_KEY, upto=_EVERY_KEY, limit=1, note=note
        )


async def _or_in_doubt(asked: Awaitable[bool]) -> bool:
    """The answer; yes, where one table alone cannot be asked."""
    try:
        return await asked
    except WppSyncError as error:
        if not is_entitys_own(error):
            raise
        return True


async def _unless_somebodys_own(read: Awaitable[Mapping[str, T]]) -> Mapping[str, T]:
    """What was read; nothing where the error is one entity's own."""
    try:
        return await read
    except WppSyncError as error:
        if not is_entitys_own(error):
            raise
        return {}
