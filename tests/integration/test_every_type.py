"""Values of every type: each stands in the local column as it stood in central, or in quarantine.

A test copies tables of one column each, central's type into the local one, with generated values.
What stands is asked of both servers by the command-line client, in hexadecimal, or compared bit by
bit; nothing of it goes through the daemon's own code. Values that central itself cannot hold are
whatever it made of them: what stands there is what has to arrive.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from daemon import operations
from daemon.entities import CATALOGUE
from daemon.instance import Instance
from tests import mirror
from tests.in_process import a_pass, one

if TYPE_CHECKING:
    from tests.conftest import Databases

WriteConfig = Callable[..., Path]

pytestmark = [pytest.mark.usefixtures("way"), pytest.mark.all_pairs]
Form = Literal["bytes", "bits", "text", "number", "double", "moment", "document"]

# As the application's sessions may be: whatever is inserted is taken, clipped if need be.
SESSION = "SET SESSION sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00';"

# What the client is asked for, so that all of a value is seen.
ASKED: dict[Form, str] = {
    "bytes": "HEX(v)",
    "bits": "HEX(v)",
    "text": "HEX(CAST(CONVERT(v USING utf8mb4) AS BINARY))",
    "number": "v + 0",
    "double": "v * 1e0",
    "moment": "CAST(v AS CHAR)",
    "document": "HEX(CAST(CONVERT(v USING utf8mb4) AS BINARY))",
}


@dataclass(frozen=True)
class Case:
    """One column of central, one local column, and values as SQL."""

    source: str
    target: str
    values: st.SearchStrategy[str]
    form: Form = "bytes"
    """How the two sides are compared."""

    target_form: Form | None = None
    refuses: Literal["none", "some", "any"] = "none"
    """Whether values must, may or must not land in quarantine."""

    always: Sequence[str] = field(default_factory=tuple)
    """Values that are never left to chance."""


@dataclass(frozen=True)
class Bench:
    """One test's databases and how many values it draws."""

    databases: Databases
    write_config: WriteConfig
    count: int
    random: bool

    def draw(self, case: Case) -> list[str]:
        """The case's values, the same ones at every ordinary run."""
        found: list[str] = []

        @settings(
            max_examples=self.count, derandomize=not self.random, database=None, deadline=None,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case.values)
        def take(value: str) -> None:
            found.append(value)

        take()
        return [*case.always, *found]

    async def copies(self, cases: Sequence[Case]) -> None:
        """Copy all of them in one pass, and compare."""
        central, local = self.databases
        entities: dict[str, object] = {name: {"enabled": False} for name in CATALOGUE}
        for number, case in enumerate(cases):
            entities[f"case{number}"] = {
                "central": f"sent{number}", "local": f"stands{number}",
                "motion": "incremental", "key": "id",
            }  # fmt: skip
            mirror.run(central, SESSION + _filled(f"sent{number}", case.source, self.draw(case)))
            mirror.run(local, SESSION + _empty(f"stands{number}", case.target))
        config = self.write_config(central, {"nunes": local}, entities=entities)
        async with one(config) as instance:
            await a_pass(instance)
            await self.sums_are_equal(instance)
        for number, case in enumerate(cases):
            self.compare(number, case)

    async def sums_are_equal(self, instance: Instance) -> None:
        """Both servers compute the same checksum for each row that stands, however it is told."""
        for name, tally in (await operations.reconcile(instance, dry_run=True)).items():
            plan = instance.motions[name].plan
            case = f"{name}: {plan.pairs[2].types}"
            assert (tally.missing, tally.differing, tally.extra) == (0, 0, 0), (
                case, tally.examples, plan.central_sums.row, plan.local_sums.row
            )  # fmt: skip
            assert tally.compared > 0

    def compare(self, number: int, case: Case) -> None:
        """Every row stands as it should, or lies in quarantine; never both, never neither."""
        central, local = self.databases
        sent = _asked(central, f"sent{number}", case.form)
        stands = _asked(local, f"stands{number}", case.target_form or case.form)
        reasons = {
            id_: f"{errno} {message}"
            for id_, errno, message in mirror.rows(
                local,
                f"SELECT id, errno, message FROM wpp_sync_quarantine WHERE entity = 'case{number}'",
            )
        }
        name = f"{case.source} into {case.target}"
        assert set(stands) | set(reasons) == set(sent), name
        assert set(stands) & set(reasons) == set(), name
        compared = _comparison(case)
        wrong = {
            (sent[id_], value) for id_, value in stands.items() if not compared(sent[id_], value)
        }
        assert wrong == set(), name
        told = sum(value is not None for value in stands.values())
        assert told > 0, f"{name}: nothing stands: {list(reasons.values())[:3]}"
        if case.refuses == "none":
            assert reasons == {}, name
        if case.refuses == "some":
            assert reasons != {}, name


def _empty(table: str, kind: str) -> str:
    return (
        f"CREATE TABLE {table} (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,"
        f" instance VARCHAR(20) NOT NULL, v {kind} NULL) ENGINE = InnoDB;"
    )


def _filled(table: str, kind: str, values: Sequence[str]) -> str:
    # A NULL beside each value, so that a row is always taken between two that are refused: a
    # hundred refusals in a row mean a broken table.
    rows = ", ".join(f"('nunes', NULL), ('nunes', {value})" for value in values)
    return f"{_empty(table, kind)} INSERT INTO {table} (instance, v) VALUES {rows};"


