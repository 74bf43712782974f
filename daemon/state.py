"""`wpp_sync_state`: how far each entity has been synced. This table and nothing else.

A read that fails raises; there is no default. Every writer locks the row and compares it with what
it read before (`lock`, `see`): a reset, an operator's UPDATE or another copier in between makes the
writer discard what it has, so that nobody's change is overwritten and no old batch gets in.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from daemon.db import Connection
from daemon.errors import MissingError, StateMovedError
from daemon.sql import Row, Statement

_SINCE_2026_01 = "entity, last_synced_id, settled_id, settled_for, resync, last_synced_at, rewound"
_COLUMNS = f"{_SINCE_2026_01}, instance, source"
_OF_OLDER_VERSIONS = (
    f"{_SINCE_2026_01}, NULL, NULL",
    "entity, last_synced_id, 0, 0, 0, last_synced_at, 0, NULL, NULL",
)
"""What there is instead of `_COLUMNS` where this version has not migrated yet: in a database of an
earlier version, and in every one from the field."""

_ROUND = (
    "reconcile_cursor, TIMESTAMPDIFF(SECOND, reconciled_at, CURRENT_TIMESTAMP),"
    " derived_at IS NOT NULL"
)


@dataclass(frozen=True, slots=True)
class State:
    """One row. A new field here is a new column of wpp_sync_state, by a migration."""

    entity: str
    last_synced_id: int
    """The watermark: the highest id of the instance that is safely copied."""

    settled_id: int
    """Up to here every central row of the instance is copied, late ones included."""

    settled_for: int
    """The watermark that settled_id was written with. Where they differ, somebody else has set the
    watermark (the table is an interface), and settled_id may claim too much."""

    resync: bool
    """A full resync is under way: local rows that central does not have are removed."""

    last_synced_at: str
    """When the row was last written, UTC, `YYYY-MM-DD HH:MM:SS`."""

    rewound: bool = False
    """Central's ids began again below what was read: nothing is copied until a reset."""

    instance: str | None = None
    """For whom all this counts, byte for byte; None: for whoever copies it next."""

    source: str | None = None
    """The central rows that it counts for (`Entity.source`); None: those that are copied next."""

    @property
    def settled(self) -> int:
        """The settled id that may be relied upon."""
        if self.settled_for == self.last_synced_id:
            return self.settled_id
        return min(self.settled_id, self.last_synced_id)

    @property
    def position(self) -> int:
        """Where reading goes on after a restart: all below was read, and what lies between
        `settled` and here is looked at again for late rows."""
        return max(self.settled, self.last_synced_id)

    def moved(self, *, last_synced_id: int, settled_id: int, resync: bool) -> State:
        """The row as it is to be written next."""
        return replace(
            self,
            last_synced_id=last_synced_id,
            settled_id=settled_id,
            settled_for=last_synced_id,
            resync=resync,
        )

    def same(self, other: State) -> bool:
        """Equal in all but the time of writing."""
        return replace(self, last_synced_at=other.last_synced_at) == other


def _state(row: Row) -> State:
    entity, last, settled, settled_for, resync, at, rewound, instance, source = row
    return State(
        # The table is an interface, and its key compares without case: `Messages` is messages.
        entity=_text(entity).strip().lower(),
        last_synced_id=int(last or 0),
        settled_id=int(settled or 0),
        settled_for=int(settled_for or 0),
        resync=resync not in {None, b"0"},
        rewound=rewound not in {None, b"0"},
        last_synced_at=_text(at),
        instance=None if instance is None else _text(instance),
        source=None if source is None else _text(source),
    )


@lru_cache(maxsize=4096)  # the rows of a thousand instances say much of it alike
def _text(value: bytes | None) -> str:
    return (value or b"").decode()


Claim = Literal["ours", "nobodys", "other source", "another's"]


def claim(known: State, instance: str, source: str) -> Claim:
    """What a state row is to an instance that would go on from it. Pure.

    Watermark, settled id and comparisons say what is copied: for one instance, and of certain
    central rows. For others they say nothing, and taken for theirs they would leave rows out.
    """
    if known.instance is not None and known.instance != instance:
        return "another's"
    if known.instance is None or known.source is None:
        return "nobodys"
    # A rewound entity waits for its reset in any case, and begins anew then.
    return "ours" if known.source == source or known.rewound else "other source"


