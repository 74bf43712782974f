"""Which pairs of columns can change a value in silence, and when a value is still the same."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon import values
from daemon.demo.central import SCHEMA
from daemon.entities import CATALOGUE
from daemon.values import Column, in_doubt, may_change, same

VERSIONS = Path(values.__file__).parent / "migrations" / "versions"


def column(full_type: str, *, nullable: bool = True, extra: str = "", charset: str = "") -> Column:
    """A column as information_schema tells it; `charset:` before the type names another one."""
    before, _, rest = full_type.rpartition(":")
    kind = re.match(r"\w+", rest)
    assert kind is not None
    return Column("c", kind[0], rest, nullable, None, extra, charset or before or "utf8mb4")


def changes(source: str, target: str) -> bool:
    return may_change(column(source), column(target))


# --- which pairs can change a value --------------------------------------------------------------

SAFE = [
    ("int", "int"), ("int(11)", "bigint(20)"), ("bigint(20) unsigned", "int(11)"),
    ("bigint", "tinyint(1)"), ("bigint unsigned", "decimal(65,30)"), ("int unsigned", "double"),
    ("mediumint unsigned", "float"), ("bigint", "varchar(3)"), ("bigint", "char(3)"),
    ("tinyint(1)", "bit(1)"), ("bigint", "bit(64)"),
    ("bit(1)", "bit(1)"), ("bit(64)", "bit(1)"), ("bit(1)", "tinyint(1)"), ("bit(53)", "double"),
    ("bit(64)", "text"), ("bit(64)", "blob"), ("bit(64)", "decimal(20,0)"),
    ("decimal(10,2)", "decimal(5,2)"), ("decimal(10,2)", "decimal(12,4)"),
    ("decimal(10,0)", "tinyint"), ("decimal(15,15)", "double"), ("decimal(65,30)", "varchar(5)"),
    ("float", "float"), ("float", "double"), ("double", "double"), ("float(7,4)", "double"),
    ("double", "varchar(9)"),
    ("year(4)", "year"), ("year", "smallint"), ("year", "char(4)"),
    ("date", "date"), ("date", "datetime"), ("datetime(3)", "datetime"),
    ("datetime", "timestamp(6)"), ("timestamp", "datetime(3)"), ("time(6)", "time"),
    ("datetime(3)", "varchar(191)"), ("timestamp", "char(30)"),
    ("varchar(9)", "varchar(9)"), ("varchar(9)", "latin1:varchar(9)"), ("varchar(9)", "tinytext"),
    ("char(9)", "char(9)"), ("char(9)", "varchar(10)"), ("varchar(63)", "tinytext"),
    ("latin1:varchar(255)", "latin1:tinytext"), ("text", "utf8mb3:text"), ("utf8:text", "text"),
    ("latin1:text", "latin1:text"), ("text", "latin1:text"), ("latin1:text", "mediumtext"),
    ("text", "varbinary(4)"), ("varchar(9)", "tinyblob"), ("text", "longtext"),
    ("enum('a','b')", "enum('b','c','a')"), ("enum('a','bc')", "varchar(2)"),
    ("enum('PENDING','SENT')", "varchar(50)"), ("enum('a','b')", "tinytext"),
    ("set('a','c')", "set('a','b','c')"), ("set('a','bc')", "char(4)"),
    ("json", "longtext"), ("json", "varchar(9)"), ("json", "blob"),
    ("binary(5)", "binary(5)"), ("binary(5)", "varbinary(2)"), ("longblob", "tinyblob"),
    ("varbinary(9)", "varbinary(3)"),
    ("point", "point"), ("polygon", "geometry"),
    ("geometry", "longblob"),
    ("uuid", "uuid"), ("uuid", "char(36)"), ("inet6", "inet6"), ("vector(3)", "vector(3)"),
]  # fmt: skip

UNSAFE = [
    ("bigint", "double"), ("int", "float"), ("int", "year"), ("int", "datetime"),
    ("int", "enum('1','2')"), ("int", "binary(9)"), ("tinyint", "double(5,2)"),
    ("bit(54)", "double"), ("bit(8)", "year"), ("bit(8)", "binary(1)"),
    ("varchar(9)", "bit(8)"), ("decimal(3,0)", "bit(8)"), ("double", "bit(8)"),
    ("decimal(10,2)", "decimal(10,1)"), ("decimal(10,2)", "int"), ("decimal(16,2)", "double"),
    ("decimal(5,2)", "float"), ("decimal(5,2)", "double(10,1)"),
    ("double", "float"), ("double", "decimal(65,30)"), ("float", "int"), ("double", "bigint"),
    ("double(10,2)", "double(10,1)"), ("double", "double(10,2)"),
    ("year", "date"), ("year", "double"),
    ("datetime", "date"), ("datetime", "time"), ("time", "datetime"), ("timestamp", "date"),
    ("date", "timestamp"), ("date", "int"), ("datetime", "bigint"), ("date", "binary(10)"),
    ("varchar(10)", "varchar(9)"), ("varchar(9)", "char(9)"), ("char(9)", "char(8)"),
    ("varchar(64)", "tinytext"), ("text", "varchar(255)"), ("text", "tinytext"),
    ("latin1:text", "text"), ("longtext", "mediumtext"), ("varchar(9)", "gbk:varchar(9)"),
    ("gbk:varchar(9)", "varchar(9)"), ("gbk:varchar(9)", "gbk:varchar(9)"), ("gbk:text", "blob"),
    ("sjis:enum('a')", "sjis:enum('a')"), ("varchar(9)", "binary(9)"),
    ("varchar(9)", "int"), ("varchar(9)", "double"), ("varchar(9)", "datetime"),
    ("varchar(9)", "enum('a')"), ("varchar(9)", "set('a')"), ("varchar(9)", "json"),
    ("varchar(36)", "uuid"), ("varchar(9)", "year"),
    ("enum('a','b')", "enum('a')"), ("enum('a')", "enum('A')"), ("enum('1','2')", "enum('2','3')"),
    ("enum('a','b')", "set('a','b')"), ("set('a(9)')", "enum('a(9)')"), ("enum('abc')", "char(2)"),
    ("enum('a')", "int"), ("enum('a')", "gbk:enum('a')"),
    ("set('a','b')", "set('b','a')"), ("set('a','b')", "set('a')"), ("set('a','b')", "char(2)"),
    ("json", "json"), ("longtext", "json"), ("json", "gbk:longtext"), ("json", "enum('1')"),
    ("binary(5)", "binary(6)"), ("varbinary(5)", "binary(5)"), ("blob", "binary(5)"),
    ("blob", "text"), ("varbinary(5)", "latin1:varchar(5)"), ("varbinary(3)", "int"),
    ("binary(16)", "uuid"), ("blob", "geometry"), ("geometry", "point"), ("point", "polygon"),
    ("point", "binary(25)"), ("vector(3)", "vector(4)"), ("inet4", "inet6"), ("novel", "int"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "target"), SAFE)
def test_pairs_that_keep_or_refuse_every_value(source: str, target: str) -> None:
    assert not changes(source, target)


@pytest.mark.parametrize(("source", "target"), UNSAFE)
def test_pairs_that_can_change_a_value_in_silence(source: str, target: str) -> None:
    assert changes(source, target)


def test_a_type_of_the_future_is_safe_only_with_itself() -> None:
    assert not changes("novel(3)", "novel(3)")
    assert changes("novel(3)", "novel(4)")


@pytest.mark.parametrize(
    ("target", "changed"),
    [
        (column("timestamp", nullable=False), True),
        (column("int", nullable=False, extra="auto_increment"), True),
        (column("timestamp"), False),
        (column("datetime", nullable=False), False),
    ],
)
def test_null_that_means_something_else_in_the_local_column(target: Column, changed: bool) -> None:
    source = column("datetime" if target.type != "int" else "int")
    assert may_change(source, target) is changed
    assert in_doubt(None, source, target) is changed
    assert not in_doubt(b"1", source, target)
    if changed:
        assert not may_change(column(source.full_type, nullable=False), target)


@pytest.mark.parametrize(
    ("source", "target", "cut"),
    [
        ("datetime(3)", "datetime", True),
        ("time(6)", "time(5)", True),
        ("datetime(3)", "timestamp", True),
        ("datetime(3)", "datetime(3)", False),
        ("decimal(5,3)", "decimal(5,2)", False),
        ("datetime(3)", "varchar(9)", False),
    ],
)
def test_a_fraction_of_a_second_that_is_cut_is_no_change_but_is_named(
    source: str, target: str, cut: bool
) -> None:
    assert values.cuts_fraction(column(source), column(target)) is cut


def _tables(text: str) -> dict[str, dict[str, Column]]:
    """The columns of each table of CREATE TABLE statements in this project's own layout."""
    found: dict[str, dict[str, Column]] = {}
    for name, body in re.findall(
        r"CREATE TABLE (?:IF NOT EXISTS )?(\w+) \(\n(.*?)\n\)", text, re.DOTALL
    ):
        columns = found.setdefault(name, {})
        for line in body.splitlines():
            words = re.match(r"    `?(\w+)`? ((?:ENUM)?\w*\([^)]*\)|\w+)", line)
            if words and words[1] not in {"PRIMARY", "UNIQUE", "KEY", "CONSTRAINT"}:
                kind = words[2].lower() if "ENUM" not in words[2] else words[2].replace(", ", ",")
                kind = kind.replace("ENUM", "enum").replace("boolean", "tinyint(1)")
                columns[words[1]] = column(kind, nullable="NOT NULL" not in line)
    return found


