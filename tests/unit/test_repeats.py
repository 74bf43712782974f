"""Which warnings are told: the first at once, then rarely, and none is lost."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon import log
from daemon.repeats import (
    LONGEST_SECONDS,
    MOST_ENDS,
    MOST_KINDS,
    MOST_TROUBLES,
    WINDOW_SECONDS,
    Event,
    Repeats,
)


class World:
    """A clock, and what is told."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.repeats = Repeats(lambda: self.now, log.ENDS)

    def fail(self, error: str = "gone away", **more: str) -> Event | None:
        return self.repeats.admit(
            {"event": "pass failed", "instance": "nunes", "code": "unreachable", "error": error}
            | more
        )

    def recover(self, instance: str = "nunes") -> Event | None:
        return self.repeats.end({"event": "recovered", "instance": instance})


def repeated(event: Event | None) -> int:
    assert event is not None
    found: int = event.get("repeated", 0)
    return found


@pytest.fixture
def world() -> World:
    return World()


def test_the_first_is_told_and_the_same_held_back_until_its_window_has_passed(
    world: World,
) -> None:
    first = world.fail()
    assert first is not None
    assert "repeated" not in first
    for _ in range(7):
        world.now += 1
        assert world.fail() is None
    world.now += WINDOW_SECONDS
    assert repeated(world.fail()) == 7


@pytest.mark.parametrize(
    "other",
    [
        {"instance": "karsten"}, {"entity": "chats"}, {"code": "access"}, {"error": "hung up"},
        {"event": "entity failed"},
    ],
)  # fmt: skip
def test_another_trouble_is_told_at_once(world: World, other: dict[str, str]) -> None:
    world.fail()
    assert world.fail(**other) is not None
    assert world.fail() is None


def test_figures_make_no_other_trouble(world: World) -> None:
    world.fail("lock held by connection 17")
    assert world.fail("lock held by connection 1893") is None


def test_what_goes_on_is_told_ever_more_rarely(world: World) -> None:
    told = []
    for second in range(4 * 3600):
        if world.fail() is not None:
            told.append(second)
        world.now += 1
    gaps = [after - before for before, after in itertools.pairwise(told)]
    assert gaps[:5] == [60, 120, 240, 480, 900]
    assert set(gaps[4:]) == {LONGEST_SECONDS}


def test_what_comes_more_rarely_than_a_window_is_told_each_time(world: World) -> None:
    for _ in range(10):
        assert repeated(world.fail()) == 0
        world.now += WINDOW_SECONDS + 1
        assert world.repeats.overdue() == []


def test_what_was_held_back_is_told_when_nothing_else_comes(world: World) -> None:
    world.fail()
    for number in range(3):
        world.fail(failures=str(number))
    assert world.repeats.overdue() == []
    world.now += WINDOW_SECONDS
    (told,) = world.repeats.overdue()
    assert told["failures"] == "2", "the last one"
    assert repeated(told) == 2, "besides it"
    world.now += 10 * LONGEST_SECONDS
    assert world.repeats.overdue() == []
    assert len(world.repeats) == 0


def test_after_its_end_a_trouble_is_told_at_once_again(world: World) -> None:
    for _ in range(MOST_ENDS - 1):
        assert repeated(world.fail()) == 0
        assert world.fail() is None
        assert repeated(world.recover()) == 1
        world.now += 1


def test_a_trouble_that_comes_and_goes_is_held_back_with_its_ends(world: World) -> None:
    told: list[Event] = []
    for _ in range(600):
        told += [each for each in (world.fail(), world.recover(), *world.repeats.overdue()) if each]
        world.now += 0.5
    assert len(told) <= 2 * (5 * MOST_ENDS)
    names = [each["event"] for each in told]
    assert names == ["pass failed", "recovered"] * (len(names) // 2), "each end after its trouble"


def test_the_last_word_is_how_it_stands(world: World) -> None:
    """However it came and went: when all has been told, the last line is the last fact."""
    for last in ("pass failed", "recovered"):
        told: list[Event | None] = []
        for _ in range(3 * MOST_ENDS):
            told += [world.fail(), world.recover()]
        if last == "pass failed":
            told.append(world.fail())
        for _ in range(100):
            world.now += WINDOW_SECONDS
            told += world.repeats.overdue()
        assert [each for each in told if each][-1]["event"] == last
        world.recover()


def test_an_end_without_a_beginning_is_told(world: World) -> None:
    assert world.recover() is not None
    world.fail()
    assert world.recover("karsten") is not None


def test_memory_is_bounded_whatever_happens(world: World) -> None:
    for number in range(2 * MOST_TROUBLES):
        world.fail(instance=f"i{number}")
    for letters in range(10 * MOST_KINDS):
        world.fail("x" * letters, instance="last")
    assert len(world.repeats) <= MOST_TROUBLES + MOST_KINDS


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["x", "y"]), st.floats(0, 200)),
        max_size=60,
    ),
    st.booleans(),
)
@settings(max_examples=200)
def test_told_and_repeated_add_up_to_what_happened(
    steps: list[tuple[str, str, float]], looks: bool
) -> None:
    world = World()
    told: list[Event | None] = []
    for instance, error, seconds in steps:
        told.append(world.fail(error, instance=instance))
        world.now += seconds
        if looks:
            told += world.repeats.overdue()
    for _ in range(3):
        world.now += LONGEST_SECONDS
        told += world.repeats.overdue()
    assert sum(1 + repeated(each) for each in told if each) == len(steps)
    assert len(world.repeats) == 0