def _asked(server: mirror.Server, table: str, form: Form) -> dict[str, str | None]:
    """id -> the value as text; None for NULL."""
    found = mirror.rows(
        server, f"{SESSION} SELECT id, v IS NULL, {ASKED[form]} FROM {table} ORDER BY id"
    )
    return {id_: None if null == "1" else value for id_, null, value in found}


def _comparison(case: Case) -> Callable[[str | None, str | None], bool]:
    by_form: dict[Form, Callable[[str, str], bool]] = {
        "bytes": str.__eq__,
        "bits": lambda sent, stands: sent.lstrip("0") == stands.lstrip("0"),
        "text": str.__eq__,
        "number": lambda sent, stands: Decimal(sent) == Decimal(stands),
        "double": _same_double,
        "moment": _same_moment,
        "document": _same_document,
    }
    compare = by_form[case.target_form or case.form]

    def compared(sent: str | None, stands: str | None) -> bool:
        if sent is None or stands is None:
            return sent is stands
        return compare(sent, stands)

    return compared


def _same_double(sent: str, stands: str) -> bool:
    """Bit by bit, but for the sign of a zero, which MariaDB does not store."""
    here, there = float(sent), float(stands)
    return struct.pack("d", here) == struct.pack("d", there) or here == there == 0


def _same_moment(sent: str, stands: str) -> bool:
    """What the local column has room for of it, cut and not rounded."""
    here, _, fraction = _with_midnight(sent).partition(".")
    there, _, kept = _with_midnight(stands).partition(".")
    zero = here.strip("-0:") == there.strip("-0:") == ""
    return (here == there or zero) and fraction[: len(kept)].ljust(len(kept), "0") == kept


def _with_midnight(moment: str) -> str:
    return f"{moment} 00:00:00" if re.fullmatch(r"\d{4}-\d\d-\d\d", moment) else moment


def _same_document(sent: str, stands: str) -> bool:
    here, there = (
        json.loads(bytes.fromhex(text), parse_float=Decimal, parse_int=Decimal)
        for text in (sent, stands)
    )
    return bool(here == there)


@pytest.fixture
def bench(databases: Databases, write_config: WriteConfig, request: pytest.FixtureRequest) -> Bench:
    long = bool(request.config.getoption("--long", default=False))
    return Bench(databases, write_config, count=2_000 if long else 100, random=long)


# --- values as SQL ---------------------------------------------------------------------------


def as_text(text: str) -> str:
    return f"CONVERT(X'{text.encode().hex()}' USING utf8mb4)"


def as_bytes(value: bytes) -> str:
    return f"X'{value.hex()}'"


def as_double(value: float) -> str:
    text = repr(value)
    return text if "e" in text else f"{text}e0"


def integers(bits: int, *, unsigned: bool = False) -> st.SearchStrategy[str]:
    low, high = (0, (1 << bits) - 1) if unsigned else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    edges = [low, low + 1, high - 1, high, 0, 1]
    return (st.sampled_from(edges) | st.integers(low, high)).map(str)


def decimals(digits: int, scale: int) -> st.SearchStrategy[str]:
    top = 10**digits - 1
    return st.integers(-top, top).map(lambda n: str(Decimal(n).scaleb(-scale).normalize()))


# More digits than Decimal's ordinary context has, so no arithmetic is done on these.
DECIMAL_65 = st.from_regex(r"-?[0-9]{1,35}\.[0-9]{1,30}", fullmatch=True).filter(str.isascii)

DOUBLES = st.floats(allow_nan=False, allow_infinity=False).map(as_double)
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32).map(as_double)
ODD_DOUBLES = ("-0e0", "5e-324", "-5e-324", "2.2250738585072014e-308", "1.7976931348623157e308",
               "0.1e0", "1e22", "123456789.123456789e0", "9007199254740993e0")  # fmt: skip
ODD_FLOATS = ("-0e0", "1.401298464324817e-45", "3.4028234663852886e38", "0.1e0", "16777217e0")

# Quotes, backslashes, percent signs, NUL, blanks of every kind at the end, combining and 4-byte
# characters, what looks like an escape, a comment, a number, NULL.
ODD_TEXTS = tuple(
    as_text(text)
    for text in (
        "", " ", "'", "''", '"', "\\", "\\'", "\\\\", "\\0", "%", "%s", "%%", "\0", "a\0b", "NULL",
        "a ", "a  ", "a\t", "a\n", "\r\n", "a\u00a0", "a\u3000", "\u200b", "e\u0301", "\u00e9",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0010ffff", "\uffff", "/* */", "-- ", "0",
        "\u0130\u0131\ufb01", "\u05e9\u05c1", "`", ";", "\x1a", "\x7f", "\x80", "€", "ÿ", "1e5",
    )
)  # fmt: skip
TEXTS = (
    st.text(max_size=20)
    | st.text(alphabet="'\"\\%\0 \t\n_a", max_size=12)
    | st.text(alphabet="aé€😀 \t", max_size=12)
).map(as_text)
BLOBS = (
    st.binary(max_size=40)
    | st.lists(st.sampled_from([0, 9, 10, 32, 39, 92, 0x5C, 0xA0, 0xFF]), max_size=12).map(bytes)
).map(as_bytes)
EVERY_BYTE = as_bytes(bytes(range(256)))