def _shipped() -> Mapping[str, tuple[dict[str, Column], dict[str, Column]]]:
    here = _tables(SCHEMA)
    there = _tables("".join(path.read_text() for path in sorted(VERSIONS.glob("*.sql"))))
    return {e.name: (here[e.central], there[e.local]) for e in CATALOGUE.values()}


@pytest.mark.parametrize("entity", CATALOGUE.values(), ids=lambda entity: entity.name)
def test_the_shipped_tables_have_nothing_to_verify(entity: object) -> None:
    assert isinstance(entity, type(CATALOGUE["chats"]))
    central, local = _shipped()[entity.name]
    pairs = [
        (central[source], column)
        for name, column in local.items()
        if (source := entity.columns.get(name, name)) in central
    ]
    assert len(pairs) >= 2
    assert [there for here, there in pairs if may_change(here, there)] == []


def test_the_tables_of_the_field_are_verified_only_where_blanks_could_be_cut() -> None:
    """utf8mb3, DATETIME without a fraction, VARCHAR(255) and VARCHAR(50), status VARCHAR(50)."""
    assert not changes("varchar(191)", "utf8mb3:varchar(255)")
    assert not changes("text", "utf8mb3:text")
    assert not changes("text", "utf8mb3:longtext")
    assert not changes("datetime(3)", "datetime")
    assert not changes("enum('SENT','READ')", "utf8mb3:varchar(50)")
    source, target = column("varchar(191)"), column("utf8mb3:varchar(50)")
    assert may_change(source, target)
    assert not in_doubt(b"5511999998888", source, target)


