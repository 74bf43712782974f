"""How several daemons share the instances: simulated, with the decisions alone."""

from __future__ import annotations

import os
import random
import socket
import subprocess
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from daemon import hosts
from daemon.hosts import Copier, Seats, worth_a_move


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_small_differences_are_left_alone() -> None:
    assert not worth_a_move(1, 0)
    assert worth_a_move(2, 0)
    assert not worth_a_move(20, 19)
    assert worth_a_move(20, 18)
    assert not worth_a_move(100, 91)
    assert worth_a_move(100, 90)


def test_no_more_is_wished_for_than_would_make_it_fair() -> None:
    seats = Seats(None, "1", Time())
    assert [seats.wish(str(number), 10) for number in range(7)] == [True] * 5 + [False] * 2
    assert seats.wish("0", 10), "what is wished for already is no further one"
    assert not seats.wish("0", 1), "and is given up when it is not worth it any more"


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


def asker(instances: int, pid: int = 1) -> Copier:
    return Copier("other", pid, "1", instances, "")


def test_one_after_the_other_is_given_until_it_is_fair() -> None:
    time = Time()
    seats = Seats(None, "1", time)
    for name in "abcdef":
        seats.take(name)
    assert seats.give(asker(0))
    assert not seats.give(asker(0)), "one a second"
    seats.leave("a")
    time.now += 1.0
    assert seats.give(asker(0)), "5 here, 0 there and one on its way"
    seats.leave("b")
    time.now += 1.0
    assert seats.give(asker(0)), "4 here, 0 there and two on their way"
    seats.leave("c")
    time.now += 1.0
    assert not seats.give(asker(0)), "3 here, 0 there and three on their way: that will do"
    time.now += 6.0
    assert not seats.give(asker(3)), "3 by now"
    assert seats.give(asker(0, pid=2)), "another one has none"


class Copies(NamedTuple):
    daemon: int
    instances: int


class Fleet:
    """Daemons and the locks of the instances, second by second; the pace of the real ones."""

    def __init__(self, instances: int, rooms: list[int | None], seed: int) -> None:
        self.time = Time()
        self.names = [str(number) for number in range(instances)]
        self.daemons = [Seats(room, "1", self.time) for room in rooms]
        self.alive = set(range(len(rooms)))
        self.holder: dict[str, int] = {}
        self.written: dict[str, int] = {}
        self.asking: dict[str, Copies] = {}
        self.away: dict[tuple[int, str], float] = {}
        self.moves = 0
        self.draw = random.Random(seed)

    def kill(self, daemon: int) -> None:
        self.alive.discard(daemon)
        for name in [name for name, holder in self.holder.items() if holder == daemon]:
            del self.holder[name]
        for name in [name for name, asked in self.asking.items() if asked.daemon == daemon]:
            del self.asking[name]

    def second(self) -> None:
        self.time.now += 1.0
        order = [(daemon, name) for daemon in self.alive for name in self.names]
        self.draw.shuffle(order)
        for daemon, name in order:
            if self.holder.get(name) == daemon:
                if self.draw.random() < 1 / 2:
                    self.written[name] = self.daemons[daemon].taken
                if self.draw.random() < 1 / 4:
                    self.keep(daemon, name)
            elif self.draw.random() < 1 / 2.5 and self.away.get((daemon, name), 0) <= self.time.now:
                self.ask(daemon, name)

    def keep(self, daemon: int, name: str) -> None:
        seats, asked = self.daemons[daemon], self.asking.get(name)
        if asked is None:
            return
        if seats.give(Copier(f"host {asked.daemon}", 1, "1", asked.instances, "")):
            seats.leave(name)
            del self.holder[name]
            self.moves += 1
            self.away[daemon, name] = self.time.now + 4

    def ask(self, daemon: int, name: str) -> None:
        seats, asked = self.daemons[daemon], self.asking.get(name)
        if not seats.room(name):
            # Nothing is held on a connection that is closed.
            seats.leave(name)
            if asked is not None and asked.daemon == daemon:
                del self.asking[name]
            return
        if name not in self.holder:
            assert seats.take(name)
            self.holder[name] = daemon
            self.written[name] = seats.taken
            if name in self.asking and self.asking[name].daemon == daemon:
                del self.asking[name]
            return
        if not seats.wish(name, self.written[name]):
            if asked is not None and asked.daemon == daemon:
                del self.asking[name]
        elif asked is None or asked.daemon == daemon:
            self.asking[name] = Copies(daemon, seats.taken)
        else:
            seats.forgo(name)

    def counts(self) -> list[int]:
        held = list(self.holder.values())
        return [held.count(daemon) for daemon in sorted(self.alive)]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 30), instances=st.integers(6, 60), late=st.integers(0, 2))
