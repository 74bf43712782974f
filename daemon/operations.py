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
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from daemon import comparing, db, hosts, lock, orders, state
from daemon.aio import wait_first
from daemon.db import Connection
from daemon.errors import (
    MissingError,
    NoInstanceError,
    RewoundError,
    TransientError,
    UsageError,
    WppSyncError,
)
from daemon.hosts import Copier
from daemon.instance import Instance
from daemon.migrations.drift import Recorded
from daemon.migrations.files import Migration
from daemon.migrations.journal import Applied
from daemon.orders import Orders, Pause
from daemon.state import State
from daemon.sync import quarantine
from daemon.sync.motion import Motion, Resting
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
        await instance.learn_settling()
        return await _status_without_a_daemon(instance)
    except WppSyncError as error:
        if instance.running:
            return status_now(instance)
        return _status(instance, "failed", error)


async def get_all_status(instances: Mapping[str, Instance]) -> dict[str, Any]:
    """The status of each of these, from memory where a loop of this process runs: what nobody here
    knows of one that another daemon copies is null."""
    return {
        "instances": [
            status_now(each) if each.running else await get_sync_status(each)
            for each in list(instances.values())
        ]
    }


def status_now(instance: Instance) -> dict[str, Any]:
    """The status from memory, as far as this process knows it."""
    return _status(instance, instance.state, instance.error)


async def reset_sync_state(instance: Instance, entity: str) -> list[str]:
    """The next pass re-pulls this entity, or `all` of them, from the start (an entity without a
    watermark is compared whole).

    Rows stay and are overwritten in place. Safe while a daemon copies: it sees the changed state
    row and starts over. Returns the entities that were reset; raises UsageError for another one.
    """
    return await _reset(instance, entity, resync=False)


async def force_full_resync(instance: Instance) -> list[str]:
    """Everything is copied again, and what central does not have is removed from the local tables.

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


async def retry_quarantine(instance: Instance, stop: asyncio.Event | None = None) -> int:
    """Try the quarantined rows again, with a pass; how many are left."""
    instance.retry_quarantine()
    await instance.sync_pass(stop or asyncio.Event())
    return sum(instance.quarantined.values())


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
    at_once = here and await instance.turn_is_over(_HEEDED_SECONDS)
    return {"instance": instance.name, **told_orders(now), "at_once": at_once, "copied_here": here}


def told_orders(now: Orders) -> dict[str, Any]:
    """What an operator has said, as status and control socket show it."""
    return {
        "paused": _told_pause(now.pause),
        "paused_entities": {name: _told_pause(each) for name, each in now.pauses.items()},
        "rows_per_second": now.rows_per_second,
    }


def _told_throttle(instance: Instance) -> dict[str, str] | None:
    """Why it is throttled right now."""
    told = instance.throttle.told
    return None if told is None else {"reason": told[0], "message": told[1]}


def _told_copier(copier: Copier) -> dict[str, Any]:
    told = asdict(copier) | {"since": iso(copier.since)}
    del told["token"]
    return told


def _told_pause(pause: Pause | None) -> dict[str, str | None] | None:
    return None if pause is None else {"since": iso(pause.since), "reason": pause.reason}


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
        await state.reset(connection, entities, resync=resync, note=note)
    instance.start_over()
    return entities


async def wait_for_resync(instance: Instance, stop: asyncio.Event) -> bool:
    """Until a full resync is done; False when this process does not carry it out (another one
    copies the instance, it is paused or an entity of it is), or was asked to stop."""
    elsewhere = 0
    while instance.running and not stop.is_set():
        pending = {name for name in instance.entities if _resyncing(instance, name)}
        if not pending and instance.opened and not instance.reads_anew:
            return True
        paused = pending & set(instance.orders.pauses)
        elsewhere = elsewhere + 1 if paused or instance.state in {"standby", "paused"} else 0
        if elsewhere >= _SURE_LOOKS:  # not only because it begins anew at this moment
            return False
        await wait_first(0.5, stop)
    return False


def _resyncing(instance: Instance, entity: str) -> bool:
    known = instance.states.get(entity)
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
    journal: dict[str, Recorded]
    states: dict[str, State]
    copier: Copier | None
    quarantined: dict[str, int]
    holder: int | None
    """Who has its lock, a connection's id."""

    def know(self, instance: Instance) -> None:
        """Have the instance know it."""
        instance.migrator.history, instance.migrator.journal = self.history, self.journal
        nothing = {name: State(name, 0, 0, 0, False, "") for name in instance.entities}
        instance.states, instance.quarantined = nothing | self.states, self.quarantined
        instance.hold.copier = self.copier


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
    return _Read(history, journal, states, copier, quarantined, holder)


