"""How several daemons share the instances: simulated, with the decisions alone."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.hosts import Seats, wants


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_small_differences_are_left_alone() -> None:
    assert not wants(1, 0, 0)
    assert wants(2, 0, 0)
    assert not wants(20, 19, 0)
    assert wants(20, 18, 0)
    assert not wants(20, 17, 2)
    assert not wants(100, 91, 0)
    assert wants(100, 90, 0)


def test_no_more_than_there_is_room_for() -> None:
    seats = Seats(2, "1", Time())
    assert seats.take("a")
    assert seats.take("b")
    assert seats.take("b"), "its place is its own"
    assert not seats.take("c")
    assert not seats.wish("c", 50)
    seats.leave("a")
    assert seats.wish("c", 50)
    assert not seats.wish("d", 50), "the last place is kept for c"
    assert seats.take("c")
    assert seats.taken == 2


def test_one_after_the_other_is_handed_over_and_the_last_one_stays() -> None:
    time = Time()
    seats = Seats(None, "1", time)
    seats.take("a")
    assert not seats.may_hand_over()
    seats.take("b")
    assert seats.may_hand_over()
    assert not seats.may_hand_over()
    time.now += 1.0
    assert seats.may_hand_over()


class Fleet:
    """Daemons and the locks of the instances, second by second; the pace of the real ones."""

    def __init__(self, instances: int, rooms: list[int | None], seed: int) -> None:
        self.time = Time()
        self.names = [str(number) for number in range(instances)]
        self.daemons = [Seats(room, "1", self.time) for room in rooms]
        self.alive = set(range(len(rooms)))
        self.holder: dict[str, int] = {}
        self.written: dict[str, tuple[int, float]] = {}
        self.asking: dict[str, int] = {}
        self.away: dict[tuple[int, str], float] = {}
        self.draw = random.Random(seed)

    def kill(self, daemon: int) -> None:
        self.alive.discard(daemon)
        for name in [name for name, holder in self.holder.items() if holder == daemon]:
            del self.holder[name]

    def second(self) -> None:
        self.time.now += 1.0
        order = [(daemon, name) for daemon in self.alive for name in self.names]
        self.draw.shuffle(order)
        for daemon, name in order:
            if self.holder.get(name) == daemon:
                if self.draw.random() < 1 / 4:
                    self.keep(daemon, name)
            elif self.draw.random() < 1 / 2.5 and self.away.get((daemon, name), 0) <= self.time.now:
                self.ask(daemon, name)

    def keep(self, daemon: int, name: str) -> None:
        seats = self.daemons[daemon]
        if self.time.now - self.written[name][1] >= 15:
            self.written[name] = (seats.taken, self.time.now)
        if self.asking.get(name, daemon) != daemon and seats.may_hand_over():
            seats.leave(name)
            del self.holder[name]
            self.away[daemon, name] = self.time.now + 10

    def ask(self, daemon: int, name: str) -> None:
        seats = self.daemons[daemon]
        seats.leave(name)
        if not seats.take(name):
            return
        if name not in self.holder:
            self.holder[name] = daemon
            self.written[name] = (seats.taken, self.time.now)
            self.asking.pop(name, None)
            return
        seats.leave(name)
        if seats.wish(name, self.written[name][0]):
            self.asking.setdefault(name, daemon)
        elif self.asking.get(name) == daemon:
            del self.asking[name]

    def counts(self) -> list[int]:
        held = list(self.holder.values())
        return [held.count(daemon) for daemon in sorted(self.alive)]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1 << 30), instances=st.integers(6, 60), late=st.booleans())
def test_three_daemons_come_to_fair_shares_and_stay_there(
    seed: int, instances: int, late: bool
) -> None:
    fleet = Fleet(instances, [None] * 3, seed)
    if late:
        fleet.alive = {0}
        for _ in range(20):
            fleet.second()
        fleet.alive = {0, 1, 2}
    for _ in range(240):
        fleet.second()
    assert sum(fleet.counts()) >= instances - 1, "one may be on its way"
    slack = max(3, instances // 6)
    assert max(fleet.counts()) - min(fleet.counts()) <= 2 * slack, fleet.counts()
    before = dict(fleet.holder)
    for _ in range(120):
        fleet.second()
    moved = sum(before.get(name) != holder for name, holder in fleet.holder.items())
    assert moved <= instances // 3, "they come to rest"


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1 << 30), rooms=st.lists(st.integers(1, 30), min_size=2, max_size=4))
def test_no_instance_is_left_while_somebody_has_room(seed: int, rooms: list[int]) -> None:
    instances = 40
    fleet = Fleet(instances, list(rooms), seed)
    for _ in range(60):
        fleet.second()
    assert sum(fleet.counts()) >= min(instances, sum(rooms)) - 1
    assert all(count <= room for count, room in zip(fleet.counts(), rooms, strict=True))
    fleet.kill(0)
    for _ in range(20):
        fleet.second()
    assert sum(fleet.counts()) >= min(instances, sum(rooms[1:])) - 1
