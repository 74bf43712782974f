"""Every statement of the daemon as text. Pure: nothing here executes anything.

A builder returns a `Statement`; `render` turns it into the bytes that go to the server. Identifiers
are quoted by `quote` alone, values are written by `literal` alone. Both rest on the session that
`daemon.db` sets up: utf8mb4, and NO_BACKSLASH_ESCAPES, under which the quote is the only character
with a meaning inside a string (MySQL manual, "String Literals").
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from daemon.entities import Entity, Through


class Text(bytes):
    """utf8mb4 text as a server printed it: written back as text, not as a binary string."""


Value = None | bool | int | str | bytes
Row = tuple[bytes | None, ...]
"""A row as a server printed it: text protocol bytes, None for NULL."""

Key = int | tuple[int, ...]
"""The key of a row: a number, or for a key of several columns a tuple of numbers."""

_UNSIGNED = re.compile(r"[^\w .:+-]", re.ASCII)


class Range(NamedTuple):
    """A range of a table's first key column: low <= key < high; None is open."""

    low: int | None
    high: int | None


class Statement(NamedTuple):
    """SQL with `%s` for each value (and `%%` for a percent sign), its values, and who asks."""

    sql: str
    args: tuple[Value, ...] = ()
    note: str = ""


@lru_cache(maxsize=4096)
def quote(identifier: str) -> str:
    """`identifier` in backticks, and `%` doubled, ready to stand in a Statement.

    Raises ValueError for what no server accepts as a name (empty, over 64 characters, NUL).
    """
    if not identifier or len(identifier) > 64 or "\0" in identifier:
        raise ValueError(f"not a possible name of a table or column: {identifier!r}")
    return "`" + identifier.replace("`", "``").replace("%", "%%") + "`"


def literal(value: Value) -> bytes:
    """`value` as an SQL literal; str and Text as utf8mb4 text, other bytes as a binary string."""
    if value is None:
        return b"NULL"
    if isinstance(value, int):
        return b"%d" % value  # a bool, too: 1 or 0
    if isinstance(value, str):
        value = Text(value.encode())
    if isinstance(value, Text):
        return b"'" + value.replace(b"'", b"''") + b"'"
    return b"_binary'" + value.replace(b"'", b"''") + b"'"


def comment(note: str) -> bytes:
    """The signature that a DBA reads in the process list: `/* wpp-sync nunes messages */ `.

    Only harmless characters are kept, so that no name can end the comment or begin a hint.
    """
    return b"/* wpp-sync " + _UNSIGNED.sub("?", note).encode()[:200] + b" */ "


def render(statement: Statement) -> bytes:
    """The bytes to send. Raises TypeError when the number of values is wrong."""
    sql = statement.sql.encode() % tuple(literal(arg) for arg in statement.args)
    return comment(statement.note) + sql


def condition(sql: str) -> str:
    """An operator's own SQL condition, made fit to stand in a Statement."""
    return "(" + sql.replace("%", "%%") + ")"


def names(columns: Iterable[str]) -> str:
    """Column names, quoted, separated by commas."""
    return ", ".join(quote(column) for column in columns)


def parts(key: Key) -> tuple[int, ...]:
    """A key's columns."""
    return key if isinstance(key, tuple) else (key,)


def among(columns: Sequence[str], keys: Collection[Key]) -> Statement:
    """The condition "the key is one of these"; at least one.

    A key of several columns is told twice: MariaDB finds no range in a comparison of rows.
    """
    args = [parts(key) for key in keys]
    if len(columns) == 1:
        marks = ", ".join(["%s"] * len(args))
        return Statement(f"{quote(columns[0])} IN ({marks})", tuple(arg for (arg,) in args))
    firsts = sorted({arg[0] for arg in args})
    row = "(" + ", ".join(["%s"] * len(columns)) + ")"
    return Statement(
        f"{quote(columns[0])} IN ({', '.join(['%s'] * len(firsts))})"
        f" AND ({names(columns)}) IN ({', '.join([row] * len(args))})",
        (*firsts, *(part for arg in args for part in arg)),
    )


def within(column: str, bounds: Range) -> Statement:
    """The condition "the first key column lies in this range"."""
    conditions: list[str] = []
    args: list[Value] = []
    if bounds.low is not None:
        conditions.append(f"{quote(column)} >= %s")
        args.append(bounds.low)
    if bounds.high is not None:
        conditions.append(f"{quote(column)} < %s")
        args.append(bounds.high)
    return Statement(" AND ".join(conditions) or "1", tuple(args))


