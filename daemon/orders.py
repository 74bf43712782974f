"""`wpp_sync_orders`: what an operator has said about an instance. This table and nothing else.

It stands in the instance's own database, so that it outlives the process and holds for every host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.db import Connection
from daemon.errors import MissingError, PausedError
from daemon.sql import Statement

EVERYTHING = ""
"""The row that is about the instance as a whole; the others are named like their entity."""

MADE_BY = "2026-11-25-001-remember-orders"
"""The migration that creates the table."""

LONGEST_REASON = 500
"""Characters."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing is written for an instance, or one entity, until somebody resumes it."""

    since: str
    """UTC, `YYYY-MM-DD HH:MM:SS`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Orders:
    """All that holds for one instance."""

    pause: Pause | None = None
    """Of the instance as a whole."""

    pauses: Mapping[str, Pause] = field(default_factory=dict)
    """Of single entities."""

    rows_per_second: int | None = None
    """No more than so many rows are written in a second; None: as many as can be."""

    @property
    def words(self) -> dict[str, object]:
        """What the log says of it."""
        return {
            "paused": self.pause is not None,
            "paused_entities": sorted(self.pauses),
            "rows_per_second": self.rows_per_second,
        }

    def refuse_if_paused(self, instance: str) -> None:
        """Raise PausedError where the instance as a whole is paused."""
        if self.pause is not None:
            raise paused(instance, self.pause)


def paused(instance: str, pause: Pause, entity: str | None = None) -> PausedError:
    """Nothing is written for an instance, or one entity of it."""
    name, option = (f"{instance} {entity}", f" --entity {entity}") if entity else (instance, "")
    reason = f": {pause.reason}" if pause.reason else ""
    return PausedError(
        f"{name} is paused since {pause.since} UTC{reason}",
        hint=f"wpp-sync resume {instance}{option}",
    )


async def read(connection: Connection, note: str) -> Orders:
    """What stands there. A database that this version has not migrated yet holds no orders."""
    columns = "entity, paused_at, reason, rows_per_second"
    try:
        rows = await connection.fetch(Statement(f"SELECT {columns} FROM wpp_sync_orders", (), note))
    except MissingError:
        return Orders()
    pauses: dict[str, Pause] = {}
    rate = None
    for entity, at, reason, rows_per_second in rows:
        name = (entity or b"").decode().strip().lower()
        if at is not None:
            pauses[name] = Pause(at.decode(), (reason or b"").decode())
        if name == EVERYTHING and rows_per_second is not None:
            rate = max(1, int(rows_per_second))
    return Orders(pauses.pop(EVERYTHING, None), pauses, rate)


async def pause(connection: Connection, entity: str, reason: str, note: str) -> None:
    """Pause an entity, or EVERYTHING. Said again, the time stays and the reason is the new one."""
    await connection.execute(
        Statement(
            "INSERT INTO wpp_sync_orders (entity, paused_at, reason)"
            " VALUES (%s, CURRENT_TIMESTAMP, %s)"
            " ON DUPLICATE KEY UPDATE paused_at = COALESCE(paused_at, VALUES(paused_at)),"
            " reason = VALUES(reason)",
            (entity, reason),
            note,
        )
    )


async def resume(connection: Connection, entity: str, note: str) -> None:
    """An entity goes on; EVERYTHING: the instance with all its entities."""
    text = "UPDATE wpp_sync_orders SET paused_at = NULL, reason = NULL"
    where, args = ("", ()) if entity == EVERYTHING else (" WHERE entity = %s", (entity,))
    await connection.execute(Statement(text + where, args, note))


async def throttle(connection: Connection, rows_per_second: int | None, note: str) -> None:
    """Write no more rows than so many in a second; None: as many as can be."""
    await connection.execute(
        Statement(
            "INSERT INTO wpp_sync_orders (entity, rows_per_second) VALUES (%s, %s)"
            " ON DUPLICATE KEY UPDATE rows_per_second = VALUES(rows_per_second)",
            (EVERYTHING, rows_per_second),
            note,
        )
    )
