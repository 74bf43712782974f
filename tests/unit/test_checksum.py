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


def test_columns_that_cannot_be_null_need_no_flag() -> None:
    both = [column("int(11)", "a", nullable=False), column("int(11)", "b")]
    found = row_sum([Compared(each, each) for each in both])
    assert "ISNULL(`b`)" in found.central
    assert "ISNULL(`a`)" not in found.central


def test_both_sides_tell_the_same_flags_and_lengths() -> None:
    """Else no row would ever be equal."""
    found = row_sum(
        [
            Compared(column("int(11)", "id", nullable=False), column("int(11)", "id")),
            Compared(column("enum('a')", "e", nullable=False), column("varchar(9)", "e")),
            Compared(column("text", "t", charset="latin1"), column("blob", "t")),
        ]
    )
    for what in ("ISNULL(", "LENGTH("):
        assert found.central.count(what) == found.local.count(what)


def test_a_fraction_of_a_second_is_cut_in_central_never_rounded() -> None:
    found = row_sum([Compared(column("datetime(3)"), column("datetime"))])
    assert "LEFT(CAST(`c` AS CHAR), CHAR_LENGTH(CAST(`c` AS CHAR)) - 4)" in found.central
    found = row_sum([Compared(column("datetime"), column("datetime(3)"))])
    assert "CONCAT(CAST(`c` AS CHAR), '.000')" in found.central