def integer_as_bytes(column: str) -> str:
    """A quoted integer column as the bytes of a BIT; a negative one as more than any BIT holds."""
    return f"UNHEX(CONCAT(IF({column} < 0, 'FF', ''), HEX({column})))"


def text_or_marked(column: str) -> str:
    """A quoted text column in utf8mb4. Where that turns a code without a character into a question
    mark, the bytes as they are behind 0xFF, which is no utf8mb4: what reads it must refuse it."""
    text = f"CONVERT({column} USING utf8mb4)"
    return (
        f"IF(CHAR_LENGTH(REPLACE({column}, '?', '')) <> CHAR_LENGTH(REPLACE({text}, '?', '')),"
        f" CONCAT(X'FF', CAST({column} AS BINARY)), CAST({text} AS BINARY))"
    )


# --- rows ------------------------------------------------------------------------------------


_ROWS_AT_ONCE = 64
"""Rows written as text at once. Few enough that rows of megabytes do not stand in memory several
times."""

# What stands for what lies between the values of many rows while they are escaped at once: bytes
# that no utf8mb4 text has. Other values may have them, so they are counted.
_COMMA, _ROW_END, _NULL = b"\xff", b"\xfe", b"\xfd"


def rows_as_values(rows: Sequence[Row], binary: Sequence[bool], max_bytes: int) -> Iterator[bytes]:
    """Rows as the text behind VALUES, in pieces of at most `max_bytes` (a piece has one row at
    least). `binary` tells which columns are byte strings."""
    piece: list[bytes] = []
    size = 0
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE]
        together = None if any(binary) else _as_one_text(some, len(binary))
        fits = together is not None and len(together) < max_bytes
        for text in [together] if together is not None and fits else _as_texts(some, binary):
            if piece and size + len(text) + 1 > max_bytes:
                yield b",".join(piece)
                piece, size = [], 0
            piece.append(text)
            size += len(text) + 1
    if piece:
        yield b",".join(piece)


def _as_one_text(rows: Sequence[Row], width: int) -> bytes | None:
    """All of these rows, escaped in one go, which takes two thirds of the time; None where that
    cannot be, because a value contains a mark."""
    text = _ROW_END.join(
        [_COMMA.join([_NULL if value is None else value for value in row]) for row in rows]
    )
    if (
        text.count(_COMMA) != len(rows) * (width - 1)
        or text.count(_ROW_END) != len(rows) - 1
        or text.count(_NULL) != sum([row.count(None) for row in rows])
    ):
        return None
    text = text.replace(b"'", b"''").replace(_COMMA, b"','").replace(_ROW_END, b"'),('")
    return (b"('" + text + b"')").replace(b"'" + _NULL + b"'", b"NULL")


def _as_texts(rows: Sequence[Row], binary: Sequence[bool]) -> Iterator[bytes]:
    """Row by row, value by value."""
    prefixes = [b"_binary'" if flag else b"'" for flag in binary]
    for row in rows:
        values = [
            b"NULL" if value is None else prefix + value.replace(b"'", b"''") + b"'"
            for prefix, value in zip(prefixes, row, strict=True)
        ]
        yield b"(" + b",".join(values) + b")"


@lru_cache(maxsize=256)
def upsert_frame(table: str, columns: tuple[str, ...], key: tuple[str, ...]) -> tuple[bytes, bytes]:
    """What stands before and after the values of an upsert. Kept, as it is the same for all batches
    of a table: making it takes as long as writing a row.

    ON DUPLICATE KEY UPDATE fires on *any* unique key (MySQL manual, "INSERT ... ON DUPLICATE KEY
    UPDATE Statement"). The first assignment keeps it off other rows: where the row that was met has
    another key, the scalar subquery of two rows fails with error 1242 and nothing is changed. It is
    evaluated only then, so it costs nothing.
    """
    head = f"INSERT INTO {quote(table)} ({names(columns)}) VALUES "
    same = " AND ".join(f"{quote(c)} = VALUES({quote(c)})" for c in key)
    first = quote(key[0])
    guard = f"{first} = IF({same}, {first}, (SELECT 1 UNION SELECT 2))"
    sets = [f"{quote(c)} = VALUES({quote(c)})" for c in columns if c not in key]
    tail = " ON DUPLICATE KEY UPDATE " + ", ".join([guard, *sets])
    return head.replace("%%", "%").encode(), tail.replace("%%", "%").encode()


# --- central ---------------------------------------------------------------------------------


