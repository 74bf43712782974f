"""Every statement as text, and quoting against an independent reader of MySQL's rules."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon import sql
from daemon.entities import CATALOGUE
from daemon.sql import Range, Row, Statement, Text, Value

Literal = tuple[str, int | bytes | None]
"""What a server reads: kind (null, number, text, binary) and value."""


def read_quoted(text: bytes, at: int, mark: bytes) -> tuple[bytes, int]:
    """The quoted thing that begins at `at`, and where it ends: a mark twice is one mark, and
    nothing else has a meaning inside (NO_BACKSLASH_ESCAPES)."""
    assert text[at : at + 1] == mark
    at += 1
    value = b""
    while True:
        end = text.index(mark, at)
        value += text[at:end]
        if text[end + 1 : end + 2] != mark:
            return value, end + 1
        value += mark
        at = end + 2


def read_literal(text: bytes, at: int = 0) -> tuple[Literal, int]:
    """The literal that begins at `at`, and where it ends."""
    if text.startswith(b"NULL", at):
        return ("null", None), at + 4
    if text.startswith(b"_binary'", at):
        value, end = read_quoted(text, at + 7, b"'")
        return ("binary", value), end
    if text.startswith(b"'", at):
        value, end = read_quoted(text, at, b"'")
        return ("text", value), end
    number = re.compile(rb"-?\d+").match(text, at)
    assert number is not None, text[at:]
    return ("number", int(number[0])), number.end()


def read_list(text: bytes, at: int = 0) -> tuple[list[Literal], int]:
    """Literals separated by commas, up to what is neither."""
    first, at = read_literal(text, at)
    found = [first]
    while text[at : at + 1] == b",":
        at += 2 if text[at + 1 : at + 2] == b" " else 1
        following, at = read_literal(text, at)
        found.append(following)
    return found, at


def read_rows(text: bytes) -> list[list[Literal]]:
    """What stands behind VALUES: rows in parentheses, separated by commas, and nothing else."""
    rows = []
    at = 0
    while True:
        assert text[at : at + 1] == b"("
        row, at = read_list(text, at + 1)
        assert text[at : at + 1] == b")"
        rows.append(row)
        at += 1
        if at == len(text):
            return rows
        assert text[at : at + 1] == b","
        at += 1


def expected(value: Value) -> Literal:
    if value is None:
        return ("null", None)
    if isinstance(value, int):
        return ("number", int(value))
    if isinstance(value, str):
        return ("text", value.encode())
    return ("text" if isinstance(value, Text) else "binary", bytes(value))


def body(statement: Statement) -> str:
    """The statement as it is sent, without its signature."""
    sent = sql.render(statement)
    signature = sql.comment(statement.note)
    assert sent.startswith(signature)
    return sent.removeprefix(signature).decode()


nasty = st.text(st.sampled_from("'\"`\\%s;#-/*!+M \0\n\x1aé😀a"))
texts = nasty | st.text()
blobs = texts.map(str.encode) | st.binary()
values: st.SearchStrategy[Value] = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), texts, blobs, blobs.map(Text)
)
names = (nasty | st.text()).filter(lambda name: 0 < len(name) <= 64 and "\0" not in name)


# --- literals and names --------------------------------------------------------------------------


@given(values)
def test_a_literal_is_exactly_one_token_with_the_same_value(value: Value) -> None:
    text = sql.literal(value)

    assert read_literal(text) == (expected(value), len(text))


@given(st.lists(values))
def test_rendered_values_are_the_values_whatever_they_contain(args: list[Value]) -> None:
    marks = ", ".join(["%s"] * (len(args) + 1))
    sent = sql.render(Statement(f"SELECT {marks}", (*args, 1), "x"))

    prefix = sql.comment("x") + b"SELECT "
    assert sent.startswith(prefix)
    assert read_list(sent, len(prefix)) == (
        [expected(a) for a in args] + [("number", 1)],
        len(sent),
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, b"NULL"),
        (True, b"1"),
        (False, b"0"),
        (-7, b"-7"),
        (2**64 - 1, b"18446744073709551615"),
        ("", b"''"),
        ("it's", b"'it''s'"),
        ("\\", b"'\\'"),
        (Text(b"a"), b"'a'"),
        (b"a", b"_binary'a'"),
        (b"\xff'\x00", b"_binary'\xff''\x00'"),
    ],
)
def test_literals(value: Value, text: bytes) -> None:
    assert sql.literal(value) == text


@given(names)
def test_a_quoted_name_is_exactly_one_token_with_the_same_name(name: str) -> None:
    sent = body(Statement(sql.quote(name))).encode()

    assert read_quoted(sent, 0, b"`") == (name.encode(), len(sent))


@given(st.lists(names, min_size=1, max_size=4))
def test_a_list_of_names_reads_back(columns: list[str]) -> None:
    sent = body(Statement(sql.names(columns))).encode()

    at = 0
    for number, column in enumerate(columns):
        if number:
            assert sent[at : at + 2] == b", "
            at += 2
        found, at = read_quoted(sent, at, b"`")
        assert found == column.encode()
    assert at == len(sent)


@pytest.mark.parametrize("name", ["", "x" * 65, "a\0b"])
def test_what_no_server_accepts_as_a_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a possible name"):
        sql.quote(name)


def test_a_name_of_64_characters_is_possible() -> None:
    assert sql.quote("é" * 64) == f"`{'é' * 64}`"


# --- rendering -----------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [(), (1,), (1, 2, 3)])
def test_a_wrong_number_of_values_is_an_error(args: tuple[Value, ...]) -> None:
    with pytest.raises(TypeError):
        sql.render(Statement("SELECT %s, %s", args, "x"))


@given(texts)
def test_the_signature_can_neither_be_ended_nor_become_a_hint(note: str) -> None:
    signature = sql.comment(note)

    assert signature.startswith(b"/* wpp-sync ")
    assert signature.index(b"*/") == len(signature) - 3
    assert signature.endswith(b" */ ")
    assert b"/*" not in signature[2:]
    assert re.fullmatch(rb"[ -~]+", signature)
    assert len(signature) <= 220


def test_the_signature_stays_short_however_long_a_name_is() -> None:
    assert sql.comment("n" * 1000) == b"/* wpp-sync " + b"n" * 200 + b" */ "


def test_the_signature_tells_a_dba_who_asks() -> None:
    assert sql.comment("nunes messages") == b"/* wpp-sync nunes messages */ "
    assert sql.comment("local mário: 1.5+2-3") == b"/* wpp-sync local m?rio: 1.5+2-3 */ "
    assert sql.render(Statement("SELECT 1", (), "nunes")) == b"/* wpp-sync nunes */ SELECT 1"


@given(texts.filter(lambda text: "\0" not in text))
def test_an_operators_condition_is_sent_as_it_is(where: str) -> None:
    assert body(Statement(sql.condition(where))) == f"({where})"


# --- rows as values ------------------------------------------------------------------------------

cells = st.none() | blobs
tables = st.lists(st.booleans(), min_size=1, max_size=4).flatmap(
    lambda binary: st.tuples(
        st.just(binary), st.lists(st.tuples(*[cells] * len(binary)), max_size=12)
    )
)


@given(tables, st.integers(1, 200))
def test_the_pieces_are_the_rows_in_order_and_within_the_bound(
    table: tuple[list[bool], list[Row]], max_bytes: int
) -> None:
    binary, rows = table

    pieces = list(sql.rows_as_values(rows, binary, max_bytes))

    found = [read_rows(text) for text in pieces]
    assert [row for piece in found for row in piece] == [
        [
            expected(None if value is None else value if flag else Text(value))
            for value, flag in zip(row, binary, strict=True)
        ]
        for row in rows
    ]
    for text, part in zip(pieces, found, strict=True):
        assert len(text) <= max_bytes or len(part) == 1


@given(tables, st.integers(1, 200))
def test_no_piece_is_ended_while_the_next_row_fits(
    table: tuple[list[bool], list[Row]], max_bytes: int
) -> None:
    binary, rows = table
    alone = list(sql.rows_as_values(rows, binary, 1))
    assert len(alone) == len(rows)

    at = 0
    for text in sql.rows_as_values(rows, binary, max_bytes):
        at += len(read_rows(text))
        if at < len(rows):
            assert len(text) + 1 + len(alone[at]) + 1 > max_bytes


sent = st.none() | st.text(alphabet="ab',\\()\x00\n\u00e9\U0001f600NUL_", max_size=9).map(
    str.encode
)
tables_of_text = st.lists(st.tuples(sent, sent, sent), max_size=150)


@given(tables_of_text, st.integers(1, 4_000))
def test_rows_of_text_alone_are_escaped_together_and_read_as_they_were(
    rows: list[Row], max_bytes: int
) -> None:
    pieces = list(sql.rows_as_values(rows, [False] * 3, max_bytes))

    assert [row for piece in pieces for row in read_rows(piece)] == [
        [expected(None if value is None else Text(value)) for value in row] for row in rows
    ]


@pytest.mark.parametrize("value", [b"\xff", b"\xfe", b"\xfd", b"a\xffb'", b"'\xfd'"])
def test_a_value_with_a_mark_of_ours_is_written_as_it_was(value: bytes) -> None:
    rows: list[Row] = [(value, None), (b"x", value)]

    (piece,) = sql.rows_as_values(rows, [False, False], 1_000)

    text = value.replace(b"'", b"''")
    assert piece == b"('" + text + b"',NULL),('x','" + text + b"')"


def test_no_rows_make_no_piece() -> None:
    assert list(sql.rows_as_values([], [False], 100)) == []


def test_a_row_of_another_width_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        list(sql.rows_as_values([(b"1", b"2")], [False], 100))


# --- the upsert ----------------------------------------------------------------------------------


def test_the_upsert_keeps_off_rows_with_another_key() -> None:
    """The guard is the first assignment, and the key is assigned by nothing else."""
    assert sql.upsert_frame("wpp_chats", ("id", "original_id", "type"), ("id",)) == (
        b"INSERT INTO `wpp_chats` (`id`, `original_id`, `type`) VALUES ",
        b" ON DUPLICATE KEY UPDATE"
        b" `id` = IF(`id` = VALUES(`id`), `id`, (SELECT 1 UNION SELECT 2)),"
        b" `original_id` = VALUES(`original_id`),"
        b" `type` = VALUES(`type`)",
    )


def test_an_upsert_of_the_key_alone_is_still_guarded() -> None:
    _, tail = sql.upsert_frame("t", ("id",), ("id",))

    assert tail.endswith(b" `id` = IF(`id` = VALUES(`id`), `id`, (SELECT 1 UNION SELECT 2))")


@given(names, st.lists(names, min_size=1, max_size=4, unique=True))
def test_the_upsert_names_its_columns_as_they_are(table: str, columns: list[str]) -> None:
    """It is sent as it stands: a percent sign in a name must not stay doubled."""
    head, tail = sql.upsert_frame(table, tuple(columns), tuple(columns[:1]))

    def plain(name: str) -> bytes:
        return b"`" + name.replace("`", "``").encode() + b"`"

    listed = b", ".join(map(plain, columns))
    assert head == b"INSERT INTO " + plain(table) + b" (" + listed + b") VALUES "
    key, *others = map(plain, columns)
    guard = b"%s = IF(%s = VALUES(%s), %s, (SELECT 1 UNION SELECT 2))" % (key, key, key, key)
    sets = [b"%s = VALUES(%s)" % (name, name) for name in others]
    assert tail == b" ON DUPLICATE KEY UPDATE " + b", ".join([guard, *sets])


# --- statements as text --------------------------------------------------------------------------

MESSAGES = CATALOGUE["messages"].model_copy(update={"where": "type <> 'a%'"})
SECTORS = CATALOGUE["contact_sectors"]
EVERYBODYS = SECTORS.model_copy(update={"through": None})
THEIRS = sql.Sums("messages", ("id",), "PRIMARY", "row_sum", "`instance`", "x > '%'")
OURS = sql.Sums("wpp_messages", ("id",), "", "row_sum")
EVERY_ROW = Statement("1")
WHOSE = "CONCAT(CONVERT(`instance` USING utf8mb4), '.') COLLATE utf8mb4_bin"
MINE = sql.mine(MESSAGES, "nu'nes")
OWNER = (
    "(SELECT `wpp_owner`.`instance` FROM `contacts` AS `wpp_owner`"
    " WHERE `wpp_owner`.`id` = `contacts_sectors`.`contactId`)"
)
MINE_TEXT = (
    "`instance` = 'nu''nes'"
    " AND CAST(CONVERT(`instance` USING utf8mb4) AS BINARY) = _binary'nu''nes'"
    " AND (type <> 'a%')"
)


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        (MINE, MINE_TEXT),
        (sql.mine(EVERYBODYS, "nunes"), "1"),
        (sql.mine(EVERYBODYS.model_copy(update={"where": "a OR b"}), "nunes"), "(a OR b)"),
        (
            sql.mine(SECTORS, "nunes"),
            f"CAST(CONVERT({OWNER} USING utf8mb4) AS BINARY) = _binary'nunes'",
        ),
        (
            sql.head("messages", "id", "n"),
            "SELECT (SELECT MAX(`id`) FROM `messages`), UNIX_TIMESTAMP(SYSDATE(6))",
        ),
        (
            sql.all_keys("messages", "id", "PRIMARY", after=1, upto=9, limit=5, note="n"),
            "SELECT `id` FROM `messages` FORCE INDEX (`PRIMARY`)"
            " WHERE `id` > 1 AND `id` <= 9 ORDER BY `id` LIMIT 5",
        ),
        (
            sql.next_read_uncommitted("n"),
            "SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED",
        ),
        (
            sql.next_auto_increment("messages", "n"),
            "SELECT AUTO_INCREMENT, UNIX_TIMESTAMP(SYSDATE(6)) FROM information_schema.TABLES"
            " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'messages'",
        ),
        (
            sql.batch(
                "messages", ["`id`", "`f` * 1e0"], "id", "PRIMARY", MINE,
                after=10, upto=20, limit=3, note="n",
            ),
            "SELECT `id`, `f` * 1e0 FROM `messages` FORCE INDEX (`PRIMARY`)"
            f" WHERE `id` > 10 AND `id` <= 20 AND {MINE_TEXT} ORDER BY `id` LIMIT 3",
        ),
        (
            sql.by_keys("messages", ["`id`"], ["id"], MINE, [5, 7], "n"),
            f"SELECT `id` FROM `messages` WHERE `id` IN (5, 7) AND {MINE_TEXT} ORDER BY `id`",
        ),
        (
            sql.count("messages", "id", MINE, after=10, upto=20, note="n"),
            f"SELECT COUNT(*) FROM `messages` WHERE `id` > 10 AND `id` <= 20 AND {MINE_TEXT}",
        ),
        (
            sql.local_keys("wpp_messages", "id", after=10, upto=20, limit=3, note="n"),
            "SELECT `id` FROM `wpp_messages` WHERE `id` > 10 AND `id` <= 20 ORDER BY `id` LIMIT 3",
        ),
        (
            sql.holders("t", ["id"], ["a", "b"], [(Text(b"x"), b"y"), (1, 2)], "n"),
            "SELECT `id` FROM `t` WHERE (`a`, `b`) IN (('x', _binary'y'), (1, 2))",
        ),
        (
            sql.stored("t", ["id"], ["`a`", "`f` * 1e0"], [5, 7], "n"),
            "SELECT `id`, `a`, `f` * 1e0 FROM `t` WHERE `id` IN (5, 7)",
        ),
        (
            sql.delete_keys("t", ["id"], [5, 7], "n"),
            "DELETE FROM `t` WHERE `id` IN (5, 7)",
        ),
        (
            sql.delete_keys("t", ["a", "b"], [(5, 1), (7, 2), (5, 3)], "n"),
            "DELETE FROM `t` WHERE `a` IN (5, 7) AND (`a`, `b`) IN ((5, 1), (7, 2), (5, 3))",
        ),
        (
            sql.chunk_sums(THEIRS, ["b", "a"], Range(1024, 2048), "n"),
            f"SELECT {WHOSE} AS wpp_whose, COUNT(*),"
            " BIT_XOR(row_sum) FROM `messages` FORCE INDEX (`PRIMARY`) WHERE `id` >= 1024 AND"
            " `id` < 2048 AND `instance` IN ('a', 'b') AND (x > '%') GROUP BY wpp_whose",
        ),
        (
            sql.chunk_sums(THEIRS, ["é"], Range(None, 2048), "n"),
            "SELECT 'é.' AS wpp_whose, COUNT(*),"
            " BIT_XOR(row_sum) FROM `messages` FORCE INDEX (`PRIMARY`) WHERE `id` < 2048"
            " AND `instance` IN ('é') AND (x > '%')"
            " AND CAST(CONVERT(`instance` USING utf8mb4) AS BINARY) = _binary'é'",
        ),
        (
            sql.chunk_sums(OURS, [], Range(None, None), "n"),
            "SELECT '.' AS wpp_whose, COUNT(*), BIT_XOR(row_sum) FROM `wpp_messages` WHERE 1 AND 1"
            " GROUP BY wpp_whose",
        ),
        (
            sql.key_sums(THEIRS, [3, 4], "n"),
            f"SELECT {WHOSE} AS wpp_whose, COUNT(*),"
            " BIT_XOR(row_sum) FROM `messages` WHERE `id` IN (3, 4) AND (x > '%')"
            " GROUP BY wpp_whose",
        ),
        (
            sql.part_sums(OURS, EVERY_ROW, Range(1024, 2048), 64, "n"),
            "SELECT (`id` - 1024) DIV 64 AS wpp_part, COUNT(*), BIT_XOR(row_sum)"
            " FROM `wpp_messages` WHERE `id` >= 1024 AND `id` < 2048 AND 1 GROUP BY wpp_part",
        ),
        (
            sql.row_sums(OURS, EVERY_ROW, Range(None, 9), 5, "n"),
            "SELECT `id`, row_sum FROM `wpp_messages` WHERE `id` < 9 AND 1 ORDER BY `id` LIMIT 5",
        ),
        (
            sql.row_sums_of(OURS, EVERY_ROW, [3], "n"),
            "SELECT `id`, row_sum FROM `wpp_messages` WHERE `id` IN (3) AND 1",
        ),
        (
            sql.hot_sums(OURS, "a = '%'", 7, 5, "n"),
            "SELECT `id`, row_sum FROM `wpp_messages` WHERE `id` < 7 AND (a = '%')"
            " ORDER BY `id` DESC LIMIT 5",
        ),
        (sql.get_lock("wpp-sync.a'b", "n"), "SELECT GET_LOCK('wpp-sync.a''b', 0)"),
        (sql.lock_holder("wpp-sync.a", "n"), "SELECT IS_USED_LOCK('wpp-sync.a'), CONNECTION_ID()"),
        (sql.kill(12, "n"), "KILL CONNECTION 12"),
        (
            sql.table_columns(["t"], "n"),
            "SELECT TABLE_NAME, COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, IS_NULLABLE, COLUMN_DEFAULT,"
            " EXTRA, CHARACTER_SET_NAME FROM information_schema.COLUMNS"
            " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 't'"
            " ORDER BY TABLE_NAME, ORDINAL_POSITION",
        ),
        (
            sql.table_engines(["t", "u'"], "n"),
            "SELECT TABLE_NAME, ENGINE FROM information_schema.TABLES"
            " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN ('t', 'u''')",
        ),
        (
            sql.tables_indexes(["t", "u"], "n"),
            "SELECT * FROM information_schema.STATISTICS"
            " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN ('t', 'u')"
            " AND INDEX_TYPE IN ('BTREE', 'HASH')",
        ),
        (
            sql.table_indexes("t", "n"),
            "SHOW INDEX FROM `t` WHERE Index_type IN ('BTREE', 'HASH')",
        ),
    ],
)  # fmt: skip
def test_statements(statement: Statement, text: str) -> None:
    assert body(statement) == text


@given(names, names, names, texts, st.lists(st.integers(0, 2**63), min_size=1, max_size=3))
def test_any_names_and_any_instance_make_a_statement_that_renders(
    table: str, key: str, index: str, instance: str, keys: Sequence[int]
) -> None:
    entity = MESSAGES.model_copy(update={"instance_column": key, "where": "a LIKE '%x%%s'"})
    mine = sql.mine(entity, instance)

    for statement in (
        sql.batch(
            table, [sql.quote(key)], key, index, mine, after=1, upto=2, limit=3, note=instance
        ),
        sql.by_keys(table, [sql.quote(key)], [key], mine, keys, instance),
        sql.count(table, key, mine, after=1, upto=2, note=instance),
        sql.local_keys(table, key, after=1, upto=2, limit=3, note=instance),
        sql.delete_keys(table, [key], keys, instance),
        sql.head(table, key, instance),
    ):
        assert f"`{table.replace('`', '``')}`" in body(statement)
    assert "(a LIKE '%x%%s')" in body(sql.count(table, key, mine, after=1, upto=2, note="n"))