months, days = st.integers(0, 12), st.integers(0, 31)
minutes = st.builds(
    lambda minute, second, fraction: f"{minute:02}:{second:02}.{fraction:06}",
    st.integers(0, 59), st.integers(0, 59), st.integers(0, 999_999),
)  # fmt: skip


@st.composite
def moments(draw: st.DrawFn, *, years: tuple[int, int] = (0, 9999)) -> str:
    """Any date that ALLOW_INVALID_DATES lets in, with microseconds."""
    date = f"{draw(st.integers(*years)):04}-{draw(months):02}-{draw(days):02}"
    return f"'{date} {draw(st.integers(0, 23)):02}:{draw(minutes)}'"


ODD_MOMENTS = ("'0000-00-00 00:00:00'", "'2026-02-31 10:00:00'", "'2026-00-00 00:00:00'",
               "'9999-12-31 23:59:59.999999'", "'0000-00-00 10:00:00'", "'1000-01-01 00:00:00'",
               "'2026-12-31 23:59:59.999999'", "'2026-01-01 00:00:00'")  # fmt: skip


@st.composite
def durations(draw: st.DrawFn) -> str:
    sign = draw(st.sampled_from(["", "-"]))
    return f"'{sign}{draw(st.integers(0, 838)):03}:{draw(minutes)}'"


ODD_DURATIONS = ("'838:59:59'", "'-838:59:59'", "'-00:00:00.5'", "'00:00:00'", "'24:00:00'")
INSTANTS = st.integers(1, (1 << 31) - 1).flatmap(
    lambda second: st.sampled_from(["0", "000001", "5", "999999"]).map(
        lambda fraction: f"FROM_UNIXTIME({second}.{fraction})"
    )
)

DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=10,
).map(lambda document: as_text(json.dumps(document, ensure_ascii=False)))  # fmt: skip


@st.composite
def shapes(draw: st.DrawFn) -> str:
    degrees = st.floats(-80, 80).map(lambda value: f"{value:.6f}")
    x, y, z, w = draw(degrees), draw(degrees), draw(degrees), draw(degrees)
    text = draw(
        st.sampled_from(
            [
                f"POINT({x} {y})",
                f"LINESTRING({x} {y}, {z} {w})",
                "POLYGON((0 0, 1 0, 1 1, 0 0))",
                f"MULTIPOINT({x} {y}, {z} {w})",
                f"MULTILINESTRING(({x} {y}, {z} {w}), (0 0, 1 1))",
                "MULTIPOLYGON(((0 0, 1 0, 1 1, 0 0)))",
                f"GEOMETRYCOLLECTION(POINT({x} {y}), LINESTRING(0 0, 1 1))",
            ]
        )
    )
    return f"ST_GeomFromText('{text}', {draw(st.sampled_from([0, 4326, 3857]))})"


def spelled(*values: str) -> st.SearchStrategy[str]:
    return st.sampled_from([as_text(value) for value in values])


# --- numbers ---------------------------------------------------------------------------------


async def test_integers_of_every_width_and_sign(bench: Bench) -> None:
    widths = {"TINYINT": 8, "SMALLINT": 16, "MEDIUMINT": 24, "INT": 32, "BIGINT": 64}
    await bench.copies(
        [
            *(Case(kind, kind, integers(bits), "number") for kind, bits in widths.items()),
            *(
                Case(
                    f"{kind} UNSIGNED", f"{kind} UNSIGNED", integers(bits, unsigned=True), "number"
                )
                for kind, bits in widths.items()
            ),
            Case("INT(5) ZEROFILL", "INT", st.integers(0, 99_999).map(str), "number"),
            Case("INT", "BIGINT", integers(32), "number"),
            Case("INT", "INT(9) ZEROFILL", integers(32), "number", refuses="some"),
            Case("BOOLEAN", "BOOLEAN", st.sampled_from(["TRUE", "FALSE", "7"]), "number"),
        ]
    )


async def test_integers_into_columns_that_hold_fewer(bench: Bench) -> None:
    edges = ("9007199254740993", "-9223372036854775808", "5", "0", "2026", "1901", "69")
    whole = integers(64)
    await bench.copies(
        [
            Case("BIGINT", "INT", whole, "number", refuses="some", always=edges),
            Case("BIGINT UNSIGNED", "BIGINT", integers(64, unsigned=True), "number",
                 refuses="some"),
            Case("BIGINT", "BIGINT UNSIGNED", whole, "number", refuses="some", always=edges),
            Case("BIGINT", "DECIMAL(10,2)", whole, "number", refuses="some", always=edges),
            Case("BIGINT", "DOUBLE", whole, "number", refuses="some", always=edges),
            Case("BIGINT", "FLOAT", integers(32), "number", "double", refuses="some",
                 always=edges),
            Case("MEDIUMINT UNSIGNED", "FLOAT", integers(24, unsigned=True), "number", "double"),
            Case("BIGINT", "YEAR", st.integers(0, 3000).map(str), "number", refuses="some",
                 always=edges),
            Case("BIGINT", "VARCHAR(5)", integers(20), "text", refuses="some", always=edges),
            Case("BIGINT", "CHAR(20)", whole, "text", always=edges),
            Case("BIGINT", "BIT(9)", integers(11), "number", refuses="some", always=edges),
            Case("BIGINT", "BIT(64)", whole, "number", refuses="some", always=edges),
            Case("BOOLEAN", "BIT(1)", st.sampled_from(["0", "1"]), "number"),
        ]
    )  # fmt: skip


