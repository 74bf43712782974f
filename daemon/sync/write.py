"""Rows into a local table so that no row ever gets another one's values.

Central has the same unique keys, so a local row that holds a new row's key is stale: central has
deleted it or has given it another value since. The stale rows and the new ones are read again from
central in one statement (one moment, so they cannot contradict each other), the stale ones are
deleted, and all are inserted, within the caller's transaction: readers see all of it or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from daemon import local
from daemon.central import Central, key_of
from daemon.db import DUPLICATE_KEY, Connection
from daemon.errors import CollisionError, RowError, TransientError
from daemon.schema import Plan
from daemon.sql import Row

# A batch that collides is halved until the part that does is this small: what is read again to
# resolve it stays small, too.
_RESOLVE_ROWS = 32
# Each round follows the keys that the last one's rows gave away; a chain ends sooner or later.
_ROUNDS = 16
_RESOLVE_BYTES = 256 << 20


async def write(
    connection: Connection, central: Central, plan: Plan, instance: str, rows: Sequence[Row]
) -> None:
    """Upsert the rows, inside the caller's transaction.

    Raises RowError when the table refuses a row for its own values, TransientError when central
    changed again and again meanwhile.
    """
    note = f"{instance} {plan.entity.name}"
    try:
        await local.upsert(connection, plan, rows, note)
        return
    except CollisionError:
        pass
    except RowError as error:
        if error.errno not in DUPLICATE_KEY:
            raise
    if len(rows) > _RESOLVE_ROWS:
        middle = len(rows) // 2
        await write(connection, central, plan, instance, rows[:middle])
        await write(connection, central, plan, instance, rows[middle:])
    else:
        await _resolve(connection, central, plan, instance, rows)


async def _resolve(
    connection: Connection, central: Central, plan: Plan, instance: str, rows: Sequence[Row]
) -> None:
    note = f"{instance} {plan.entity.name} collision"
    keys = {key_of(row) for row in rows}
    fresh: Sequence[Row] = rows
    for _ in range(_ROUNDS):
        stale = await local.holders(connection, plan, fresh, note) - keys
        keys |= stale
        fresh, whole = await central.rows(plan, instance, sorted(keys), _RESOLVE_BYTES)
        if not whole:
            raise TransientError(
                connection.name, 1206, f"{plan.entity.name}: colliding rows exceed 256 MiB"
            )
        if not stale:
            break
    else:
        raise TransientError(
            connection.name, 1205, f"{plan.entity.name}: unique keys keep moving; trying again"
        )
    await local.delete(connection, plan, sorted(keys), note)
    if fresh:
        await local.upsert(connection, plan, fresh, note)
