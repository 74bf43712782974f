"""What is done to an instance's own tables, always inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from itertools import chain, islice

from daemon import bulk, sql
from daemon.aio import together
from daemon.db import Connection
from daemon.errors import MissingError, RowError
from daemon.schema import Plan
from daemon.sql import Key, Range, Row, Text, Value

# How much of the server's max_allowed_packet a statement may fill: the frame around the values and
# the packet's own header need a little.
_PACKET_SHARE = 0.9
_STATEMENT_BYTES = 512 << 10
"""About 1,300 ordinary messages. The next ones are made ready while the server takes these, and
more in one statement is not faster."""

BULK_ROWS = 20
"""From so many rows on the bulk protocol is worth its second round trip, to prepare the statement,
which is needed once a connection (measured: the two ways are alike between 10 and 20 rows)."""

AT_ONCE_ROWS = 200
"""No more rows are tried in one statement with others: what has to be undone stays small."""

INSERT_ROWS = 100
"""So many rows at the most are inserted as literals, where that takes one round trip in all, and
the bulk protocol four (measured: 50 rows take a quarter less time so, and 200 as much)."""

_READ_BACK_ROWS = 500
"""Rows whose checked columns are read back at once; they stand in memory beside the batch."""


async def upsert(connection: Connection, plan: Plan, rows: Sequence[Row], note: str) -> None:
    """Insert the rows, or update those whose key stands there already: by the bulk protocol where
    the server has it, else as literals, which is the same upsert of the same values.

    Raises CollisionError (nothing of that statement changed) when a row meets another one through a
    secondary unique key, RowError when the table refuses a value.
    """
    head, tail = _upsert_frame(plan, note)
    most = min(_STATEMENT_BYTES, int(connection.max_packet * _PACKET_SHARE))

    async def as_literals(values: bytes) -> bool:
        await connection.execute(b"".join((head, values, tail)))
        return True

    if _goes_in_bulk(connection, rows):
        statement = bulk.statement(head, len(plan.pairs), tail)

        async def in_bulk(packet: bytes) -> bool:
            return await connection.execute_bulk(statement, packet)

        packets = bulk.packets(rows, plan.binary, most)
        if await _send(connection, packets, in_bulk, frame=0):
            return
    frame = len(head) + len(tail)
    values = sql.rows_as_values(rows, plan.binary, max(1, most - frame))
    await _send(connection, values, as_literals, frame)


def upsert_at_once(
    connection: Connection, plan: Plan, rows: Sequence[Row], note: str
) -> bytes | None:
    """The statement by which `upsert` would write these rows, where it is a single one of a size
    that leaves room for others in its packet."""
    if _goes_in_bulk(connection, rows) or len(rows) > AT_ONCE_ROWS:
        return None
    return _single(connection, rows, plan, *_upsert_frame(plan, note))


def insert_at_once(
    connection: Connection, plan: Plan, rows: Sequence[Row], note: str
) -> bytes | None:
    """As `upsert_at_once`, for rows of which none stands there yet: where one does, or another one
    has its unique key, the statement is refused. To the server it is half the work."""
    if len(rows) > INSERT_ROWS:
        return None
    return _single(connection, rows, plan, _upsert_frame(plan, note)[0], b"")


def _single(
    connection: Connection, rows: Sequence[Row], plan: Plan, head: bytes, tail: bytes
) -> bytes | None:
    most = min(_STATEMENT_BYTES, connection.max_packet // 2)
    pieces = list(islice(sql.rows_as_values(rows, plan.binary, most), 2))
    if len(pieces) > 1 or len(head) + len(pieces[0]) + len(tail) > most:
        return None
    return b"".join((head, pieces[0], tail))


def _goes_in_bulk(connection: Connection, rows: Sequence[Row]) -> bool:
    """Many rows, or long ones: a literal may be twice as long as its value, and then not fit."""
    if not connection.bulk or len(rows) >= BULK_ROWS:
        return connection.bulk
    size = sum(map(len, filter(None, chain.from_iterable(rows))))
    return 2 * size > min(_STATEMENT_BYTES, int(connection.max_packet * _PACKET_SHARE))


def _upsert_frame(plan: Plan, note: str) -> tuple[bytes, bytes]:
    head, tail = sql.upsert_frame(plan.entity.local, plan.local_columns, plan.local_keys)
    return sql.comment(note) + head, tail


async def _send(
    connection: Connection,
    pieces: Iterator[bytes],
    send: Callable[[bytes], Awaitable[bool]],
    frame: int,
) -> bool:
    """Send piece after piece, each made while the server is busy with the one before it; True when
    all are taken. Raises RowError for one that is too long with the bytes of its frame."""
    limit = int(connection.max_packet * _PACKET_SHARE)

    async def following() -> bytes | None:
        return next(pieces, None)

    taken, piece = True, await following()
    while taken and piece is not None:
        size = len(piece) + frame
        if size > limit:
            # Sent, it would cost the connection, and with it the lock and the transaction.
            raise RowError(
                connection.name,
                1153,
                f"a row of {size:,} bytes exceeds max_allowed_packet ({connection.max_packet:,})",
                hint="raise max_allowed_packet on the local server",
            )
        taken, piece = await together(send(piece), following())
    return taken


async def changed(
    connection: Connection, plan: Plan, rows: Sequence[Row], note: str
) -> dict[Key, str]:
    """Of rows that were just written, those that do not stand as they were sent, and why."""
    found: dict[Key, str] = {}
    expressions = [check.expression for check in plan.checks]
    width = len(plan.local_keys)
    for start in range(0, len(rows), _READ_BACK_ROWS):
        sent = {plan.key(row): row for row in rows[start : start + _READ_BACK_ROWS]}
        statement = sql.stored(plan.entity.local, plan.local_keys, expressions, list(sent), note)
        stored = {plan.key(row): row[width:] for row in await connection.fetch(statement)}
        for key, row in sent.items():
            if key not in stored:
                found[key] = "the row is not there after it was written: a trigger, perhaps"
                continue
            for check, stands in zip(plan.checks, stored[key], strict=True):
                if problem := check.problem(row, stands):
                    found[key] = problem
                    break
    return found


async def keys(
    connection: Connection, plan: Plan, *, after: int, upto: int, limit: int, note: str
) -> list[int]:
    """The keys that stand in the local table with after < key <= upto, in order."""
    statement = sql.local_keys(
        plan.entity.local, plan.local_key, after=after, upto=upto, limit=limit, note=note
    )
    return [int(key) for (key,) in await connection.fetch(statement) if key is not None]


async def has_rows(connection: Connection, table: str, note: str) -> bool:
    """Whether there is anything in a local table; one that is not there has nothing."""
    try:
        return bool(await connection.fetch(sql.any_row(table, note)))
    except MissingError:
        return False


async def holders(
    connection: Connection, plan: Plan, rows: Sequence[Row], note: str
) -> frozenset[Key]:
    """The keys of the local rows that hold a unique key's value of one of these rows."""
    found: set[Key] = set()
    for unique in plan.unique:
        values: list[tuple[Value, ...]] = []
        for row in rows:
            parts = tuple(row[place] for place in unique)
            if None not in parts:  # NULL is equal to nothing: it collides with nobody
                values.append(
                    tuple(
                        part if plan.pairs[place].binary or part is None else Text(part)
                        for place, part in zip(unique, parts, strict=True)
                    )
                )
        if values:
            columns = [plan.pairs[place].local for place in unique]
            statement = sql.holders(plan.entity.local, plan.local_keys, columns, values, note)
            found.update(plan.key(row) for row in await connection.fetch(statement))
    return frozenset(found)


