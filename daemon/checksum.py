"""A row's checksum as an SQL expression that two different servers compute alike. Pure.

A value is compared in the local column's terms: what that column holds of it. So each column
becomes a text that is the same on both sides exactly when the local column holds what central has,
and the row's checksum is a hash over these texts. Where two servers cannot be brought to the same
text, the column is left out, and it is said (`left_out`).

The row's hash is SHA-256 cut to 64 bits: the only function beyond CRC32 that MariaDB and all MySQLs
have (MySQL 9 has no MD5 and no SHA1), and two CRC32 with different salts are not independent. A
chunk's sum is the XOR of its rows' (docs/decisions/0006).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote as percent_encoded

from daemon import sql, values
from daemon.values import Column

_UNRESERVED = "!~*'()"  # beside letters, digits and -_. (ECMA-262, encodeURIComponent)

_UTF8 = frozenset({"ascii", "utf8", "utf8mb3", "utf8mb4"})
"""A text has the same bytes in each of these."""

_LONG = 1024
"""A text of more bytes enters a row's hash as its own hash: what a function builds may be no longer
than max_allowed_packet (else it is NULL), and a row may have several long texts."""

# What a row's text is put together with: bytes that no utf8mb4 text has, so they need no lengths
# beside them. Cast where a literal would take a text column's character set, and be refused.
_SEPARATOR = "CAST(X'FF' AS BINARY)"
_CAN_BE_NULL = "X'FE'"
_HASHED = "CAST(X'FD' AS BINARY)"


@dataclass(frozen=True, slots=True)
class Compared:
    """One copied column: what it is in central and here; `encode`: here it holds the text as
    encodeURIComponent gives it."""

    source: Column
    column: Column
    encode: bool = False


@dataclass(frozen=True, slots=True)
class RowSum:
    """A row's checksum, an unsigned integer of 64 bits, as each side computes it; and the local
    columns that have no part in it, in words."""

    central: str
    local: str
    left_out: tuple[str, ...]


def row_sum(columns: Sequence[Compared]) -> RowSum:
    """The checksum over these columns; the order counts."""
    texts = [(each, _texts(each)) for each in columns]
    central: list[str] = []
    local: list[str] = []
    for each, found in texts:
        if found is not None:
            there, here = found
            nullable = each.source.nullable or each.column.nullable
            central += _in_row(sql.quote(each.source.name), there, here, nullable=nullable)
            local += _in_row(sql.quote(each.column.name), here, there, nullable=nullable)
    return RowSum(
        central=_hash(f"CONCAT_WS({_SEPARATOR}, {', '.join(central)})"),
        local=_hash(f"CONCAT_WS({_SEPARATOR}, {', '.join(local)})"),
        left_out=tuple(
            f"{each.column.name} ({each.column.full_type} for {each.source.full_type})"
            for each, found in texts
            if found is None
        ),
    )


def encode_uri_component(text: bytes) -> bytes:
    """A utf8mb4 text as JavaScript's encodeURIComponent gives it."""
    return percent_encoded(text, safe=_UNRESERVED).encode()


# --- the row -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Text:
    """An expression for a text. `free`: it may contain any bytes, not only those of utf8mb4;
    `long`: it may be longer than should be put together with others."""

    sql: str
    free: bool = False
    long: bool = False


def _in_row(name: str, text: _Text, other: _Text, *, nullable: bool) -> list[str]:
    """What stands in a row's text for a column, given its text on the other side, too.

    It can be read from left to right, so no two rows have the same text. CONCAT_WS leaves NULLs
    out: where the mark comes at once, the column was NULL. (A constant costs less than any
    function of the column.) The length of what may contain the marks stands before it. A text
    beyond max_allowed_packet is NULL though its column is not, so long ones have a flag, too.
    """
    parts = [text.sql]
    if text.long or other.long:
        hashed = f"CONCAT({_HASHED}, SHA2({text.sql}, 256))"
        parts = [f"IF(LENGTH({text.sql}) > {_LONG}, {hashed}, {text.sql})"]
    if text.free or other.free:
        parts.insert(0, f"LENGTH({text.sql})")
    if nullable:
        parts.append(_CAN_BE_NULL)
    if nullable and (text.long or other.long):
        parts.append(f"ISNULL({name})")
    return parts


def _hash(text: str) -> str:
    return f"CAST(CONV(LEFT(SHA2({text}, 256), 16), 16, 10) AS UNSIGNED)"


