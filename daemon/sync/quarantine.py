"""Rows that a local table refuses, kept with the reason instead of being cut, skipped or lost.

A refused row is written down in the transaction that moves the watermark past it. It is tried again
when the entity starts (after a migration, that is) and at a slow interval; once the table takes it,
or central no longer has it, it leaves the quarantine. A row that an operator has discarded stays
written down, so that it is not taken for a missing one; it is tried again only after a reset.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from daemon import sql
from daemon.db import Connection
from daemon.errors import SchemaError
from daemon.sql import Key, Statement

# As many rows may lie in quarantine; more means that the table is wrong, not the rows.
MOST_ROWS = 10_000

# So many refusals without one row taken in between mean that the table takes none at all.
MOST_STRIKES = 100


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that the local server would not take, and why."""

    key: Key
    errno: int
    message: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of wpp_sync_quarantine; times are UTC, `YYYY-MM-DD HH:MM:SS`. `discarded_at`: when an
    operator gave it up, None while it waits. `id2`: the second column of a key of two, else 0."""

    entity: str
    id: int
    id2: int
    errno: int
    message: str
    first_tried_at: str
    last_tried_at: str
    tries: int
    discarded_at: str | None


class Strikes:
    """Refusals in a row, over all batches of an entity. A table that takes nothing is an entity's
    failure, not a million quarantined rows."""

    __slots__ = ("_in_batch", "_last", "_most", "count")

    def __init__(self, most: int | None = MOST_STRIKES) -> None:
        self.count = 0
        self._most = most  # None: rows that were refused before are tried again, and may all fail
        self._in_batch = 0
        self._last = ""

    @contextmanager
    def batch(self, entity: str) -> Iterator[None]:
        """The rows of one transaction. Raises SchemaError at its end when the table has taken none
        for too long; what a batch counted that is undone does not count.

        At the end, because a table that was mended may still refuse the first rows that it is
        offered, and the next one is what shows that it takes rows again.
        """
        before, self._in_batch = self.count, 0
        try:
            yield
            if self._most is not None and self.count >= self._most:
                raise self._takes_nothing(entity)
        except BaseException:
            self.count = before
            raise

    def taken(self) -> None:
        """The table took a row."""
        self.count = self._in_batch = 0

    def refused(self, entity: str, refusal: Refusal) -> None:
        """The table refused a row. Raises SchemaError when that is enough for one batch."""
        self.count += 1
        self._in_batch += 1
        self._last = refusal.message
        if self._most is not None and self._in_batch >= self._most:
            raise self._takes_nothing(entity)

    def _takes_nothing(self, entity: str) -> SchemaError:
        return SchemaError(
            f"{entity}: the local table has refused {self.count} rows and taken none;"
            f" the last one: {self._last}",
            hint="mend the table; the entity stays where it is until a row is taken",
            code="table_refuses",
        )


def note_full(entity: str) -> SchemaError:
    """The error for a quarantine that would grow past its bound."""
    return SchemaError(
        f"{entity}: more than {MOST_ROWS:,} rows would lie in quarantine",
        hint="look at them: wpp-sync quarantine INSTANCE list; mend the table, then retry",
        code="quarantine_full",
    )


_KEY = ("id", "id2")


def _both(key: Key) -> tuple[int, int]:
    """A key as it is written down: a key of one column has no second one."""
    first, *second = sql.parts(key)
    return first, (second[0] if second else 0)


async def keys(
    connection: Connection, entity: str, width: int, note: str
) -> tuple[set[Key], set[Key]]:
    """The keys (of `width` columns) of an entity's rows that wait in quarantine, and of those that
    were given up."""
    return (await keys_of(connection, {entity: width}, note))[entity]


async def keys_of(
    connection: Connection, widths: Mapping[str, int], note: str
) -> dict[str, tuple[set[Key], set[Key]]]:
    """As `keys`, of several entities, by the width of whose keys."""
    rows = await connection.fetch(
        Statement(
            "SELECT entity, id, id2, discarded_at IS NULL FROM wpp_sync_quarantine"
            f" WHERE entity IN ({', '.join(['%s'] * len(widths))})",
            tuple(widths),
            note,
        )
    )
    found: dict[str, dict[Key, bool]] = {entity: {} for entity in widths}
    for name, first, second, waits in rows:
        # The server compares without case.
        entity = (name or b"").decode().strip().lower()
        if entity in found:
            both = (int(first or 0), int(second or 0))
            found[entity][both[0] if widths[entity] == 1 else both] = waits == b"1"
    return {
        entity: (
            {key for key, waits in keys.items() if waits},
            {key for key, waits in keys.items() if not waits},
        )
        for entity, keys in found.items()
    }


async def counts(connection: Connection, note: str) -> dict[str, int]:
    """How many rows of each entity wait in quarantine."""
    rows = await connection.fetch(
        Statement(
            "SELECT entity, COUNT(*) FROM wpp_sync_quarantine WHERE discarded_at IS NULL"
            " GROUP BY entity",
            (),
            note,
        )
    )
    return {(entity or b"").decode().strip().lower(): int(number or 0) for entity, number in rows}


async def entries(connection: Connection, limit: int, note: str) -> list[Entry]:
    """What lies in quarantine, at most `limit` rows; what was given up comes last."""
    rows = await connection.fetch(
        Statement(
            "SELECT entity, id, id2, errno, message, first_tried_at, last_tried_at, tries,"
            " discarded_at FROM wpp_sync_quarantine"
            " ORDER BY discarded_at IS NOT NULL, entity, id, id2 LIMIT %s",
            (limit,),
            note,
        )
    )
    texts = [[(value or b"").decode("utf-8", "replace") for value in row] for row in rows]
    return [
        Entry(t[0], int(t[1]), int(t[2]), int(t[3]), t[4], t[5], t[6], int(t[7]), t[8] or None)
        for t in texts
    ]


async def put(connection: Connection, entity: str, refusals: Sequence[Refusal], note: str) -> None:
    """Inside a transaction: write the refusals down, or that they were tried once more."""
    for refusal in refusals:
        await connection.execute(
            Statement(
                "INSERT INTO wpp_sync_quarantine (entity, id, id2, errno, message)"
                " VALUES (%s, %s, %s, %s, %s) ON DUPLICATE KEY UPDATE errno = VALUES(errno),"
                " message = VALUES(message), last_tried_at = CURRENT_TIMESTAMP, tries = tries + 1,"
                " discarded_at = NULL",
                (entity, *_both(refusal.key), refusal.errno, refusal.message[:2000]),
                note,
            )
        )


async def release(connection: Connection, entity: str, released: Collection[Key], note: str) -> int:
    """Take these keys out; how many there were."""
    if not released:
        return 0
    these = sql.among(_KEY, [_both(key) for key in released])
    return await connection.execute(
        Statement(
            f"DELETE FROM wpp_sync_quarantine WHERE entity = %s AND {these.sql}",
            (entity, *these.args),
            note,
        )
    )


async def discard(connection: Connection, entity: str, given_up: Collection[Key], note: str) -> int:
    """Give these up, where they wait; how many did."""
    if not given_up:
        return 0
    these = sql.among(_KEY, [_both(key) for key in given_up])
    return await connection.execute(
        Statement(
            "UPDATE wpp_sync_quarantine SET discarded_at = CURRENT_TIMESTAMP"
            f" WHERE entity = %s AND discarded_at IS NULL AND {these.sql}",
            (entity, *these.args),
            note,
        )
    )


async def take_up_again(connection: Connection, entities: Collection[str], note: str) -> None:
    """What was given up of these entities waits again: they begin anew."""
    for entity in entities:
        await connection.execute(
            Statement(
                "UPDATE wpp_sync_quarantine SET discarded_at = NULL WHERE entity = %s",
                (entity,),
                note,
            )
        )
