"""Derived tables: from two tables to a plan or a refusal, and the statements as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from daemon import schema, sql
from daemon.entities import CATALOGUE, Derived
from daemon.errors import SchemaError
from daemon.schema import Index, Table
from daemon.sql import Statement, Text
from daemon.sync.derived import DerivedTable
from daemon.values import Column

MESSAGES = CATALOGUE["messages"]
(LAST,) = MESSAGES.derived


def column(name: str, kind: str, *, nullable: bool = False, charset: str = "utf8mb4") -> Column:
    return Column(name, kind.partition("(")[0].split()[0], kind, nullable, None, "", charset)


SOURCE = Table(
    "wpp_messages",
    (
        column("id", "bigint"), column("instance", "varchar(191)"),
        column("contact_id", "bigint", nullable=True), column("sent_at", "datetime(3)"),
        column("body", "longtext", nullable=True), column("wwebjs_id", "varchar(191)"),
    ),
    (
        Index("PRIMARY", unique=True, columns=("id",), whole=True),
        Index("uq", unique=True, columns=("wwebjs_id",), whole=True),
        Index("idx", unique=False, columns=("contact_id",), whole=True),
    ),
)  # fmt: skip
GROUP = Index("PRIMARY", unique=True, columns=("instance", "contact_id"), whole=True)
TARGET = Table(
    "wpp_last_messages",
    tuple(replace(one, nullable=one.name == "body") for one in SOURCE.columns),
    (GROUP,),
)


def planned(
    source: Table = SOURCE, target: Table | None = TARGET, derived: Derived = LAST
) -> DerivedTable:
    return DerivedTable.plan(derived, source, target, schema.plan(MESSAGES, source, source))


def refusal(
    source: Table = SOURCE, target: Table | None = TARGET, derived: Derived = LAST
) -> SchemaError:
    with pytest.raises(SchemaError) as caught:
        planned(source, target, derived)
    assert caught.value.hint
    assert str(caught.value).startswith("messages: ")
    return caught.value


def having(table: Table, *columns: Column, without: Sequence[str] = ()) -> Table:
    """The table with these columns in the place of, or beside, its own."""
    names = {one.name for one in columns} | set(without)
    rest = [one for one in table.columns if one.name not in names]
    return replace(table, columns=(*rest, *columns))


# --- what is copied ------------------------------------------------------------------------------


def test_columns_are_copied_by_name_without_case_and_generated_ones_left_out() -> None:
    made = Column("made", "int", "int", True, None, "STORED GENERATED")
    source = having(SOURCE, column("made", "int"), column("more", "int"))
    target = having(TARGET, made, column("BODY", "longtext", nullable=True), without=["body"])

    found = planned(source, target)

    assert found.columns == ("id", "instance", "contact_id", "sent_at", "wwebjs_id", "BODY")
    assert (found.source, found.target, found.key) == ("wpp_messages", "wpp_last_messages", "id")
    assert found.texts == {"instance", "wwebjs_id", "BODY"}


def test_two_plans_of_the_same_tables_are_equal() -> None:
    """So that a plan can be compared with the tables as they are now."""
    assert planned() == planned()
    assert planned() != planned(target=having(TARGET, without=["body"]))


@pytest.mark.parametrize(
    "wider",
    [column("body", "longtext", nullable=True), column("id", "bigint"),
     column("more", "int", nullable=True), column("contact_id", "bigint", nullable=True)],
    ids=str,
)  # fmt: skip
def test_what_holds_all_is_taken(wider: Column) -> None:
    assert planned(target=having(TARGET, wider))


# --- what is refused -----------------------------------------------------------------------------


def test_a_missing_table() -> None:
    refused = refusal(target=None)

    assert "there is no table wpp_last_messages in the local database" in refused.message
    assert "a migration creates it" in refused.hint


@pytest.mark.parametrize("engine", ["MyISAM", ""])
def test_a_table_without_transactions(engine: str) -> None:
    with pytest.raises(SchemaError, match="it has no transactions"):
        planned(target=replace(TARGET, engine=engine))


def test_a_column_that_nothing_fills() -> None:
    refused = refusal(target=having(TARGET, column("mood", "int")))

    assert "mood of local wpp_last_messages must be filled" in refused.message


@pytest.mark.parametrize("missing", ["id", "contact_id", "sent_at", "instance"])
def test_a_column_that_decides(missing: str) -> None:
    refused = refusal(target=having(TARGET, without=[missing]))

    assert f"cannot be derived without the column {missing}" in refused.message


@pytest.mark.parametrize(
    "primary",
    [
        (),
        (replace(GROUP, columns=("id",)),),
        (replace(GROUP, columns=("contact_id",)),),
        (replace(GROUP, whole=False),),
        (replace(GROUP, name="other"),),
    ],
)
def test_a_primary_key_that_is_not_the_group(primary: tuple[Index, ...]) -> None:
    refused = refusal(target=replace(TARGET, indexes=primary))

    assert "the primary key of local wpp_last_messages is not (instance, contact_id)" in str(
        refused
    )


def test_the_primary_keys_columns_may_stand_in_any_order() -> None:
    turned = replace(GROUP, columns=("CONTACT_ID", "instance"))

    assert planned(target=replace(TARGET, indexes=(turned,)))


@pytest.mark.parametrize("unique", [("wwebjs_id",), ("id",), ("sent_at", "id")])
def test_what_is_unique_in_the_source_may_be_unique(unique: tuple[str, ...]) -> None:
    more = Index("more", unique=True, columns=unique, whole=True)

    assert planned(target=replace(TARGET, indexes=(GROUP, more)))


@pytest.mark.parametrize(("unique", "whole"), [("body", True), ("wwebjs_id", False)])
def test_a_unique_key_by_which_a_group_would_push_out_another(unique: str, whole: bool) -> None:
    more = Index("more", unique=True, columns=(unique,), whole=whole)

    refused = refusal(target=replace(TARGET, indexes=(GROUP, more)))

    assert "the unique key more of local wpp_last_messages" in refused.message


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (None, column("wwebjs_id", "varchar(190)")),
        (None, column("wwebjs_id", "varchar(191)", charset="utf8mb3")),
        (None, column("wwebjs_id", "varchar(255)", charset="latin1")),
        (None, column("body", "longtext")),  # NOT NULL
        (None, column("body", "mediumtext", nullable=True)),
        (None, column("contact_id", "int")),
        (None, column("contact_id", "bigint unsigned")),
        (column("n", "int unsigned"), column("n", "int")),
        (column("n", "int"), column("n", "int(10) zerofill")),
        (column("n", "decimal(10,2)"), column("n", "decimal(10,3)")),
        (column("n", "decimal(10,2)"), column("n", "decimal(11,1)")),
        (column("n", "int"), column("n", "varchar(3)")),
        (column("n", "datetime(3)"), column("n", "datetime")),
        (column("n", "datetime"), column("n", "timestamp")),
        (column("n", "enum('a','b')"), column("n", "enum('a')")),
    ],
    ids=str,
)
def test_a_column_that_holds_less(source: Column | None, target: Column) -> None:
    here = having(SOURCE, source) if source else SOURCE

    refused = refusal(here, having(TARGET, target))

    assert "holds less than what it is derived from" in refused.message
    assert f"{target.name} ({target.full_type} for " in refused.message


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("int", "bigint"), ("int unsigned", "bigint"), ("int", "int(11)"), ("int", "int"),
        ("decimal(10,2)", "decimal(12,3)"), ("datetime(3)", "datetime(6)"), ("text", "longtext"),
        ("varchar(20)", "varchar(21)"), ("enum('a')", "enum('a','b')"), ("blob", "blob"),
        ("enum('a','bc')", "varchar(2)"), ("geometry", "geometry"),
    ],
)  # fmt: skip
def test_a_column_that_holds_as_much_or_more(source: str, target: str) -> None:
    assert planned(having(SOURCE, column("n", source)), having(TARGET, column("n", target)))


@pytest.mark.parametrize(
    ("name", "kind", "wanted"),
    [
        ("contact_id", "varchar(20)", "must be an integer in both"),
        ("instance", "double", "must be an integer or a VARCHAR in both"),
        ("instance", "varbinary(20)", "must be an integer or a VARCHAR in both"),
    ],
)
def test_groups_that_cannot_be_told_apart_as_literals(name: str, kind: str, wanted: str) -> None:
    odd = column(name, kind)

    assert wanted in refusal(having(SOURCE, odd), having(TARGET, odd)).message


@pytest.mark.parametrize(
    ("source", "target"),
    [("double", "double"), ("varchar(20)", "varchar(20)"), ("datetime", "datetime(3)")],
)
def test_an_order_that_is_not_what_is_printed(source: str, target: str) -> None:
    refused = refusal(
        having(SOURCE, column("sent_at", source)), having(TARGET, column("sent_at", target))
    )

    assert "sent_at of local wpp_last_messages, by which a row is the latest" in refused.message


def test_an_order_that_leaves_open_which_of_two_is_the_last() -> None:
    refused = refusal(derived=LAST.model_copy(update={"latest_by": ("sent_at",)}))

    assert "must be decided by the key id" in refused.message


# --- statements ----------------------------------------------------------------------------------

BYTES = "CAST(CONVERT({}`instance` USING utf8mb4) AS BINARY)"
WHERE = Statement("`contact_id` = %s", (5,))


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        (
            sql.in_groups(("instance", "contact_id"), [(Text(b"a'"), 1), (Text(b"a'"), 2)]),
            f"((`instance` = 'a''' AND {BYTES.format('')} = _binary'a'''"
            " AND `contact_id` IN (1, 2)))",
        ),
        (
            sql.in_groups(("a", "b"), [(1, 2), (3, 4)]),
            "((`a` = 1 AND `b` IN (2)) OR (`a` = 3 AND `b` IN (4)))",
        ),
        (sql.in_groups(("a",), [(1,), (2,)]), "((`a` IN (1, 2)))"),
        (sql.in_range("a", None, None), "`a` IS NOT NULL"),
        (sql.in_range("a", 0, 9), "`a` IS NOT NULL AND `a` > 0 AND `a` <= 9"),
        (sql.highest("t", "id", ""), "SELECT MAX(`id`) FROM `t`"),
        (sql.chosen("t", ["a", "b"], WHERE, ""), "SELECT `a`, `b` FROM `t` WHERE `contact_id` = 5"),
        (
            sql.between_keys("t", ["a"], "id", first=1, last=9, limit=4, note=""),
            "SELECT `a` FROM `t` FORCE INDEX (PRIMARY) WHERE `id` >= 1 AND `id` <= 9"
            " ORDER BY `id` LIMIT 4",
        ),
        (
            sql.between_keys(
                "t", ["a"], "id", filled=("a", "b"), first=1, last=9, limit=4, note=""
            ),
            "SELECT `a` FROM `t` FORCE INDEX (PRIMARY) WHERE `id` >= 1 AND `id` <= 9"
            " AND `a` IS NOT NULL AND `b` IS NOT NULL ORDER BY `id` LIMIT 4",
        ),
        (
            sql.outdated(
                "d", "s", "id", ["a", "b"], [sql.same_in_both("instance", True)], ["at"], [7], ""
            ),
            "SELECT d.`a`, d.`b` FROM `d` d LEFT JOIN `s` s ON s.`id` = d.`id`"
            f" AND {BYTES.format('s.')} <=> {BYTES.format('d.')} AND s.`at` >= d.`at`"
            " WHERE d.`id` IN (7) AND s.`id` IS NULL",
        ),
        (
            sql.latest("t", ["instance", "c"], ["instance"], ["at", "id"], WHERE, ""),
            "SELECT `instance`, `c`, `id` FROM (SELECT `instance`, `c`, `id`,"
            f" ROW_NUMBER() OVER (PARTITION BY {BYTES.format('')}, `c`"
            " ORDER BY `at` DESC, `id` DESC) AS wpp_sync_place FROM `t` WHERE `contact_id` = 5)"
            " ranked WHERE wpp_sync_place = 1",
        ),
        (
            sql.replace_from("d", "s", ["a", "b"], "id", [1, 2], ""),
            "REPLACE INTO `d` (`a`, `b`) SELECT `a`, `b` FROM `s` WHERE `id` IN (1, 2)",
        ),
        (sql.delete_where("t", WHERE, ""), "DELETE FROM `t` WHERE `contact_id` = 5"),
        (
            sql.nth_value("t", "a", 3, 10, ""),
            "SELECT `a` FROM `t` WHERE `a` IS NOT NULL AND `a` > 3 ORDER BY `a` LIMIT 1 OFFSET 10",
        ),
        (
            sql.not_alike("d", "s", "id", [sql.same_in_both("n", False)], [1], ""),
            "SELECT s.`id` FROM `s` s LEFT JOIN `d` d ON d.`id` = s.`id` AND s.`n` <=> d.`n`"
            " WHERE s.`id` IN (1) AND d.`id` IS NULL",
        ),
    ],
)
def test_statements(statement: Statement, text: str) -> None:
    signature = sql.comment(statement.note)

    assert sql.render(statement).removeprefix(signature).decode() == text


def test_groups_are_known_from_the_rows_that_are_to_be_written() -> None:
    table, columns = planned(), ("id", "Instance", "contact_id")

    def groups(*rows: tuple[bytes | None, ...]) -> object:
        return table.groups_of(rows, columns)

    one, other = (b"1", b"nunes", b"7"), (b"2", b"nunes", b"-8")
    assert groups(one, other, one) == {(b"nunes", b"7"), (b"nunes", b"-8")}
    assert groups((b"3", b"nunes", None), (b"4", None, b"7")) == frozenset(), "they have none"
    assert groups(one, (b"5", b"nunes", b"7.5")) is None, "local may make anything of it"
    assert table.groups_of([one[:2]], columns[:2]) is None, "local fills it by itself"
    assert len(table.questions([1], "", groups=groups(one))) == 3  # type: ignore[arg-type]
    assert len(table.questions([1], "", groups=())) == 2
