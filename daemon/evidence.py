"""What the central server can testify about transactions: the thin side of `daemon.settle`.

An error while asking is "no evidence", never "none": the timed rule is then what counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

from daemon import sql
from daemon.aio import Clock
from daemon.db import Connection
from daemon.errors import AccessError, DatabaseError, MissingError
from daemon.settle import Window, Writers

IDS_AT_ONCE = 50_000
"""Ids compared at once when rows in flight are looked for: two scans of some 10 ms."""

# MariaDB gives a transaction that has not written the id 0, MySQL one of 2^48 and more.
_FIRST_READ_ONLY = 1 << 47

_marks = count(1)

_OFF = frozenset({"OFF", "0"})


@dataclass(frozen=True, slots=True)
class Validity:
    """Whether the server's list of transactions is exact evidence, and why (not)."""

    exact: bool
    reason: str


async def validity(connection: Connection) -> Validity:
    """Exact evidence needs the PROCESS privilege (else the list shows our own transactions only)
    and a primary that alone gives out ids: no replica, no Galera, no group with many primaries."""
    try:
        await connection.fetch(sql.oldest_writer(_FIRST_READ_ONLY, ""))
        appliers = await connection.fetch(sql.applier_threads())
    except AccessError as error:
        return Validity(False, f"the account lacks the PROCESS privilege (error {error.errno})")
    except MissingError as error:
        return Validity(False, f"the server has no list of transactions (error {error.errno})")
    rows = await connection.fetch(sql.server_roles())
    settings = {
        (name or b"").decode().lower(): (value or b"").decode().upper() for name, value in rows
    }
    reason = shared_by(settings, applies=bool(appliers) and appliers[0][0] not in {None, b"0"})
    if reason:
        return Validity(False, reason)
    return Validity(True, "the account has PROCESS and the server is a writable primary")


def shared_by(settings: Mapping[str, str], *, applies: bool) -> str:
    """Why the server is not the only one that gives out ids; empty when it is. Pure."""
    if settings.get("wsrep_on") == "ON":
        return "Galera: other nodes' transactions are invisible here (wsrep_on)"
    if settings.get("group_replication_group_name"):
        return "group replication: other members' transactions are invisible here"
    if any(settings.get(name, "OFF") not in _OFF for name in ("read_only", "super_read_only")):
        return "the server is read-only, a replica probably (read_only)"
    if applies:
        return "the server is a replica: it sees only what it applies"
    return ""


async def writers(connection: Connection, table: str, key: str, clock: Clock) -> Writers | None:
    """The oldest writing transaction; None when the server does not tell.

    The server keeps the list of transactions for 0.1 s after it was last *read*, whoever read it:
    who is not alone in asking may be given a list of long ago, for ever. So ours is asked for
    inside a transaction of our own, and counts only if that is on it, with this very statement.
    """
    asked_at = clock()
    mark = f"list {next(_marks)}."
    try:
        async with connection.transaction():
            await connection.fetch(sql.touch(table, key))
            ((oldest, fresh),) = await connection.fetch(sql.oldest_writer(_FIRST_READ_ONLY, mark))
    except (AccessError, MissingError):
        return None
    except DatabaseError as error:
        if connection.usable:
            return None
        raise error
    if fresh in {None, b"0"}:
        return None
    return Writers(asked_at, None if oldest is None else float(oldest))


async def in_flight(
    connection: Connection, table: str, key: str, window: Window
) -> tuple[int, set[int]]:
    """Which ids of the window are inserted and not committed, and up to where was looked.

    First READ UNCOMMITTED, then READ COMMITTED: what is committed in between is seen by the second.
    """
    note = f"in flight {table}"
    scan = sql.all_keys(
        table, key, after=window.after, upto=window.upto, limit=IDS_AT_ONCE, note=note
    )
    await connection.execute(sql.next_read_uncommitted(note))
    try:
        seen = {int(row[0] or 0) for row in await connection.fetch(scan)}
    except DatabaseError:
        # A statement that failed before it read anything (it waited for an ALTER TABLE, say) leaves
        # the level for the next one, which would then copy rows that nobody has committed.
        connection.discard()
        raise
    looked_to = max(seen) if len(seen) >= IDS_AT_ONCE else window.upto
    scan = sql.all_keys(
        table, key, after=window.after, upto=looked_to, limit=IDS_AT_ONCE * 4, note=note
    )
    committed = {int(row[0] or 0) for row in await connection.fetch(scan)}
    return looked_to, seen - committed
