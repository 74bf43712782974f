"""How fast rows are copied: the order's bucket, the process's shares, central's guard; by a clock
that the tests move."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.throttle import NO_BOUND, Bearable, Bucket, Guard, Load, Reason, Shares, Throttle

CALM, BUSY = Load(5), Load(99)
PAGE = 2000


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


# --- the bucket -----------------------------------------------------------------------------------


def test_without_a_pace_nothing_waits() -> None:
    bucket = Bucket(Time())
    bucket.spend(1_000_000)
    assert bucket.seconds == 0.0
    assert bucket.most > 1_000_000


def test_a_pace_taken_back_waits_no_more() -> None:
    bucket = Bucket(Time())
    bucket.set(10)
    bucket.spend(1000)
    assert bucket.seconds > 90
    assert bucket.most == 0
    bucket.set(None)
    assert bucket.seconds == 0.0


@given(
    rate=st.integers(1, 5000),
    asked=st.lists(st.integers(1, 4000), min_size=1, max_size=60),
)
def test_no_more_than_the_pace_is_written(rate: int, asked: list[int]) -> None:
    """Whoever waits as he is told, and takes what he may, keeps the pace; and gets it."""
    time = Time()
    bucket = Bucket(time)
    bucket.set(rate)
    began, written = time.now, 0
    for rows in asked:
        time.now += bucket.seconds
        assert bucket.seconds < 1e-6
        taken = max(1, min(rows, bucket.most))
        bucket.spend(taken)
        written += taken
    spent = time.now - began
    assert written <= rate * (spent + 1) + 1
    if len(asked) > 1 and min(asked) >= rate:
        assert written >= rate * spent * 0.9 - rate


# --- shares ---------------------------------------------------------------------------------------


def test_without_a_limit_everything_may_be_taken() -> None:
    shares = Shares(Time(), None)
    shares.spend(None, 1e9)
    shares.spend("a", 1e9)
    assert shares.level("a") == shares.level(None) == inf
    assert shares.seconds("a") == shares.seconds(None) == 0.0


def test_what_is_live_finds_its_rows_while_others_copy_in_bulk() -> None:
    time = Time()
    shares = Shares(time, 1000)
    for _ in range(100):  # two bulk copies take whatever they find
        time.now += 0.05
        for name in ("a", "b"):
            shares.spend(name, int(shares.level(name)))
    assert shares.level(None) == 500
    shares.spend(None, 400)
    time.now += 0.1
    shares.spend("a", before := int(shares.level("a")))
    assert before <= 1  # the reserve is filled first
    assert shares.level(None) == pytest.approx(200)


def test_what_one_cannot_hold_is_for_the_others() -> None:
    time = Time()
    shares = Shares(time, 1000)
    taken: Counter[str] = Counter()
    for _ in range(200):
        time.now += 0.05
        shares.level("slow")  # it asks, and takes nothing
        for name in ("a", "b"):
            rows = int(shares.level(name))
            shares.spend(name, rows)
            taken[name] += rows
    assert sum(taken.values()) >= 9000
    assert taken["a"] == pytest.approx(taken["b"], rel=0.02)


def test_an_account_that_nobody_uses_is_closed_and_its_debts_are_not() -> None:
    time = Time()
    shares = Shares(time, 1000)
    assert shares.level("gone") == 0
    shares.spend("indebted", 10_000)
    time.now += Shares.IDLE_SECONDS + 0.1
    assert shares.level(None) == 500
    assert shares.accounts == 1
    time.now += Shares.FORGET_SECONDS
    assert shares.level(None) == 500
    assert shares._accounts.keys() == {"indebted"}
    time.now += 100
    assert shares.level(None) == 500
    time.now += Shares.IDLE_SECONDS + 0.1
    assert shares.level(None) == 500
    assert not shares._accounts
    assert shares.accounts == 0


def test_another_rate_forgives_nothing_and_no_rate_everything() -> None:
    time = Time()
    shares = Shares(time, 100)
    shares.spend("a", 1000)
    shares.set(200)
    assert shares.level("a") == -1000
    shares.set(None)
    shares.set(100)
    assert shares.level("a") == 0


@given(
    rate=st.floats(0.5, 50_000),
    steps=st.lists(
        st.tuples(st.floats(0, 3), st.sampled_from([None, "a", "b", "c"]), st.floats(0, 2)),
        max_size=80,
    ),
)
def test_nobody_takes_more_than_flows(
    rate: float, steps: list[tuple[float, str | None, float]]
) -> None:
    """Whatever is taken and whenever: never more than what flowed in and what was saved up. `part`
    above 1: somebody takes what he has not asked for; it is owed."""
    time = Time()
    shares = Shares(time, rate)
    began, taken, overdrawn = time.now, 0.0, 0.0
    for seconds, account, part in steps:
        time.now += seconds
        level = shares.level(account)
        units = max(0.0, level) * part
        overdrawn += max(0.0, units - max(0.0, level))
        overdrawn += shares.spend(account, units)
        taken += units
        flowed = rate * (time.now - began)
        saved = 2 * max(4.0, rate * Shares.SAVED_SECONDS)
        assert taken <= (flowed + saved + overdrawn) * (1 + 1e-9)
        assert shares.seconds(account) >= 0


@given(st.floats(1, 50_000), st.integers(1, 200), st.floats(0, 20_000))
def test_whoever_waits_as_told_gets_something(rate: float, others: int, owed: float) -> None:
    """After a wait that is a guess, another one is not longer: nobody waits for ever."""
    time = Time()
    shares = Shares(time, rate)
    for number in range(others):
        shares.level(f"other {number}")
    shares.spend("a", owed)
    for _ in range(100):
        seconds = shares.seconds("a")
        if not seconds:
            break
        assert seconds >= Shares.GRAIN_SECONDS
        time.now += seconds
    assert shares.level("a") >= 1
    assert shares.seconds("a") == 0


# --- the guard ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (Load(25), None),
        (Load(26), "central_load"),
        (Load(1, 30.0), None),
        (Load(1, 31.0), "replica_lag"),
        (Load(1, inf), "replica_lag"),
        (Load(99, inf), "central_load"),
    ],
)
def test_what_central_does_not_bear(load: Load, reason: Reason | None) -> None:
    exceeded = Bearable(25, 30.0).exceeded(load)
    assert (exceeded and exceeded[0]) == reason
    lag_only = Bearable(25, None).exceeded(load)
    assert (lag_only and lag_only[0]) == (reason if reason == "central_load" else None)


def test_words_tell_what_and_which_setting() -> None:
    bearable = Bearable(25, 30.0)
    assert [bearable.exceeded(each) for each in (Load(31), Load(1, 95.2), Load(1, inf))] == [
        (
            "central_load",
            "31 threads are at work in central, more than 25 (sync.max_threads_running)",
        ),
        (
            "replica_lag",
            "central is a replica and is 95 s behind its primary, more than 30 s"
            " (sync.max_replica_lag)",
        ),
        (
            "replica_lag",
            "central is a replica and stands still, more than 30 s (sync.max_replica_lag)",
        ),
    ]


def test_it_slows_down_stepwise_and_speeds_up_again() -> None:
    """One instance that would read half of the time."""
    time = Time()
    guard = Guard(time, Bearable(), PAGE)
    shares = []
    for load in [CALM] * 3 + [BUSY] * 8 + [CALM] * 12:
        guard.saw(load)
        shares.append(guard.share)
        for _ in range(20):
            time.now += 0.05
            if guard.rows("a"):
                guard.spend("a", 0.025)
    assert shares[:3] == [1.0] * 3
    assert shares[3:11] == pytest.approx([0.5, 0.25, 0.125, 0.0625, 0.03125, 0.02, 0.02, 0.02])
    assert shares[11:21] == pytest.approx([0.12 + step / 10 for step in range(9)] + [1.0])
    assert guard.trouble is None
    assert guard.rows("a") == NO_BOUND


def test_while_it_brakes_pages_are_smaller_and_paid_for() -> None:
    time = Time()
    guard = Guard(time, Bearable(), PAGE)
    guard.saw(BUSY)
    assert guard.trouble is not None
    assert guard.trouble[0] == "central_load"
    assert guard.rows("a") == 0  # nobody has saved anything up
    time.now += guard.seconds("a")
    assert guard.rows("a") == PAGE // 8
    guard.spend("a", 1.0)
    assert guard.rows("a") == 0
    assert guard.seconds("a") == pytest.approx(1.0 / guard._shares.rate, rel=0.3)  # type: ignore[operator]
    for _ in range(20):
        time.now += 1.0
        guard.saw(BUSY)
    while not guard.rows("a"):
        time.now += guard.seconds("a")
    assert guard.rows("a") == Guard.LEAST_ROWS


def test_what_was_seen_long_ago_says_nothing() -> None:
    time = Time()
    guard = Guard(time, Bearable(), PAGE)
    for _ in range(9):
        guard.saw(BUSY)
        time.now += 1.0
    time.now += Guard.FORGET_SECONDS
    guard.saw(CALM)
    assert guard.trouble is None
    assert guard.rows("a") == NO_BOUND


@given(
    looks=st.lists(st.tuples(st.integers(0, 60), st.none() | st.floats(0, 90)), max_size=60),
    seconds=st.floats(0.001, 3),
    instances=st.integers(1, 8),
)
def test_it_never_stops_and_always_recovers(
    looks: list[tuple[int, float | None]], seconds: float, instances: int
) -> None:
    time = Time()
    guard = Guard(time, Bearable(), PAGE)
    before = guard.share

    def a_second() -> None:
        for number in range(instances):
            if guard.rows(f"i{number}"):
                guard.spend(f"i{number}", seconds)
        time.now += 1.0

    for running, lag in looks:
        guard.saw(Load(running, lag))
        exceeded = guard.bearable.exceeded(Load(running, lag))
        assert 0 < guard.share <= 1
        if exceeded:
            assert guard.share <= 0.5 or guard._shares.rate == Guard.LEAST
            assert guard.trouble == exceeded
        else:
            assert guard.share >= before
        before = guard.share
        a_second()
    for _ in range(11):
        guard.saw(CALM)
        a_second()
    assert guard.share == 1.0
    assert guard.trouble is None
    assert all(guard.rows(f"i{number}") == NO_BOUND for number in range(instances))


# --- an instance ----------------------------------------------------------------------------------


@dataclass
class World:
    """Instances as they run, without databases: each turn reads what it may, and waits as told."""

    limit: float | None = None
    bearable: Bearable = field(default_factory=Bearable)
    page_seconds: float = 0.02

    def __post_init__(self) -> None:
        self.time = Time()
        self.limits = Shares(self.time, self.limit)
        self.guard = Guard(self.time, self.bearable, PAGE)
        self.throttles: dict[str, Throttle] = {}
        self.written: Counter[str] = Counter()
        self.delays: dict[str, list[float]] = {}
        self.held: Counter[tuple[str, Reason]] = Counter()
        self._events: list[tuple[float, int, Iterator[float]]] = []

    def add(self, name: str, turns: Iterator[float]) -> None:
        heapq.heappush(self._events, (self.time.now, len(self._events), turns))

    def throttle(self, name: str) -> Throttle:
        def held(reason: Reason, seconds: float) -> None:
            self.held[name, reason] += seconds  # type: ignore[assignment]

        made = Throttle(name, self.time, limit=self.limits, guard=self.guard, held=held)
        self.throttles[name] = made
        return made

    def bulk(self, name: str, *, order: int | None = None) -> None:
        """A first sync without an end."""
        throttle = self.throttle(name)
        throttle.set(order)

        def turns() -> Iterator[float]:
            while True:
                rows = min(PAGE, throttle.most(bulk=True))
                if rows:
                    throttle.read(self.page_seconds * rows / PAGE)
                    throttle.spend(rows, bulk=True)
                    self.written[name] += rows
                    yield self.page_seconds * rows / PAGE
                yield throttle.hold()

        self.add(name, turns())

    def live(self, name: str, rows_per_second: float, poll: float = 1.0) -> None:
        """One that follows the head."""
        throttle = self.throttle(name)
        delays = self.delays[name] = []

        def turns() -> Iterator[float]:
            came_at = self.time.now
            while True:
                waiting = int((self.time.now - came_at) * rows_per_second)
                if waiting:
                    rows = min(waiting, throttle.most(bulk=False))
                    throttle.spend(rows, bulk=False)
                    self.written[name] += rows
                    for _ in range(rows):
                        came_at += 1 / rows_per_second
                        delays.append(self.time.now - came_at)
                yield max(poll, throttle.hold())

        self.add(name, turns())

    def run(self, seconds: float, load: Load | None = None) -> None:
        until = self.time.now + seconds
        looked_at = float("-inf")
        while self._events and self._events[0][0] <= until:
            at, number, turns = heapq.heappop(self._events)
            self.time.now = max(self.time.now, at)
            if load is not None and self.time.now - looked_at >= 1.0:
                looked_at = self.time.now
                self.guard.saw(load)
            heapq.heappush(self._events, (self.time.now + next(turns) + 1e-6, number, turns))
        self.time.now = until


def test_without_any_bound_nothing_is_held() -> None:
    world = World()
    world.bulk("a")
    world.run(10)
    assert world.written["a"] > 900_000
    assert world.throttles["a"].told is None
    assert not world.held


@settings(max_examples=60, deadline=None)
@given(
    limit=st.integers(20, 20_000),
    bulk=st.integers(1, 12),
    live=st.integers(0, 12),
    part=st.floats(0.01, 0.6),
)
def test_the_limit_is_kept_shared_out_and_live_rows_come_first(
    limit: int, bulk: int, live: int, part: float
) -> None:
    world = World(limit=limit)
    for number in range(bulk):
        world.bulk(f"bulk {number}")
    wanted = limit * part / max(1, live)
    for number in range(live):
        world.live(f"live {number}", wanted, poll=0.25)
    world.run(60)
    total = sum(world.written.values())
    assert total <= limit * 61 + 2 * bulk + 2
    assert total >= limit * 60 * 0.85
    copied = [world.written[f"bulk {number}"] for number in range(bulk)]
    assert max(copied) <= min(copied) * 1.15 + 2 * limit / bulk + 10
    for delays in world.delays.values():
        assert max(delays, default=0) <= 2 * 0.25 + live / limit + 0.1
    assert world.held["bulk 0", "limit"] > 30


def test_the_smaller_of_order_and_limit_rules() -> None:
    world = World(limit=3000)
    world.bulk("ordered", order=100)
    world.bulk("other")
    world.run(60)
    assert world.written["ordered"] == pytest.approx(6000, rel=0.1)
    assert world.written["other"] == pytest.approx(60 * 2900, rel=0.1)
    assert world.throttles["ordered"].told == (
        "order",
        "at most 100 rows per second (wpp-sync throttle)",
    )
    assert world.throttles["other"].told == (
        "limit",
        "all instances together write at most 3,000 rows per second (sync.max_rows_per_second)",
    )
    assert world.held["ordered", "order"] > 50
    assert world.held["ordered", "limit"] < 5


def test_an_order_that_is_taken_back_is_told_no_more() -> None:
    world = World()
    throttle = world.throttle("a")
    throttle.set(10)
    throttle.spend(100, bulk=True)
    assert throttle.hold() > 0
    told = [throttle.told]
    throttle.set(None)
    told.append(throttle.told)
    assert [each and each[0] for each in told] == ["order", None]
    assert throttle.hold() == 0


def test_an_instance_that_leaves_gives_its_share_back() -> None:
    world = World(limit=1000)
    world.bulk("a")
    world.bulk("b")
    world.run(20)
    world._events = [event for event in world._events if event[1] == 0]
    before = world.written["a"]
    world.run(20)
    assert world.written["a"] - before >= 18_000


def test_a_busy_central_slows_bulk_down_and_live_rows_go_on() -> None:
    world = World()
    world.bulk("first sync")
    world.live("live", 50)
    world.run(10, CALM)
    full = world.written["first sync"]
    world.run(10, BUSY)
    world.run(10, BUSY)
    slow = world.written["first sync"]
    world.run(10, BUSY)
    assert 0 < world.written["first sync"] - slow < full * 0.02
    assert world.throttles["first sync"].told == world.guard.trouble
    assert world.throttles["live"].told is None
    assert world.held["first sync", "central_load"] > 25
    world.run(15, CALM)
    before = world.written["first sync"]
    world.run(10, CALM)
    assert world.written["first sync"] - before > full * 0.9
    assert world.throttles["first sync"].told is None
    assert max(world.delays["live"]) <= 1.1
    assert not [name for name, _ in world.held if name == "live"]


def test_central_time_is_shared_equally_while_it_brakes() -> None:
    world = World()
    for number in range(5):
        world.bulk(f"i{number}")
    world.run(120, BUSY)
    before = Counter(world.written)
    world.run(300, BUSY)
    copied = [world.written[name] - before[name] for name in before]
    assert min(copied) > 0
    assert max(copied) <= min(copied) * 1.5


@given(
    order=st.none() | st.integers(1, 3000),
    limit=st.none() | st.integers(1, 3000),
    busy=st.booleans(),
    kinds=st.lists(st.tuples(st.booleans(), st.integers(0, 3000)), max_size=20),
)
def test_what_may_not_be_read_is_waited_for_and_not_longer_than_told(
    order: int | None, limit: int | None, busy: bool, kinds: list[tuple[bool, int]]
) -> None:
    """Never a loop that spins: whoever is allowed nothing has something to wait for."""
    world = World(limit=limit)
    throttle = world.throttle("a")
    throttle.set(order)
    if busy:
        world.guard.saw(BUSY)
    for bulk, rows in kinds:
        nothing = throttle.most(bulk=bulk) == 0
        assert throttle.most(bulk=bulk, pending=rows) <= throttle.most(bulk=bulk)
        throttle.spend(rows, bulk=bulk)
        seconds = throttle.hold()
        assert throttle.told is not None or not seconds
        assert seconds > 0 or not nothing
        if order is None:
            assert seconds <= Throttle.LONGEST_SECONDS
        world.time.now += seconds
    throttle.hold()
    assert sum(world.held.values()) <= world.time.now - 100.0 + 1e-6


@pytest.mark.parametrize("instances", [1, 30, 1000])
@pytest.mark.parametrize("page_seconds", [0.001, 0.1, 2.0])
def test_whoever_copies_in_bulk_has_a_page_now_and_then_however_busy_central_is(
    instances: int, page_seconds: float
) -> None:
    time = Time()
    guard = Guard(time, Bearable(), PAGE)
    read_at: dict[str, list[float]] = {f"i{number}": [] for number in range(instances)}
    for second in range(120):
        guard.saw(BUSY)
        for name, moments in read_at.items():
            if guard.rows(name):
                guard.spend(name, page_seconds)
                moments.append(second)
        time.now += 1.0
    for moments in read_at.values():
        late = [at for at in moments if at > 60]
        assert late
        assert max(later - at for at, later in pairwise([60.0, *late])) <= 15


def test_a_page_that_is_not_written_yet_makes_the_next_one_no_smaller_for_central() -> None:
    """What is not written yet counts for order and limit; the guard has been paid for it."""
    world = World()
    throttle = world.throttle("a")
    world.guard.saw(BUSY)
    world.time.now += 1.0
    assert world.guard.rows("a") == 0  # its account begins with nothing
    world.time.now += 1.0
    allowed = world.guard.rows("a")
    assert throttle.most(bulk=True, pending=allowed - 1) == allowed > 100
    throttle.set(10_000)
    world.time.now += 1.0
    assert throttle.most(bulk=True, pending=9_999) == 1


@pytest.mark.parametrize("others", [0, 3])
@pytest.mark.parametrize("asks_every", [1.0, 2.5, 8.0])
def test_who_asks_seldom_has_something_then(asks_every: float, others: int) -> None:
    """Its turns are long: other entities' work, a slow server, a queue for central."""
    for limit, load in ((1000, CALM), (None, BUSY)):
        world = World(limit=limit)
        world.guard.saw(load)
        for number in range(others):
            world.bulk(f"other {number}")
        seldom = world.throttle("seldom")
        written = 0
        for _ in range(20):
            rows = min(PAGE, seldom.most(bulk=True))
            if rows:
                seldom.read(0.02)
                seldom.spend(rows, bulk=True)
                written += rows
            world.run(asks_every, load)
        assert written > 0