def owner(column: str | None, through: Through | None, table: str) -> str | None:
    """Who owns a row: the column that says so, or that column of the row that it follows."""
    if through is None:
        return None if column is None else quote(column)
    there = quote("wpp_owner")
    return (
        f"(SELECT {there}.{quote(through.instance_column)} FROM {quote(through.table)} AS {there}"
        f" WHERE {there}.{quote(through.key)} = {quote(table)}.{quote(through.column)})"
    )


def owner_as_bytes(owner: str) -> str:
    """An owner's name, byte for byte."""
    return f"CAST(CONVERT({owner} USING utf8mb4) AS BINARY)"


def mine(entity: Entity, instance: str) -> Statement:
    """The condition "this instance's rows that pass the filter".

    Compared twice: as text, so that an index can be used, and byte for byte, because a collation
    takes `nunes`, `Nunes` and `Núnes` for equal (promise P9).
    """
    conditions: list[str] = []
    args: list[Value] = []
    whose = owner(entity.instance_column, entity.through, entity.central)
    if whose is not None and entity.through is None:
        conditions.append(f"{whose} = %s")
        args.append(instance)
    if whose is not None:
        conditions.append(f"{owner_as_bytes(whose)} = %s")
        args.append(instance.encode())
    if entity.where is not None:
        conditions.append(condition(entity.where))
    return Statement(" AND ".join(conditions) or "1", tuple(args))


def theirs(entity: Entity, whose: str, instances: Collection[str]) -> Statement:
    """As `mine`, of several instances, byte for byte alone: for a walk along the key. `whose`: the
    owner."""
    conditions = [f"{owner_as_bytes(whose)} IN ({', '.join(['%s'] * len(instances))})"]
    if entity.where is not None:
        conditions.append(condition(entity.where))
    return Statement(" AND ".join(conditions), tuple(each.encode() for each in instances))


def head(table: str, key: str, note: str) -> Statement:
    """The highest visible key of a table, NULL when it is empty (a look at the end of an index),
    and the server's clock in seconds.

    The maximum stands alone in a subquery: beside another expression it is a scan of the index.
    """
    return Statement(
        f"SELECT (SELECT MAX({quote(key)}) FROM {quote(table)}), UNIX_TIMESTAMP(SYSDATE(6))",
        (),
        note,
    )


def lowest(table: str, key: str, note: str) -> Statement:
    """The lowest visible key of a table, NULL when it is empty."""
    return Statement(f"SELECT MIN({quote(key)}) FROM {quote(table)}", (), note)


def oldest_writer(first_read_only: int, mark: str) -> Statement:
    """When the oldest transaction started that has written or waits to, in seconds of the server's
    clock; NULL when there is none. Prepared XA transactions count, whoever began them. And how
    often this very statement, which contains the mark, is in the list: 0 when the list is old.

    A transaction that has not written yet has the id 0, or one of at least `first_read_only`; while
    it waits for a lock it counts all the same: its INSERT may hold an id already.
    """
    return Statement(
        "SELECT UNIX_TIMESTAMP(MIN(CASE WHEN trx_state = 'LOCK WAIT' OR trx_rows_modified > 0"
        " OR (trx_id <> '0' AND CAST(trx_id AS UNSIGNED) < %s) THEN trx_started END)),"
        " COUNT(CASE WHEN trx_query LIKE %s THEN 1 END) FROM information_schema.INNODB_TRX",
        (first_read_only, f"%{mark}%"),
        "transactions",
    )


def any_row(table: str, note: str) -> Statement:
    """A look at a table that costs nothing, and begins the transaction that it is in."""
    return Statement(f"SELECT 1 FROM {quote(table)} LIMIT 1", (), note)


def applier_threads() -> Statement:
    """How many threads apply another server's changes here; needs PROCESS to be true."""
    return Statement(
        "SELECT COUNT(*) FROM information_schema.PROCESSLIST"
        " WHERE COMMAND IN ('Slave_SQL', 'Slave_worker', 'Slave_IO', 'Replica_SQL')"
        " OR (USER = 'system user' AND COMMAND <> 'Daemon')",
        (),
        "roles",
    )


def server_roles() -> Statement:
    """The server's settings that say whether it alone gives out ids, and how long a lock is waited
    for."""
    return Statement(
        "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('wsrep_on', 'read_only',"
        " 'super_read_only', 'group_replication_group_name', 'innodb_lock_wait_timeout')",
        (),
        "roles",
    )


def next_read_uncommitted(note: str) -> Statement:
    """The next statement of this connection reads what is not committed, too."""
    return Statement("SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED", (), note)