async def test_decimals(bench: Bench) -> None:
    edges = ("1.005", "-0.001", "0", "0.5", "99999.99", "12345", "1.1", "1.10")
    small = decimals(8, 4)
    await bench.copies(
        [
            Case("DECIMAL(65,30)", "DECIMAL(65,30)", DECIMAL_65, "text",
                 always=["9" * 35 + "." + "9" * 30, "-" + "9" * 35 + "." + "9" * 30]),
            Case("DECIMAL(65,0)", "DECIMAL(65,0)", st.integers(0, 10**65 - 1).map(str), "text"),
            Case("DECIMAL(65,30)", "VARCHAR(191)", DECIMAL_65, "text"),
            Case("DECIMAL(8,4)", "DECIMAL(10,6)", small, "number", always=edges),
            Case("DECIMAL(8,4)", "DECIMAL(8,2)", small, "number", refuses="some", always=edges),
            Case("DECIMAL(8,4)", "DECIMAL(5,4)", small, "number", refuses="some", always=edges),
            Case("DECIMAL(8,4)", "INT", small, "number", refuses="some", always=edges),
            Case("DECIMAL(15,6)", "DOUBLE", decimals(15, 6), "number", always=edges),
            Case("DECIMAL(40,20)", "DOUBLE", decimals(28, 20), "number", refuses="some",
                 always=edges),
            Case("DECIMAL(8,4)", "FLOAT", small, "number", "double", refuses="any", always=edges),
        ]
    )  # fmt: skip


async def test_floating_point_numbers_bit_by_bit(bench: Bench) -> None:
    await bench.copies(
        [
            Case("FLOAT", "FLOAT", FLOATS, "double", always=ODD_FLOATS),
            Case("FLOAT", "DOUBLE", FLOATS, "double", always=ODD_FLOATS),
            Case("DOUBLE", "DOUBLE", DOUBLES, "double", always=ODD_DOUBLES),
            Case("DOUBLE", "FLOAT", DOUBLES | FLOATS, "double", refuses="some",
                 always=["0.1e0", "0.5e0", "1e300"]),
            Case("DOUBLE", "DECIMAL(20,4)", DOUBLES | FLOATS, "double", "number", refuses="some",
                 always=["0.5e0", "0.00001e0", "-0e0"]),
            Case("DOUBLE", "BIGINT", DOUBLES, "double", "number", refuses="some",
                 always=["5e0", "5.4e0", "-0e0", "1e18"]),
            Case("DOUBLE", "DOUBLE(12,2)", DOUBLES, "double", refuses="some",
                 always=["5e0", "5.004e0"]),
        ]
    )  # fmt: skip


async def test_bits_of_every_width(databases: Databases, write_config: WriteConfig) -> None:
    central, local = databases
    columns = ", ".join(f"b{width} BIT({width}) NULL" for width in range(1, 65))
    table = "(id BIGINT PRIMARY KEY, instance VARCHAR(20) NOT NULL, " + columns + ")"
    patterns = (0, 0x2727275C5C5C0A00, 0xFFFFFFFFFFFFFFFF, 0x8000000000000000, 0x3030303031313131,
                0x5555555555555555, 0x00000000000000FF, 1)  # fmt: skip
    rows = ", ".join(
        f"({id_}, 'nunes', "
        + ", ".join(str(pattern >> (64 - width)) for width in range(1, 65))
        + ")"
        for id_, pattern in enumerate(patterns, 1)
    )
    mirror.run(central, f"CREATE TABLE bits {table}; INSERT INTO bits VALUES {rows}")
    mirror.run(local, f"CREATE TABLE bits_here {table}")
    entities = {name: {"enabled": False} for name in CATALOGUE} | {
        "bits": {"central": "bits", "local": "bits_here", "motion": "incremental", "key": "id"}
    }
    async with one(write_config(central, {"nunes": local}, entities=entities)) as instance:
        assert await a_pass(instance) == {"bits": len(patterns)}
    asked = ", ".join(f"b{width} + 0" for width in range(1, 65))
    sent = mirror.rows(central, f"SELECT {asked} FROM bits ORDER BY id")
    assert mirror.rows(local, f"SELECT {asked} FROM bits_here ORDER BY id") == sent
    assert sent[2] == [str((1 << width) - 1) for width in range(1, 65)]


async def test_bits_into_other_columns(bench: Bench) -> None:
    odd = ("0", "1", "48", "53", "57", "32", "255")  # 48 to 57 are the digits' bytes
    wide = integers(16, unsigned=True)
    await bench.copies(
        [
            Case("BIT(8)", "BIT(16)", integers(8, unsigned=True), "number", always=odd),
            Case("BIT(16)", "BIT(8)", wide, "number", refuses="some", always=odd),
            Case("BIT(1)", "BOOLEAN", st.sampled_from(["0", "1"]), "number"),
            Case("BIT(8)", "TINYINT", integers(8, unsigned=True), "number", refuses="some",
                 always=odd),
            Case("BIT(64)", "BIGINT UNSIGNED", integers(64, unsigned=True), "number"),
            Case("BIT(16)", "VARBINARY(2)", wide, "bits", always=["256", *odd]),
            Case("BIT(16)", "VARCHAR(5)", wide, "number", always=odd),
            Case("BIT(8)", "DECIMAL(5,2)", integers(8, unsigned=True), "number", always=odd),
            Case("VARBINARY(3)", "BIT(16)", BLOBS, "bits", refuses="some",
                 always=["X'35'", "X'003535'", "X'FFFFFF'"]),
        ]
    )  # fmt: skip


