"""What one entity of one instance has locally, and the one transaction by which it changes.

Rows, what is derived from them, quarantine and state commit together or not at all. The state row
is locked first and compared with what was read before (see `state`). Every motion that changes an
entity's table does it here: incremental, reconcile, the retry of quarantined rows.

Most transactions have few rows, and cost what their round trips cost. So what needs no answer of
what is before it goes with that: the beginning, the lock and a few rows, the state and the COMMIT.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from daemon import local, sql, state
from daemon.aio import Clock
from daemon.central import Central
from daemon.db import NO_PARENT, Answers, Connection, Transaction
from daemon.errors import PlanChangedError, RewoundError, RowError, SchemaError
from daemon.schema import Plan
from daemon.sql import Key, Row, Statement
from daemon.state import State
from daemon.sync import quarantine
from daemon.sync.ahead import Ahead, NotAheadError, Turn
from daemon.sync.derived import DerivedTable, Group, Told
from daemon.sync.quarantine import Refusal, Strikes
from daemon.sync.write import Writer
from daemon.throttle import Throttle

_HIGHEST_KEY = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Committed:
    """One local transaction, as it is told to metrics, logs and progress bars. `rows` stand in the
    local table now; `refused` ones do not."""

    entity: str
    rows: int
    late: int
    deleted: int
    refused: int
    seconds: float
    last_synced_id: int
    settled_id: int


@dataclass(frozen=True, slots=True)
class Repaired:
    """What became of rows that differed. `left`: keys that did not fit into this transaction."""

    written: int
    deleted: int
    refused: int
    left: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """What one bounded step did, and whether there is more to do at once."""

    rows: int
    late: int
    deleted: int
    more: bool


class Committer:
    """One entity of one instance: its plan, its state row, its quarantine, and its changes."""

    MISSING = 500
    """Rows that are fetched by their keys at once."""

    _PARENT_SECONDS = 2.0
    """So soon rows are tried again whose parent row was missing (a local foreign key)."""

    _RETRY_SECONDS = 600.0
    """So often the quarantined rows are tried again; at the start of a motion they are, too."""

    _INSERT_SECONDS = 60.0
    """So long rows are not inserted, but upserted, after a row stood there already."""

    _PLAN_SECONDS = 60.0
    """Rows are written by a plan no older than this: the server tells of a column that is gone, but
    not of a new one."""

    def __init__(
        self,
        plan: Plan,
        instance: str,
        known: State,
        *,
        read_plan: Callable[[], Awaitable[Plan]],
        central: Central,
        connection: Connection,
        max_bytes: int,
        derived: Sequence[DerivedTable],
        strikes: Strikes,
        quarantined: set[Key],
        discarded: set[Key],
        clock: Clock,
        throttle: Throttle,
        on_commit: Callable[[Committed], None],
    ) -> None:
        self.plan = plan
        self.instance = instance
        self.state = known
        self.connection = connection
        self.entity = plan.entity.name
        self.note = f"{instance} {plan.entity.name}"
        self.derived = derived
        self.quarantined = quarantined
        """The keys of the rows that wait in quarantine."""

        self.discarded = discarded
        """The keys of the rows that an operator has given up."""

        self.retry_at = clock() + (0.0 if quarantined else self._RETRY_SECONDS)
        """When the quarantined rows are tried again."""

        self.saved_at = clock()
        """When the state row was last written."""

        self.written_at = float("-inf")
        """When rows were last written or deleted."""

        self.throttle = throttle
        """How much may be written now: asked before rows are read."""

        self._central = central
        self._max_bytes = max_bytes
        self._strikes = strikes
        self._writer = Writer(connection, central, plan, instance, strikes)
        self._patient_writer = Writer(connection, central, plan, instance, Strikes(most=None))
        self._read_plan = read_plan
        self._planned_at = clock()
        self._insert_from = clock()
        self._clock = clock
        self._on_commit = on_commit

    @property
    def excluded(self) -> set[Key]:
        """The rows that are not expected in the local table."""
        return self.quarantined | self.discarded

    @property
    def resolved(self) -> int:
        """How often a collision had rows read again: what was read before is older."""
        return self._writer.resolved

    # --- new rows -------------------------------------------------------------------------------

    async def commit(
        self,
        rows: Sequence[Row],
        *,
        watermark: int | None = None,
        settled: int | None = None,
        late: int = 0,
        delete: Sequence[Key] = (),
        release: Collection[Key] = (),
        retried: bool = False,
        finished: bool = False,
        bulk: bool = False,
    ) -> int:
        """Rows and state, or neither; how many rows the table took. `bulk`: see `throttle`."""
        if rows:
            await self.see_that_the_plan_holds()
        began = self._clock()
        following = self._following(watermark, settled, finished=finished)
        simple = len(rows) <= local.AT_ONCE_ROWS and not (delete or release or retried)
        known = self._groups_of(rows) if simple else []
        if simple and await self._at_once(rows, known, following):
            change = _Change(len(rows), 0, {}, frozenset(), retried=False)
        else:
            attempt, groups = self._attempt(rows, known) if simple else ([], [])
            async with self._transaction(following, attempt) as transaction:
                change = await self._change(
                    rows, delete, release, transaction.last,
                    retried=retried, answers=transaction.attempt, groups=groups,
                )  # fmt: skip
        self._changed(change, following, began, late=late, bulk=bulk)
        return change.written

    async def commit_ahead(
        self,
        ahead: Ahead,
        connection: Connection,
        rows: Sequence[Row],
        turn: Turn,
        moved: Callable[[], tuple[int, int]],
        *,
        bulk: bool,
    ) -> int:
        """Rows that follow others which are being written: at the same time, committed after them.

        `turn`: these are committed, or are not; `moved` says then where watermark and settled id
        stand with the rows. Raises NotAheadError where nothing has changed, and the rows are to be
        written by `commit`.
        """
        keys = self.plan.keys(rows)
        if not self.excluded.isdisjoint(keys):
            raise NotAheadError
        began = self._clock()
        async with ahead.transaction(connection, self.plan, rows, turn, self.note) as transaction:
            watermark, settled = moved()
            following = self._following(watermark, settled)
            locked = await connection.fetch(state.lock(self.state, self.note))
            state.see(self.state, locked)
            await ahead.see_the_lock(connection, self.connection, self.note)
            await self._derive(keys, connection)
            transaction.last.append(state.write(following, self.note))
        change = _Change(len(rows), 0, {}, frozenset(), retried=False)
        self._strikes.taken()
        self._changed(change, following, began, bulk=bulk)
        return len(rows)

    def _following(
        self, watermark: int | None = None, settled: int | None = None, *, finished: bool = False
    ) -> State:
        settled = self.state.settled if settled is None else settled
        return self.state.moved(
            last_synced_id=self.state.last_synced_id if watermark is None else watermark,
            settled_id=min(settled, _HIGHEST_KEY),  # somebody's id may be an unsigned one
            resync=self.state.resync and not finished,
        )

    async def _at_once(
        self, rows: Sequence[Row], known: Sequence[frozenset[Group] | None], following: State
    ) -> bool:
        """Write rows that are new here, and the state, in one exchange; whether that was done. Only
        where nothing has to be asked: what is derived does not change by these rows.

        A key that could be inserted stood nowhere, so nothing was derived from it.
        """
        if self._clock() < self._insert_from or self.state.resync or not rows:
            return False
        if any(groups is None or groups for groups in known):
            return False
        if not self.excluded.isdisjoint(self.plan.keys(rows)):
            return False
        insert = self._writer.insert(rows)
        if insert is None:
            return False
        fence, write = state.fence(self.state, self.note), state.write(following, self.note)
        if await self.connection.at_once(fence, insert, write):
            self._strikes.taken()
            return True
        # Somebody else writes here, or rows are to be judged: more than one exchange, again.
        self._insert_from = self._clock() + self._INSERT_SECONDS
        return False

    def _groups_of(self, rows: Sequence[Row]) -> list[frozenset[Group] | None]:
        """Of each derived table."""
        columns = self.plan.local_columns if self.derived else ()
        return [table.groups_of(rows, columns) for table in self.derived]

    @asynccontextmanager
    async def _transaction(
        self, following: State, attempt: Sequence[Statement | bytes] = ()
    ) -> AsyncIterator[Transaction]:
        """A transaction behind the lock on the state row, which it leaves as `following`."""
        lock = state.lock(self.state, self.note)
        ending = False
        try:
            async with self.connection.transaction(lock, attempt=attempt) as transaction:
                state.see(self.state, *transaction.opening)
                answers = transaction.attempt
                if answers.rows and answers.refusal is not None:
                    raise answers.refusal  # of a question behind the rows: they are not at fault
                yield transaction
                transaction.last.append(state.write(following, self.note))
                ending = True
        except RowError as error:
            if ending and self.derived:
                raise self._refused(error, [table.target for table in self.derived]) from error
            raise

    def _attempt(
        self, rows: Sequence[Row], known: Sequence[frozenset[Group] | None]
    ) -> tuple[list[Statement | bytes], list[frozenset[Group]]]:
        """What can be sent before it is known that the state row is as we know it, because nothing
        of it is committed then: a few rows, and what is asked when they were taken. With the groups
        that each derived table is asked about."""
        upsert = self._writer.attempt(rows)
        if upsert is None:
            return [], []
        keys = [sql.parts(self.plan.key(row))[0] for row in rows]
        groups = [of_one or frozenset() for of_one in known]
        asked = [
            question
            for table, of_one in zip(self.derived, groups, strict=True)
            for question in table.questions(keys, self.note, of_one)
        ]
        return [upsert, *asked], groups

    # --- rows that differ -----------------------------------------------------------------------

    async def repair(
        self, keys: Sequence[Key], position: int | None, *, bulk: bool = True
    ) -> Repaired:
        """Bring these rows to what central has now, which is read behind the lock on the state row:
        what central has is written, what it does not have is deleted.

        Raises RewoundError when central's table ends below `position`: it is being restored, and
        what seems to be gone may come back.
        """
        await self.see_that_the_plan_holds()
        began = self._clock()
        following = self._following()
        async with self._transaction(following) as transaction:
            rows, whole = await self._central.rows(self.plan, self.instance, keys, self._max_bytes)
            found = {self.plan.key(row) for row in rows}
            # Rows come in key order, so what lies above the last one was cut off.
            end = None if whole or not rows else sql.parts(self.plan.key(rows[-1]))
            asked = [key for key in keys if end is None or sql.parts(key) <= end]
            gone = await self._gone([key for key in asked if key not in found], position)
            gone = await self._delete(gone)
            change = await self._change(
                rows, (), gone, transaction.last, retried=True, deleted=gone
            )
        self._changed(change, following, began, bulk=bulk)
        done = set(asked)
        return Repaired(
            change.written, len(gone), len(change.refused),
            tuple(key for key in keys if key not in done),
        )  # fmt: skip

    async def _gone(self, keys: list[Key], position: int | None) -> list[Key]:
        """Those that central does not have. A row in flight, which the application wrote here ahead
        of its commit, is left alone, also when it is committed while we look."""
        if not keys:
            return []
        coming = await self._central.in_flight(self.plan, keys)
        coming |= (await self._central.row_sums_of(self.plan, self.instance, keys)).keys()
        if position is not None:
            self._central.expire_heads()
            entity = self.plan.entity
            head = await self._central.head(entity.central, self.plan.central_key)
            if head.id < position:
                following = await self._central.next_id(entity.central)
                if following is None or following <= position:
                    raise RewoundError(
                        f"{self.entity}: central {entity.central} ends at id {head.id}, but"
                        f" {position} was read already: nothing is deleted",
                        hint="when central is right again, it goes on; or"
                        f" `wpp-sync resync {self.instance}`",
                    )
        return [key for key in keys if key not in coming]

    async def _delete(self, keys: list[Key]) -> list[Key]:
        """Delete these rows; those that were deleted. A row that other local rows refer to stays
        until they are gone: a later round finds it again."""
        try:
            await local.delete(self.connection, self.plan, keys, self.note)
        except RowError:
            if len(keys) == 1:
                return []
            middle = len(keys) // 2
            return await self._delete(keys[:middle]) + await self._delete(keys[middle:])
        return keys

    # --- quarantine -----------------------------------------------------------------------------

    async def retry_if_due(self) -> None:
        """Try the quarantined rows once more when it is time; those that central no longer has are
        let go."""
        if not self.quarantined or self._clock() < self.retry_at:
            return
        self.retry_at = self._clock() + self._RETRY_SECONDS
        self.quarantined, self.discarded = await quarantine.keys(
            self.connection, self.entity, len(self.plan.central_keys), self.note
        )
        waiting = sorted(self.quarantined, key=sql.parts)
        while waiting:
            some = waiting[: self.MISSING]
            rows, whole = await self._central.rows(self.plan, self.instance, some, self._max_bytes)
            end = sql.parts(some[-1] if whole or not rows else self.plan.key(rows[-1]))
            looked_at = {key for key in some if sql.parts(key) <= end}
            there = {self.plan.key(row) for row in rows}
            await self.commit(rows, release=looked_at - there, retried=True)
            waiting = [key for key in waiting if sql.parts(key) > end]

    # --- inside the transaction -----------------------------------------------------------------

    async def _change(
        self,
        rows: Sequence[Row],
        delete: Collection[Key],
        release: Collection[Key],
        last: list[Statement],
        *,
        retried: bool,
        deleted: Collection[Key] = (),
        answers: Answers | None = None,
        groups: Sequence[frozenset[Group]] = (),
    ) -> _Change:
        """`delete`: rows to be deleted; `deleted`: rows that were, in this transaction; `answers`:
        to `_attempt`, with its `groups`; `last`: takes what is to be carried out at the end."""
        writer = self._patient_writer if retried else self._writer
        refusals = await writer.write(rows, answers) if rows else []
        refused = {refusal.key: refusal for refusal in refusals}
        if len(self.quarantined | set(refused)) > quarantine.MOST_ROWS:
            raise quarantine.note_full(self.entity)
        await quarantine.put(self.connection, self.entity, refusals, self.note)
        written = set(self.plan.keys(rows))
        released = frozenset((written - set(refused) | set(release)) & self.excluded)
        await quarantine.release(self.connection, self.entity, released, self.note)
        await local.delete(self.connection, self.plan, delete, self.note)
        touched = written | set(delete) | set(deleted) | writer.touched
        writer.touched.clear()
        # They are of use where all rows were taken at once.
        known: list[Told] = []
        if answers is not None and answers.rows and touched == written:
            known = _told(answers.rows[1:], groups)
        await self._derive(touched, self.connection, known, last)
        removed = len(delete) + len(deleted)
        return _Change(len(rows) - len(refused), removed, refused, released, retried)

    async def _derive(
        self,
        touched: Collection[Key],
        connection: Connection,
        known: Sequence[Told] = (),
        last: list[Statement] | None = None,
    ) -> None:
        """What is derived follows, in this connection's transaction; `known`: the answers to the
        tables' questions; `last`: takes what can wait for the end. Raises SchemaError where a
        derived table refuses a row that the table itself has taken: no row is at fault."""
        # Only entities with a key of one column have derived tables.
        keys = [key for key in touched if isinstance(key, int)] if self.derived else []
        for place, table in enumerate(self.derived):
            told = known[place] if known else None
            try:
                await table.update(connection, keys, self.note, told, last)
            except RowError as error:
                raise self._refused(error, [table.target]) from error

    def _refused(self, error: RowError, targets: Sequence[str]) -> SchemaError:
        table, source = ", ".join(targets), self.plan.entity.local
        return SchemaError(
            f"{self.entity}: {table} refuses what is derived: {error.message}",
            hint=f"give {table} the columns of {source}, and no further rules",
        )

    def _changed(
        self,
        change: _Change,
        following: State,
        began: float,
        *,
        late: int = 0,
        bulk: bool,
    ) -> None:
        """After the commit: what is in memory follows."""
        self.quarantined = (self.quarantined | set(change.refused)) - change.released
        self.discarded -= change.released.union(change.refused)
        orphans = any(refusal.errno in NO_PARENT for refusal in change.refused.values())
        if orphans and not change.retried:
            # The parent is copied by another entity, a moment later perhaps.
            self.retry_at = min(self.retry_at, self._clock() + self._PARENT_SECONDS)
        self.state = following
        self.saved_at = self._clock()
        if change.written or change.deleted:
            self.written_at = self.saved_at
        self.throttle.spend(change.written + change.deleted, bulk=bulk)
        self._on_commit(
            Committed(
                entity=self.entity,
                rows=change.written,
                late=late,
                deleted=change.deleted,
                refused=len(change.refused),
                seconds=self._clock() - began,
                last_synced_id=following.last_synced_id,
                settled_id=following.settled,
            )
        )

    async def rebuild(self, table: DerivedTable, after: tuple[int] | None) -> tuple[int] | None:
        """Compare a part of a derived table with its source, and repair it; where it goes on."""
        lock = state.lock(self.state, self.note)
        async with self.connection.transaction(lock) as transaction:
            state.see(self.state, *transaction.opening)
            return await table.rebuild(self.connection, after, self.note)

    async def mark_rewound(self) -> None:
        """Write down that central's ids began again: central may soon be past the position again,
        and then nothing would show that the ids below are other rows."""
        following = replace(self.state, rewound=True)
        async with self._transaction(following):
            pass  # but for the state
        self.state = following  # not before: what is not written must be told of once more

    async def see_that_the_plan_holds(self) -> None:
        """Look at both tables again now and then. Raises PlanChangedError, SchemaError."""
        if self._clock() - self._planned_at < self._PLAN_SECONDS:
            return
        if await self._read_plan() != self.plan:
            raise PlanChangedError(f"{self.entity}: columns or keys of its tables have changed")
        self._planned_at = self._clock()


def _told(answers: Sequence[list[Row]], groups: Sequence[frozenset[Group]]) -> list[Told]:
    """The answers to the derived tables' questions: two each, and one more where groups were asked
    about."""
    left = iter(answers)
    return [Told(next(left), next(left), next(left) if known else (), known) for known in groups]


@dataclass(frozen=True, slots=True)
class _Change:
    """What one transaction has done, before it is known to be committed."""

    written: int
    deleted: int
    refused: Mapping[Key, Refusal]
    released: frozenset[Key]
    retried: bool
