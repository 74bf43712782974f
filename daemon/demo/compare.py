"""Whether a local table holds exactly an instance's central rows, value for value, byte for byte.

It shares nothing with the daemon, so that a fault of the daemon cannot hide itself: it reads both
sides with the `mariadb` command-line client, asks the servers for every value in hexadecimal, and
compares in Python. It reads in key order and in bounded chunks. While rows still arrive, it finds
the differences of that moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from daemon.demo.server import client
from daemon.errors import WppSyncError

# Rows of one read.
CHUNK_ROWS = 5_000

# How many differences a comparison keeps as examples.
MAX_EXAMPLES = 5

# Types by how their values are made comparable; all others are text.
INTEGERS = frozenset({"tinyint", "smallint", "mediumint", "int", "bigint", "year"})
BINARIES = frozenset(
    {"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"}
    | {"geometry", "point", "linestring", "polygon", "multipoint", "multilinestring"}
    | {"multipolygon", "geometrycollection"}
)
# FLOAT prints six digits unless it is made a DOUBLE; BIT prints raw bytes unless made a number.
NUMBERS_TO_CONVERT = {"float": " + 0e0", "bit": " + 0"}

# The ids of each contact's latest message.
LATEST_IDS = """\
SELECT MAX(one.id) FROM wpp_messages AS one JOIN (
    SELECT HEX(CONVERT(instance USING utf8mb4)) AS owner, contact_id, MAX(sent_at) AS sent_at
    FROM wpp_messages WHERE contact_id IS NOT NULL GROUP BY owner, contact_id
) AS newest ON one.contact_id = newest.contact_id AND one.sent_at = newest.sent_at
    AND HEX(CONVERT(one.instance USING utf8mb4)) = newest.owner
GROUP BY newest.owner, newest.contact_id"""

Value = bytes | None
KeyPart = int | bytes


@dataclass(frozen=True, slots=True)
class Row:
    """One row of either side: its key, by which rows are matched, and the compared values."""

    key: tuple[KeyPart, ...]
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Column:
    """A column as information_schema describes it: its name and its DATA_TYPE."""

    name: str
    type: str


@dataclass(frozen=True)
class Pair:
    """A local column and the central column whose values it mirrors."""

    local: Column
    central: Column


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is compared: one entity of one instance.

    `key` are central columns that are unique on both sides. `rename` maps a local column to the
    central one where their names differ. `where` is a further condition on the central rows.
    """

    instance: str
    entity: str
    central_table: str
    local_table: str
    key: tuple[str, ...] = ("id",)
    rename: Mapping[str, str] = field(default_factory=dict)
    instance_column: str | None = "instance"
    where: str | None = None


@dataclass(frozen=True)
class Differences:
    """What `merge` found; `examples` are the first few, readable."""

    rows_central: int
    rows_local: int
    missing: int
    extra: int
    differing: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """The result for one entity of one instance.

    `missing` rows are only in central, `extra` ones only in local, `differing` ones in both with
    at least one other value.
    """

    instance: str
    entity: str
    columns: int
    rows_central: int
    rows_local: int
    missing: int
    extra: int
    differing: int
    examples: tuple[str, ...]

    @property
    def equal(self) -> bool:
        return not (self.missing or self.extra or self.differing)


def subject(instance: str, entity: str) -> Subject:
    """Return how one of the five built-in entities is compared. Raises KeyError for others."""
    make = partial(Subject, instance=instance, entity=entity)
    match entity:
        case "messages":
            return make(central_table="messages", local_table="wpp_messages")
        case "chats":
            return make(
                central_table="chats", local_table="wpp_chats", rename={"original_id": "id"}
            )
        case "contacts":
            return make(central_table="contacts", local_table="wpp_contacts")
        case "schedules":
            return make(central_table="schedules", local_table="wpp_schedules")
        case "contact_sectors":
            owned = f"SELECT id FROM contacts WHERE {_belongs_to('instance', instance)}"
            return make(
                central_table="contacts_sectors",
                local_table="wpp_contact_sectors",
                key=("contactId", "sectorId"),
                rename={"contact_id": "contactId", "sector_id": "sectorId"},
                instance_column=None,
                where=f"contactId IN ({owned})",
            )
        case _:
            raise KeyError(entity)


