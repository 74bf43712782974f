"""Settling against a model of a server: transactions that draw ids, insert them, wait and end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from daemon.settle import Head, Rule, Settling, Window, Writers

TIMED = Rule(timed=60.0, exact=False)
EXACT = Rule(timed=None, exact=True)
BOTH = Rule(timed=60.0, exact=True)


def head(number: int, at: float, *, server: float = 0.0) -> Head:
    return Head(number, at, 1000.0 + at + server)


def look(settling: Settling, floor: int, now: float, in_flight: set[int] = frozenset()) -> int:  # type: ignore[assignment]
    """Ask until there is nothing more to ask."""
    while (window := settling.question(floor, now)) is not None:
        found = {number for number in in_flight if window.after < number <= window.upto}
        settling.answer(window, window.upto, found, now)
        if found:
            break
    return settling.sure(floor)


@pytest.mark.parametrize(
    ("setting", "expected"), [("auto", BOTH), ("exact", EXACT), (5.0, Rule(5.0, exact=False))]
)
def test_what_the_setting_means(setting: float, expected: Rule) -> None:
    assert Rule.of(setting) == expected


def test_nothing_is_settled_before_anything_was_seen() -> None:
    settling = Settling(BOTH)

    assert settling.question(0, 1e9) is None
    assert settling.sure(0) == 0
    assert settling.sure(77) == 77


def test_a_head_settles_when_its_time_has_passed_and_nothing_is_in_flight() -> None:
    settling = Settling(TIMED)
    settling.saw_head(head(100, 0))

    assert look(settling, 0, 59.9) == 0
    assert look(settling, 0, 60.0) == 100


def test_a_row_in_flight_holds_the_settled_id_below_it_however_long() -> None:
    settling = Settling(TIMED)
    settling.saw_head(head(100, 0))

    assert look(settling, 0, 3600.0, {42, 50}) == 41
    assert settling.in_flight == (42, 3600.0)
    assert look(settling, 0, 3700.0, {50}) == 49
    assert settling.in_flight == (50, 3700.0)
    assert look(settling, 0, 3800.0) == 100
    assert settling.in_flight is None


def test_since_when_the_lowest_row_is_in_flight() -> None:
    settling = Settling(TIMED)
    settling.saw_head(head(100, 0))
    look(settling, 0, 100.0, {42})
    look(settling, 0, 200.0, {42})

    assert settling.in_flight == (42, 100.0)


def test_without_the_time_rule_only_a_list_of_transactions_proves() -> None:
    settling = Settling(EXACT)
    settling.saw_head(head(100, 0))

    assert look(settling, 0, 1e6) == 0
    settling.saw_writers(Writers(at=1e6, oldest=None))
    assert look(settling, 0, 1e6) == 100


def test_a_list_of_transactions_proves_nothing_where_only_time_counts() -> None:
    settling = Settling(TIMED)
    settling.saw_head(head(100, 0))
    settling.saw_writers(Writers(at=10, oldest=None))

    assert not settling.wants_writers()
    assert look(settling, 0, 10) == 0


@pytest.mark.parametrize(
    ("asked_at", "oldest", "settled"),
    [
        (0.99, None, 0),  # too soon: the list may be a cached one
        (1.0, None, 100),
        (5.0, 1000.0, 0),  # started before the head was seen
        (5.0, 1001.0, 0),  # within the second of doubt
        (5.0, 1001.5, 100),  # later: it has drawn no id up to the head
    ],
)
def test_what_a_list_of_transactions_proves(
    asked_at: float, oldest: float | None, settled: int
) -> None:
    settling = Settling(EXACT)
    settling.saw_head(head(100, 0))
    settling.saw_writers(Writers(at=asked_at, oldest=oldest))

    assert look(settling, 0, asked_at) == settled


def test_both_rules_together_take_whichever_comes_first() -> None:
    settling = Settling(BOTH)
    settling.saw_head(head(100, 0))
    settling.saw_writers(Writers(at=30, oldest=900.0))  # a long transaction, somewhere

    assert look(settling, 0, 59) == 0
    assert look(settling, 0, 61) == 100


def test_a_head_that_falls_begins_a_new_history() -> None:
    settling = Settling(TIMED)
    settling.saw_head(head(100, 0))
    assert look(settling, 0, 60) == 100

    settling.saw_head(head(50, 61))
    assert look(settling, 0, 61) == 0, "ids that are handed out again are not settled"
    assert look(settling, 0, 121) == 50


def test_a_fall_is_measured_against_the_last_head_not_the_last_that_was_kept() -> None:
    settling = Settling(TIMED)
    for number, at in ((100, 0.0), (200, 0.01), (150, 0.02)):
        settling.saw_head(head(number, at))

    assert look(settling, 0, 60.0) == 0


def test_ids_settle_though_their_rows_were_deleted_at_the_end() -> None:
    settling = Settling(TIMED)
    settling.saw_head(head(100, 0.0))
    settling.saw_head(head(90, 1.0))
    assert look(settling, 0, 70.0) == 90, "of those above nothing is known"
    settling.handed_out(head(100, 71.0))
    assert look(settling, 90, 120.0) == 90
    settling.saw_head(head(90, 130.0))
    assert look(settling, 90, 132.0) == 100
    settling.saw_head(head(101, 140.0))
    assert look(settling, 100, 300.0) == 101


@pytest.mark.parametrize("seen", ["a lower next id", "a row among them"])
def test_ids_that_are_handed_out_again_have_not_settled(seen: str) -> None:
    settling = Settling(TIMED)
    settling.saw_head(head(90, 1.0))
    settling.handed_out(head(100, 1.0))
    assert look(settling, 0, 70.0) == 100
    if seen == "a lower next id":
        settling.handed_out(head(90, 71.0))
    else:
        settling.saw_head(head(95, 71.0))
    assert settling.sure(0) == 0


def test_a_jump_of_the_servers_clock_voids_what_it_has_stamped() -> None:
    settling = Settling(EXACT)
    settling.saw_head(head(100, 0))
    settling.saw_head(head(110, 1, server=-10.0))
    settling.saw_writers(Writers(at=1.5, oldest=1000.5))

    assert look(settling, 0, 2) == 0


def test_a_caller_that_is_ahead_keeps_what_it_knows() -> None:
    settling = Settling(TIMED)
    settling.saw_head(head(100, 0))
    look(settling, 0, 60)

    assert settling.sure(500) == 500


def test_a_caller_that_is_behind_makes_the_look_begin_at_its_own_floor() -> None:
    settling = Settling(TIMED)
    settling.saw_head(head(100, 0))
    assert look(settling, 80, 60) == 100
    assert settling.sure(10) == 10

    assert settling.question(10, 61) == Window(10, 100)
    assert look(settling, 10, 61, {30}) == 29
    assert settling.sure(80) == 80, "the other one waits with what it has"


def test_a_look_that_was_cut_short_claims_no_more_than_it_saw() -> None:
    settling = Settling(TIMED)
    settling.saw_head(head(100, 0))
    window = settling.question(0, 60)
    assert window == Window(0, 100)
    settling.answer(window, 40, set(), 60)

    assert settling.sure(0) == 40
    assert settling.question(0, 60) == Window(40, 100)


def test_an_answer_to_a_question_of_before_a_fall_counts_for_nothing() -> None:
    settling = Settling(TIMED)
    settling.saw_head(head(100, 0))
    window = settling.question(0, 60)
    assert window is not None
    settling.saw_head(head(5, 60))
    settling.answer(window, 100, set(), 61)

    assert settling.sure(0) == 0


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 3)), max_size=2000))
@settings(max_examples=30, deadline=None)
def test_memory_is_bounded_when_nothing_settles(steps: list[tuple[int, float]]) -> None:
    settling = Settling(EXACT)
    number, now = 1, 0.0
    for more, later in steps:
        number, now = number + more, now + later
        settling.saw_head(head(number, now))

    assert len(settling._heads) <= 256


def times() -> Iterator[float]:
    yield from (0.1, 0.5, 1.0, 5.0, 30.0)


class Server(RuleBasedStateMachine):
    """A server with transactions; the invariant: no id at or below the settled one ever appears.

    A transaction draws an id, inserts the row at once or at most 50 s later (lock wait timeout),
    and ends whenever it likes. It has started, for trx_started, when it drew its id.
    """

    def __init__(self, law: Rule) -> None:
        super().__init__()
        self.settling = Settling(law)
        self.now = 0.0
        self.next_id = 1
        self.visible: set[int] = set()
        self.open: dict[int, tuple[float, bool]] = {}  # id -> (drawn at, inserted)
        self.claimed = 0

    @rule(inserted=st.booleans())
    def draw(self, inserted: bool) -> None:
        self.open[self.next_id] = (self.now, inserted)
        self.next_id += 1

    @rule(seconds=st.sampled_from(list(times())))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for number, (drawn, inserted) in list(self.open.items()):
            if not inserted and self.now - drawn > 50:
                self.open[number] = (drawn, True)  # its lock came, or it will roll back below

    @precondition(lambda self: self.open)
    @rule(data=st.data(), commits=st.booleans())
    def end(self, data: st.DataObject, commits: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.open)))
        del self.open[number]
        if commits:
            self.visible.add(number)

    @rule()
    def probe(self) -> None:
        self.settling.saw_head(head(max(self.visible, default=0), self.now))

    @precondition(lambda self: self.visible)
    @rule()
    def delete_the_newest(self) -> None:
        self.visible.remove(max(self.visible))

    @rule()
    def ask_what_was_handed_out(self) -> None:
        self.settling.handed_out(head(self.next_id - 1, self.now))

    @rule()
    def look(self) -> None:
        if self.settling.wants_writers():
            started = [int(drawn) for drawn, _ in self.open.values()]  # 1 s resolution
            self.settling.saw_writers(Writers(self.now, 1000.0 + min(started) if started else None))
        in_flight = {number for number, (_, inserted) in self.open.items() if inserted}
        self.claimed = look(self.settling, 0, self.now, in_flight)

    @invariant()
    def nothing_appears_below_the_claim(self) -> None:
        known = {number for number in self.open if number <= self.claimed}
        assert not known, f"{known} can still appear at or below {self.claimed}"


class TimedServer(Server):
    def __init__(self) -> None:
        super().__init__(TIMED)


class ExactServer(Server):
    def __init__(self) -> None:
        super().__init__(EXACT)


class ServerWithBoth(Server):
    def __init__(self) -> None:
        super().__init__(BOTH)


TestTimed = TimedServer.TestCase
TestExact = ExactServer.TestCase
TestBoth = ServerWithBoth.TestCase
for case in (TestTimed, TestExact, TestBoth):
    case.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)


@pytest.mark.parametrize(
    ("setting", "lock_wait", "timed"),
    [
        ("auto", None, 60),
        ("auto", 50, 60),
        ("auto", 120, 130),
        ("exact", 120, None),
        (5.0, 50, 5),
    ],
)
def test_auto_waits_longer_than_an_insert_on_that_server_does(
    setting: Literal["auto", "exact"] | float, lock_wait: float | None, timed: float | None
) -> None:
    assert Rule.of(setting).above(lock_wait).timed == timed


def test_a_head_that_was_seen_before_the_rule_was_raised_waits_for_the_new_time() -> None:
    settling = Settling(Rule.of("auto"))
    settling.saw_head(Head(10, at=0.0, server_at=0.0))
    settling.rule = settling.rule.above(300.0)
    assert settling.question(0, 309.0) is None
    assert settling.question(0, 310.0) == Window(0, 10)