# --- one value -----------------------------------------------------------------------------------


@pytest.mark.parametrize("blank", [" ", "\t", "\n", "\r", "\v", "\f", "\N{NO-BREAK SPACE}"])
def test_a_text_is_in_doubt_only_with_a_blank_at_its_end(blank: str) -> None:
    pair = column("varchar(9)"), column("varchar(8)")
    assert in_doubt(f"a{blank}".encode(), *pair)
    assert not in_doubt(f"{blank}a".encode(), *pair)
    assert not in_doubt(b"", *pair)
    assert not in_doubt(None, *pair)


def test_a_text_for_a_character_set_that_replaces_is_always_in_doubt() -> None:
    assert in_doubt(b"a", column("varchar(9)"), column("gbk:varchar(9)"))
    assert in_doubt(b"a", column("gbk:varchar(9)"), column("varchar(9)"))


def test_bytes_are_in_doubt_where_they_are_padded() -> None:
    assert in_doubt(b"1234", column("varbinary(9)"), column("binary(5)"))
    assert not in_doubt(b"12345", column("varbinary(9)"), column("binary(5)"))


def test_other_values_are_in_doubt_wherever_the_pair_is() -> None:
    assert in_doubt(b"1", column("double"), column("float"))
    assert not in_doubt(b"1", column("float"), column("double"))