def test_three_daemons_come_to_fair_shares_and_stay_there(
    seed: int, instances: int, late: int
) -> None:
    fleet = Fleet(instances, [None] * 3, seed)
    for joined in range(3 - late, 4):
        fleet.alive = set(range(joined))
        for _ in range(180):
            fleet.second()
    assert sum(fleet.counts()) == instances
    # Neighbours leave a difference alone that is less than a tenth, or one.
    assert max(fleet.counts()) - min(fleet.counts()) <= max(2, instances // 10), fleet.counts()
    moves = fleet.moves
    for _ in range(300):
        fleet.second()
    assert fleet.moves == moves, "they rest"


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1 << 30), rooms=st.lists(st.integers(1, 30), min_size=2, max_size=4))
def test_no_instance_is_left_while_somebody_has_room(seed: int, rooms: list[int]) -> None:
    instances = 40
    fleet = Fleet(instances, list(rooms), seed)
    for _ in range(180):
        fleet.second()
    assert sum(fleet.counts()) == min(instances, sum(rooms))
    assert all(count <= room for count, room in zip(fleet.counts(), rooms, strict=True))
    fleet.kill(0)
    for _ in range(15):
        fleet.second()
    left = min(instances, sum(rooms[1:]))
    assert sum(fleet.counts()) >= left - 2, "one for each of the others may be on its way"
    for _ in range(180):
        fleet.second()
    assert sum(fleet.counts()) == left


# --- who has copied it before -------------------------------------------------------------------

HERE = hosts._token()[: hosts._PLACE]
"""Whoever sees the same processes as we do."""

OTHER = "0" * 8


def gone() -> int:
    """A process id that nobody has."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def copier(pid: int, token: str, *, host: str | None = None, instances: int = 1) -> Copier:
    return Copier(host or socket.gethostname(), pid, "1", instances, "", token)


def test_who_has_our_host_name_and_process_id_is_not_us() -> None:
    """Two containers: in each of them it is the first process."""
    assert hosts.is_us(copier(os.getpid(), hosts._token()))
    for token in ("", OTHER + "01234567", HERE + "01234567"):
        assert not hosts.is_us(copier(os.getpid(), token))
        assert hosts.may_be_there(copier(os.getpid(), token))


def test_a_process_that_is_gone_is_not_there_where_we_would_see_it() -> None:
    assert hosts.may_be_there(copier(os.getppid(), HERE + "01234567"))
    assert not hosts.may_be_there(copier(gone(), HERE + "01234567"))
    assert not hosts.may_be_there(copier(gone(), "")), "of a version before"
    assert hosts.may_be_there(copier(gone(), OTHER + "01234567")), "in another container, perhaps"
    assert hosts.may_be_there(copier(gone(), HERE + "01234567", host="elsewhere"))


def test_a_verb_is_not_there_any_more() -> None:
    assert not hosts.may_be_there(copier(1, OTHER + "01234567", host="elsewhere", instances=0))
    assert not hosts.may_be_there(None)


def test_two_who_ask_are_told_apart() -> None:
    time = Time()
    seats = Seats(None, "1", time)
    for number in range(8):
        seats.take(str(number))
    one, other = (Copier("host", 1, "1", 6, "", token) for token in ("a" * 16, "b" * 16))
    assert seats.give(one)
    time.now += 2.0
    assert seats.give(other), "what was given to the other one is not his"


def test_a_version_is_signed_with_the_token() -> None:
    signed = f"1.2.3+{hosts._token()}"
    assert hosts._unsigned(signed) == ("1.2.3", hosts._token())
    assert hosts._unsigned("1.2.3") == ("1.2.3", "")
    assert hosts._unsigned("1.2.3+local") == ("1.2.3+local", "")
    assert hosts._unsigned(f"1.2.3+local+{hosts._token()}") == ("1.2.3+local", hosts._token())