def test_what_one_instance_has_overdrawn_the_others_live_rows_do_not_pay() -> None:
    """A hundred thousand rows come late at once, or change while they are hot: nobody has asked
    first whether so many may be written."""
    world = World(limit=1000)
    world.live("live", 50, poll=0.25)
    world.bulk("bulk")
    world.run(10)
    late = world.throttle("late")
    late.spend(50_000, bulk=False)
    assert late.most(bulk=False) == 0
    seconds = late.hold()
    assert 0 < seconds <= Throttle.LONGEST_SECONDS
    before = world.written["bulk"]
    world.run(20)
    assert max(world.delays["live"]) <= 2 * 0.25 + Shares.SAVED_SECONDS + 0.1
    assert world.written["bulk"] - before > 5_000
    assert late.most(bulk=False) == 0
    # It is paid for all the same.
    world.run(100)
    assert late.most(bulk=False) > 0
    assert sum(world.written.values()) + 50_000 <= 1000 * 131 + 10


@settings(max_examples=30, deadline=None)
@given(limit=st.integers(20, 5_000), instances=st.integers(2, 40))
def test_many_that_read_at_the_same_moment_keep_the_limit(limit: int, instances: int) -> None:
    """All of them have asked before one of them has written."""
    world = World(limit=limit)
    throttles = [world.throttle(f"i{number}") for number in range(instances)]
    free_at = dict.fromkeys(throttles, world.time.now)
    written = 0
    for _ in range(600):
        free = [each for each in throttles if free_at[each] <= world.time.now]
        asked = [(each, each.most(bulk=False)) for each in free]
        for each, rows in asked:
            taken = min(rows, PAGE)
            each.spend(taken, bulk=False)
            written += taken
            free_at[each] = world.time.now + max(each.hold(), 0.05)
        world.time.now += 0.1
    # Each of them may have a second's worth on credit.
    assert written <= limit * 61 + instances * limit