def all_keys(
    table: str, key: str, index: str, *, after: int, upto: int, limit: int, note: str
) -> Statement:
    """Everybody's keys with after < key <= upto, in order, at most `limit`.

    The index is forced: a row whose INSERT waits for a unique key stands in the primary key
    already, and not yet in the secondary index that MySQL may find cheaper (a skip scan).
    """
    return Statement(
        f"SELECT {quote(key)} FROM {quote(table)} FORCE INDEX ({quote(index)})"
        f" WHERE {quote(key)} > %s AND {quote(key)} <= %s ORDER BY {quote(key)} LIMIT %s",
        (after, upto, limit),
        note,
    )


def next_auto_increment(table: str, note: str) -> Statement:
    """The id that the table would hand out next, NULL when it hands out none; and the server's
    clock in seconds."""
    return Statement(
        "SELECT AUTO_INCREMENT, UNIX_TIMESTAMP(SYSDATE(6)) FROM information_schema.TABLES"
        " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s",
        (table,),
        note,
    )


def batch(
    table: str,
    expressions: Sequence[str],
    key: str,
    index: str,
    mine: Statement,
    *,
    after: int,
    upto: int,
    limit: int,
    note: str,
) -> Statement:
    """Rows with after < key <= upto in key order, at most `limit`.

    The index is forced: the optimizer is otherwise free to prefer a secondary index that begins
    with the instance, and to sort all of the instance's rows for each batch.
    """
    return Statement(
        f"SELECT {', '.join(expressions)} FROM {quote(table)} FORCE INDEX ({quote(index)})"
        f" WHERE {quote(key)} > %s AND {quote(key)} <= %s AND {mine.sql}"
        f" ORDER BY {quote(key)} LIMIT %s",
        (after, upto, *mine.args, limit),
        note,
    )


def by_keys(
    table: str,
    expressions: Sequence[str],
    key: Sequence[str],
    mine: Statement,
    keys: Collection[Key],
    note: str,
) -> Statement:
    """The rows with these keys, in key order, read in one statement (so from one moment)."""
    these = among(key, keys)
    return Statement(
        f"SELECT {', '.join(expressions)} FROM {quote(table)}"
        f" WHERE {these.sql} AND {mine.sql} ORDER BY {names(key)}",
        (*these.args, *mine.args),
        note,
    )


def count(table: str, key: str, mine: Statement, *, after: int, upto: int, note: str) -> Statement:
    """How many rows lie in after < key <= upto; any index may serve."""
    return Statement(
        f"SELECT COUNT(*) FROM {quote(table)}"
        f" WHERE {quote(key)} > %s AND {quote(key)} <= %s AND {mine.sql}",
        (after, upto, *mine.args),
        note,
    )


# --- local -----------------------------------------------------------------------------------


def local_keys(table: str, key: str, *, after: int, upto: int, limit: int, note: str) -> Statement:
    """The keys that stand in a local table with after < key <= upto, in order."""
    return Statement(
        f"SELECT {quote(key)} FROM {quote(table)} WHERE {quote(key)} > %s AND {quote(key)} <= %s"
        f" ORDER BY {quote(key)} LIMIT %s",
        (after, upto, limit),
        note,
    )


def holders(
    table: str,
    key: Sequence[str],
    unique: Sequence[str],
    values: Sequence[tuple[Value, ...]],
    note: str,
) -> Statement:
    """The keys of the local rows that hold one of these values of a unique key."""
    row = "(" + ", ".join(["%s"] * len(unique)) + ")"
    return Statement(
        f"SELECT {names(key)} FROM {quote(table)} WHERE ({names(unique)}) IN"
        f" ({', '.join([row] * len(values))})",
        tuple(value for group in values for value in group),
        note,
    )


def stored(
    table: str,
    key: Sequence[str],
    expressions: Sequence[str],
    keys: Collection[Key],
    note: str,
) -> Statement:
    """What stands in a local table under these keys: the key, then the expressions."""
    these = among(key, keys)
    return Statement(
        f"SELECT {', '.join([*map(quote, key), *expressions])} FROM {quote(table)}"
        f" WHERE {these.sql}",
        these.args,
        note,
    )


def delete_keys(table: str, key: Sequence[str], keys: Collection[Key], note: str) -> Statement:
    """Delete the rows with these keys."""
    these = among(key, keys)
    return Statement(f"DELETE FROM {quote(table)} WHERE {these.sql}", these.args, note)


def foreign_keys(act: bool, note: str) -> Statement:
    """Whether foreign keys act on what this session does, as far as the server has it so."""
    value = "DEFAULT" if act else "0"
    return Statement(f"SET SESSION foreign_key_checks = {value}", (), note)