def compare(
    central: Mapping[str, object],
    local: Mapping[str, object],
    what: Subject,
    *,
    chunk_rows: int = CHUNK_ROWS,
) -> Comparison:
    """Compare all of an instance's rows of one entity on both sides.

    `central` and `local` are servers as `MariaDB.config` returns them. Blocks; an event loop calls
    it in a thread. Raises WppSyncError when a table cannot be read or has no common columns.
    """
    pairs = pair_columns(
        columns(central, what.central_table), columns(local, what.local_table), what.rename
    )
    conditions = [what.where] if what.where else []
    if what.instance_column is not None:
        conditions.append(_belongs_to(_name(what.instance_column), what.instance))
    return _compare(central, local, what, pairs, conditions, chunk_rows)


def compare_derived(
    local: Mapping[str, object], instance: str, *, chunk_rows: int = CHUNK_ROWS
) -> Comparison:
    """Compare wpp_last_messages with what one query over wpp_messages gives: of each contact the
    message with the highest sent_at, and of several such the one with the highest id.

    In the result that query stands in central's place. Otherwise as `compare`.
    """
    what = Subject(
        instance=instance,
        entity="last_messages",
        central_table="wpp_messages",
        local_table="wpp_last_messages",
        key=("instance", "contact_id"),
    )
    pairs = pair_columns(columns(local, what.central_table), columns(local, what.local_table), {})
    latest = f"id IN ({LATEST_IDS})"
    return _compare(local, local, what, pairs, [latest], chunk_rows)


def _compare(
    central: Mapping[str, object],
    local: Mapping[str, object],
    what: Subject,
    pairs: Sequence[Pair],
    conditions: Sequence[str],
    chunk_rows: int,
) -> Comparison:
    """Compare the central rows that meet the conditions with the whole local table."""
    key = _key_pairs(pairs, what)
    found = merge(
        _rows(
            central,
            what.central_table,
            key=[pair.central for pair in key],
            values=[pair.central for pair in pairs],
            conditions=conditions,
            chunk_rows=chunk_rows,
        ),
        _rows(
            local,
            what.local_table,
            key=[pair.local for pair in key],
            values=[pair.local for pair in pairs],
            # The whole table: what another instance's row would be doing there is our question.
            conditions=[],
            chunk_rows=chunk_rows,
        ),
        [pair.local.name for pair in pairs],
    )
    return Comparison(
        instance=what.instance,
        entity=what.entity,
        columns=len(pairs),
        rows_central=found.rows_central,
        rows_local=found.rows_local,
        missing=found.missing,
        extra=found.extra,
        differing=found.differing,
        examples=found.examples,
    )


def columns(server: Mapping[str, object], table: str) -> tuple[Column, ...]:
    """Return a table's columns in order, without generated ones, which nobody writes.

    Raises WppSyncError when the table does not exist.
    """
    answer = client(
        server,
        "SELECT column_name, data_type FROM information_schema.columns"
        f" WHERE table_schema = DATABASE() AND table_name = {_literal(table.encode())}"
        " AND COALESCE(generation_expression, '') = '' ORDER BY ordinal_position",
        "--skip-column-names",
    )
    found = [line.split("\t") for line in answer.decode().splitlines()]
    if not found:
        raise WppSyncError(f"there is no table {table} in {server['database']}", code="schema")
    return tuple(Column(name, type_.lower()) for name, type_ in found)


def pair_columns(
    central: Sequence[Column], local: Sequence[Column], rename: Mapping[str, str]
) -> tuple[Pair, ...]:
    """Pair columns by name, a local one in `rename` with the central one it names.

    Upper and lower case are the same, as the servers have it. Columns that only one side has are
    left out; the order is the local table's.
    """
    by_name = {column.name.casefold(): column for column in central}
    renamed = {name.casefold(): other.casefold() for name, other in rename.items()}
    wanted = ((column, renamed.get(name := column.name.casefold(), name)) for column in local)
    return tuple(Pair(column, by_name[name]) for column, name in wanted if name in by_name)