def test_many_in_bulk_do_not_release_the_brake() -> None:
    """What is never taken from them is more than one of them takes alone."""
    time = Time()
    guard = Guard(time, Bearable(), PAGE)
    for _ in range(10):
        guard.saw(BUSY)
        assert guard.trouble is not None
        for number in range(1000):
            guard.rows(f"i{number}")
        time.now += 1.0
    for _ in range(15):
        guard.saw(CALM)
        time.now += 1.0
    assert guard.trouble is None


def test_a_hold_that_has_ended_early_is_told_no_longer() -> None:
    world = World()
    throttle = world.throttle("a")
    throttle.set(10)
    throttle.spend(10_000, bulk=True)
    assert throttle.hold() > 0
    world.time.now += 1.0
    throttle.set(1_000_000)
    world.time.now += 1.0
    assert throttle.hold() == 0
    world.time.now += Throttle.TOLD_SECONDS + 0.1
    assert throttle.told is None


def test_however_much_is_owed_to_an_order_it_looks_up_now_and_then() -> None:
    """For an order that another host has given, for a state that was changed; and so that the time
    is counted while it passes."""
    world = World()
    throttle = world.throttle("a")
    throttle.set(1)
    throttle.spend(5_000, bulk=True)
    for _ in range(10):
        seconds = throttle.hold()
        assert 0 < seconds <= 15.0
        world.time.now += seconds
    assert throttle.most(bulk=True) == throttle.most(bulk=False) == 0
    throttle.hold()
    assert world.held["a", "order"] == pytest.approx(world.time.now - 100.0)


def test_what_many_cannot_take_is_for_the_one_who_can() -> None:
    """It does not wait for its part of what the others leave."""
    world = World(limit=1000)
    for number in range(10):
        world.bulk(f"ordered {number}", order=10)
    world.bulk("other")
    world.run(60)
    assert world.written["other"] >= 60 * 900 * 0.85


def test_live_rows_that_were_paid_for_cost_the_others_nothing() -> None:
    world = World(limit=1000)
    for number in range(30):
        world.live(f"live {number}", 0.1)
        world.throttles[f"live {number}"].spend(100, bulk=False)
    world.bulk("bulk")
    world.run(60)
    assert world.written["bulk"] >= (60 * 1000 - 30 * 100) * 0.85
    assert world.limits.accounts == 1