# --- reconcile ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sums:
    """One side of a comparison: which table, in the order of which key, along which index (empty:
    the optimizer's choice), and what a row's checksum is. `owner` and `where`: central's only."""

    table: str
    key: tuple[str, ...]
    index: str
    row: str
    owner: str | None = None
    where: str | None = None

    def source(self) -> str:
        """What stands behind FROM."""
        force = f" FORCE INDEX ({quote(self.index)})" if self.index else ""
        return quote(self.table) + force

    def filter(self, names: Collection[str] | None) -> Statement:
        """The condition "rows of these owners that pass the filter"; None: of anybody."""
        conditions: list[str] = []
        args: list[Value] = []
        if self.owner is not None and names is not None:
            conditions.append(f"{self.owner} IN ({', '.join(['%s'] * len(names))})")
            args += sorted(names)
        if self.where is not None:
            conditions.append(condition(self.where))
        return Statement(" AND ".join(conditions) or "1", tuple(args))


def named(owner: str | None) -> str:
    """An owner's name to tell rows apart by, byte for byte, with a full stop behind it: trailing
    blanks count so. (Grouping by a binary string takes MariaDB twice as long.)"""
    return (
        "'.'"
        if owner is None
        else f"CONCAT(CONVERT({owner} USING utf8mb4), '.') COLLATE utf8mb4_bin"
    )


def chunk_sums(sums: Sums, names: Collection[str] | None, bounds: Range, note: str) -> Statement:
    """Of the rows of each of these owners in a range: the owner's name (empty where nobody owns
    rows) and a full stop, how many there are, and the XOR of their checksums. None: of everybody's.
    """
    inside = within(sums.key[0], bounds)
    chosen = sums.filter(names)
    if sums.owner is not None and names is not None and len(names) == 1:
        # Grouping costs MariaDB 0.2 µs a row, comparing 0.06 (decision 6).
        (name,) = names
        return Statement(
            f"SELECT %s AS wpp_whose, COUNT(*), BIT_XOR({sums.row}) FROM {sums.source()}"
            f" WHERE {inside.sql} AND {chosen.sql} AND {owner_as_bytes(sums.owner)} = %s",
            (f"{name}.", *inside.args, *chosen.args, name.encode()),
            note,
        )
    return Statement(
        f"SELECT {named(sums.owner)} AS wpp_whose, COUNT(*), BIT_XOR({sums.row})"
        f" FROM {sums.source()} WHERE {inside.sql} AND {chosen.sql} GROUP BY wpp_whose",
        (*inside.args, *chosen.args),
        note,
    )


def new_sums(sums: Sums, after: int, upto: int, limit: int, note: str) -> Statement:
    """As `chunk_sums`, of everybody's first `limit` rows in (after, upto], in the order of the key;
    and the highest key of each owner's."""
    key, whose = quote(sums.key[0]), sums.owner
    inside = within(sums.key[0], Range(after + 1, upto + 1))
    columns = key if whose is None else f"{key}, {whose}"
    return Statement(
        f"SELECT {named(whose)} AS wpp_whose, COUNT(*), BIT_XOR({sums.row}), MAX({key})"
        f" FROM (SELECT {columns} FROM {sums.source()} WHERE {inside.sql} ORDER BY {key}"
        " LIMIT %s) AS wpp_new GROUP BY wpp_whose",
        (*inside.args, limit),
        note,
    )


def key_sums(sums: Sums, keys: Collection[Key], note: str) -> Statement:
    """As `chunk_sums`, of the rows with these keys, whoever owns them."""
    whose = named(sums.owner)
    these, chosen = among(sums.key, keys), sums.filter(None)
    return Statement(
        f"SELECT {whose} AS wpp_whose, COUNT(*), BIT_XOR({sums.row}) FROM {quote(sums.table)}"
        f" WHERE {these.sql} AND {chosen.sql} GROUP BY wpp_whose",
        (*these.args, *chosen.args),
        note,
    )


def part_sums(sums: Sums, mine: Statement, bounds: Range, width: int, note: str) -> Statement:
    """A range with a low end in parts of this width: the part's number, its rows, their XOR."""
    inside = within(sums.key[0], bounds)
    return Statement(
        f"SELECT ({quote(sums.key[0])} - %s) DIV %s AS wpp_part, COUNT(*), BIT_XOR({sums.row})"
        f" FROM {sums.source()} WHERE {inside.sql} AND {mine.sql} GROUP BY wpp_part",
        (bounds.low, width, *inside.args, *mine.args),
        note,
    )


