"""What is taken from asyncmy beyond what it publishes: MariaDB's bulk protocol, a hard hang-up,
smaller buffers, and no questions after notes.

Everything that rests on a private part of the driver is in this file, and nothing of it is taken on
trust: `unfit` says why the installed driver is not the one that this was written for. Where it is
not, buffers stay as they are; there, or where a server does not announce the protocol, rows go as
literals, which any driver sends.

asyncmy's own `execute_bulk` does not do: it types a column by its values, so it refuses one that is
NULL in all rows, and tells every byte string as binary, so that text would land in a column of
another character set byte for byte. `daemon.bulk` packs the rows instead.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import asyncmy
from asyncmy.connection import PreparedStatement
from asyncmy.cursors import Cursor
from asyncmy.version import __version__

_SEEN_WITH = frozenset({"0.2.18"})
"""The releases that the tests have run with. The next one may be as good; nobody knows before they
have."""

_BULK_EXECUTE = 0xFA

UNABLE = frozenset({1047, 1210, 1243, 1295, 1461, 1835})
"""What a server, or a proxy before it, answers that announces the protocol and does not carry it
out: unknown command, wrong arguments, unknown prepared statement, not for prepared statements, no
more prepared statements, malformed packet."""


@cache
def unfit() -> str:
    """Why the installed driver is taken for what it publishes alone; empty when it is not."""
    return why_unfit(__version__, asyncmy.Connection, PreparedStatement)


def why_unfit(version: str, connection: type, statement: type) -> str:
    """Why a driver of this version with these classes is not fit; empty when it is."""
    if version not in _SEEN_WITH:
        return f"asyncmy {version} is none of {', '.join(sorted(_SEEN_WITH))}"
    lacking = [
        f"{kind.__name__}.{name}"
        for kind, names in (
            (connection, ("prepare", "_execute_command", "_read_query_result")),
            (statement, ("close", "_statement_id")),
        )
        for name in names
        if not hasattr(kind, name)
    ]
    return f"asyncmy {version} has no {', '.join(lacking)}" if lacking else ""


def offers_bulk(raw: Any) -> bool:
    """Whether the server has announced the protocol, and the driver can speak it."""
    return not unfit() and getattr(raw, "_bulk_supported", False) is True


LITTLE_BYTES = 16_384
"""For a connection that mostly hears short answers."""

PAGE_BYTES = 65_536
"""For one that hears long ones: what came at once is taken apart at once, and everybody else's
answers wait for it, 3 ms here with 256 KiB of messages."""


def slim(raw: Any, size: int) -> None:
    """Have a connection listen with a small buffer, in place of the 256 KiB that the driver gives
    to each. For a longer row the driver makes it larger."""
    listener = getattr(raw, "_proto", None)
    if unfit() or listener is None or listener.length > listener.pos:
        return
    listener.pos = listener.length = 0
    listener.buffer = bytearray(size)


def abort(raw: Any) -> None:
    """Close a connection at once: `close` alone would wait for what was written to be sent, for
    ever where the server hangs."""
    transport = getattr(raw, "_transport", None)
    raw.close()
    if transport is not None:
        transport.abort()


class QuietCursor(Cursor):
    """A cursor that does not ask what the server has noted on a statement (that a table is
    deprecated, what EXPLAIN has rewritten): a round trip, unsigned, for nothing. It says nothing of
    the rows: what a value would lose is an error, or found by comparing (`values`). Where a driver
    has another name for it, it asks again, and all else is as before."""

    async def _show_warnings(self, conn: Any) -> None:
        pass


class Prepared:
    """Statements prepared on one connection, each once, and gone with it. Of many the one is closed
    that was not used for longest: a table that was changed has other statements than before."""

    MOST = 16

    def __init__(self) -> None:
        self._statements: dict[bytes, Any] = {}

    async def execute(self, raw: Any, statement: bytes, packet: bytes) -> None:
        """Carry the statement out for each row of a packet (`bulk.packets`): for all, or for none.

        Where a table was changed since, the server prepares the statement anew by itself.
        """
        prepared = self._statements.pop(statement, None) or await raw.prepare(statement)
        self._statements[statement] = prepared
        if len(self._statements) > self.MOST:
            await self._statements.pop(next(iter(self._statements))).close()
        number = prepared._statement_id.to_bytes(4, "little")
        await raw._execute_command(_BULK_EXECUTE, number + packet)
        await raw._read_query_result()