def of_key(column: str) -> str:
    """The hash of an integer key alone."""
    return _hash(sql.quote(column))


def _characters(name: str, column: Column) -> _Text:
    text = name if column.charset in _UTF8 else f"CONVERT({name} USING utf8mb4)"
    return _Text(text, free=_may_be_no_text(column), long=_may_be_long(column))


def _may_be_no_text(column: Column) -> bool:
    """MariaDB takes any bytes for an ASCII text, and for the words of an ENUM, in whose type they
    then show as question marks."""
    words = column.type in {"enum", "set"}
    return column.charset == "ascii" or (words and "?" in column.full_type)


def _bytes(name: str, column: Column) -> _Text:
    return _Text(f"CAST({name} AS BINARY)", free=True, long=_may_be_long(column))


def _may_be_long(column: Column) -> bool:
    return column.type not in {"char", "varchar", "binary", "varbinary", "enum", "set"} or (
        column.size > _LONG
    )


# --- one column ----------------------------------------------------------------------------------

_Pair = tuple[_Text, _Text]


def _texts(each: Compared) -> _Pair | None:
    """The text of a column on central and here; None where the two cannot be brought together."""
    source, column = each.source, each.column
    there, here = sql.quote(source.name), sql.quote(column.name)
    if each.encode:
        mine = _characters(here, column)
        text = f"CAST({mine.sql} AS BINARY)"
        return _Text(_encoded(there), long=True), _Text(text, free=mine.free, long=True)
    for kinds, texts in _KINDS:
        if column.type in kinds:
            return texts(there, here, source, column)
    return _as_bytes(there, here, source, column)


def _as_numbers(there: str, here: str, source: Column, column: Column) -> _Pair | None:
    if source.type not in _NUMBERS | {"bit"}:
        return None
    if column.type in _FLOATS:
        return _Text(_double(f"{there} * 1e0")), _Text(_double(f"{here} * 1e0"))
    if source.type in _FLOATS:
        return None
    digits = source.scale_of_decimal - column.scale_of_decimal
    number = _number(there, source)
    if digits:
        number = _scaled(f"CAST({number} AS CHAR)", digits, source)
    return _Text(number), _Text(_number(here, column))


def _number(name: str, column: Column) -> str:
    """`+ 0` makes a number of a BIT, and takes the zeros away that ZEROFILL and YEAR print."""
    plain = column.type not in {"bit", "year"} and "zerofill" not in column.full_type
    return name if plain else f"{name} + 0"


def _double(number: str) -> str:
    """A DOUBLE's text. The servers print small ones in different ways, and MySQL at most 22
    characters, rounded: so the sign stands for itself (a zero has none: MariaDB does not store it),
    and what is small is multiplied by a power of two, which changes no bit of its mantissa."""
    size = f"ABS({number})"
    return (
        f"CONCAT(IF({number} < 0, '-', ''),"
        f" IF({size} >= 1e-3, {size}, IF({size} >= 1e-300, CONCAT('*', {size} * POW(2, 1000)),"
        f" CONCAT('**', {size} * POW(2, 1000) * POW(2, 100)))))"
    )


def _scaled(text: str, surplus: int, source: Column) -> str:
    """A decimal number's text with so many digits cut off, or added where that is negative."""
    scale = source.scale_of_decimal
    if surplus > 0:
        cut = surplus + (1 if surplus == scale else 0)
        return f"LEFT({text}, CHAR_LENGTH({text}) - {cut})"
    if surplus < 0:
        point = "." if scale == 0 else ""
        return f"CONCAT({text}, '{point}{'0' * -surplus}')"
    return text


def _as_moments(there: str, here: str, source: Column, column: Column) -> _Pair | None:
    if source.type not in _MOMENTS:
        return None
    if (source.type == "time") != (column.type == "time"):
        return None
    if column.type == "date" and source.type != "date":
        return None
    text = f"CAST({there} AS CHAR)"
    if source.type == column.type and source.size == column.size and column.type != "time":
        return _Text(there), _Text(here)
    if source.type == "date" and column.type != "date":
        text = f"CONCAT({text}, ' 00:00:00')"
    fraction = 0 if source.type == "date" else source.size
    kept = 0 if column.type == "date" else column.size
    if fraction > kept:
        cut = fraction - kept + (1 if kept == 0 else 0)
        text = f"LEFT({text}, CHAR_LENGTH({text}) - {cut})"
    elif fraction < kept:
        point = "." if fraction == 0 else ""
        text = f"CONCAT({text}, '{point}{'0' * (kept - fraction)}')"
    return _Text(_unsigned_zero(text, column)), _Text(
        _unsigned_zero(f"CAST({here} AS CHAR)", column)
    )