def others(states: Mapping[str, State], entities: Collection[str], instance: str) -> dict[str, str]:
    """For whom these entities' rows count that count for another instance, by entity. Pure."""
    whose = {name: states[name].instance for name in entities if name in states}
    return {name: other for name, other in whose.items() if other not in {None, instance}}


async def read(connection: Connection, note: str) -> dict[str, State]:
    """All rows, by entity."""
    return await _read(connection, _COLUMNS, note)


async def _read(connection: Connection, columns: str, note: str) -> dict[str, State]:
    rows = await connection.fetch(Statement(f"SELECT {columns} FROM wpp_sync_state", (), note))
    return {state.entity: state for state in map(_state, rows)}


async def read_any(connection: Connection, note: str) -> dict[str, State]:
    """As `read`, also where this version has not migrated yet: the columns that there are, or
    nothing where there is no table at all."""
    for columns in (_COLUMNS, *_OF_OLDER_VERSIONS):
        with suppress(MissingError):
            return await _read(connection, columns, note)
    return {}


@dataclass(frozen=True, slots=True)
class Round:
    """What is remembered of an entity's comparisons; not part of what fences (see `State`)."""

    cursor: int | None
    """Central ids from here on are compared in the round that is under way."""

    age: float | None
    """Seconds since a whole round ended; None: never."""

    derived: bool
    """What is derived from the table has been compared once."""


def _round(row: Row) -> Round:
    cursor, age, derived = row
    return Round(
        None if cursor is None else int(cursor),
        None if age is None else max(0.0, float(age)),
        derived=derived == b"1",
    )


async def never_compared(connection: Connection, note: str) -> set[str]:
    """The entities of which no round has ended, ever or since they were reset."""
    rows = await connection.fetch(
        Statement("SELECT entity FROM wpp_sync_state WHERE reconciled_at IS NULL", (), note)
    )
    return {(entity or b"").decode().strip().lower() for (entity,) in rows}


async def write_round(
    connection: Connection,
    entity: str,
    cursor: int | None,
    *,
    ended: bool,
    synced: bool,
    note: str,
) -> None:
    """Remember where a round is, or that it has ended; and with it that the entity is synced, if
    nothing else says so."""
    at = ", reconciled_at = CURRENT_TIMESTAMP" if ended else ""
    synced_at = "CURRENT_TIMESTAMP" if synced else "last_synced_at"
    await connection.execute(
        Statement(
            f"UPDATE wpp_sync_state SET reconcile_cursor = %s{at},"
            f" last_synced_at = {synced_at} WHERE entity = %s",
            (cursor, entity),
            note,
        )
    )


async def write_derived(
    connection: Connection, entity: str, note: str, *, compared: bool = True
) -> None:
    """Remember that what is derived from the entity's table was compared, or is not kept now."""
    at = "CURRENT_TIMESTAMP" if compared else "NULL"
    await connection.execute(
        Statement(
            f"UPDATE wpp_sync_state SET derived_at = {at},"
            " last_synced_at = last_synced_at WHERE entity = %s",
            (entity,),
            note,
        )
    )


async def ensure(
    connection: Connection, entities: Sequence[str], note: str
) -> tuple[dict[str, State], dict[str, Round]]:
    """All rows, by entity, and what is remembered of comparisons; before, a row is made for each of
    these entities that has none: it has never been synced, or somebody deleted the row, which is a
    way to ask for everything again."""
    rows = await _rows(connection, note)
    there = {row[0] for row in rows}
    if missing := [entity for entity in entities if entity.encode() not in there]:
        for entity in missing:
            await connection.execute(
                Statement(
                    "INSERT INTO wpp_sync_state (entity) VALUES (%s)"
                    " ON DUPLICATE KEY UPDATE entity = wpp_sync_state.entity,"
                    " last_synced_at = wpp_sync_state.last_synced_at",
                    (entity,),
                    note,
                )
            )
        rows = await _rows(connection, note)
    states = [_state(row[:-3]) for row in rows]
    rounds = (_round(row[-3:]) for row in rows)
    return (
        {state.entity: state for state in states},
        {state.entity: round_ for state, round_ in zip(states, rounds, strict=True)},
    )


