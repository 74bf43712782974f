"""Comparisons that somebody asks for: compare these entities now, and repair them or only tell.

What the loop compares by itself is the motions' business (`sync.motion`); here an operator waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from daemon import db, lock, orders, state
from daemon.aio import wait_first
from daemon.db import Connection
from daemon.errors import PausedError, StoppedError, WppSyncError
from daemon.instance import Instance
from daemon.schema import Plan
from daemon.state import State
from daemon.sync.commit import Committer
from daemon.sync.reconcile import Bounds, Reconcile, Tally
from daemon.sync.run import is_entitys_own

_TURN_SECONDS = 1.0

_ON_THEIR_WAY_SECONDS = 5.0
"""Whoever follows the head copies a new row within a second or two: what is not copied after so
long waits for more than its turn."""

_LOOK_SECONDS = 0.5


async def repair(
    instance: Instance, entities: Sequence[str], stop: asyncio.Event
) -> dict[str, Tally]:
    """Compare these entities, in turns with the loop's passes, and repair what differs.

    An entity's own trouble stands in its tally. Raises as `Instance.sync_pass` does, and
    StoppedError.
    """
    found: dict[str, Tally] = {}
    async with instance.comparing:  # one after the other, so that each has rounds of its own
        instance.shared.central.expire_heads()
        for entity in entities:
            asked = instance.motions.asked[entity] = _new_round(instance, dry_run=False)
            found[entity] = asked.tally
            asked.tally.error = _paused(instance, entity)
            skip = [name for name in instance.entities if name != entity]
            try:
                while not asked.finished and asked.tally.error is None:
                    _refuse_to_go_on(instance, stop, found)
                    result = await instance.take_turn(stop, skip)
                    asked.tally.error = result.errors.get(entity) or _paused(instance, entity)
                    await wait_first(instance.throttle.hold(), stop)
            finally:
                del instance.motions.asked[entity]
            while (motion := instance.motions.get(entity)) and not motion.derived_compared:
                _refuse_to_go_on(instance, stop, found)
                result = await instance.take_turn(stop, skip)
                asked.tally.error = result.errors.get(entity)
    return found


async def look(
    instance: Instance, entities: Sequence[str], stop: asyncio.Event
) -> dict[str, Tally]:
    """Compare these entities, and change nothing: on a connection of its own, whoever copies the
    instance meanwhile.

    An entity's own trouble stands in its tally. Raises DatabaseError when a server fails, and
    StoppedError.
    """
    note = f"{instance.name} compare"
    instance.shared.central.expire_heads()
    connection = await db.connect(instance.settings, instance.server, "local")
    try:
        states = await state.read_any(connection, note)
        holder = await lock.holder(connection, instance.settings.database, note)
        copied = instance.copies or holder is not None  # who rests here holds no lock
        found: dict[str, Tally] = {}
        for entity in entities:
            known = states.get(entity, State(entity, 0, 0, 0, False, ""))
            asked = _new_round(instance, dry_run=True)
            found[entity] = asked.tally
            try:
                plan = await instance.maker.plan(connection, instance.entities[entity])
                bounds = await _comparable(instance, plan, known, copied=copied)
                committer = await instance.maker.committer(connection, plan, known)
                await _whole_round(instance, asked, committer, bounds, stop)
                if copied and bounds.upto is not None:
                    await _look_above(instance, connection, plan, asked.tally, stop)
            except WppSyncError as error:
                if not is_entitys_own(error):
                    raise
                asked.tally.error = error
            _refuse_to_go_on(instance, stop, found)
        return found
    finally:
        await connection.close()


def _paused(instance: Instance, entity: str) -> PausedError | None:
    """Why nothing is repaired, as last read."""
    pause = instance.orders.pauses.get(entity)
    return None if pause is None else orders.paused(instance.name, pause, entity)


def _refuse_to_go_on(instance: Instance, stop: asyncio.Event, found: Mapping[str, Tally]) -> None:
    """What a comparison has found by half must not be taken for all."""
    if stop.is_set():
        rows = sum(tally.differences for tally in found.values())
        raise StoppedError(
            f"{instance.name}: stopped before all was compared; {rows:,} rows differed so far",
            hint="say it again",
        )


async def _whole_round(
    instance: Instance,
    asked: Reconcile,
    committer: Committer,
    bounds: Bounds,
    stop: asyncio.Event,
) -> None:
    """All of a round that changes nothing."""
    central = instance.shared.central
    central.join(committer.plan, instance.name)
    try:
        while not asked.finished and not stop.is_set():
            await asked.step(committer, bounds, stop, _TURN_SECONDS)
    finally:
        central.leave(committer.plan, instance.name)


async def _comparable(instance: Instance, plan: Plan, known: State, *, copied: bool) -> Bounds:
    """Up to where both sides should be equal: while somebody copies, to where he had read."""
    if plan.entity.motion == "whole":
        return Bounds(None, None)
    if copied:
        # What of it has settled is in the copier's memory alone; nothing is deleted here, and rows
        # in flight are looked up.
        return Bounds(known.position, None)
    head = await instance.shared.central.head(plan.entity.central, plan.central_key)
    return Bounds(max(head.id, known.position), None)


async def _look_above(
    instance: Instance, connection: Connection, plan: Plan, tally: Tally, stop: asyncio.Event
) -> None:
    """Whether the instance has rows that are newer than what was compared and are not being copied
    at this moment: equal up to there is not equal.

    Rows that are in flight are no trouble, so they get the time to arrive; but nothing arrives
    where somebody has paused it.
    """
    entity, note = plan.entity.name, f"{instance.name} compare"
    head = await instance.shared.central.head(plan.entity.central, plan.central_key)
    tally.head, until = head.id, instance.shared.clock() + _ON_THEIR_WAY_SECONDS
    while not stop.is_set():
        known = (await state.read_any(connection, note)).get(entity)
        position = 0 if known is None else known.position
        if not await instance.shared.central.keys(
            plan, instance.name, after=position, upto=head.id, limit=1
        ):
            return
        said = await orders.read(connection, note)
        paused = said.pause is not None or entity in said.pauses
        if paused or instance.shared.clock() >= until:
            tally.behind = True
            return
        await wait_first(_LOOK_SECONDS, stop)


def _new_round(instance: Instance, *, dry_run: bool) -> Reconcile:
    shared = instance.shared
    return Reconcile(
        central=shared.central,
        metrics=shared.metrics,
        clock=shared.clock,
        since=shared.clock(),
        dry_run=dry_run,
    )