def merge(
    central: Iterable[Row],
    local: Iterable[Row],
    names: Sequence[str],
    *,
    max_examples: int = MAX_EXAMPLES,
) -> Differences:
    """Compare two streams of rows in ascending order of their keys.

    `names` are the names of the values. A key that stands twice on one side counts as one row too
    many there. Raises ValueError when a stream is not in order.
    """
    both = missing = extra = differing = 0
    examples: list[str] = []
    for match in _matched(_ordered(central), _ordered(local)):
        example = ""
        match match:
            case (Row() as mine, None):
                missing += 1
                example = f"{_show_key(mine.key)} is missing"
            case (None, Row() as theirs):
                extra += 1
                example = f"{_show_key(theirs.key)} is not in central"
            case (Row() as mine, Row() as theirs):
                both += 1
                if mine.values != theirs.values:
                    differing += 1
                    example = f"{_show_key(mine.key)}: {_difference(mine, theirs, names)}"
        if example and len(examples) < max_examples:
            examples.append(example)
    return Differences(both + missing, both + extra, missing, extra, differing, tuple(examples))


def report(comparisons: Sequence[Comparison]) -> str:
    """Return the results as aligned lines for a terminal, differences with their examples."""
    table = [
        (_printable(one.instance), one.entity, _sizes(one), _verdict(one)) for one in comparisons
    ]
    widths = [max((len(line[place]) for line in table), default=0) for place in range(3)]
    lines = []
    for one, cells in zip(comparisons, table, strict=True):
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
        lines.append("  ".join([*padded, cells[3]]))
        lines += [f"    {example}" for example in one.examples]
    return "\n".join(lines)


def _sizes(one: Comparison) -> str:
    rows = f"{one.rows_central:,}"
    if one.rows_central != one.rows_local:
        rows = f"{one.rows_central:,} central and {one.rows_local:,} local"
    return f"{rows} rows, {one.columns} columns"


def _verdict(one: Comparison) -> str:
    if one.equal:
        return "equal"
    return f"DIFFERENT: {one.missing:,} missing, {one.extra:,} extra, {one.differing:,} differing"


def _ordered(rows: Iterable[Row]) -> Iterator[Row]:
    previous: Row | None = None
    for row in rows:
        if previous is not None and row.key < previous.key:
            raise ValueError(f"{_show_key(row.key)} comes after {_show_key(previous.key)}")
        yield row
        previous = row


def _matched(
    central: Iterator[Row], local: Iterator[Row]
) -> Iterator[tuple[Row | None, Row | None]]:
    """Rows with the same key together, the others with None in the other's place."""
    mine, theirs = next(central, None), next(local, None)
    while mine is not None and theirs is not None:
        if mine.key < theirs.key:
            yield mine, None
            mine = next(central, None)
        elif theirs.key < mine.key:
            yield None, theirs
            theirs = next(local, None)
        else:
            yield mine, theirs
            mine, theirs = next(central, None), next(local, None)
    while mine is not None:
        yield mine, None
        mine = next(central, None)
    while theirs is not None:
        yield None, theirs
        theirs = next(local, None)


def _difference(mine: Row, theirs: Row, names: Sequence[str]) -> str:
    parts = [
        f"{name} is {_show(there)}, in central {_show(here)}"
        for name, here, there in zip(names, mine.values, theirs.values, strict=True)
        if here != there
    ]
    more = f" and {len(parts) - 1} more" if len(parts) > 1 else ""
    return parts[0] + more


def _show_key(key: tuple[KeyPart, ...]) -> str:
    return ", ".join(str(part) if isinstance(part, int) else _show(part) for part in key)


def _show(value: Value) -> str:
    """A value for an operator's eyes: control characters escaped, long ones cut."""
    if value is None:
        return "NULL"
    shown = repr(value.decode(errors="backslashreplace"))
    return shown if len(shown) <= 60 else f"{shown[:50]}… ({len(value):,} bytes)"


def _printable(name: str) -> str:
    return name if name.isprintable() and name == name.strip() else repr(name)