async def _rows(connection: Connection, note: str) -> list[Row]:
    return await connection.fetch(
        Statement(f"SELECT {_COLUMNS}, {_ROUND} FROM wpp_sync_state", (), note)
    )


def lock(known: State, note: str) -> Statement:
    """Locks the row, and brings it for `see`: what a transaction begins with."""
    return Statement(
        f"SELECT {_COLUMNS} FROM wpp_sync_state WHERE entity = %s FOR UPDATE", (known.entity,), note
    )


def see(known: State, rows: Sequence[Row]) -> None:
    """See that the row that was locked still is what we know, before anything is committed.

    Raises StateMovedError when it is not.
    """
    if not rows or not _state(rows[0]).same(known):
        now = _state(rows[0]).last_synced_id if rows else None
        raise StateMovedError(
            f"{known.entity}: the state row was changed by somebody else"
            f" (watermark {known.last_synced_id}, now {now})",
            hint="normal after a reset; the entity starts over from the new state",
        )


def fence(known: State, note: str) -> Statement:
    """Locks the row, and is refused (error 1242) where it is not what we know: for a transaction
    of which nothing is seen before it is committed. What `see` compares, compared by the server."""
    return Statement(
        "SELECT IF(SUM(last_synced_id = %s AND settled_id = %s AND settled_for = %s"
        " AND (resync <> 0) = %s AND (rewound <> 0) = %s"
        " AND CAST(instance AS BINARY) <=> %s AND CAST(source AS BINARY) <=> %s) = 1,"
        " 1, (SELECT 1 UNION SELECT 2)) FROM wpp_sync_state WHERE entity = %s FOR UPDATE",
        (
            known.last_synced_id,
            known.settled_id,
            known.settled_for,
            known.resync,
            known.rewound,
            known.instance,
            known.source,
            known.entity,
        ),
        note,
    )


def write(state: State, note: str) -> Statement:
    """Writes the row that is locked: what a transaction ends with."""
    return Statement(
        "UPDATE wpp_sync_state SET last_synced_id = %s, settled_id = %s, settled_for = %s,"
        " resync = %s, rewound = %s, last_synced_at = CURRENT_TIMESTAMP WHERE entity = %s",
        (
            state.last_synced_id,
            state.settled_id,
            state.settled_for,
            state.resync,
            state.rewound,
            state.entity,
        ),
        note,
    )


async def adopt(
    connection: Connection, known: State, instance: str, source: str, note: str
) -> State:
    """Write down for whom, and of which central rows, the row counts from now on; the row as it is
    then. Where somebody has changed it meanwhile, the next transaction sees that (`see`)."""
    await connection.execute(
        Statement(
            "UPDATE wpp_sync_state SET instance = %s, source = %s,"
            " last_synced_at = last_synced_at WHERE entity = %s AND instance <=> %s",
            (instance, source, known.entity, known.instance),
            note,
        )
    )
    return replace(known, instance=instance, source=source)


async def reset(
    connection: Connection, entities: Sequence[str], *, resync: bool, disown: bool, note: str
) -> None:
    """In one transaction: the next pass re-pulls these entities from the start. `disown`: whoever
    copies them next makes them his; else they stay whose they are."""
    async with connection.transaction():
        for entity in entities:
            await connection.execute(
                Statement(
                    "INSERT INTO wpp_sync_state (entity, resync) VALUES (%s, %s)"
                    " ON DUPLICATE KEY UPDATE last_synced_id = 0, settled_id = 0, settled_for = 0,"
                    " rewound = 0, reconcile_cursor = NULL, reconciled_at = NULL,"
                    " derived_at = NULL, instance = IF(%s, NULL, instance),"
                    " resync = resync OR VALUES(resync), last_synced_at = CURRENT_TIMESTAMP",
                    (entity, resync, disown),
                    note,
                )
            )