SAME = [
    (b"abc", b"abc", "varchar(9)", "varchar(3)"),
    (None, None, "int", "int"),
    (b"0042", b"42", "int(4) unsigned zerofill", "int"),
    (b"1.50", b"1.5000", "decimal(5,2)", "decimal(9,4)"),
    (b"1e2", b"100.00", "double", "decimal(9,2)"),
    (b"-0", b"0", "double", "double"),
    (b" 7 ", b"7", "varchar(9)", "int"),
    (b"2026-01-01 10:00:00.123", b"2026-01-01 10:00:00", "datetime(3)", "datetime"),
    (b"2026-01-01 10:00:00.129", b"2026-01-01 10:00:00.12", "datetime(3)", "datetime(2)"),
    (b"2026-01-01 10:00:00.12", b"2026-01-01 10:00:00.120000", "datetime(2)", "datetime(6)"),
    (b"2026-01-01", b"2026-01-01 00:00:00", "date", "datetime"),
    (b"2026-01-01 00:00:00", b"2026-01-01", "datetime", "date"),
    (b"-00:00:00.5", b"00:00:00", "time(1)", "time"),
    (b"-838:59:59.9", b"-838:59:59", "time(1)", "time"),
    (b"\0\5", b"\5", "bit(16)", "bit(8)"),
    (b"\5", b"\0\5", "int", "bit(16)"),
    (b'{"a":1.0,"b":[1e2,true]}', b'{"b": [100, true], "a": 1}', "longtext", "json"),
    (b'"\\u00e9"', '"é"'.encode(), "longtext", "json"),
]

CHANGED = [
    (b"abc ", b"abc", "varchar(9)", "varchar(3)"),
    (b"", None, "varchar(9)", "varchar(9)"),
    (None, b"", "varchar(9)", "varchar(9)"),
    (None, b"2026-01-01 00:00:00", "datetime", "timestamp"),
    (b"5.4", b"5", "double", "int"),
    (b"1.005", b"1.01", "decimal(9,3)", "decimal(9,2)"),
    (b"0.1", b"0.10000000149011612", "double", "float"),
    (b"9007199254740993", b"9007199254740992", "bigint", "double"),
    (b"1e-400", b"0", "varchar(9)", "double"),
    (b"1e99999999999999999999", b"0", "varchar(99)", "double"),
    (b"1_0", b"10", "varchar(9)", "int"),
    (b"5", b"2005", "int", "year"),
    (b"2026-01-01 10:00:00", b"2026-01-01", "datetime", "date"),
    (b"2026-01-01 10:00:00.129", b"2026-01-01 10:00:00.13", "datetime(3)", "datetime(2)"),
    (b"2026-01-01 10:00:00.999", b"2026-01-01 10:00:01", "datetime(3)", "datetime"),
    (b"10:00:00", b"2010-00-00 00:00:00", "time", "datetime"),
    (b"-00:00:01", b"00:00:01", "time", "time"),
    (b"2", b"b", "varchar(9)", "enum('a','b')"),
    (b"B", b"b", "varchar(9)", "enum('a','b')"),
    (b"b,a", b"a,b", "set('b','a')", "set('a','b')"),
    (b"abc", b"abc\0", "varbinary(9)", "binary(4)"),
    (b"5", b"5", "varchar(9)", "bit(8)"),
    (b"5", b"5", "decimal(3,0)", "bit(8)"),
    (b"\5", b"\6", "bit(8)", "bit(8)"),
    (b"\xff\xfe\xfe", b"\xff\xfe\xfe", "gbk:text", "blob"),
    (b'{"a":1,"a":2}', b'{"a": 2}', "longtext", "json"),
    (b"[1]", b"[true]", "longtext", "json"),
    (b"[0.12345678901234567890]", b"[0.12345678901234568]", "longtext", "json"),
    (b"[" * 5000 + b"]" * 5000, b"[]", "longtext", "json"),
    (b"AAAA", b"aaaa", "varchar(36)", "uuid"),
]