async def test_years(bench: Bench) -> None:
    years = st.sampled_from(["0"]) | st.integers(1901, 2155).map(str)
    await bench.copies(
        [
            Case("YEAR", "YEAR", years, "number", always=["0", "1901", "2155", "2000"]),
            Case("YEAR", "SMALLINT", years, "number"),
            Case("YEAR", "CHAR(4)", years, "text", always=["0"]),
            Case("YEAR", "TINYINT", years, "number", refuses="some", always=["0"]),
        ]
    )


# --- texts and bytes -------------------------------------------------------------------------


async def test_texts_of_every_type(bench: Bench) -> None:
    kinds = ("CHAR(60)", "VARCHAR(60)", "TINYTEXT", "TEXT", "MEDIUMTEXT", "LONGTEXT")
    utf8 = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    await bench.copies(
        [
            *(Case(f"{kind} {utf8}", f"{kind} {utf8}", TEXTS, "text", always=ODD_TEXTS)
              for kind in kinds),
            Case(f"VARCHAR(60) {utf8}", f"LONGTEXT {utf8}", TEXTS, "text", always=ODD_TEXTS),
            Case(f"VARCHAR(60) {utf8}", "VARBINARY(240)", TEXTS, "text", "bytes",
                 always=ODD_TEXTS),
            Case(f"VARCHAR(60) {utf8}", "BLOB", TEXTS, "text", "bytes", always=ODD_TEXTS),
        ]
    )  # fmt: skip


async def test_texts_into_columns_that_hold_less(bench: Bench) -> None:
    utf8 = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    source = f"VARCHAR(400) {utf8}"
    long = st.integers(250, 260).flatmap(
        lambda size: st.sampled_from([" ", "\t", "x", "\u00a0"]).map(lambda end: "a" * size + end)
    )
    always = (*ODD_TEXTS, as_text("abc  "), as_text("abc\t"), as_text("abcd"), as_text("ab   "))
    await bench.copies(
        [
            Case(source, f"VARCHAR(3) {utf8}", TEXTS, "text", refuses="some", always=always),
            Case(source, f"CHAR(200) {utf8}", TEXTS, "text",
                 refuses="some", always=always),
            Case(f"CHAR(9) {utf8}", f"CHAR(3) {utf8}", TEXTS, "text", refuses="some",
                 always=always),
            Case(source, f"TINYTEXT {utf8}", long.map(as_text), "text", refuses="some",
                 always=always),
            Case(source, "VARBINARY(3)", TEXTS, "text", "bytes", refuses="some", always=always),
            Case(source, "BINARY(3)", TEXTS, "text", "bytes", refuses="some", always=always),
            Case(source, "VARCHAR(400) CHARACTER SET ascii", TEXTS, "text", refuses="some",
                 always=always),
            Case(source, "VARCHAR(400) CHARACTER SET utf8mb3", TEXTS, "text", refuses="some",
                 always=always),
            Case(source, "VARCHAR(400) CHARACTER SET ucs2", TEXTS, "text", refuses="some",
                 always=always),
            Case(source, "VARCHAR(400) CHARACTER SET utf16", TEXTS, "text", always=always),
        ]
    )  # fmt: skip


async def test_texts_where_something_else_is_expected(bench: Bench) -> None:
    source = "VARCHAR(60) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    numbers = spelled("5", "05", " 5", "5 ", "5.0", "5.4", "1e1", "1e-400", "-0", "", "abc", "5x",
                      "0x10", "2147483648", "9" * 50, "0.1", "1_0", "٣")  # fmt: skip
    times = spelled("2026-01-01", "2026-01-01 10:00:00", "2026-01-01T10:00:00", "20260101", "10:00",
                    "10:00:00", "1", "", "2026-1-1", "0000-00-00", "2026-02-31", "26-01-01", "x",
                    "2026-01-01 10:00:00.123456")  # fmt: skip
    words = spelled("a", "A", "b", "a ", "2", "1", "0", "", "a,b", "b,a", "é", "e", "c")
    documents = spelled('{"a":1,"a":2}', "[1.10]", "[0.12345678901234567890]", "5", "null", "x",
                        '{"b":1, "a":2}', '"\\u00e9"', "[1e400]", "", " [1] ")  # fmt: skip
    await bench.copies(
        [
            Case(source, "INT", numbers, "number", refuses="some"),
            Case(source, "DOUBLE", numbers, "number", "double", refuses="some"),
            Case(source, "DECIMAL(9,2)", numbers, "number", refuses="some"),
            Case(source, "YEAR", numbers | spelled("2026", "1901"), "number", refuses="some"),
            Case(source, "DATE", times, "moment", refuses="some"),
            Case(source, "DATETIME(3)", times, "moment", refuses="some"),
            Case(source, "TIME", times, "moment", refuses="some"),
            Case(source, "ENUM('a','b','1')", words, "text", refuses="some"),
            Case(source, "SET('a','b')", words, "text", refuses="some"),
            Case(source, "JSON", documents, "document", refuses="some"),
        ]
    )  # fmt: skip


