"""Rows as the bulk protocol carries them, read back by a reader of our own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon import bulk, driver
from daemon.sql import Row

VALUES = st.none() | st.binary(max_size=20) | st.sampled_from([b"", b"x" * 250, b"x" * 251])


def _length(data: bytes, at: int) -> tuple[int, int]:
    """A length-encoded integer, and where it ends."""
    wide = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(data[at])
    if wide is None:
        return data[at], at + 1
    return int.from_bytes(data[at + 1 : at + 1 + wide], "little"), at + 1 + wide


def unpacked(packet: bytes, width: int) -> Iterator[tuple[list[int], Row]]:
    """The types and the values of each row of a packet."""
    assert packet[:2] == b"\x80\x00", "types follow"
    types = [packet[2 + 2 * place] for place in range(width)]
    at = 2 + 2 * width
    while at < len(packet):
        row: list[bytes | None] = []
        for _ in range(width):
            indicator, at = packet[at], at + 1
            if indicator == 1:
                row.append(None)
                continue
            assert indicator == 0
            length, at = _length(packet, at)
            row.append(packet[at : at + length])
            assert len(packet) >= at + length
            at += length
        yield types, tuple(row)


@given(
    rows=st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=200),
    binary=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    most=st.integers(1, 2000),
)
def test_what_is_packed_is_what_was_given(
    rows: Sequence[Row], binary: tuple[bool, ...], most: int
) -> None:
    packets = list(bulk.packets(rows, binary, most))
    found = [each for packet in packets for each in unpacked(packet, 3)]
    assert [row for _, row in found] == rows
    assert all(types == [0xFC if flag else 0xFD for flag in binary] for types, _ in found)
    for packet in packets:
        assert len(packet) <= most or len(list(unpacked(packet, 3))) == 1


def test_the_first_packet_is_small_and_the_next_ones_grow() -> None:
    """The server has nothing to do until the first one is there."""
    most = 512 << 10
    sizes = [len(each) for each in bulk.packets([(b"v" * 400,)] * 5_000, [False], most)]
    assert sizes[0] <= most // 10
    assert all(before < after for before, after in pairwise(sizes[:3]))
    assert len(sizes) <= 6
    assert most * 0.9 < max(sizes) <= most


@pytest.mark.parametrize("size", [250, 251, 65_535, 65_536, (1 << 24) - 1, 1 << 24])
def test_values_of_every_length(size: int) -> None:
    value = b"v" * size
    (packet,) = bulk.packets([(value,)], [False], 1)
    ((_, row),) = unpacked(packet, 1)
    assert row == (value,)


def test_a_statement_has_a_question_mark_for_each_value() -> None:
    assert bulk.statement(b"INSERT INTO t VALUES ", 3, b" ON X") == (
        b"INSERT INTO t VALUES (?, ?, ?) ON X"
    )


class _Connection:
    prepare = _execute_command = _read_query_result = None


class _Statement:
    close = _statement_id = None


def test_a_driver_is_fit_when_it_is_known_and_has_what_is_needed() -> None:
    (seen,) = driver._SEEN_WITH
    assert driver.why_unfit(seen, _Connection, _Statement) == ""
    assert "none of" in driver.why_unfit("9.9.9", _Connection, _Statement)
    assert "no object.prepare" in driver.why_unfit(seen, object, _Statement)
    assert "object._statement_id" in driver.why_unfit(seen, _Connection, object)


def test_the_installed_driver_is_fit() -> None:
    """Else rows go as literals, and nobody would notice but by the clock."""
    assert driver.unfit() == ""