async def _status_of_standby(instance: Instance) -> dict[str, Any]:
    """What stands in the database of an instance that this process does not copy, for this once."""
    connection = await db.connect(instance.settings, instance.server, "local")
    try:
        found = await _read(instance, connection)
    finally:
        await connection.close()
    if instance.locked:
        return status_now(instance)  # by now the loop has it, and knows better
    found.know(instance)
    told = status_now(instance)
    if instance.state == "standby":
        instance.forget_what_others_change()
    return told


async def _status_without_a_daemon(instance: Instance) -> dict[str, Any]:
    connection = await db.connect(instance.settings, instance.server, "local")
    try:
        found = await _read(instance, connection)
        await instance.migrator.look(connection)
        instance.orders = await orders.read(connection, f"{instance.name} status")
    finally:
        await connection.close()
    found.know(instance)
    error = None
    if found.holder is None:
        error = WppSyncError(
            "no daemon copies this instance now", hint="start one: wpp-sync run", code="no_copier"
        )
    now = "standby" if instance.orders.pause is None else "paused"
    return _status(instance, now, error)


def _status(instance: Instance, now: str, error: WppSyncError | None) -> dict[str, Any]:
    doing = instance.migrator.doing
    return {
        "instance": instance.name,
        "state": now,
        "migrations": [
            {"id": m.id, "description": m.description, "executed_at": iso(m.executed_at)}
            for m in instance.migrator.history or ()
        ],
        "pending_migrations": instance.migrator.pending or [],
        "migration_warnings": list(instance.migrator.warnings),
        "migrating": None if doing is None else doing.words,
        "sync_state": [
            _entity_status(instance, name, instance.states.get(name)) for name in instance.entities
        ],
        "copier": None if instance.hold.copier is None else _told_copier(instance.hold.copier),
        "paused": _told_pause(instance.orders.pause),
        "rows_per_second": instance.orders.rows_per_second,
        "throttled": _told_throttle(instance),
        "rows_written": instance.rows_written,
        "settling": instance.settling,
        "error": None if error is None else error_object(error),
    }


def _entity_status(instance: Instance, name: str, known: State | None) -> dict[str, Any]:
    motion = instance.motions.get(name)
    at = motion or instance.resting.get(name)
    error = instance.errors.get(name)
    follows = instance.entities[name].motion == "incremental"
    here = instance.running and instance.state != "standby"
    # What another daemon copies is not known here; what nobody has copied yet begins at 0.
    unknown = None if instance.state == "standby" else 0
    return {
        "entity": name,
        "last_synced_id": known.last_synced_id if known else unknown,
        "last_synced_at": iso(known.last_synced_at) if known else None,
        "settled_id": motion.settled if motion else known.settled if known else unknown,
        "position": at.position if at else known.position if known else unknown,
        "head": at.head if at and follows else None,
        "lag_rows": at.lag_rows if at and follows else None,
        "lag_seconds": (round(instance.lag_seconds(name), 3) if here or instance.opened else None),
        "rewound": isinstance(error, RewoundError) or (known is not None and known.rewound),
        "resync": known.resync if known else False,
        "resync_progress": _rounded(motion.resync_progress if motion else None),
        "eta_seconds": _rounded(motion.eta_seconds if motion else None),
        "reconcile": _reconcile_status(motion, at, instance.compared_at(name)),
        "quarantined": instance.quarantined.get(name, 0),
        "paused": _told_pause(instance.orders.pauses.get(name)),
        "error": None if error is None else error_object(error),
    }


def _reconcile_status(
    motion: Motion | None, at: Motion | Resting | None, compared_at: float | None
) -> dict[str, Any] | None:
    """The comparison that is under way, if one is, and when the last one ended; from memory."""
    if at is None:
        return None
    running = (motion.asked or motion.round) if motion else None
    return {
        "running": running is not None,
        "asked": motion is not None and motion.asked is not None,
        "progress": _rounded(running.progress if running else None),
        "differences": running.tally.differences if running else 0,
        "compared_at": None if compared_at is None else _iso_seconds(compared_at),
        "hot_rows": at.hot_rows or 0,
    }


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)


def told_pass(instance: Instance, result: PassResult) -> dict[str, Any]:
    """What a pass has done, as command line and control socket show it."""
    return {
        "rows": result.rows,
        "late": result.late,
        "interrupted": result.more,
        "quarantined": sum(instance.quarantined.values()),
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


def error_object(error: WppSyncError) -> dict[str, str]:
    """An error as status and control socket show it."""
    return {
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "since": _iso_seconds(error.since.timestamp()),
    }


def _iso_seconds(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def iso(moment: str) -> str | None:
    """`YYYY-MM-DD HH:MM:SS` in UTC, as the server prints it, as ISO 8601."""
    return moment.replace(" ", "T") + "Z" if moment else None
