"""The pure part of the comparison: matching two ordered streams, pairing columns, the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.demo.compare import (
    Column,
    Comparison,
    Row,
    Value,
    merge,
    pair_columns,
    report,
    subject,
)

values = st.one_of(st.none(), st.sampled_from([b"", b"0", b"NULL", b"a", b"A", b"\x00", b"\xff"]))
tables = st.shared(st.sampled_from([1, 2]), key="parts").flatmap(
    lambda parts: st.dictionaries(
        st.tuples(*[st.integers(-3, 9)] * parts), st.tuples(values, values), max_size=20
    )
)
Table = dict[tuple[int, ...], tuple[Value, ...]]


def rows(table: Table) -> list[Row]:
    return [Row(key, table[key]) for key in sorted(table)]


@given(central=tables, local=tables)
def test_merge_finds_exactly_the_differences_of_two_tables(central: Table, local: Table) -> None:
    found = merge(rows(central), rows(local), ["one", "two"])

    assert (found.rows_central, found.rows_local) == (len(central), len(local))
    assert found.missing == len(central.keys() - local.keys())
    assert found.extra == len(local.keys() - central.keys())
    common = central.keys() & local.keys()
    assert found.differing == sum(central[key] != local[key] for key in common)
    differences = found.missing + found.extra + found.differing
    assert len(found.examples) == min(differences, 5)
    assert (differences == 0) == (central == local)


@given(table=tables)
def test_a_table_equals_itself(table: Table) -> None:
    found = merge(rows(table), rows(table), ["one", "two"])

    assert found.missing == found.extra == found.differing == 0
    assert found.examples == ()


@given(st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)))
def test_a_key_that_stands_twice_counts_as_one_row_too_many(
    central: list[int], local: list[int]
) -> None:
    found = merge(
        [Row((key,), (b"x",)) for key in sorted(central)],
        [Row((key,), (b"x",)) for key in sorted(local)],
        ["value"],
    )

    here, there = Counter(central), Counter(local)
    assert found.missing == (here - there).total()
    assert found.extra == (there - here).total()
    assert (found.rows_central, found.rows_local) == (len(central), len(local))


def test_merge_holds_no_more_than_the_rows_it_is_looking_at() -> None:
    ahead = 0

    def stream(step: int) -> Iterator[Row]:
        nonlocal ahead
        for key in range(10_000):
            ahead += step
            assert abs(ahead) <= 1
            yield Row((key,), ())

    found = merge(stream(1), stream(-1), [])

    assert found.rows_central == found.rows_local == 10_000


@pytest.mark.parametrize("side", ["central", "local"])
def test_rows_out_of_order_are_refused_because_they_would_compare_as_different(side: str) -> None:
    wrong = [Row((2,), ()), Row((1,), ())]
    right = [Row((1,), ()), Row((2,), ())]
    central, local = (wrong, right) if side == "central" else (right, wrong)

    with pytest.raises(ValueError, match="1 comes after 2"):
        merge(central, local, [])


def test_null_and_empty_and_the_word_null_are_three_values() -> None:
    three = [None, b"", b"NULL"]
    for here in three:
        for there in three:
            found = merge([Row((1,), (here,))], [Row((1,), (there,))], ["body"])
            assert found.differing == (here is not there)


def test_examples_say_key_column_and_both_values() -> None:
    central = [
        Row((7,), (b"same", b"it's", None)),
        Row((8,), (b"", b"", b"")),
        Row((9, b"k"), (b"x" * 5_000, b"", b"")),
    ]
    local = [
        Row((7,), (b"same", b"its", b"")),
        Row((9, b"k"), (b"y" * 5_000, b"", b"")),
        Row((10,), (b"", b"", b"")),
    ]

    found = merge(central, local, ["one", "two", "three"])

    assert found.examples == (
        "7: two is 'its', in central \"it's\" and 1 more",
        "8 is missing",
        f"9, 'k': one is '{'y' * 49}… (5,000 bytes), in central '{'x' * 49}… (5,000 bytes)",
        "10 is not in central",
    )


def test_examples_are_limited() -> None:
    found = merge([Row((key,), ()) for key in range(100)], [], [], max_examples=2)

    assert found.missing == 100
    assert found.examples == ("0 is missing", "1 is missing")


def test_columns_pair_by_name_and_by_rename_in_the_local_order() -> None:
    central = [Column("id", "int"), Column("Instance", "varchar"), Column("priority", "enum")]
    local = [Column("original_id", "int"), Column("note", "text"), Column("instance", "varchar")]
    local += [Column("ID", "int")]

    pairs = pair_columns(central, local, {"original_id": "id", "absent": "id"})

    assert [(pair.local.name, pair.central.name) for pair in pairs] == [
        ("original_id", "id"),
        ("instance", "Instance"),
        ("ID", "id"),
    ]


def test_a_rename_to_a_column_that_is_not_there_pairs_nothing() -> None:
    assert pair_columns([Column("a", "int")], [Column("a", "int")], {"a": "b"}) == ()


EQUAL = Comparison(
    instance="nunes",
    entity="messages",
    columns=26,
    rows_central=12_345,
    rows_local=12_345,
    missing=0,
    extra=0,
    differing=0,
    examples=(),
)


def test_the_report_is_one_aligned_line_for_each_comparison() -> None:
    chats = replace(EQUAL, instance="karsten", entity="chats", rows_central=7, rows_local=7)

    assert report([EQUAL, chats]).splitlines() == [
        "nunes    messages  12,345 rows, 26 columns  equal",
        "karsten  chats     7 rows, 26 columns       equal",
    ]
    assert report([]) == ""


def test_the_report_of_differences_counts_them_and_gives_examples() -> None:
    bad = replace(EQUAL, rows_local=12_346, missing=1, extra=2, differing=3, examples=("7 is …",))

    assert not bad.equal
    assert report([bad]).splitlines() == [
        "nunes  messages  12,345 central and 12,346 local rows, 26 columns  "
        "DIFFERENT: 1 missing, 2 extra, 3 differing",
        "    7 is …",
    ]


@pytest.mark.parametrize("only", ["missing", "extra", "differing"])
def test_one_difference_of_any_kind_is_not_equal(only: str) -> None:
    kinds = {"missing": 0, "extra": 0, "differing": 0, only: 1}

    assert not replace(EQUAL, **kinds).equal  # type: ignore[arg-type]


def test_names_that_look_alike_are_told_apart_in_the_report() -> None:
    assert report([replace(EQUAL, instance="nunes ")]).startswith("'nunes '  ")


def test_each_built_in_entity_has_its_subject() -> None:
    for entity in ("messages", "chats", "contacts", "contact_sectors", "schedules"):
        assert subject("nunes", entity).entity == entity
    with pytest.raises(KeyError):
        subject("nunes", "clients")


def test_an_instance_name_can_contain_anything() -> None:
    """It reaches the servers in hexadecimal."""
    where = subject("nu'nes\\ --", "contact_sectors").where

    assert where is not None
    assert "nu'nes" not in where
    assert b"nu'nes\\ --".hex() in where