def _unsigned_zero(text: str, column: Column) -> str:
    """A time of zero has no sign, however it came to be zero."""
    if column.type != "time":
        return text
    zero = "-00:00:00" + ("." + "0" * column.size if column.size else "")
    return f"REPLACE({text}, '{zero}', '{zero[1:]}')"


def _as_characters(there: str, here: str, source: Column, column: Column) -> _Pair | None:
    """What is told to a text column is the text that central prints (see `schema`)."""
    mine = _characters(here, column)
    if source.type == "json":
        return _Text(f"CAST({there} AS CHAR)", long=True), mine
    if source.type in _TEXTS:
        return _characters(there, source), mine
    if source.type == "bit":
        return _Text(f"{there} + 0"), mine
    if source.type in _BINARIES | _FLOATS:
        return None  # the servers print a DOUBLE in their own ways
    return _Text(f"CAST({there} AS CHAR)"), mine


def _as_documents(there: str, here: str, source: Column, column: Column) -> _Pair | None:
    """MySQL's JSON prints a document in its own form, whatever was written."""
    if source.type != "json":
        return None
    return (
        _Text(f"CAST({there} AS CHAR)", long=True),
        _Text(f"CAST({here} AS CHAR)", long=True),
    )


def _as_bytes(there: str, here: str, source: Column, column: Column) -> _Pair | None:
    mine = _bytes(here, column)
    if source.type in _TEXTS:
        return _characters(there, source), mine
    if source.type in _BINARIES and source.type != "bit":
        return _bytes(there, source), mine
    if source.type == column.type and source.full_type == column.full_type:
        return _Text(f"CAST({there} AS CHAR)"), _Text(f"CAST({here} AS CHAR)")
    if source.type in _MOMENTS | values.INTEGER_TYPES | {"decimal", "year"}:
        return _Text(f"CAST({there} AS CHAR)"), mine
    return None


_FLOATS = frozenset({"float", "double"})
_NUMBERS = values.INTEGER_TYPES | _FLOATS | {"decimal", "year"}
_MOMENTS = frozenset({"date", "datetime", "timestamp", "time"})
_TEXTS = frozenset({"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set"})
_SHAPES = frozenset(
    {
        "geometry", "point", "linestring", "polygon", "multipoint", "multilinestring",
        "multipolygon", "geometrycollection", "geomcollection",
    }
)  # fmt: skip
_BINARIES = _SHAPES | {
    "binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob", "bit", "vector",
}  # fmt: skip

_KINDS: Sequence[tuple[frozenset[str], Callable[[str, str, Column, Column], _Pair | None]]] = (
    (_NUMBERS | {"bit"}, _as_numbers),
    (_MOMENTS, _as_moments),
    (_TEXTS, _as_characters),
    (frozenset({"json"}), _as_documents),
)


# --- encodeURIComponent --------------------------------------------------------------------------


def _encoded(name: str) -> str:
    """The text as encodeURIComponent gives it, as bytes. Each REPLACE goes over the whole text, so
    they are left out where nothing is to be replaced."""
    text = f"CAST(CONVERT({name} USING utf8mb4) AS BINARY)"
    ascii_ = _replaced(
        text, [b for b in range(128) if encode_uri_component(bytes([b]))[:1] == b"%"]
    )
    # The bytes of characters beyond ASCII: C0, C1 and F5 to FF are none of them.
    every = _replaced(ascii_, [*range(0x80, 0xC0), *range(0xC2, 0xF5)])
    return (
        # No anchors: to PCRE a `$` is also before the last newline.
        f"IF({text} NOT REGEXP '[^-A-Za-z0-9_.!~*''()]', {text},"
        f" IF(LENGTH({text}) = CHAR_LENGTH(CONVERT({name} USING utf8mb4)), {ascii_}, {every}))"
    )


def _replaced(text: str, codes: Sequence[int]) -> str:
    # The percent sign first: the others bring it in. (%% is one, in a Statement.)
    for code in sorted(codes, key=lambda code: code != 0x25):
        text = f"REPLACE({text}, X'{code:02X}', '%%{code:02X}')"
    return text