async def delete(connection: Connection, plan: Plan, keys: Collection[Key], note: str) -> int:
    """Delete the rows with these keys; how many there were."""
    if not keys:
        return 0
    return await connection.execute(sql.delete_keys(plan.entity.local, plan.local_keys, keys, note))


async def lift(connection: Connection, plan: Plan, keys: Collection[Key], note: str) -> None:
    """Delete rows that are inserted again in the same transaction: nothing that refers to them is
    deleted or set to NULL with them, and nothing holds them back."""
    if not keys:
        return
    await connection.execute(sql.foreign_keys(False, note))
    try:
        await delete(connection, plan, keys, note)
    finally:
        if connection.usable:
            await connection.execute(sql.foreign_keys(True, note))


# --- reconcile -----------------------------------------------------------------------------------

_EVERY_ROW = sql.Statement("1")


async def chunk_sum(
    connection: Connection, plan: Plan, bounds: Range, note: str
) -> tuple[int, int]:
    """How many rows lie in a range of the first key column, and the XOR of their checksums."""
    rows = await connection.fetch(sql.chunk_sums(plan.local_sums, (), bounds, note))
    return (int(rows[0][1] or 0), int(rows[0][2] or 0)) if rows else (0, 0)


async def part_sums(
    connection: Connection, plan: Plan, bounds: Range, width: int, note: str
) -> dict[int, tuple[int, int]]:
    """The sums of a range's parts of this width, by number; empty ones are left out."""
    statement = sql.part_sums(plan.local_sums, _EVERY_ROW, bounds, width, note)
    return {
        int(p or 0): (int(n or 0), int(x or 0)) for p, n, x in await connection.fetch(statement)
    }


async def row_sums(
    connection: Connection, plan: Plan, bounds: Range, limit: int, note: str
) -> dict[Key, int]:
    """The checksum of each row of a range by key, in key order, at most `limit`."""
    rows = await connection.fetch(sql.row_sums(plan.local_sums, _EVERY_ROW, bounds, limit, note))
    return {plan.key(row): int(row[-1] or 0) for row in rows}


async def row_sums_of(
    connection: Connection, plan: Plan, keys: Collection[Key], note: str
) -> dict[Key, int]:
    """The checksums of the rows with these keys."""
    if not keys:
        return {}
    rows = await connection.fetch(sql.row_sums_of(plan.local_sums, _EVERY_ROW, keys, note))
    return {plan.key(row): int(row[-1] or 0) for row in rows}


async def hot_sums(
    connection: Connection, plan: Plan, hot: str, below: int | None, limit: int, note: str
) -> dict[Key, int]:
    """The checksums of rows that meet a condition, the highest keys first."""
    rows = await connection.fetch(sql.hot_sums(plan.local_sums, hot, below, limit, note))
    return {plan.key(row): int(row[-1] or 0) for row in rows}
