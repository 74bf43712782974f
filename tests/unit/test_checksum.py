"""A row's checksum as text: what it is made of, and what has no part in it."""

from __future__ import annotations

import re

import pytest

from daemon.checksum import Compared, row_sum
from daemon.sql import Statement, render
from daemon.values import Column


def column(
    full_type: str, name: str = "c", *, nullable: bool = True, charset: str = "utf8mb4"
) -> Column:
    kind = re.match(r"\w+", full_type)
    assert kind is not None
    return Column(name, kind[0], full_type, nullable, None, "", charset)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("longtext", "json"),  # MySQL prints a document in its own form
        ("double", "varchar(40)"),  # the servers print a DOUBLE in different ways
        ("double", "decimal(20,5)"),
        ("bit(8)", "varbinary(1)"),
        ("time", "datetime"),
        ("varchar(20)", "int(11)"),
        ("varbinary(20)", "varchar(20)"),
    ],
)
def test_what_two_servers_cannot_bring_together_is_left_out_and_told(
    source: str, target: str
) -> None:
    found = row_sum([Compared(column("int(11)", "id"), column("int(11)", "id")),
                     Compared(column(source), column(target))])  # fmt: skip
    assert found.left_out == (f"c ({target} for {source})",)
    assert "`c`" not in found.central + found.local


def test_each_side_names_its_own_columns() -> None:
    found = row_sum([Compared(column("int(11)", "contactId"), column("bigint(20)", "contact_id"))])
    assert "`contactId`" in found.central
    assert "`contact_id`" not in found.central
    assert "`contact_id`" in found.local


def test_a_percent_sign_in_a_name_or_an_encoding_survives_the_statement() -> None:
    found = row_sum(
        [Compared(column("varchar(9)", "100%"), column("varchar(99)", "100%"), encode=True)]
    )
    for expression in (found.central, found.local):
        assert b"`100%`" in render(Statement(f"SELECT {expression}"))
    assert b"'%25'" in render(Statement(f"SELECT {found.central}"))
    assert b"%%" not in render(Statement(f"SELECT {found.central}"))


def between(column_: Column, other: Column | None = None) -> str:
    """What stands for one column in the row's text, in central."""
    found = row_sum([Compared(column_, other or column_)]).central
    return found.partition("CONCAT_WS(CAST(X'FF' AS BINARY), ")[2].partition("), 256), 16)")[0]


@pytest.mark.parametrize(
    ("full_type", "nullable", "charset", "expected"),
    [
        ("int(11)", False, "", "`c`"),
        ("int(11)", True, "", "`c`, X'FE'"),
        ("varchar(9)", False, "utf8mb4", "`c`"),
        ("varchar(9)", True, "utf8mb3", "`c`, X'FE'"),
        ("varchar(9)", True, "latin1", "CONVERT(`c` USING utf8mb4), X'FE'"),
        ("varchar(9)", True, "ascii", "LENGTH(`c`), `c`, X'FE'"),  # MariaDB lets any bytes in
        ("enum('a','b')", True, "utf8mb4", "`c`, X'FE'"),
        ("enum('a','?')", False, "utf8mb4", "LENGTH(`c`), `c`"),  # perhaps no question mark
        ("varbinary(9)", True, "", "LENGTH(CAST(`c` AS BINARY)), CAST(`c` AS BINARY), X'FE'"),
    ],
)
def test_a_column_has_a_length_where_it_may_contain_the_marks_and_a_mark_where_it_can_be_null(
    full_type: str, nullable: bool, charset: str, expected: str
) -> None:
    assert between(column(full_type, nullable=nullable, charset=charset)) == expected


def test_a_long_text_stands_as_its_hash_and_tells_null_apart_from_what_no_packet_holds() -> None:
    stands = between(column("text"))
    hashed = "CONCAT(CAST(X'FD' AS BINARY), SHA2(`c`, 256))"
    assert stands == f"IF(LENGTH(`c`) > 1024, {hashed}, `c`), X'FE', ISNULL(`c`)"


def test_both_sides_tell_the_same_marks_lengths_and_hashes() -> None:
    """Else no row would ever be equal."""
    found = row_sum(
        [
            Compared(column("int(11)", "id", nullable=False), column("int(11)", "id")),
            Compared(column("enum('a')", "e", nullable=False), column("varchar(9)", "e")),
            Compared(column("text", "t", charset="latin1"), column("blob", "t")),
            Compared(column("varchar(9)", "a"), column("varchar(9)", "a", charset="ascii")),
            Compared(column("varchar(1000)", "v"), column("text", "v")),
        ]
    )
    for what in ("ISNULL(", " LENGTH(", "X'FE'", "X'FD'"):
        assert found.central.count(what) == found.local.count(what) > 0, what


def test_a_fraction_of_a_second_is_cut_in_central_never_rounded() -> None:
    found = row_sum([Compared(column("datetime(3)"), column("datetime"))])
    assert "LEFT(CAST(`c` AS CHAR), CHAR_LENGTH(CAST(`c` AS CHAR)) - 4)" in found.central
    found = row_sum([Compared(column("datetime"), column("datetime(3)"))])
    assert "CONCAT(CAST(`c` AS CHAR), '.000')" in found.central
