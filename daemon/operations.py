"""What an operator may ask, as plain async functions: the same for the command line, the control
socket and the tests. Each may be repeated without harm."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from daemon import comparing, db, hosts, lock, orders, state
from daemon.aio import wait_first
from daemon.db import Connection
from daemon.errors import (
    DatabaseError,
    MissingError,
    NoInstanceError,
    StoppedError,
    TransientError,
    UsageError,
    WppSyncError,
)
from daemon.hosts import Copier
from daemon.instance import Instance
from daemon.migrations.drift import Recorded
from daemon.migrations.files import Migration
from daemon.migrations.journal import Applied
from daemon.orders import Orders
from daemon.state import State
from daemon.status import error_object, iso, status, status_now, told_orders
from daemon.sync import quarantine
from daemon.sync.quarantine import Entry
from daemon.sync.reconcile import Tally
from daemon.sync.run import PassResult

ALL = "all"

_SURE_LOOKS = 3
"""So often in a row an instance must be seen as one that is not copied here."""

_READ_ELSEWHERE = frozenset({"standby", "paused", "failed"})
"""In these states the loop itself does not read what stands in the database."""

_MOST_ROWS_PER_SECOND = 1_000_000

_HEEDED_SECONDS = 10.0
"""So long a pause waits for the batch that is under way."""


async def get_sync_status(instance: Instance) -> dict[str, Any]:
    """The migrations and the state of one instance, with the keys that design.md fixes.

    From memory where this process copies the instance, else from its database. Never raises for a
    database that does not answer: that is what the status then says.
    """
    if instance.opened or (instance.running and instance.state not in _READ_ELSEWHERE):
        return status_now(instance)
    try:
        if instance.running:
            return await _status_of_standby(instance)
        with suppress(DatabaseError):  # then it says that it is not known
            await instance.shared.central.validity()
        return await _status_without_a_daemon(instance)
    except WppSyncError as error:
        if instance.running:
            return status_now(instance)
        return status(instance, "failed", error)


async def each_status(instances: Mapping[str, Instance]) -> AsyncIterator[dict[str, Any]]:
    """The status of each of these, from memory where a loop of this process runs: what nobody here
    knows of one that another daemon copies is null."""
    for each in list(instances.values()):
        yield status_now(each) if each.running else await get_sync_status(each)


async def reset_sync_state(instance: Instance, entity: str) -> list[str]:
    """The next pass re-pulls this entity, or `all` of them, from the start (an entity without a
    watermark is compared whole).

    Rows stay and are overwritten in place. Safe while a daemon copies: it sees the changed state
    row and starts over. Returns the entities that were reset; raises UsageError for another one.
    """
    return await _reset(instance, entity, resync=False)


async def force_full_resync(instance: Instance) -> list[str]:
    """Everything is copied again, and what central does not have is removed from the local tables.
    The database is this instance's from then on, whomever it was copied for before.

    The tables stay readable throughout; interrupted, it goes on. Returns the entities.
    """
    return await _reset(instance, ALL, resync=True)


async def reconcile(
    instance: Instance,
    entity: str | None = None,
    *,
    dry_run: bool = False,
    stop: asyncio.Event | None = None,
) -> dict[str, Tally]:
    """Compare both sides now, an entity or all of them, and repair what differs; `dry_run` changes
    nothing and needs no lock.

    One that cannot be compared does not keep the others: why, stands in its tally. Raises
    UsageError for an unknown entity, the error of the only one that was asked for, StandbyError
    when another process copies the instance, DatabaseError when a server fails, StoppedError.
    """
    if entity is not None and entity not in instance.entities:
        raise UsageError(
            f"{instance.name} has no entity {entity!r}",
            hint=f"one of: {', '.join(instance.entities)}",
        )
    chosen = list(instance.entities) if entity is None else [entity]
    stop = stop or asyncio.Event()
    compare = comparing.look if dry_run else comparing.repair
    found = await compare(instance, chosen, stop)
    if entity is not None and (error := found[entity].error) is not None:
        raise error
    return found


async def list_quarantine(instance: Instance, limit: int = 1000) -> list[Entry]:
    """The rows that the local tables refuse, with the reasons. Raises UsageError when nothing was
    ever synced there."""
    async with _connected(instance, "quarantine") as (connection, note):
        return await quarantine.entries(connection, limit, note)


def told_quarantine(entries: Sequence[Entry]) -> dict[str, Any]:
    """What lies in quarantine, as command line and control socket show it."""
    times = ("first_tried_at", "last_tried_at", "discarded_at")
    rows = [asdict(entry) for entry in entries]
    return {"rows": [row | {at: iso(row[at] or "") for at in times} for row in rows]}


@dataclass(frozen=True, slots=True)
class Retried:
    """What came of trying the rows in quarantine again."""

    tried: int
    left: int
    not_tried: Mapping[str, WppSyncError]
    """Entities with rows in quarantine that cannot be copied now, and why."""


async def retry_quarantine(instance: Instance, stop: asyncio.Event | None = None) -> Retried:
    """Try the quarantined rows again, with a pass, where there are any.

    Raises as `sync_instance` does, and StoppedError.
    """
    waiting = await _in_quarantine(instance)
    if not any(waiting.values()):
        return Retried(0, 0, {})  # a pass may be a whole first sync, which nobody has asked for
    instance.retry_quarantine()
    if (await instance.sync_pass(stop or asyncio.Event())).more:
        raise StoppedError(f"{instance.name}: stopped before all was tried", hint="say it again")
    paused = {
        entity: orders.paused(instance.name, pause, entity)
        for entity, pause in instance.orders.pauses.items()
    }
    errors = {**instance.motions.entity_errors, **paused}
    not_tried = {entity: errors[entity] for entity, n in waiting.items() if n and entity in errors}
    tried = sum(number for entity, number in waiting.items() if entity not in not_tried)
    return Retried(tried, sum(instance.motions.quarantined.values()), not_tried)


async def _in_quarantine(instance: Instance) -> dict[str, int]:
    """How many rows of each entity wait there."""
    connection = await db.connect(instance.settings, instance.server, "local")
    try:
        found = await quarantine.counts(connection, f"{instance.name} quarantine")
    except MissingError:
        return {}  # nothing was ever synced there
    finally:
        await connection.close()
    return {entity: number for entity, number in found.items() if entity in instance.entities}


def told_retry(done: Retried) -> dict[str, Any]:
    """What a retry has done, as command line and control socket show it."""
    not_tried = {entity: error_object(error) for entity, error in done.not_tried.items()}
    return {"tried": done.tried, "left": done.left, "not_tried": not_tried}


async def discard_quarantine(
    instance: Instance, entity: str | None = None, keys: Collection[int] = ()
) -> int:
    """Give rows up that wait in quarantine: they are not tried again. Returns how many.

    All of them, those of one entity, or of that those with these keys. They stay written down; a
    reset or resync tries them again.
    """
    if entity is not None:
        check_entities(instance, [entity])
    async with _connected(instance, "quarantine") as (connection, note):
        chosen = [
            entry
            for entry in await quarantine.entries(connection, quarantine.MOST_ROWS * 10, note)
            if entry.discarded_at is None
            and entity in {None, entry.entity}
            and (not keys or entry.id in keys)
        ]
        for name in {entry.entity for entry in chosen}:
            given_up = [(entry.id, entry.id2) for entry in chosen if entry.entity == name]
            await quarantine.discard(connection, name, given_up, note)
        await instance.motions.count_quarantine(connection)  # of those that are paused, too
    instance.retry_quarantine()  # so that it counts what is left
    return len(chosen)


async def pause(instance: Instance, entity: str | None = None, reason: str = "") -> dict[str, Any]:
    """Write nothing for the instance, or one entity, until it is resumed; also after a restart.

    `at_once` is false where the batch under way is not finished yet (`copied_here`), or another
    daemon copies it: that one sees it within 15 s. Raises UsageError, and DatabaseError: the pause
    is remembered in the instance's database.
    """
    entity = None if entity == ALL else entity
    if entity is not None:
        check_entities(instance, [entity])
    if len(reason) > orders.LONGEST_REASON:
        raise UsageError(f"the reason is longer than {orders.LONGEST_REASON} characters")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in reason):
        raise UsageError(
            "the reason has a character that cannot be shown",
            hint="a line end, say, or half of a character",
        )
    return await _order(
        instance,
        "pause",
        lambda connection, note: orders.pause(
            connection, entity or orders.EVERYTHING, reason, note
        ),
    )


async def resume(instance: Instance, entity: str | None = None) -> dict[str, Any]:
    """Go on with the instance and all its entities, or with one. Raises as `pause` does."""
    entity = None if entity == ALL else entity
    if entity is not None:
        check_entities(instance, [entity])
    return await _order(
        instance,
        "resume",
        lambda connection, note: orders.resume(connection, entity or orders.EVERYTHING, note),
    )


async def throttle(instance: Instance, rows_per_second: int | None) -> dict[str, Any]:
    """Write no more rows than so many in a second, also after a restart; None: no bound.

    Raises as `pause` does.
    """
    if rows_per_second is not None and not 1 <= rows_per_second <= _MOST_ROWS_PER_SECOND:
        raise UsageError(
            f"{rows_per_second} rows per second is not between 1 and {_MOST_ROWS_PER_SECOND:,}",
            hint="without a number (off) there is no bound; pause stops it",
        )
    return await _order(
        instance,
        "throttle",
        lambda connection, note: orders.throttle(connection, rows_per_second, note),
    )


async def _order(
    instance: Instance, verb: str, write: Callable[[Connection, str], Awaitable[None]]
) -> dict[str, Any]:
    """Write an order, have it heeded, and say what holds from here on."""
    try:
        async with _connected(instance, verb) as (connection, note):
            try:
                await write(connection, note)
            except MissingError:
                # Migrations that are not through, or refused, are no reason to go on writing.
                await instance.migrator.create_ahead(connection, orders.MADE_BY)
                await write(connection, note)
            now = await orders.read(connection, note)
    except TransientError as error:
        error.hint = (
            f"the order is kept in {instance.name}'s database; to leave that database alone,"
            f" set instances.{instance.name}.enabled to false and say wpp-sync reload"
        )
        raise
    instance.look_at_orders()
    # A pause that is announced is one: nothing is written any more when this returns.
    here = instance.copies
    at_once = here and await instance.turns.over(_HEEDED_SECONDS)
    return {"instance": instance.name, **told_orders(now), "at_once": at_once, "copied_here": here}


async def migrate(instance: Instance, stop: asyncio.Event | None = None) -> dict[str, Any]:
    """Put the pending migrations in effect now; which ran, and what is odd about the others.

    Raises StandbyError when another process copies the instance, MigrationError, DatabaseError,
    StoppedError.
    """
    applied = await instance.migrate(stop or asyncio.Event())
    warnings = list(instance.migrator.warnings)
    return {"instance": instance.name, "applied": applied, "warnings": warnings}


async def foresee_migrations(instance: Instance) -> dict[str, Any]:
    """What `migrate` would do; changes nothing and needs no lock. Raises as `migrate` does."""
    connection = await db.connect(instance.settings, instance.server, "local")
    try:
        found = await instance.migrator.foresee(connection)
    finally:
        await connection.close()
    return {
        "instance": instance.name,
        "pending": [{"id": m.id, "description": m.description} for m in found.pending],
        "warnings": list(found.warnings),
        "statements": [asdict(step) for step in found.steps],
        "refused": found.refused,
    }


async def list_migrations(instance: Instance, migrations: Sequence[Migration]) -> dict[str, Any]:
    """The whole history of a database and what is pending. Raises DatabaseError."""
    connection = await db.connect(instance.settings, instance.server, "local")
    try:
        await instance.migrator.read(connection)
    finally:
        await connection.close()
    journal = instance.migrator.journal
    files = {migration.id: migration for migration in migrations}
    applied = {row.id: row for row in instance.migrator.history or ()}
    return {
        "instance": instance.name,
        "migrations": [
            _migration(id_, files.get(id_), applied.get(id_), journal.get(id_))
            for id_ in sorted({*files, *applied, *journal})
        ],
    }


def _migration(
    id_: str, file: Migration | None, applied: Applied | None, entry: Recorded | None
) -> dict[str, Any]:
    """One migration as `--list` shows it."""
    if applied is None:
        begun = entry is not None and (entry.statement or entry.state in {"running", "failed"})
        state = "half applied" if begun else "pending"
    elif file is None:
        state = "file is gone" if entry else "not ours"
    elif entry is not None and entry.checksum != file.checksum:
        state = "changed since"
    else:
        state = "applied"
    known = file.description if file else ""
    total = len(file.statements) if file else entry.statements if entry else None
    return {
        "id": id_,
        "description": applied.description if applied else known,
        "executed_at": iso(applied.executed_at) if applied else None,
        "state": state,
        "statement": entry.statement if entry else total if applied else 0,
        "statements": total,
        "version": entry.version or None if entry else None,
        "error": entry.error or None if entry else None,
    }


async def sync_instance(
    instance: Instance, skip: Collection[str] = (), stop: asyncio.Event | None = None
) -> PassResult:
    """One pass now, without the entities to skip.

    Raises UsageError for an unknown entity, StandbyError when another process copies the instance,
    DatabaseError when a server fails.
    """
    check_entities(instance, skip)
    instance.expect_new_rows()
    return await instance.sync_pass(stop or asyncio.Event(), skip)


def check_entities(instance: Instance, names: Collection[str]) -> None:
    """Raise UsageError when one of these is no entity of the instance."""
    known = instance.settings.entities
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(
            f"{instance.name} has no entity {', '.join(unknown)}",
            hint=f"entities: {', '.join(known)}",
        )


def pick(instances: Mapping[str, Instance], name: str) -> Instance:
    """The instance of that name; raises UsageError when there is none."""
    if name not in instances:
        some = ", ".join(list(instances)[:10]) + (", …" if len(instances) > 10 else "")
        raise NoInstanceError(f"there is no instance {name!r}", hint=f"instances: {some}")
    return instances[name]


async def _reset(instance: Instance, entity: str, *, resync: bool) -> list[str]:
    followed = list(instance.entities)
    if entity != ALL and entity not in followed:
        raise UsageError(
            f"{instance.name} has no entity {entity!r}",
            hint=f"one of: {', '.join([*followed, ALL])}",
        )
    entities = followed if entity == ALL else [entity]
    async with _connected(instance, "reset") as (connection, note):
        await quarantine.take_up_again(connection, entities, note)
        # A reset, which a HUP brings too, says nothing of whose the database is; a resync does.
        await state.reset(connection, entities, resync=resync, disown=resync, note=note)
    instance.start_over()
    return entities


async def wait_for_resync(instance: Instance, stop: asyncio.Event) -> str | None:
    """Until a full resync is done. Else why it is not waited for any longer: `paused` (or an entity
    of it is), `elsewhere` (another daemon copies the instance) or `stopped` (we were asked to)."""
    elsewhere = 0
    while instance.running and not stop.is_set():
        pending = {name for name in instance.entities if _resyncing(instance, name)}
        here = instance.opened or instance.motions.resting
        if not pending and here and not instance.reads_anew:
            return None
        paused = instance.state == "paused" or bool(pending & set(instance.orders.pauses))
        elsewhere = elsewhere + 1 if paused or instance.state == "standby" else 0
        if elsewhere >= _SURE_LOOKS:  # not only because it begins anew at this moment
            return "paused" if paused else "elsewhere"
        await wait_first(0.5, stop)
    return "stopped"


async def is_copied(instance: Instance) -> bool:
    """Whether somebody, on whichever host, has the instance's lock."""
    async with _connected(instance, "look at") as (connection, note):
        return await lock.holder(connection, instance.settings.database, note) is not None


