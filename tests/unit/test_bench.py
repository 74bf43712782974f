"""The bench's pure parts: what it counts, and how it tells it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from bench import seed, stats, table
from bench.__main__ import BEGIN, DOCUMENT, END, refreshed
from bench.place import Contender, Place
from bench.results import Goal, Line, Measured, Outcome, Run
from daemon.errors import WppSyncError

PIPE = Line("the pipe", "rows/s", (10.0, 20.0, 40.0))
OURS = Line("ours", "rows/s", (50.0, 30.0, 10.0), "a note")
OUTCOME = Outcome(
    lines=(OURS, PIPE, Line("memory", "MB", (80.25,))),
    goals=(
        Goal("quick", 1.7, "× the pipe", 1.5, at_least=True, in_the_way="a | b"),
        Goal("small", 100, "MB", 80.25, in_the_way="nobody is told"),
        Goal("unknown", 1, "s", None),
    ),
    settings={"rows": "1,000"},
    beside="the pipe",
    missing={"sling": "no network"},
)
RUN = Run(
    began="2026-01-02T03:04:05+00:00",
    quick=False,
    rounds=3,
    versions={"MariaDB": "10.11"},
    measured=(
        Measured("first", "the first one", 1.5, OUTCOME),
        Measured("second", "the second one", 0.5, None, "it [failed]"),
    ),
)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.5, 2), (0.51, 3), (0.75, 3), (0.99, 4), (1.0, 4)]
)
def test_a_quantile_is_a_value_that_was_measured(share: float, expected: float) -> None:
    assert stats.quantile([4, 1, 3, 2], share) == expected


def test_of_a_hundred_values_one_is_above_p99() -> None:
    assert stats.quantile(range(1, 101), 0.99) == 99


def test_no_quantile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no samples"):
        stats.quantile([], 0.5)


def test_a_ratio_is_of_medians_of_the_same_unit() -> None:
    assert OUTCOME.ratio(OURS) == 1.5
    assert OUTCOME.ratio(PIPE) is None
    assert OUTCOME.ratio(OUTCOME.lines[2]) is None


@pytest.mark.parametrize(
    ("measured", "at_least", "reached"),
    [
        (1.0, False, True),
        (1.1, False, False),
        (1.0, True, True),
        (0.9, True, False),
        (None, True, None),
    ],
)
def test_a_goal_is_reached_at_its_bound(
    measured: float | None, at_least: bool, reached: bool | None
) -> None:
    assert Goal("it", 1.0, "s", measured, at_least=at_least).reached is reached


def test_a_run_is_read_back_from_its_json() -> None:
    document = json.loads(json.dumps(RUN.document()))
    assert Run.read(document) == RUN


def test_the_json_has_medians_spread_ratios_and_verdicts() -> None:
    first = RUN.document()["measured"][0]["outcome"]
    line = first["lines"][0]
    assert (line["median"], line["low"], line["high"], line["ratio"]) == (30.0, 10.0, 50.0, 1.5)
    assert [goal["reached"] for goal in first["goals"]] == [False, True, None]


def test_the_terminal_is_told_everything() -> None:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table.terminal(RUN))
    text = captured.get()
    for told in ("MariaDB 10.11", "30", "10 – 50", "1.50 ×", "a note", "no network", "it [failed]"):
        assert told in text
    assert [line.split("│")[4].strip() for line in text.splitlines() if line.startswith("│")] == [
        "no", "yes", "?"
    ]  # fmt: skip


def test_markdown_says_what_stands_in_the_way_of_what_is_not_reached() -> None:
    text = table.markdown(RUN)
    assert "| quick | ≥ 1.7 × the pipe | 1.5 × the pipe | no | a \\| b |" in text
    assert "| small | ≤ 100 MB | 80.2 MB | yes |  |" in text
    assert "| unknown | ≤ 1 s | – | ? |  |" in text
    assert "| ours | 30 | 10 – 50 | rows/s | 1.50 × | 3 | a note |" in text
    assert "it [failed]" in text


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0, "0"),
        (0.01234, "0.0123"),
        (1.7, "1.7"),
        (99.96, "100"),
        (123.4, "123"),
        (31234.5, "31,234"),
    ],
)
def test_three_digits_count(value: float, told: str) -> None:
    assert table.number(value) == told


def test_figures_take_the_place_of_others_and_of_nothing_else() -> None:
    document = f"before\n{BEGIN}old\n{END}after\n"
    once = refreshed(document, "new")
    assert "old" not in once
    assert "new" in once
    assert (once.startswith("before\n"), once.endswith("after\n")) == (True, True)
    assert refreshed(once, "new") == once


def test_a_document_without_marks_is_left_alone() -> None:
    with pytest.raises(WppSyncError, match="no place"):
        refreshed("nothing", "new")


def test_the_document_has_a_place_for_figures() -> None:
    text = DOCUMENT.read_text()
    assert refreshed(text, "new") != text


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, quick=False, rounds=2)


def test_contenders_take_turns_after_a_round_that_does_not_count(place: Place) -> None:
    turns: list[str] = []

    def turn(name: str) -> Callable[[], float]:
        return lambda: turns.append(name) or float(len(turns))  # type: ignore[func-returns-value]

    rounds = place.compete(
        [Contender("a", turn("a")), Contender("b", turn("b")), Contender("c", turn("c"), rounds=1)]
    )
    assert turns == ["a", "b", "a", "b", "c", "a", "b"]
    assert rounds.took == {"a": (3.0, 6.0), "b": (4.0, 7.0), "c": (5.0,)}
    assert rounds.ratio("b", "a") == 5.5 / 4.5


def test_a_rival_that_fails_is_named_and_the_others_go_on(place: Place) -> None:
    def fail() -> float:
        raise WppSyncError("out of breath")

    rounds = place.compete([Contender("a", lambda: 1.0), Contender("b", fail, required=False)])
    assert rounds.took == {"a": (1.0, 1.0)}
    assert rounds.failed == {"b": "out of breath"}
    assert rounds.ratio("a", "b") is None
    with pytest.raises(WppSyncError, match="out of breath"):
        place.compete([Contender("b", fail)])


def test_what_is_laid_is_kept_until_something_else_is_wanted(place: Place) -> None:
    from contextlib import contextmanager

    seen: list[str] = []

    @contextmanager
    def lay(place: Place):  # type: ignore[no-untyped-def]
        seen.append("laid")
        yield len(seen)
        seen.append("cleared")

    with place:
        assert place.shared("one", lay) == place.shared("one", lay) == 1
        place.shared("other", lay)
        assert seen == ["laid", "cleared", "laid"]
    assert seen[-1] == "cleared"


def test_a_seed_of_many_rows_is_several_statements() -> None:
    sql = seed.messages("messages", 250_000, instances=3)
    assert [line.rpartition("FROM ")[2] for line in sql.splitlines()] == [
        "seq_1_to_100000_step_1;",
        "seq_100001_to_200000_step_1;",
        "seq_200001_to_250000_step_1;",
    ]


def test_a_seed_of_one_instance_has_its_rows_alone() -> None:
    sql = seed.messages("wpp_messages", 20, first=3, step=10, instances=10)
    assert sql.rstrip().endswith("FROM seq_3_to_20_step_10;")
