"""What a local column makes of a value that central printed. Pure.

In a strict session a server refuses most of what a column cannot hold. This room knows the rest,
where it changes the value and says nothing, or only a note: blanks at the end are cut, numbers
rounded, bytes padded, words looked up. `may_change` tells which pairs of columns can do that;
anything not known to be safe can. `in_doubt` tells whether one value can be affected, and `same`
whether what then stands in the local column is what was sent.

Not counted as a change: the fraction of a second that a column has no room for (it is cut, never
rounded), another spelling of the same number or moment, another spelling of the same JSON document,
characters in another character set, and the sign of a zero that MariaDB does not store.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal

BITS = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "bigint": 64}
INTEGER_TYPES = frozenset(BITS)
_EXACT = INTEGER_TYPES | {"decimal"}
_FLOATS = frozenset({"float", "double"})
_NUMBERS = _EXACT | _FLOATS | {"year"}
_MOMENTS = frozenset({"date", "datetime", "timestamp", "time"})
_WITH_FRACTION = frozenset({"datetime", "timestamp", "time"})

# Bytes that a type holds at the most.
_TEXT_BYTES = {
    "tinytext": (1 << 8) - 1,
    "text": (1 << 16) - 1,
    "mediumtext": (1 << 24) - 1,
    "longtext": (1 << 32) - 1,
}
_TEXTS = frozenset({"char", "varchar", *_TEXT_BYTES})
_CHOICES = frozenset({"enum", "set"})
_BLOBS = frozenset({"tinyblob", "blob", "mediumblob", "longblob"})
_BYTES = _BLOBS | {"binary", "varbinary"}
# They refuse what is too long, whatever it ends with, and pad nothing.
_EXACT_BYTES = _BLOBS | {"varbinary"}
_SHAPES = frozenset(
    {
        "geometry", "point", "linestring", "polygon", "multipoint", "multilinestring",
        "multipolygon", "geometrycollection", "geomcollection",
    }
)  # fmt: skip
# Types that print digits, letters and signs of ASCII, and no blank at the end.
_PLAIN = _NUMBERS | _MOMENTS | {"bit", "uuid", "inet4", "inet6"}

# Bytes that one character takes at the most. Between these character sets a character arrives as
# itself or is refused; others map several characters to one, or have codes without a character.
_CHARACTER_BYTES = {
    "ascii": 1, "latin1": 1, "ucs2": 2, "utf8": 3, "utf8mb3": 3, "utf8mb4": 4, "utf16": 4,
    "utf16le": 4, "utf32": 4,
}  # fmt: skip
_FAITHFUL = frozenset(_CHARACTER_BYTES)
# A text takes the same bytes in each of these.
_UTF8 = frozenset({"ascii", "utf8", "utf8mb3", "utf8mb4"})

# The last bytes of what a server takes for blanks at the end of a text that is too long: tabs and
# new lines count, too, and the no-break space of latin1.
_BLANKS = b" \t\n\v\f\r\xa0"

UNREADABLE = b"\xff"
"""What central puts before a text that it cannot turn into utf8mb4; no utf8mb4 text has it."""

_SIZE = re.compile(r"\((\d+)(?:,(\d+))?\)")
_MEMBER = re.compile(r"'((?:[^']|'')*)'")
_NUMBER = re.compile(rb"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*")
_DATE = re.compile(rb"\d{4}-\d\d-\d\d")
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `type` is the bare type (varchar), `full_type` the whole one (varchar(191))."""

    name: str
    type: str
    full_type: str
    nullable: bool
    default: str | None
    extra: str
    charset: str = "utf8mb4"
    """The character set of a text; means nothing for other types."""

    @property
    def generated(self) -> bool:
        """Computed by the server, so it can be read but not written."""
        # Not just "GENERATED": MySQL marks an expression default as DEFAULT_GENERATED.
        return any(
            word in self.extra
            for word in ("VIRTUAL GENERATED", "STORED GENERATED", "PERSISTENT GENERATED")
        )

    @property
    def fills_itself(self) -> bool:
        """An INSERT may leave the column out."""
        return (
            self.nullable
            or self.default is not None
            or self.generated
            or "auto_increment" in self.extra
            or "DEFAULT_GENERATED" in self.extra
        )

    @property
    def size(self) -> int:
        """The first number of the type: characters, bytes, bits, digits; 0 without one."""
        found = _SIZE.search(self.full_type)
        return int(found[1]) if found else 0

    @property
    def scale(self) -> int:
        """The second number of the type: digits behind the point."""
        found = _SIZE.search(self.full_type)
        return int(found[2] or 0) if found else 0

    @property
    def scale_of_decimal(self) -> int:
        """Digits behind the point of a DECIMAL; 0 for any other type."""
        return self.scale if self.type == "decimal" else 0

    @property
    def members(self) -> tuple[str, ...]:
        """The words of an ENUM or SET, in order, spelled as the server spells them."""
        return tuple(_MEMBER.findall(self.full_type))