def row_sums(sums: Sums, mine: Statement, bounds: Range, limit: int, note: str) -> Statement:
    """The key and the checksum of each row of a range, in key order, at most `limit`."""
    inside = within(sums.key[0], bounds)
    return Statement(
        f"SELECT {names(sums.key)}, {sums.row} FROM {sums.source()}"
        f" WHERE {inside.sql} AND {mine.sql} ORDER BY {names(sums.key)} LIMIT %s",
        (*inside.args, *mine.args, limit),
        note,
    )


def row_sums_of(sums: Sums, mine: Statement, keys: Collection[Key], note: str) -> Statement:
    """The key and the checksum of each row with one of these keys."""
    these = among(sums.key, keys)
    return Statement(
        f"SELECT {names(sums.key)}, {sums.row} FROM {quote(sums.table)}"
        f" WHERE {these.sql} AND {mine.sql}",
        (*these.args, *mine.args),
        note,
    )


def hot_sums(sums: Sums, hot: str, below: int | None, limit: int, note: str) -> Statement:
    """As `row_sums`, of the local rows that meet a condition; the highest keys first."""
    inside = within(sums.key[0], Range(None, below))
    return Statement(
        f"SELECT {names(sums.key)}, {sums.row} FROM {quote(sums.table)}"
        f" WHERE {inside.sql} AND {condition(hot)} ORDER BY {quote(sums.key[0])} DESC LIMIT %s",
        (*inside.args, limit),
        note,
    )


def threads_running() -> Statement:
    """How many threads of the server are at work."""
    return Statement("SHOW GLOBAL STATUS LIKE 'Threads_running'", (), "load")


def replication_threads() -> Sequence[Statement]:
    """How many threads of a MariaDB server serve replication: what a name says, and its number."""
    words = ["STATUS LIKE 'Slaves\\_%%'", "VARIABLES LIKE 'slave\\_parallel\\_threads'"]
    return [Statement(f"SHOW GLOBAL {each}", (), "load") for each in words]


def replica_status(*, mariadb: bool) -> Sequence[Statement]:
    """Which servers the server follows, and how far it is behind them: the first one that it knows.
    MariaDB needs the word ALL to tell of all of them; MySQL before 8.0.22 has another word."""
    words = ["SHOW ALL SLAVES STATUS"] if mariadb else ["SHOW REPLICA STATUS", "SHOW SLAVE STATUS"]
    return [Statement(each, (), "load") for each in words]


# --- the instance's lock -----------------------------------------------------------------------


def get_lock(name: str, note: str) -> Statement:
    """Take a named lock for this connection without waiting: 1 taken, 0 held by another."""
    return Statement("SELECT GET_LOCK(%s, 0)", (name,), note)


def is_used_lock(name: str, note: str) -> Statement:
    """The connection id that holds a named lock, or NULL."""
    return Statement("SELECT IS_USED_LOCK(%s)", (name,), note)


def are_used_locks(one: str, other: str, note: str) -> Statement:
    """The connection ids that hold two named locks, or NULL."""
    return Statement("SELECT IS_USED_LOCK(%s), IS_USED_LOCK(%s)", (one, other), note)


def release_lock(name: str, note: str) -> Statement:
    """Give a named lock back now, not when the server notices that its connection has closed."""
    return Statement("DO RELEASE_LOCK(%s)", (name,), note)


def lock_holder(name: str, note: str) -> Statement:
    """The connection id that holds a named lock, and this connection's own."""
    return Statement("SELECT IS_USED_LOCK(%s), CONNECTION_ID()", (name,), note)


def process_list(note: str) -> Statement:
    """Who is connected: id, user, host, … Without PROCESS only connections of the same account."""
    return Statement("SHOW PROCESSLIST", (), note)


def uptime(note: str) -> Statement:
    """For how many seconds the server has been running. Not GLOBAL, for which the server adds up
    the counters of all its connections; this one is the same for all of them."""
    return Statement("SHOW STATUS LIKE 'Uptime'", (), note)


def kill(connection_id: int, note: str) -> Statement:
    """End another connection of the same account."""
    return Statement(f"KILL CONNECTION {int(connection_id)}", (), note)


# --- what a table looks like -------------------------------------------------------------------


def table_engines(tables: Sequence[str], note: str) -> Statement:
    """Each table's name and storage engine; NULL for a view."""
    which, args = _of_tables(tables)
    return Statement(
        f"SELECT TABLE_NAME, ENGINE FROM information_schema.TABLES WHERE {which}", args, note
    )


