"""Rows as MariaDB's COM_STMT_BULK_EXECUTE carries them: a prepared statement's values for many rows
in one command (MariaDB Knowledge Base, "COM_STMT_BULK_EXECUTE"). Pure.

Every value goes as the characters or bytes that a server printed, and is told as such by its type:
text of the session's character set, which the server converts to the column's, or bytes, which it
takes as they are. So a value means the same as its literal in `daemon.sql`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from daemon.sql import Row

_TYPES_FOLLOW = b"\x80\x00"
# The types of parameters, each with its flags.
_VAR_STRING = b"\xfd\x00"
_BLOB = b"\xfc\x00"

_NULL = b"\x01"
# What stands before a value: it is none of the special ones, and its length, which is one byte up
# to here and more beyond (MySQL internals, "Length-Encoded Integer").
_LONG = 251
_SHORT = [b"\x00" + bytes([length]) for length in range(_LONG)]

_PACK_ROWS = 64
"""Rows packed at once. Few enough that rows of megabytes do not stand in memory several times."""

_FIRST_BYTES = 48 << 10
_GROWTH = 4
"""Nothing keeps the server busy while the first packet is made: so that one is small, and each of
the next ones larger, up to the most."""


def statement(head: bytes, width: int, tail: bytes) -> bytes:
    """The statement to prepare: a `?` for each of a row's values."""
    return b"".join((head, b"(", b", ".join([b"?"] * width), b")", tail))


def packets(rows: Sequence[Row], binary: Sequence[bool], max_bytes: int) -> Iterator[bytes]:
    """What follows the statement's number in the command, in pieces of at most `max_bytes` (a piece
    has one row at least). `binary` tells which columns are byte strings."""
    head = _TYPES_FOLLOW + b"".join([_BLOB if flag else _VAR_STRING for flag in binary])
    piece, size, enough = [head], len(head), min(_FIRST_BYTES, max_bytes)
    for start in range(0, len(rows), _PACK_ROWS):
        for packed in _packed(rows[start : start + _PACK_ROWS], max_bytes - len(head)):
            if len(piece) > 1 and size + len(packed) > enough:
                yield b"".join(piece)
                piece, size, enough = [head], len(head), min(enough * _GROWTH, max_bytes)
            piece.append(packed)
            size += len(packed)
    if len(piece) > 1:
        yield b"".join(piece)


def _packed(rows: Sequence[Row], max_bytes: int) -> Iterator[bytes]:
    """These rows' values, halved until no part has more bytes, or until they are single."""
    parts: list[bytes] = []
    add = parts.append  # the loop below is a good part of what a row costs this process
    for row in rows:
        for value in row:
            if value is None:
                add(_NULL)
                continue
            length = len(value)
            add(_SHORT[length] if length < _LONG else _length(length))
            add(value)
    values = b"".join(parts)
    if len(values) <= max_bytes or len(rows) == 1:
        yield values
        return
    middle = len(rows) // 2
    yield from _packed(rows[:middle], max_bytes)
    yield from _packed(rows[middle:], max_bytes)


def _length(length: int) -> bytes:
    """What stands before a long value."""
    for mark, size in ((b"\xfc", 2), (b"\xfd", 3)):
        if length < 1 << 8 * size:
            return b"\x00" + mark + length.to_bytes(size, "little")
    return b"\x00\xfe" + length.to_bytes(8, "little")