def _resyncing(instance: Instance, entity: str) -> bool:
    known = instance.motions.states.get(entity)
    return known is not None and known.resync


@asynccontextmanager
async def _connected(instance: Instance, verb: str) -> AsyncIterator[tuple[Connection, str]]:
    """A connection of its own beside the one that copies: nothing waits for a pass to end."""
    connection = await db.connect(instance.settings, instance.server, "local")
    try:
        yield connection, f"{instance.name} {verb}"
    except MissingError as error:
        raise UsageError(
            f"{instance.server}: this version's tables are not there yet, so nothing to {verb}",
            hint="the next start of the daemon, or `wpp-sync sync`, creates them",
        ) from error
    finally:
        await connection.close()


class _Read(NamedTuple):
    """What stands in an instance's database."""

    history: tuple[Applied, ...]
    journal: Mapping[str, Recorded]
    states: dict[str, State]
    copier: Copier | None
    quarantined: dict[str, int]
    holder: int | None
    """Who has its lock, a connection's id."""

    orders: Orders

    def know(self, instance: Instance) -> None:
        """Have the instance know it."""
        instance.migrator.history, instance.migrator.journal = self.history, self.journal
        nothing = {name: State(name, 0, 0, 0, False, "") for name in instance.entities}
        motions = instance.motions
        motions.states, motions.quarantined = nothing | self.states, self.quarantined
        instance.hold.copier = self.copier
        instance.orders = self.orders