def _key_pairs(pairs: Sequence[Pair], what: Subject) -> list[Pair]:
    """The pairs that make the key, in the key's order."""
    found: list[Pair] = []
    for name in what.key:
        pair = next((pair for pair in pairs if pair.central.name == name), None)
        if pair is None:
            raise WppSyncError(
                f"{what.local_table} has no counterpart of the key column {name}", code="schema"
            )
        if (pair.local.type in INTEGERS) != (pair.central.type in INTEGERS):
            raise WppSyncError(
                f"{what.local_table}.{pair.local.name} is {pair.local.type}, but the key column"
                f" {name} is {pair.central.type}: they sort differently",
                code="schema",
            )
        found.append(pair)
    return found


def _rows(
    server: Mapping[str, object],
    table: str,
    *,
    key: Sequence[Column],
    values: Sequence[Column],
    conditions: Sequence[str],
    chunk_rows: int,
) -> Iterator[Row]:
    """All rows in key order, one chunk in memory at a time."""
    order = [_sort_expression(column) for column in key]
    chosen = ", ".join(f"HEX({_bytes_of(column)})" for column in (*key, *values))
    after: tuple[KeyPart, ...] | None = None
    while True:
        bounds = [*conditions, *([_beyond(order, after)] if after else [])]
        where = " AND ".join(f"({bound})" for bound in bounds) or "TRUE"
        answer = client(
            server,
            # TIMESTAMP columns are printed in the session's time zone.
            "SET time_zone = '+00:00', sql_mode = '';\n"
            f"SELECT {chosen} FROM {_name(table)} WHERE {where}"
            f" ORDER BY {', '.join(order)} LIMIT {chunk_rows};\n",
            "--skip-column-names",
            "--quick",
        )
        lines = answer.split(b"\n")[:-1]
        for line in lines:
            cells = [_unhex(cell) for cell in line.split(b"\t")]
            after = tuple(_key_part(column, cell) for column, cell in zip(key, cells, strict=False))
            yield Row(after, tuple(cells[len(key) :]))
        if len(lines) < chunk_rows:
            return


def _unhex(cell: bytes) -> Value:
    # NULL is no hexadecimal number.
    return None if cell == b"NULL" else bytes.fromhex(cell.decode("ascii"))


def _key_part(column: Column, cell: Value) -> KeyPart:
    if cell is None:
        raise WppSyncError(f"the key column {column.name} contains a NULL", code="schema")
    return int(cell) if column.type in INTEGERS else cell


def _bytes_of(column: Column) -> str:
    """An expression for the column's value as text in UTF-8, or as it is if it is binary."""
    name = _name(column.name)
    if column.type in BINARIES:
        return name
    if column.type in NUMBERS_TO_CONVERT:
        name += NUMBERS_TO_CONVERT[column.type]
    return f"CAST(CONVERT({name} USING utf8mb4) AS BINARY)"


def _sort_expression(column: Column) -> str:
    """An expression that sorts on both servers as Python sorts the key, by index if it can."""
    return _name(column.name) if column.type in INTEGERS else _bytes_of(column)


def _beyond(order: Sequence[str], after: tuple[KeyPart, ...]) -> str:
    """The condition for keys after `after`, spelled out: servers use no index for (a, b) > (…)."""
    alternatives = []
    for place, part in enumerate(after):
        same = [f"{order[i]} = {_literal(after[i])}" for i in range(place)]
        alternatives.append(" AND ".join([*same, f"{order[place]} > {_literal(part)}"]))
    return " OR ".join(alternatives)


def _belongs_to(column: str, instance: str) -> str:
    """A byte for byte comparison; the first one, by collation, is there for the index."""
    literal = _literal(instance.encode())
    return (
        f"{column} = _utf8mb4 {literal}"
        f" AND CAST(CONVERT({column} USING utf8mb4) AS BINARY) = {literal}"
    )


def _literal(value: KeyPart) -> str:
    """A literal that no quoting rule of a server can change."""
    return str(value) if isinstance(value, int) else f"X'{value.hex()}'"


def _name(name: str) -> str:
    quoted = name.replace("`", "``")
    return f"`{quoted}`"