async def test_texts_in_other_character_sets(bench: Bench) -> None:
    utf8 = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    latin1 = st.binary(max_size=20).map(lambda text: f"_latin1 X'{text.hex()}'")
    accents = st.integers(1, 127).map(lambda size: f"_latin1 X'{'E9' * size}{'20' * size}'")
    chinese = st.text(st.sampled_from("中文字符啊·—～a? \t"), max_size=8).map(as_text)
    pairs = st.lists(
        st.tuples(st.integers(0x81, 0xFE), st.integers(0x80, 0xFE)).map(bytes), max_size=3
    ).map(lambda parts: f"_gbk X'{b''.join(parts).hex()}'")
    cyrillic = st.binary(max_size=5).map(lambda text: f"_cp1251 X'{text.hex()}'")
    kana = st.text(st.sampled_from("表ソ¥\\~‾—―∥‖－a"), max_size=5).map(as_text)
    await bench.copies(
        [
            Case("VARCHAR(60) CHARACTER SET latin1", f"VARCHAR(60) {utf8}", latin1, "text",
                 always=["_latin1 X'8081A0FF27225C00'"]),
            Case("VARCHAR(60) CHARACTER SET latin1", "VARCHAR(60) CHARACTER SET latin1", latin1,
                 "text"),
            Case(f"VARCHAR(60) {utf8}", "VARCHAR(60) CHARACTER SET latin1", TEXTS, "text",
                 refuses="some", always=ODD_TEXTS),
            Case("TINYTEXT CHARACTER SET latin1", f"TINYTEXT {utf8}",
                 accents, "text", refuses="some", always=["_latin1 X'E9'"]),
            Case("VARCHAR(60) CHARACTER SET gbk", f"VARCHAR(60) {utf8}", chinese, "text"),
            Case("VARCHAR(60) CHARACTER SET gbk", "VARCHAR(60) CHARACTER SET gbk", chinese, "text"),
            Case(f"VARCHAR(60) {utf8}", "VARCHAR(60) CHARACTER SET gbk", chinese | TEXTS, "text",
                 refuses="some", always=ODD_TEXTS),
            Case("VARCHAR(60) CHARACTER SET gbk", "VARCHAR(60) CHARACTER SET gbk", pairs, "bytes",
                 refuses="some", always=["_gbk X'FEFE'", "_gbk X'FEFE3F'", "_gbk X'3F'"]),
            Case("VARCHAR(60) CHARACTER SET gbk", "BLOB", pairs, "text", "bytes", refuses="some",
                 always=["_gbk X'FEFE'"]),
            Case("VARCHAR(60) CHARACTER SET cp1251", f"VARCHAR(60) {utf8}", cyrillic, "text",
                 refuses="some", always=["_cp1251 X'98'", "_cp1251 X'3F'"]),
            Case(f"VARCHAR(60) {utf8}", "VARCHAR(60) CHARACTER SET sjis", kana, "text",
                 refuses="some"),
            Case("VARCHAR(60) CHARACTER SET cp932", f"VARCHAR(60) {utf8}", kana, "text",
                 always=["_cp932 X'8790'", "_cp932 X'81E0'"]),
        ]
    )  # fmt: skip


async def test_bytes_of_every_type(bench: Bench) -> None:
    kinds = ("BINARY(40)", "VARBINARY(300)", "TINYBLOB", "BLOB", "MEDIUMBLOB", "LONGBLOB")
    odd = (as_bytes(b""), as_bytes(b"\0"), as_bytes(b"a "), as_bytes(b"\xff'\\\""))
    await bench.copies(
        [
            *(Case(kind, kind, BLOBS, always=odd) for kind in kinds),
            Case("BLOB", "LONGBLOB", BLOBS, always=[EVERY_BYTE]),
            Case("BINARY(5)", "VARBINARY(5)", BLOBS, always=odd),
            Case("BLOB", "BLOB", BLOBS, always=[EVERY_BYTE, as_bytes(bytes(range(255, -1, -1)))]),
        ]
    )


async def test_bytes_into_columns_that_hold_less(bench: Bench) -> None:
    utf8 = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    always = tuple(
        as_bytes(value)
        for value in (b"", b"abc", b"abc ", b"abc\0", b"abc\t", b"ab", b"\xc3\xa9", b"\xc3", b"5",
                      b"12345")
    )  # fmt: skip
    await bench.copies(
        [
            Case("BLOB", "VARBINARY(3)", BLOBS, refuses="some", always=always),
            Case("BLOB", "TINYBLOB", BLOBS, refuses="some", always=[EVERY_BYTE, *always]),
            Case("VARBINARY(40)", "BINARY(5)", BLOBS, refuses="some", always=always),
            Case("BLOB", f"VARCHAR(60) {utf8}", BLOBS, "bytes", "text", refuses="some",
                 always=always),
            Case("BLOB", "VARCHAR(60) CHARACTER SET latin1", BLOBS, "bytes", "text",
                 refuses="some", always=always),
            Case("BLOB", "VARCHAR(60) CHARACTER SET gbk", BLOBS, "bytes", "text", refuses="some",
                 always=always),
            Case("VARBINARY(5)", "TINYTEXT", BLOBS, "bytes", "text", refuses="some",
                 always=always),
        ]
    )  # fmt: skip


# --- words, documents, shapes ----------------------------------------------------------------