def table_columns(tables: Sequence[str], note: str) -> Statement:
    """Table, name, type, nullability, default, extra and character set of each column, in order."""
    which, args = _of_tables(tables)
    return Statement(
        "SELECT TABLE_NAME, COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, IS_NULLABLE, COLUMN_DEFAULT,"
        f" EXTRA, CHARACTER_SET_NAME FROM information_schema.COLUMNS WHERE {which}"
        " ORDER BY TABLE_NAME, ORDINAL_POSITION",
        args,
        note,
    )


def _of_tables(tables: Sequence[str]) -> tuple[str, tuple[Value, ...]]:
    """The condition on information_schema. A single table is looked up by its name, more are
    searched for in all of the database."""
    names = "= %s" if len(tables) == 1 else f"IN ({', '.join(['%s'] * len(tables))})"
    return f"TABLE_SCHEMA = DATABASE() AND TABLE_NAME {names}", tuple(tables)


def table_indexes(table: str, note: str) -> Statement:
    """Each part of each index that can be unique, in order. HASH is what MariaDB calls its unique
    keys over long texts. Only SHOW INDEX tells on every version, in its column of that version,
    whether the optimizer may use the index."""
    return Statement(
        f"SHOW INDEX FROM {quote(table)} WHERE Index_type IN ('BTREE', 'HASH')", (), note
    )


def tables_indexes(tables: Sequence[str], note: str) -> Statement:
    """The same of several tables, on MariaDB: what SHOW INDEX is made of, in the same order. MySQL
    orders only SHOW INDEX. All columns, because not every version has the one of use."""
    which, args = _of_tables(tables)
    return Statement(
        f"SELECT * FROM information_schema.STATISTICS WHERE {which}"
        " AND INDEX_TYPE IN ('BTREE', 'HASH')",
        args,
        note,
    )


# --- derived tables ----------------------------------------------------------------------------


def text_bytes(column: str, alias: str = "") -> str:
    """A text column as bytes of utf8mb4: equal where it is the same text, whatever a collation
    takes for equal."""
    return f"CAST(CONVERT({alias}{quote(column)} USING utf8mb4) AS BINARY)"


def in_groups(columns: Sequence[str], groups: Iterable[tuple[Value, ...]]) -> Statement:
    """The condition "in one of these groups". A text is compared twice: as text, so that an index
    can be used, and byte for byte. The last column is an integer: groups that differ only there,
    usually all of them, make one list."""
    by_prefix: dict[tuple[Value, ...], list[Value]] = {}
    for group in groups:
        by_prefix.setdefault(group[:-1], []).append(group[-1])
    alternatives: list[str] = []
    args: list[Value] = []
    for prefix, last in by_prefix.items():
        parts: list[str] = []
        for column, value in zip(columns, prefix, strict=False):
            parts.append(f"{quote(column)} = %s")
            args.append(value)
            if isinstance(value, Text):
                parts.append(f"{text_bytes(column)} = %s")
                args.append(bytes(value))
        parts.append(f"{quote(columns[-1])} IN ({', '.join(['%s'] * len(last))})")
        args += last
        alternatives.append(" AND ".join(parts))
    return Statement("((" + ") OR (".join(alternatives) + "))", tuple(args))


def in_range(column: str, after: int | None, upto: int | None) -> Statement:
    """The condition after < column <= upto; None is no bound, and a NULL is in no range."""
    parts = [f"{quote(column)} IS NOT NULL"]
    args: list[Value] = []
    for sign, bound in ((">", after), ("<=", upto)):
        if bound is not None:
            parts.append(f"{quote(column)} {sign} %s")
            args.append(bound)
    return Statement(" AND ".join(parts), tuple(args))


def highest(table: str, key: str, note: str) -> Statement:
    """The highest value of an indexed column, NULL when the table is empty."""
    return Statement(f"SELECT MAX({quote(key)}) FROM {quote(table)}", (), note)


def chosen(table: str, columns: Sequence[str], where: Statement, note: str) -> Statement:
    """Columns of the rows that meet a condition."""
    return Statement(
        f"SELECT {names(columns)} FROM {quote(table)} WHERE {where.sql}", where.args, note
    )