async def _read(instance: Instance, connection: Connection) -> _Read:
    note = f"{instance.name} status"
    history, journal = await instance.migrator.recorded(connection)
    states = await state.read_any(connection, note)
    copier = await hosts.read(connection, note)
    try:
        quarantined = await quarantine.counts(connection, note)
    except MissingError:
        quarantined = {}  # not migrated by this version yet
    holder = await lock.holder(connection, instance.settings.database, note)
    said = await orders.read(connection, note)
    return _Read(history, journal, states, copier, quarantined, holder, said)


async def _status_of_standby(instance: Instance) -> dict[str, Any]:
    """What stands in the database of an instance that this process does not copy, for this once."""
    connection = await db.connect(instance.settings, instance.server, "local")
    try:
        found = await _read(instance, connection)
    finally:
        await connection.close()
    if instance.hold.usable:
        return status_now(instance)  # by now the loop has it, and knows better
    heeded = instance.orders
    found.know(instance)
    told = status_now(instance)
    instance.orders = heeded  # the loop does what is new in them when it reads them itself
    if instance.state == "standby":
        instance.forget_what_others_change()
    return told


async def _status_without_a_daemon(instance: Instance) -> dict[str, Any]:
    connection = await db.connect(instance.settings, instance.server, "local")
    try:
        found = await _read(instance, connection)
        await instance.migrator.look(connection)
    finally:
        await connection.close()
    found.know(instance)
    error = _nobody(found.copier) if found.holder is None else None
    now = "standby" if instance.orders.pause is None else "paused"
    return status(instance, now, error)