async def test_enums_and_sets(bench: Bench) -> None:
    odd = "'a','it''s','é','😀','100%','x y','','2'"
    members = spelled("a", "it's", "é", "😀", "100%", "x y", "", "2")
    words = "'a','b','c d','é'"
    chosen = st.integers(0, 15).map(str)
    digits = spelled("1", "2", "3")
    utf8 = "CHARACTER SET utf8mb4"
    await bench.copies(
        [
            Case(f"ENUM({odd}) {utf8}", f"ENUM({odd}) {utf8}", members, "text"),
            Case(f"ENUM({odd}) {utf8}", f"VARCHAR(9) {utf8}", members, "text"),
            Case(f"ENUM({odd}) {utf8}", f"ENUM('z','2','a') {utf8}", members, "text",
                 refuses="some"),
            Case(f"SET({words}) {utf8}", f"SET({words}) {utf8}", chosen, "text"),
            Case(f"SET({words}) {utf8}", f"SET('z',{words}) {utf8}", chosen, "text"),
            Case(f"SET({words}) {utf8}", f"SET('é','b','a') {utf8}", chosen, "text",
                 refuses="some"),
            Case(f"SET({words}) {utf8}", f"SET('é','c d','b','a') {utf8}", chosen, "text",
                 refuses="some"),
            Case(f"SET({words}) {utf8}", f"VARCHAR(20) {utf8}", chosen, "text"),
            Case("ENUM('1','2','3')", "ENUM('3','1')", digits, "text", refuses="some"),
            Case("ENUM('1','2','3')", "INT", digits, "text"),
            Case("ENUM('1','2','3')", "SET('3','1')", digits, "text", refuses="some"),
            Case(f"ENUM('a','B') {utf8}", f"ENUM('A','B') {utf8}", spelled("a", "B"), "text",
                 refuses="some"),
            # The error value of an ENUM, number 0, prints as an empty text: it is no member.
            Case("ENUM('a','b')", "ENUM('a','b')", st.sampled_from(["'a'", "'wrong'"]), "text",
                 refuses="some"),
        ]
    )  # fmt: skip


async def test_documents(bench: Bench) -> None:
    odd = tuple(
        as_text(text)
        for text in (
            '{"a": "\\u0000\\"\\\\"}', "[]", "{}", '"😀"', "1.10", "-0.0", "1e100", "null", "true",
            "18446744073709551615", "123456789012345678901234567890", "0.1234567890123456789",
        )
    )  # fmt: skip
    await bench.copies(
        [
            Case("JSON", "JSON", DOCUMENTS, "document", refuses="any", always=odd),
            Case("JSON", "LONGTEXT CHARACTER SET utf8mb4", DOCUMENTS, "text", always=odd),
            Case("JSON", "LONGBLOB", DOCUMENTS, "text", "bytes", always=odd),
            Case(
                "LONGTEXT CHARACTER SET utf8mb4",
                "JSON",
                DOCUMENTS,
                "document",
                refuses="some",
                # Too deep for either server, and no documents.
                always=[*odd, as_text("[" * 200 + "]" * 200), as_text("x"), as_text("")],
            ),
        ]
    )


async def test_shapes_with_their_reference_system(bench: Bench) -> None:
    points = shapes().filter(lambda text: "'POINT" in text)
    # Only MySQL can tie a column to one reference system.
    ((version,),) = mirror.rows(bench.databases.local, "SELECT VERSION()")
    tied = (
        [] if "MariaDB" in version else [Case("POINT", "POINT SRID 4326", points, refuses="some")]
    )
    await bench.copies(
        [
            Case("GEOMETRY", "GEOMETRY", shapes()),
            Case("POINT", "POINT", points),
            Case("POINT", "GEOMETRY", points),
            Case("GEOMETRY", "LONGBLOB", shapes()),
            Case("GEOMETRY", "POINT", shapes(), refuses="some"),
            *tied,
        ]
    )


# --- time ------------------------------------------------------------------------------------


async def test_moments(bench: Bench) -> None:
    await bench.copies(
        [
            Case("DATE", "DATE", moments(), "moment", always=ODD_MOMENTS),
            Case("DATETIME(6)", "DATETIME(6)", moments(), "moment", always=ODD_MOMENTS),
            Case("DATETIME(3)", "DATETIME(6)", moments(), "moment", always=ODD_MOMENTS),
            Case("DATETIME", "DATETIME", moments(), "moment", always=ODD_MOMENTS),
            Case("DATE", "DATETIME(3)", moments(), "moment", always=ODD_MOMENTS),
            Case("DATETIME(6)", "VARCHAR(26)", moments(), "text", always=ODD_MOMENTS),
            Case("TIME(6)", "TIME(6)", durations(), "moment", always=ODD_DURATIONS),
            Case("TIME", "TIME(3)", durations(), "moment", always=ODD_DURATIONS),
            Case("TIME(6)", "CHAR(20)", durations(), "text", always=ODD_DURATIONS),
            Case("TIMESTAMP(6)", "TIMESTAMP(6)", INSTANTS, "moment",
                 always=["'0000-00-00 00:00:00'", "FROM_UNIXTIME(2147483647.999999)"]),
            Case("TIMESTAMP(6)", "DATETIME(6)", INSTANTS, "moment",
                 always=["'0000-00-00 00:00:00'"]),
        ]
    )  # fmt: skip