# --- how a value is sent -------------------------------------------------------------------------


def bits_as_number(source: Column, column: Column) -> bool:
    """BIT prints bytes. To a column that is not made of bytes it is told as a number."""
    return source.type == "bit" and column.type not in _BYTES | {"bit"}


def number_as_bits(source: Column, column: Column) -> bool:
    """A BIT column takes '5' for the byte 0x35, so an integer is told to it as bytes."""
    return source.type in INTEGER_TYPES and column.type == "bit"


def is_text(column: Column) -> bool:
    """The column holds characters."""
    return column.type in _TEXTS


def may_be_unreadable(source: Column) -> bool:
    """The text's character set has codes that stand for no character: they would arrive as '?'."""
    return source.type in _TEXTS | _CHOICES and source.charset not in _FAITHFUL


# --- which pairs can change a value --------------------------------------------------------------


def may_change(source: Column, column: Column) -> bool:
    """Whether some value of `source` is changed by `column` without being refused."""
    return _null_is_replaced(source, column) or not _keeps(source, column)


def cuts_fraction(source: Column, column: Column) -> bool:
    """Whether `column` has less room for the fraction of a second: the documented exception."""
    return {source.type, column.type} <= _WITH_FRACTION and column.size < source.size


def _null_is_replaced(source: Column, column: Column) -> bool:
    """NULL for such a NOT NULL column means "now" (without explicit_defaults_for_timestamp), or
    "the next number"."""
    replaces = column.type == "timestamp" or "auto_increment" in column.extra
    return replaces and source.nullable and not column.nullable


def _integer_is_kept(source: Column, column: Column) -> bool:
    bits = source.size if source.type == "bit" else BITS[source.type]
    if column.type in _FLOATS:
        return bits <= (53 if column.type == "double" else 24) and not column.size
    return column.type in _EXACT or column.type == "bit"


def _decimal_is_kept(source: Column, column: Column) -> bool:
    if column.type in _EXACT:
        return source.scale <= column.scale
    # A DOUBLE gives back any fifteen digits.
    return column.type == "double" and not column.size and source.size <= 15


def _float_is_kept(source: Column, column: Column) -> bool:
    return column.type in {"double", source.type} and not column.size


def _year_is_kept(source: Column, column: Column) -> bool:
    return column.type in _EXACT | {"year"}


def _moment_is_kept(source: Column, column: Column) -> bool:
    if source.type in {"date", "time"}:
        return column.type == source.type or (source.type, column.type) == ("date", "datetime")
    return column.type in {"datetime", "timestamp"}


def _characters_are_kept(source: Column, column: Column) -> bool:
    if column.type in _EXACT_BYTES:
        return not may_be_unreadable(source)
    if not {source.charset, column.charset} <= _FAITHFUL:
        return False
    return (_text_fits if source.type in _TEXTS else _choice_fits)(source, column)


def _json_is_kept(source: Column, column: Column) -> bool:
    """A document never ends with a blank. MySQL's JSON rounds numbers and drops repeated names."""
    faithful = column.type in _TEXTS and column.charset in _FAITHFUL
    return faithful or column.type in _EXACT_BYTES


def _text_fits(source: Column, column: Column) -> bool:
    """Too long a text would be refused, but not if it is only blanks at its end that are too much.
    A CHAR loses them in any case."""
    if column.type == "char":
        return source.type == "char" and source.size <= column.size
    if column.type == "varchar":
        return _characters(source) <= column.size
    return column.type in _TEXT_BYTES and _bytes_in(source, column) <= _TEXT_BYTES[column.type]


def _choice_fits(source: Column, column: Column) -> bool:
    """An ENUM takes a word that it does not have for a number, if it looks like one; a SET prints
    its words in the order in which they were declared."""
    if source.type == column.type == "enum":
        return set(source.members) <= set(column.members)
    if source.type == column.type == "set":
        return [m for m in column.members if m in source.members] == list(source.members)
    lengths = [len(member) + 1 for member in source.members]
    longest = max(lengths, default=0) if source.type == "enum" else sum(lengths)
    if column.type in {"char", "varchar"}:
        return longest - 1 <= column.size
    return column.type in _TEXT_BYTES and 4 * longest <= _TEXT_BYTES[column.type]


def _bytes_are_kept(source: Column, column: Column) -> bool:
    """BINARY, BLOB, BIT, geometry, vectors and whatever a server may still invent."""
    if source.type == column.type == "bit":
        return True
    if source.type in _BYTES | _SHAPES | {"bit"} and column.type in _EXACT_BYTES:
        return True
    if source.type in _SHAPES:
        return column.type in {source.type, "geometry"}
    return source.type == column.type and source.full_type == column.full_type


def _characters(source: Column) -> int:
    """So many characters a text has at the most."""
    return _TEXT_BYTES.get(source.type, source.size)


