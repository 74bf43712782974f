"""What is told of an instance at this moment: for the operator, for Prometheus, for the page. From
memory: nobody who asks waits for a database.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from daemon.errors import RewoundError, WppSyncError
from daemon.hosts import Copier
from daemon.instance import Instance
from daemon.orders import Orders, Pause
from daemon.seen import EntitySeen, InstanceSeen
from daemon.state import State
from daemon.sync.motion import Motion, Resting

_LONG_TURN_SECONDS = 10.0
"""A turn is not longer, but where it waits for a silent server: from here on the lag grows."""


def status_now(instance: Instance) -> dict[str, Any]:
    """The status from memory, as far as this process knows it."""
    return status(instance, instance.state, instance.error)


def status(instance: Instance, now: str, error: WppSyncError | None) -> dict[str, Any]:
    """The status, in this state and with this error, with the keys that design.md fixes."""
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
            _entity_status(instance, name, instance.motions.states.get(name))
            for name in instance.entities
        ],
        "copier": None if instance.hold.copier is None else _told_copier(instance.hold.copier),
        "paused": _told_pause(instance.orders.pause),
        "rows_per_second": instance.orders.rows_per_second,
        "throttled": _told_throttle(instance),
        "rows_written": instance.counts.rows_written,
        "settling": instance.shared.central.settle_words(),
        "error": None if error is None else error_object(error),
    }


def _entity_status(instance: Instance, name: str, known: State | None) -> dict[str, Any]:
    motion = instance.motions.get(name)
    at = instance.motions.at(name)
    error = instance.motions.errors.get(name)
    follows = instance.entities[name].motion == "incremental"
    here = instance.running and instance.state != "standby"
    lag = lag_seconds(instance, name)
    return {
        "entity": name,
        "last_synced_id": known.last_synced_id if known else None,
        "last_synced_at": iso(known.last_synced_at) if known else None,
        "settled_id": motion.settled if motion else known.settled if known else None,
        "position": at.position if at else known.position if known else None,
        "head": at.head if at and follows else None,
        "lag_rows": _lag_rows(at, lag) if at and follows else None,
        "lag_seconds": round(lag, 3) if here or instance.opened else None,
        "rewound": isinstance(error, RewoundError) or (known is not None and known.rewound),
        "resync": known.resync if known else False,
        "resync_progress": _rounded(motion.resync_progress if motion else None),
        "eta_seconds": _rounded(motion.eta_seconds if motion else None),
        "reconcile": _reconcile_status(motion, at, compared_at(instance, name)),
        "quarantined": instance.motions.quarantined.get(name, 0),
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


def lag_seconds(instance: Instance, entity: str) -> float:
    """How long ago the entity had last reached the head: at most so old is the first row that is
    not copied yet. 0 when it has reached it; while passes fail it grows. Of an entity that is
    compared whole: how old the last comparison is."""
    motion = instance.motions.at(entity)
    age = max(0.0, instance.shared.clock() - instance.motions.caught_up_at(entity))
    # What was true at the last turn is true, unless there should have been another one since.
    recent = age < max(_LONG_TURN_SECONDS, 3 * instance.settings.poll_interval)
    follows = instance.entities[entity].motion == "incremental"
    caught_up = motion is not None and motion.caught_up and entity not in instance.orders.pauses
    return 0.0 if follows and caught_up and recent else age


def _lag_rows(at: Motion | Resting, seconds: float) -> int | None:
    """Behind and not counted, or not looked at for long: nobody knows, and that is not 0."""
    return at.lag_rows or (0 if seconds == 0 else None)


def compared_at(instance: Instance, entity: str) -> float | None:
    """When both sides of an entity were last compared whole, in seconds since 1970."""
    motion = instance.motions.at(entity)
    if motion is None or motion.compared_once_at is None:
        return None
    return time.time() - (instance.shared.clock() - motion.compared_once_at)


def seen(instance: Instance) -> InstanceSeen:
    """What is true of it now; from memory."""
    copies = instance.state != "standby"
    pending = instance.migrator.pending
    return InstanceSeen(
        instance.name,
        instance.state,
        {name: _seen(instance, name) for name in instance.entities} if copies else {},
        last_success_timestamp_seconds=_succeeded_at(instance),
        migrations_pending=len(pending) if copies and pending is not None else None,
    )


def _succeeded_at(instance: Instance) -> float | None:
    """When all was last known to be well, in seconds since 1970."""
    at, looked = instance.counts.recent.succeeded_at, instance.shared.clock()
    if not instance.motions.resting or at is None:
        return at
    resting = instance.motions.resting.values()
    # What is compared whole is asked for more rarely, and counts where there is nothing else.
    followed = [each.quiet_at for each in resting if each.member is not None]
    quiet_at = min(followed or [each.quiet_at for each in resting])
    return max(at, time.time() - (looked - quiet_at))


def _seen(instance: Instance, entity: str) -> EntitySeen:
    motion, error = instance.motions.get(entity), instance.motions.entity_errors.get(entity)
    paused = instance.orders.pause is not None or entity in instance.orders.pauses
    follows = instance.entities[entity].motion == "incremental"
    lag = lag_seconds(instance, entity)
    common = EntitySeen(
        lag_seconds=lag,
        quarantined_rows=instance.motions.quarantined.get(entity),
        rewound=int(isinstance(error, RewoundError)) if follows else None,
        entity_failed=int(entity in instance.motions.errors),
        entity_paused=int(paused),
    )
    if (resting := instance.motions.resting.get(entity)) is not None:
        return replace(
            common,
            lag_rows=_lag_rows(resting, lag) if follows else None,
            last_synced_id=resting.state.last_synced_id if follows else None,
            settled_id=resting.settled if follows else None,
            compared_timestamp_seconds=compared_at(instance, entity),
            reconcile_progress_ratio=1.0,
            resync_progress_ratio=1.0,
            hot_rows=resting.hot_rows,
        )
    if motion is None:
        return common
    resynced = motion.resync_progress
    return replace(
        common,
        lag_rows=_lag_rows(motion, lag) if follows else None,
        last_synced_id=motion.state.last_synced_id if follows else None,
        settled_id=motion.settled if follows else None,
        compared_timestamp_seconds=compared_at(instance, entity),
        reconcile_progress_ratio=1.0 if motion.round is None else motion.round.progress,
        resync_progress_ratio=1.0 if resynced is None else resynced,
        hot_rows=motion.hot_rows,
    )


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