async def test_moments_into_columns_that_hold_less(bench: Bench) -> None:
    near = moments(years=(1965, 2045))
    await bench.copies(
        [
            # The fraction is cut, and never rounded up into another second, day or year.
            Case("DATETIME(6)", "DATETIME", moments(), "moment", always=ODD_MOMENTS),
            Case("DATETIME(6)", "DATETIME(3)", moments(), "moment", always=ODD_MOMENTS),
            Case("TIME(6)", "TIME(1)", durations(), "moment", always=ODD_DURATIONS),
            Case("TIMESTAMP(6)", "TIMESTAMP", INSTANTS, "moment"),
            Case("DATETIME(6)", "TIMESTAMP", near, "moment", refuses="some", always=ODD_MOMENTS),
            Case("DATETIME(6)", "DATE", near, "moment", refuses="some", always=ODD_MOMENTS),
            Case("DATE", "TIMESTAMP", near, "moment", refuses="some",
                 always=["'2026-01-01'", "'1969-01-01'"]),
            Case("DATETIME", "VARCHAR(19)", near, "text", always=ODD_MOMENTS),
        ]
    )  # fmt: skip


ZONES = """
DELETE FROM mysql.time_zone_name WHERE Time_zone_id IN (901, 902);
DELETE FROM mysql.time_zone WHERE Time_zone_id IN (901, 902);
DELETE FROM mysql.time_zone_transition_type WHERE Time_zone_id IN (901, 902);
DELETE FROM mysql.time_zone_transition WHERE Time_zone_id IN (901, 902);
INSERT INTO mysql.time_zone (Time_zone_id, Use_leap_seconds) VALUES (901, 'N'), (902, 'N');
INSERT INTO mysql.time_zone_name (Name, Time_zone_id) VALUES ('Test/North', 901),
    ('Test/South', 902);
INSERT INTO mysql.time_zone_transition_type
    (Time_zone_id, Transition_type_id, `Offset`, Is_DST, Abbreviation)
    VALUES (901, 0, 3600, 0, 'N'), (901, 1, 7200, 1, 'NS'), (902, 0, -10800, 0, 'S'),
    (902, 1, -7200, 1, 'SS');
INSERT INTO mysql.time_zone_transition (Time_zone_id, Transition_time, Transition_type_id)
    VALUES (901, 1774746000, 1), (901, 1792890000, 0), (902, 1774746000, 0), (902, 1792890000, 1);
"""
CHANGES_OF_THE_CLOCK = (1774746000, 1792890000)


async def test_the_hours_that_a_change_of_the_clock_repeats_or_leaves_out(bench: Bench) -> None:
    """Both servers live in time zones whose clocks change in those hours, in opposite directions;
    the instants and the wall clock's readings around them arrive all the same."""
    central, local = bench.databases
    seconds = [t + 900 * n for t in CHANGES_OF_THE_CLOCK for n in range(-16, 17)]
    instants = st.sampled_from([f"FROM_UNIXTIME({second})" for second in seconds])
    always = [f"FROM_UNIXTIME({second})" for second in seconds]
    before = {}
    for server, zone in ((central, "Test/North"), (local, "Test/South")):
        before[zone] = mirror.rows(server, "SELECT @@GLOBAL.time_zone")[0][0]
        mirror.run(server, ZONES)
        mirror.run(server, f"SET GLOBAL time_zone = '{zone}'")
    try:
        there = mirror.rows(central, "SELECT FROM_UNIXTIME(1774745999), FROM_UNIXTIME(1774746000)")
        assert there == [["2026-03-29 01:59:59", "2026-03-29 03:00:00"]], "the zone is in force"
        await bench.copies(
            [
                Case("TIMESTAMP(3)", "TIMESTAMP(3)", instants, "moment", always=always),
                Case("TIMESTAMP(3)", "DATETIME(3)", instants, "moment", always=always),
                Case("DATETIME(3)", "TIMESTAMP(3)", instants, "moment", always=always),
                Case("DATETIME(3)", "DATETIME(3)", instants, "moment", always=always),
            ]
        )
    finally:
        for server, zone in ((central, "Test/North"), (local, "Test/South")):
            mirror.run(server, f"SET GLOBAL time_zone = '{before[zone]}'")


async def test_generated_columns_on_either_side(
    databases: Databases, write_config: WriteConfig
) -> None:
    """Central's are read and stand as plain values; local ones are left to the local server."""
    central, local = databases
    mirror.run(
        central,
        "CREATE TABLE sent (id BIGINT AUTO_INCREMENT PRIMARY KEY, instance VARCHAR(20) NOT NULL,"
        " a INT, kept VARBINARY(9) AS (CONCAT('<', a, '>')) STORED,"
        " computed INT AS (a + 1) VIRTUAL, here_too INT);"
        "INSERT INTO sent (instance, a, here_too) VALUES ('nunes', 7, 3), ('nunes', NULL, 4)",
    )
    mirror.run(
        local,
        "CREATE TABLE stands (id BIGINT PRIMARY KEY, instance VARCHAR(20) NOT NULL, a INT,"
        " kept VARBINARY(9), computed INT, here_too INT AS (a * 10) STORED,"
        " only_here INT AS (a * 100) VIRTUAL)",
    )
    entities = {name: {"enabled": False} for name in CATALOGUE} | {
        "one": {"central": "sent", "local": "stands", "motion": "incremental", "key": "id"}
    }
    async with one(write_config(central, {"nunes": local}, entities=entities)) as instance:
        assert await a_pass(instance) == {"one": 2}
    assert mirror.rows(local, "SELECT id, a, kept, computed, here_too, only_here FROM stands") == [
        ["1", "7", "<7>", "8", "70", "700"],
        ["2", "NULL", "NULL", "NULL", "NULL", "NULL"],
    ]
