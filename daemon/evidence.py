"""What the central server can testify about transactions: the thin side of `daemon.settle`.

An error while asking is "no evidence", never "none": the timed rule is then what counts.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from daemon import sql
from daemon.aio import Clock
from daemon.db import Connection
from daemon.errors import AccessError, DatabaseError, MissingError
from daemon.settle import Window, Writers

IDS_AT_ONCE = 50_000
"""Ids compared at once when rows in flight are looked for: two scans of some 10 ms."""

# MariaDB gives a transaction that has not written the id 0, MySQL one of 2^48 and more.
_FIRST_READ_ONLY = 1 << 47

_OFF = frozenset({"OFF", "0"})


@dataclass(frozen=True, slots=True)
class Validity:
    """Whether the server's list of transactions is exact evidence, and why (not)."""

    exact: bool
    reason: str
    lock_wait: float | None = None
    """Seconds that an INSERT waits for a lock on this server (innodb_lock_wait_timeout), so between
    the moment it draws its id and the moment its row can be seen in flight; None: not known."""


async def validity(connection: Connection) -> Validity:
    """Exact evidence needs the PROCESS privilege (else the list shows our own transactions only)
    and a primary that alone gives out ids: no replica, no Galera, no group with many primaries."""
    rows = await connection.fetch(sql.server_roles())
    settings = {
        (name or b"").decode().lower(): (value or b"").decode().upper() for name, value in rows
    }
    waits = settings.get("innodb_lock_wait_timeout", "")
    lock_wait = float(waits) if waits.isdigit() else None
    try:
        await connection.fetch(sql.oldest_writer(_FIRST_READ_ONLY, "roles"))
        appliers = await connection.fetch(sql.applier_threads())
    except AccessError as error:
        reason = f"the account lacks the PROCESS privilege (error {error.errno})"
    except MissingError as error:
        reason = f"the server has no list of transactions (error {error.errno})"
    else:
        applies = bool(appliers) and appliers[0][0] not in {None, b"0"}
        reason = shared_by(settings, applies=applies)
    if reason:
        return Validity(False, reason, lock_wait)
    return Validity(True, "the account has PROCESS and the server is a writable primary", lock_wait)


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


async def writers(connection: Connection, table: str, clock: Clock) -> Writers | None:
    """The oldest writing transaction; None when the server does not tell, or tells old news.

    InnoDB makes the list anew only when nobody has read it for 0.1 s: while somebody polls it more
    often, it stays as it was, for hours. A list that is made for us contains the statement that we
    ask with, which is part of a transaction for that purpose and carries a mark of its own.
    """
    asked_at = clock()
    question = sql.oldest_writer(_FIRST_READ_ONLY, secrets.token_hex(8))
    try:
        async with connection.transaction():
            await connection.fetch(sql.any_row(table, "transactions"))
            ((oldest, made_for_us),) = await connection.fetch(question)
    except (AccessError, MissingError):
        return None
    except DatabaseError as error:
        if connection.usable:
            return None
        raise error
    if made_for_us == b"0":
        return None
    return Writers(asked_at, None if oldest is None else float(oldest))


async def in_flight(
    connection: Connection, table: str, key: str, index: str, window: Window
) -> tuple[int, set[int]]:
    """Which ids of the window are inserted and not committed, and up to where was looked.

    First READ UNCOMMITTED, then READ COMMITTED: what is committed in between is seen by the second.
    """
    note = f"in flight {table}"
    scan = sql.all_keys(
        table, key, index, after=window.after, upto=window.upto, limit=IDS_AT_ONCE, note=note
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
        table, key, index, after=window.after, upto=looked_to, limit=IDS_AT_ONCE * 4, note=note
    )
    committed = {int(row[0] or 0) for row in await connection.fetch(scan)}
    return looked_to, seen - committed
