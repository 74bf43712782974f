"""The bench's pure parts: what it counts, and how it tells it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from bench import processes, seed, stats, table
from bench.__main__ import BEGIN, DOCUMENT, END, NAMES, main, refreshed
from bench.measures import MEASURES, Measure
from bench.measures.latency import Flow, Window
from bench.measures.passes import counted
from bench.place import Contender, Place
from bench.results import Figures, Goal, Line, Measured, Outcome, Run
from bench.rivals import version_in
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
        Measured(
            "second",
            "the second one",
            0.5,
            None,
            "it [failed]",
            (Goal("the second's goal", 2, "s", None),),
        ),
    ),
)
FIGURES = Figures.of([RUN], ["first", "second"])


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
        console.print(table.terminal(FIGURES))
    text = captured.get()
    for told in ("MariaDB 10.11", "30", "10 – 50", "1.50 ×", "a note", "no network", "it [failed]"):
        assert told in text
    assert [line.split("│")[4].strip() for line in text.splitlines() if line.startswith("│")] == [
        "no", "yes", "?", "?"
    ]  # fmt: skip


def test_markdown_says_what_stands_in_the_way_of_what_is_not_reached() -> None:
    text = table.markdown(FIGURES)
    assert "| quick | ≥ 1.7 × the pipe | 1.5 × the pipe | no | a \\| b |" in text
    assert "| small | ≤ 100 MB | 80.2 MB | yes |  |" in text
    assert "| unknown | ≤ 1 s | – | ? | no sling: no network |" in text
    assert "| the second's goal | ≤ 2 s | – | ? | failed: it [failed] |" in text
    assert "| ours | 30 | 10 – 50 | rows/s | 1.50 × | 3 | a note |" in text
    assert "it [failed]" in text


def test_a_file_of_an_older_bench_has_no_goals_of_what_failed() -> None:
    document = RUN.document()
    del document["measured"][1]["aims"]
    assert [each.aims for each in Run.read(document).measured] == [(), ()]


def taken(began: str, *names: str, quick: bool = False) -> Run:
    outcome = Outcome(lines=(Line(f"by {began}", "s", (1.0,)),))
    measured = tuple(Measured(name, f"it is {name}", 1.0, outcome) for name in names)
    return Run(began, quick, 5, {"MariaDB": "10.11"}, measured)


def test_of_several_runs_the_last_word_on_a_measure_counts() -> None:
    figures = Figures.of(
        [taken("monday", "b", "a"), taken("tuesday", "b", "c"), taken("friday", "c")],
        ["a", "b", "c"],
    )
    assert [each.name for each in figures.measured] == ["a", "b", "c"]
    assert [each.outcome and each.outcome.lines[0].what for each in figures.measured] == [
        "by monday", "by tuesday", "by friday"
    ]  # fmt: skip
    heads = [line for line in table.markdown(figures).splitlines() if "Measured" in line]
    assert [line.partition(": ")[0] for line in heads] == [
        "Measured on monday (5 rounds), a",
        "Measured on tuesday (5 rounds), b",
        "Measured on friday (5 rounds), c",
    ]


def test_a_run_that_nothing_is_left_of_is_not_spoken_of() -> None:
    figures = Figures.of([taken("monday", "a"), taken("tuesday", "a")], ["a"])
    assert [run.began for run in figures.runs] == ["tuesday"]
    assert "Measured on tuesday (5 rounds): MariaDB" in table.markdown(figures)


def test_a_page_is_made_of_all_measures_and_of_no_quick_run() -> None:
    names = ["a", "b"]
    assert Figures.of([taken("monday", "a"), taken("tuesday", "b")], names).no_page(names) == ""
    assert "Missing: b" in Figures.of([taken("monday", "a")], names).no_page(names)
    quick = Figures.of([taken("monday", "a"), taken("tuesday", "b", quick=True)], names)
    assert "quick" in quick.no_page(names)
    slow_after_all = [taken("monday", *names, quick=True), taken("tuesday", *names)]
    assert Figures.of(slow_after_all, names).no_page(names) == ""


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "page.md"
    path.write_text(f"before\n{BEGIN}old\n{END}after\n")
    monkeypatch.setattr("bench.__main__.DOCUMENT", path)
    return path


def written(path: Path, run: Run) -> Path:
    path.write_text(json.dumps(run.document()))
    return path


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--only", "start", "--markdown"], "Missing: first-sync"),
        (["--quick", "--markdown"], "quick run"),
        (["--read", "FILE", "--only", "start"], "stands alone"),
        (["--read", "FILE", "--rounds", "2"], "stands alone"),
        (["--read", "FILE", "--quick"], "stands alone"),
        (["--read", "FILE", "--json", "FILE"], "stands alone"),
        (["--read", "FILE", "--markdown"], "Missing: whole-process"),
        (["--json", "/nowhere/at/all"], "No such file"),
        (["--json", "/"], "Is a directory"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_done(
    arguments: Sequence[str], why: str, page: Path, tmp_path: Path
) -> None:
    file = written(tmp_path / "a.json", taken("monday", "first-sync"))
    result = invoke(*(str(file) if each == "FILE" else each for each in arguments))
    assert (result.exit_code, why in " ".join(result.output.split())) == (2, True), result.output
    assert "old" in page.read_text()


def test_files_are_read_together_and_make_the_page(page: Path, tmp_path: Path) -> None:
    one = written(tmp_path / "a.json", taken("monday", *NAMES[:5]))
    other = written(tmp_path / "b.json", taken("tuesday", *NAMES[5:]))
    result = invoke("--read", one, "--read", other, "--markdown")
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert [text.count(f"(`--only {name}`)") for name in NAMES] == [1] * len(NAMES)
    assert "old" not in text


def test_figures_of_a_quick_run_are_shown_but_kept_from_the_page(
    page: Path, tmp_path: Path
) -> None:
    file = written(tmp_path / "a.json", taken("monday", *NAMES, quick=True))
    assert invoke("--read", file).exit_code == 0
    assert invoke("--read", file, "--markdown").exit_code == 2
    assert "old" in page.read_text()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "{}", '{"measured": 3}', "\xff", "no samples", "samples that are none"],
)
def test_a_file_that_is_none_of_ours_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="latin-1")
    if "samples" in text:
        document = taken("monday", "start").document()
        samples = [] if text == "no samples" else ["x"]
        document["measured"][0]["outcome"]["lines"][0]["samples"] = samples
        path.write_text(json.dumps(document))
    result = invoke("--read", path)
    assert (result.exit_code, "no file of --json" in result.output) == (2, True), result.output


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    result = invoke("--read", tmp_path / "missing.json")
    assert (result.exit_code, "No such file" in result.output) == (2, True)


def test_a_file_of_what_failed_is_shown_and_says_so(tmp_path: Path) -> None:
    result = invoke("--read", written(tmp_path / "a.json", RUN))
    assert (result.exit_code, "it [failed]" in result.output) == (1, True)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_a_measure_that_fails_still_has_its_goals(place: Place, measure: Measure) -> None:
    goals = measure.goals(place)
    assert [goal.measured for goal in goals] == [None] * len(goals)


def test_the_issue_has_sixteen_goals(place: Place) -> None:
    assert sum(len(measure.goals(place)) for measure in MEASURES) == 16


def test_passes_that_do_not_count_are_taken_again_and_not_for_ever() -> None:
    takes = iter([None, 0.001, None, 0.002])
    assert counted(lambda: next(takes), 2) == (1.0, 2.0)
    with pytest.raises(WppSyncError, match="only 0 of 10 passes"):
        counted(lambda: None, 2)


def test_each_window_is_a_sample() -> None:
    windows = (Window((0.1, 0.3), 100, {"daemon": 0.5}), Window((0.2,), 100, {"daemon": 0.25}))
    flow = Flow(100, 10, 10, 5.0, windows)
    assert flow.quantiles(0.99) == (300.0, 200.0)
    assert flow.share("daemon") == (50.0, 25.0)


@pytest.mark.parametrize(
    ("said", "version"),
    [
        (
            "mariadb-dump  Ver 10.19 Distrib 10.11.6-MariaDB, for debian-linux-gnu (x86_64)",
            "10.11.6-MariaDB",
        ),
        ("mariadb-dump from 11.4.2-MariaDB, client 10.19 for Linux", "11.4.2-MariaDB"),
        ("mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian", "10.11.19-MariaDB-0+deb12u1"),
        ("something else 1", "something else 1"),
    ],
)
def test_a_client_says_its_version(said: str, version: str) -> None:
    assert version_in(said) == version


def test_the_end_of_a_program_is_seen_when_it_comes() -> None:
    # The quickest of several: the machine may be busy. Looking each 20 ms, none was below that.
    assert min(processes.run(["sleep", "0.001"]).seconds for _ in range(10)) < 0.018


def test_what_a_program_says_is_kept_and_its_failure_told() -> None:
    ran = processes.run(["sh", "-c", "echo out; echo err >&2; sleep 0.05"])
    assert ran.said == "out\nerr\n"
    assert ran.peak_mb > 0
    with pytest.raises(WppSyncError, match="sh ended with 3: why"):
        processes.run(["sh", "-c", "echo why; exit 3"])


def test_a_program_ends_with_all_it_started_when_the_bench_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"

    def family(pid: int) -> list[int]:
        if pids.exists() and pids.read_text().endswith("\n"):
            raise SystemExit(143)
        return []

    monkeypatch.setattr(processes, "_family", family)
    with pytest.raises(SystemExit):
        processes.run(["sh", "-c", f"sleep 60 & echo $! > {pids}; wait"])
    pid = int(pids.read_text())
    deadline = time.monotonic() + 10
    while _lives(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _lives(pid)


def _lives(pid: int) -> bool:
    """A zombie, which only its new parent can bury, does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


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