def between_keys(
    table: str,
    columns: Sequence[str],
    key: str,
    *,
    filled: Sequence[str] = (),
    first: int,
    last: int,
    limit: int,
    note: str,
) -> Statement:
    """Rows with first <= key <= last in the order of the primary key, at most `limit`; only those
    that have something in these columns."""
    only = "".join(f" AND {quote(column)} IS NOT NULL" for column in filled)
    return Statement(
        f"SELECT {names(columns)} FROM {quote(table)} FORCE INDEX (PRIMARY)"
        f" WHERE {quote(key)} >= %s AND {quote(key)} <= %s{only}"
        f" ORDER BY {quote(key)} LIMIT %s",
        (first, last, limit),
        note,
    )


def outdated(
    derived: str,
    source: str,
    key: str,
    group: Sequence[str],
    same: Sequence[str],
    not_lower: Sequence[str],
    keys: Sequence[int],
    note: str,
) -> Statement:
    """The groups of derived rows with these keys whose source row (alias s) is not there any more,
    not the same in `same` (conditions of s and d), or lower in one of the columns `not_lower`."""
    conditions = [
        f"s.{quote(key)} = d.{quote(key)}",
        *same,
        *(f"s.{quote(column)} >= d.{quote(column)}" for column in not_lower),
    ]
    columns = ", ".join(f"d.{quote(column)}" for column in group)
    return Statement(
        f"SELECT {columns} FROM {quote(derived)} d LEFT JOIN {quote(source)} s"
        f" ON {' AND '.join(conditions)}"
        f" WHERE d.{quote(key)} IN ({', '.join(['%s'] * len(keys))}) AND s.{quote(key)} IS NULL",
        tuple(keys),
        note,
    )


def latest(
    table: str,
    group: Sequence[str],
    texts: Sequence[str],
    latest_by: Sequence[str],
    where: Statement,
    note: str,
) -> Statement:
    """Of the rows that meet a condition the latest of each group: its group, and its key, which is
    the last of `latest_by`. Only these columns are sorted, never the rest of the rows."""
    parts = ", ".join(text_bytes(c) if c in texts else quote(c) for c in group)
    order = ", ".join(f"{quote(column)} DESC" for column in latest_by)
    wanted = names([*group, latest_by[-1]])
    return Statement(
        f"SELECT {wanted} FROM (SELECT {wanted},"
        f" ROW_NUMBER() OVER (PARTITION BY {parts} ORDER BY {order}) AS wpp_sync_place"
        f" FROM {quote(table)} WHERE {where.sql}) ranked WHERE wpp_sync_place = 1",
        where.args,
        note,
    )


def replace_from(
    derived: str, source: str, columns: Sequence[str], key: str, keys: Sequence[int], note: str
) -> Statement:
    """Put the source rows with these keys in the place of the derived rows of their groups."""
    return Statement(
        f"REPLACE INTO {quote(derived)} ({names(columns)}) SELECT {names(columns)}"
        f" FROM {quote(source)} WHERE {quote(key)} IN ({', '.join(['%s'] * len(keys))})",
        tuple(keys),
        note,
    )


def delete_where(table: str, where: Statement, note: str) -> Statement:
    """Delete the rows that meet a condition."""
    return Statement(f"DELETE FROM {quote(table)} WHERE {where.sql}", where.args, note)


def nth_value(table: str, column: str, after: int | None, nth: int, note: str) -> Statement:
    """The value of an indexed column in the `nth` row after a value; no row when there are fewer.
    Only the index is read."""
    where = in_range(column, after, None)
    return Statement(
        f"SELECT {quote(column)} FROM {quote(table)} WHERE {where.sql}"
        f" ORDER BY {quote(column)} LIMIT 1 OFFSET %s",
        (*where.args, nth),
        note,
    )


def not_alike(
    derived: str, source: str, key: str, same: Sequence[str], keys: Sequence[int], note: str
) -> Statement:
    """Of these keys those whose source row (alias s) no derived row (alias d) repeats as it is."""
    conditions = [f"d.{quote(key)} = s.{quote(key)}", *same]
    return Statement(
        f"SELECT s.{quote(key)} FROM {quote(source)} s LEFT JOIN {quote(derived)} d"
        f" ON {' AND '.join(conditions)}"
        f" WHERE s.{quote(key)} IN ({', '.join(['%s'] * len(keys))}) AND d.{quote(key)} IS NULL",
        tuple(keys),
        note,
    )


def same_in_both(column: str, text: bool) -> str:
    """The condition that a column is the same in two rows, s and d; NULL is the same as NULL. Texts
    byte for byte: the two tables' collations may differ, and servers refuse to mix them."""
    if text:
        return f"{text_bytes(column, 's.')} <=> {text_bytes(column, 'd.')}"
    return f"s.{quote(column)} <=> d.{quote(column)}"
