"""What the status page says of an instance, and in which order."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from daemon import page
from daemon.recent import Recent
from daemon.seen import EntitySeen, InstanceSeen

NOW = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)
FOLLOWS = EntitySeen(lag_seconds=0.0, lag_rows=0, rewound=0, quarantined_rows=0, entity_paused=0)
WHOLE = EntitySeen(lag_seconds=40.0, quarantined_rows=0, entity_paused=0)


def line(
    name: str = "nunes", state: str = "idle", *, messages: EntitySeen = FOLLOWS,
    contacts: EntitySeen = WHOLE, stalled: bool = False,
) -> page.Line:  # fmt: skip
    entities = {} if state == "standby" else {"messages": messages, "contacts": contacts}
    return page.line(InstanceSeen(name, state, entities), Recent(), [], stalled=stalled)


def shown(*lines: page.Line, search: str = "") -> str:
    return page.overview(lines, search, version="1", now=NOW)


def headline(*lines: page.Line) -> str:
    return shown(*lines).split("<h1")[1].split("</h1>")[0].partition(">")[2].strip()


@pytest.mark.parametrize(
    ("found", "trouble"),
    [
        (line(), ""),
        (line(state="failed"), "failed"),
        (line(state="backoff"), "backoff"),
        (line(stalled=True), "stalled"),
        (line(messages=replace(FOLLOWS, rewound=1)), "rewound"),
        (line(messages=replace(FOLLOWS, quarantined_rows=3)), "quarantine"),
        (line(messages=replace(FOLLOWS, lag_seconds=61.0)), "late"),
        (line(messages=replace(FOLLOWS, lag_seconds=9e9, entity_paused=1)), ""),
        (line(contacts=replace(WHOLE, lag_seconds=500.0)), ""),
        (line(contacts=replace(WHOLE, lag_seconds=700.0)), "late"),
        (line(state="standby"), ""),
    ],
)
def test_what_is_trouble(found: page.Line, trouble: str) -> None:
    assert found.trouble == trouble


@pytest.mark.parametrize(
    ("found", "rows"),
    [
        (line(), 0),
        (line(messages=replace(FOLLOWS, lag_rows=12_345)), 12_345),
        (line(messages=replace(FOLLOWS, lag_rows=None)), None),
        (line(state="standby"), None),
    ],
)
def test_rows_that_nobody_has_counted_are_not_none(found: page.Line, rows: int | None) -> None:
    assert found.lag_rows == rows
    told = "–" if rows is None else f"{rows:,}"
    assert f'data-label="Rows behind">{told}<' in shown(found)


def test_only_what_is_copied_here_is_called_well() -> None:
    assert headline(line("a"), line("b", "syncing")) == "All 2 instances are well"
    assert headline(line()) == "The one instance is well"
    assert headline(line("a"), line("b", "standby"), line("c", "paused")) == (
        "1 of 3 instances are copied here, and well"
    )
    assert headline(line("a"), line("b", "failed")) == "1 of 2 instances in trouble"


def test_the_worst_comes_first() -> None:
    found = [
        line("well"),
        line("behind", messages=replace(FOLLOWS, lag_seconds=5.0)),
        line("late", messages=replace(FOLLOWS, lag_seconds=90.0)),
        line("later", messages=replace(FOLLOWS, lag_seconds=900.0)),
        line("full", messages=replace(FOLLOWS, quarantined_rows=1)),
        line("away", "backoff"),
        line("broken", "failed"),
        line("resting", "paused"),
    ]
    order = [each.name for each in sorted(found, key=lambda each: each.rank)]
    assert order == ["broken", "away", "full", "later", "late", "resting", "behind", "well"]


def test_a_name_is_never_html() -> None:
    name = "<script>x</script>&\"'{{ 7 * 7 }}"
    text = shown(line(name), search=name)
    assert "<script>x" not in text
    assert "49" not in text


def test_a_line_of_rates_is_flat_where_nothing_was_written() -> None:
    assert page.spark([]) == page.spark([0.0] * 60) == ""
    assert page.spark([5.0]) == page.spark([0.0, 5.0, 5.0]) == "", "one point is no line"
    points = page.spark([0.0, 0.0, 10.0, 10.0, 5.0, 5.0]).split()
    assert points == ["54,15", "56,1", "58,8"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "–"), (0.01, "0 s"), (0.4, "0.4 s"), (59.6, "60 s"), (119, "119 s"), (121, "2 min"),
     (7200, "2 h"), (200_000, "2 d")],
)  # fmt: skip
def test_durations_as_a_person_says_them(seconds: float | None, said: str) -> None:
    assert page.span(seconds) == said
