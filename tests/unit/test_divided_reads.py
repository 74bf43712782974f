"""What one statement has read of several instances' rows, divided among them."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from daemon.reads import Found, Wanted
from daemon.schema import Plan
from daemon.sql import Row

PLAN = cast("Plan", SimpleNamespace(told=list))
NAMES = ("nunes", "Nunes", "núnes", "ondas")

tables = st.lists(st.sampled_from(NAMES), max_size=40)
"""Whose each id is, from 1 on."""

wants = st.builds(
    lambda instance, after, more, rows: Wanted(PLAN, instance, after, after + more, rows, 1),
    st.sampled_from(NAMES),
    st.integers(0, 45),
    st.integers(1, 45),
    st.integers(1, 12),
)


def read(table: list[str], some: list[Wanted], limit: int) -> Found:
    """What the statement for these would bring."""
    low, high = min(each.after for each in some), max(each.upto for each in some)
    names = {each.instance for each in some}
    inside = [id_ for id_ in range(low + 1, high + 1) if id_ <= len(table)]
    all_ = [id_ for id_ in inside if table[id_ - 1] in names]
    rows: dict[bytes, list[Row]] = defaultdict(list)
    for id_ in all_[:limit]:
        rows[table[id_ - 1].encode()].append((str(id_).encode(), b"value"))
    return Found(rows, all_[limit - 1] if len(all_) >= limit else None, size=100, seconds=0.5)


@given(table=tables, some=st.lists(wants, min_size=1, max_size=6), limit=st.integers(1, 50))
def test_each_is_given_his_rows_and_told_no_more_than_was_looked_at(
    table: list[str], some: list[Wanted], limit: int
) -> None:
    found = read(table, some, limit)
    seen_to = found.reached if found.reached is not None else 1_000
    for each in some:
        page = found.page(each)
        if page is None:
            assert seen_to <= each.after, "it ended before anything of his"
            continue
        assert each.after == page.after < page.end <= min(each.upto, seen_to)
        ids = [int(row[0] or 0) for row in page.rows]
        theirs = [id_ for id_, whose in enumerate(table, 1) if whose == each.instance]
        assert ids == [id_ for id_ in theirs if each.after < id_ <= page.end]
        assert len(ids) <= each.rows
        assert page.full == (len(ids) == each.rows)
        if not page.full:
            assert page.end == min(each.upto, seen_to)
        assert 0 <= page.size <= 100