def _bytes_in(source: Column, column: Column) -> int:
    """So many bytes the source's longest text takes in the column at the most."""
    alike = source.charset == column.charset or {source.charset, column.charset} <= _UTF8
    if alike and source.type in _TEXT_BYTES:
        return _TEXT_BYTES[source.type]
    return _characters(source) * _CHARACTER_BYTES[column.charset]


_RULES: Mapping[str, Callable[[Column, Column], bool]] = {
    **dict.fromkeys(INTEGER_TYPES, _integer_is_kept),
    "decimal": _decimal_is_kept,
    **dict.fromkeys(_FLOATS, _float_is_kept),
    "year": _year_is_kept,
    **dict.fromkeys(_MOMENTS, _moment_is_kept),
    **dict.fromkeys(_TEXTS | _CHOICES, _characters_are_kept),
    "json": _json_is_kept,
}


def _keeps(source: Column, column: Column) -> bool:
    """Every value of `source` that is not NULL stands in `column` as it is, or is refused."""
    if source.type in _PLAIN and column.type in _TEXTS | _EXACT_BYTES:
        return True
    if bits_as_number(source, column):
        return _integer_is_kept(source, column)
    return _RULES.get(source.type, _bytes_are_kept)(source, column)


# --- one value -----------------------------------------------------------------------------------


def in_doubt(sent: bytes | None, source: Column, column: Column) -> bool:
    """Whether this value may be changed: what is not in doubt need not be read back."""
    if sent is None:
        return _null_is_replaced(source, column)
    if _keeps(source, column):
        return False
    if {source.type, column.type} <= _TEXTS and {source.charset, column.charset} <= _FAITHFUL:
        return sent != b"" and sent[-1] in _BLANKS
    if source.type in _BYTES and column.type == "binary":
        return len(sent) < column.size
    return True


def same(sent: bytes | None, stands: bytes | None, source: Column, column: Column) -> bool:
    """Whether what stands in the column is, in the column's terms, what was sent."""
    if sent is None or stands is None:
        return sent is stands
    if may_be_unreadable(source) and sent.startswith(UNREADABLE):
        return False
    if column.type == "bit":
        return _same_bits(sent, stands, source)
    alike = (
        _same_number if column.type in _NUMBERS
        else _same_moment if column.type in _MOMENTS
        else _same_document if column.type == "json"
        else None
    )  # fmt: skip
    return sent == stands or (alike is not None and alike(sent, stands))


def _same_bits(sent: bytes, stands: bytes, source: Column) -> bool:
    """A BIT holds no zero bytes in front. What is told to it as characters, it takes for bytes."""
    as_bytes = source.type in _BYTES | INTEGER_TYPES | {"bit"}
    return as_bytes and sent.lstrip(b"\0") == stands.lstrip(b"\0")


def _same_number(sent: bytes, stands: bytes) -> bool:
    if not _NUMBER.fullmatch(sent) or not _NUMBER.fullmatch(stands):
        return False
    try:
        return Decimal(sent.decode()) == Decimal(stands.decode())
    except ArithmeticError:  # an exponent beyond all measure: no column holds it
        return False


def _same_moment(sent: bytes, stands: bytes) -> bool:
    head, _, fraction = sent.partition(b".")
    kept_head, _, kept = stands.partition(b".")
    return _midnight(head) == _midnight(kept_head) and fraction[: len(kept)].rstrip(
        b"0"
    ) == kept.rstrip(b"0")


def _midnight(moment: bytes) -> bytes:
    """A date alone means its first second, and a time of zero has no sign."""
    if _DATE.fullmatch(moment):
        return moment + b" 00:00:00"
    return moment.lstrip(b"-") if not moment.strip(b"-0:") else moment


def _same_document(sent: bytes, stands: bytes) -> bool:
    try:
        return _document(sent) == _document(stands)
    except (ValueError, ArithmeticError, RecursionError):
        return False


def _document(text: bytes) -> object:
    """A JSON document, so that == means: the same members in any order, none twice or left out,
    the same digits in each number. A number is a pair, because Python's True equals 1."""

    def number(digits: str) -> tuple[str, Decimal]:
        return "number", Decimal(digits)

    def members(pairs: list[tuple[str, object]]) -> tuple[str, list[tuple[str, object]]]:
        return "object", sorted(pairs, key=lambda pair: pair[0])

    return json.loads(
        text.decode(),
        parse_int=number,
        parse_float=number,
        parse_constant=int,
        object_pairs_hook=members,
    )


def shown(value: bytes | None) -> str:
    """A value for an operator's eyes: short, and on one line."""
    if value is None:
        return "NULL"
    try:
        text = repr(value.decode())
    except UnicodeDecodeError:
        text = "0x" + value[:_SHOWN].hex()
    return text if len(text) <= _SHOWN else text[:_SHOWN] + f"… ({len(value):,} bytes)"