def _nobody(last: Copier | None) -> WppSyncError:
    """Why nobody holds the lock, by who copied the instance last: a daemon that rests holds none,
    and one on another host cannot be told from one that has ended."""
    if last is None or not hosts.may_be_there(last):
        return WppSyncError(
            "no daemon copies this instance now", hint="start one: wpp-sync run", code="no_copier"
        )
    return WppSyncError(
        f"nobody has this instance open now: the daemon that copied it last, pid {last.pid} on host"
        f" {last.host}, is at rest, or has ended",
        hint=f"ask it: wpp-sync status on {last.host}; where none runs, start one: wpp-sync run",
        code="not_open",
    )


def told_pass(instance: Instance, result: PassResult) -> dict[str, Any]:
    """What a pass has done, as command line and control socket show it."""
    return {
        "rows": result.rows,
        "late": result.late,
        "interrupted": result.more,
        "quarantined": sum(instance.motions.quarantined.values()),
        "paused": sorted(instance.orders.pauses),
        "errors": {name: error_object(error) for name, error in result.errors.items()},
    }


def tallies(found: Mapping[str, Tally]) -> dict[str, Any]:
    """What a comparison has found, as the command line and the control socket show it."""
    return {
        "entities": [_tally(name, tally) for name, tally in found.items()],
        "differences": sum(tally.differences for tally in found.values()),
    }


def _tally(name: str, tally: Tally) -> dict[str, Any]:
    counts = asdict(replace(tally, error=None))
    error = None if tally.error is None else error_object(tally.error)
    return {"entity": name, **counts, "error": error}