@pytest.mark.parametrize(("sent", "stands", "source", "target"), SAME)
def test_what_is_the_same(
    sent: bytes | None, stands: bytes | None, source: str, target: str
) -> None:
    assert same(sent, stands, column(source), column(target))


@pytest.mark.parametrize(("sent", "stands", "source", "target"), CHANGED)
def test_what_is_not_the_same(
    sent: bytes | None, stands: bytes | None, source: str, target: str
) -> None:
    assert not same(sent, stands, column(source), column(target))


TARGETS = st.sampled_from(
    ["int", "decimal(5,2)", "double", "datetime", "time", "varchar(9)", "enum('a')", "json",
     "year", "blob", "uuid"],
).map(column)  # fmt: skip


@given(st.binary(), TARGETS)
def test_every_value_is_the_same_as_itself(value: bytes, target: Column) -> None:
    assert same(value, value, column("varchar(99)"), target)


@given(st.binary(), st.binary(), TARGETS)
def test_no_two_values_break_the_comparison(sent: bytes, stands: bytes, target: Column) -> None:
    answer = same(sent, stands, column("varchar(99)"), target)
    assert answer or sent != stands
    if target.type in {"varchar", "enum", "blob", "uuid"}:
        assert answer is (sent == stands)


@given(st.decimals(allow_nan=False, allow_infinity=False), st.integers(0, 3), st.booleans())
def test_numbers_are_compared_as_numbers(number: object, zeros: int, other: bool) -> None:
    sent = str(number).encode()
    stands = sent
    if b"E" not in sent and b"." in sent:
        stands += b"0" * zeros + (b"1" if other else b"")
        assert same(sent, stands, column("double"), column("double")) is not other
    else:
        assert same(sent, stands, column("double"), column("double"))


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


@given(DOCUMENTS, DOCUMENTS)
def test_documents_are_compared_as_documents(one: object, other: object) -> None:
    compact = json.dumps(one, ensure_ascii=False, separators=(",", ":"))
    spread = json.dumps(one, sort_keys=True, indent=2)
    target = column("json")
    assert same(compact.encode(), spread.encode(), target, target)
    text = json.dumps(other, sort_keys=True, indent=2)
    if text != spread:
        equal = same(spread.encode(), text.encode(), target, target)
        # 1 and 1.0, 0.0 and -0.0 are one number each, however they are spelled.
        assert not equal or one == other


@given(st.binary())
def test_a_value_is_shown_short_and_on_one_line(value: bytes) -> None:
    text = values.shown(value)
    assert len(text.splitlines()) == 1
    assert len(text) < 70


def test_how_values_are_shown() -> None:
    assert values.shown(None) == "NULL"
    assert values.shown(b"abc ") == "'abc '"
    assert values.shown(b"\xff\x00") == "0xff00"
    assert values.shown(b"x" * 1000) == "'" + "x" * 39 + "… (1,000 bytes)"
