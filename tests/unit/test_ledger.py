"""The shared scans' ledger, and what one instance makes of it: nothing is passed over unread."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from daemon.ledger import Ledger, Reading, Told

ME, OTHER = "nunes", "karsten"


def sums(rows: Iterable[tuple[int, str]]) -> dict[str, tuple[int, int]]:
    """As central answers: how many rows of each, and the XOR of their hashes."""
    found: dict[str, tuple[int, int]] = {}
    for id_, owner in rows:
        count, total = found.get(owner, (0, 0))
        found[owner] = (count + 1, total ^ hash((id_, "row")))
    return found


# --- by example --------------------------------------------------------------------------------


def test_who_has_rows_in_new_ids_is_named() -> None:
    ledger = Ledger(100)
    assert set(ledger.first(110, sums([(101, ME), (105, OTHER)]))) == {ME, OTHER}
    assert set(ledger.first(120, sums([(111, OTHER)]))) == {OTHER}
    assert (ledger.base, ledger.vouched, ledger.upto) == (100, 100, 120)


def test_who_has_other_rows_than_before_is_named() -> None:
    ledger = Ledger(100)
    ledger.first(110, sums([(101, ME), (105, OTHER)]))
    (stretch,) = ledger.stretches
    assert set(ledger.again(stretch, sums([(101, ME), (105, OTHER)]))) == set()
    assert set(ledger.again(stretch, sums([(101, ME), (103, ME), (105, OTHER)]))) == {ME}
    assert set(ledger.again(stretch, sums([(101, ME), (103, ME)]))) == {OTHER}, "one was deleted"
    # One came and another one went: as many as before, but not the same.
    assert set(ledger.again(stretch, sums([(101, ME), (104, ME)]))) == {ME}


def test_only_what_has_settled_whole_and_lies_lowest_is_vouched_for() -> None:
    ledger = Ledger(100)
    for upto in (110, 120, 130):
        ledger.first(upto, {})
    first, second, _ = ledger.stretches
    assert ledger.settled(99) == []
    assert ledger.settled(125) == [first, second]
    with pytest.raises(ValueError, match="lowest"):
        ledger.vouch(second)
    ledger.vouch(first)
    ledger.vouch(second)
    assert (ledger.vouched, len(ledger.stretches)) == (120, 1)
    ledger.vouch(ledger.stretches[0])
    with pytest.raises(ValueError, match="lowest"):
        ledger.vouch(second)


@pytest.mark.parametrize("width", [10, 10**9])
def test_many_stretches_are_joined_however_wide_and_none_gets_too_many_rows(width: int) -> None:
    ledger = Ledger(0)
    each = Ledger.MOST_ROWS // 10
    for number in range(200):
        rows = {ME: (each, number)} if number % 3 == 0 else {}
        ledger.first((number + 1) * width, rows)
    assert len(ledger.stretches) <= Ledger.MOST_STRETCHES
    assert all(stretch.rows <= Ledger.MOST_ROWS for stretch in ledger.stretches)
    ends = [stretch.upto for stretch in ledger.stretches]
    assert [stretch.after for stretch in ledger.stretches] == [0, *ends[:-1]], "without a gap"
    assert ends[-1] == 200 * width
    assert sum(stretch.rows for stretch in ledger.stretches) == 67 * each


@pytest.mark.parametrize(
    ("told", "position", "then", "suspect", "unread"),
    [
        (Told(100, 120, 100, None), 110, 120, None, False),  # nothing of mine: pass over it
        (Told(100, 120, 100, None), 90, 90, None, False),  # below what the scans know: read
        (Told(100, 120, 100, 115), 110, 115, None, True),  # mine above 115: read from there
        (Told(100, 120, 100, 105), 110, 110, 105, True),  # something I have read past
        (Told(100, 120, 100, 105), 90, 90, None, True),
        (Told(100, 200, 100, None), 110, 150, None, False),  # never above the head: 150
    ],
)
def test_what_one_makes_of_it(
    told: Told, position: int, then: int, suspect: int | None, unread: bool
) -> None:
    reading = Reading()
    assert reading.heed(told, position, 150) == then
    assert (reading.suspect, reading.unread(then)) == (suspect, unread)


def test_what_was_told_once_and_not_read_yet_is_not_passed_over() -> None:
    reading = Reading()
    assert reading.heed(Told(100, 120, 100, 100), 100, 120) == 100
    # The step was cut short at 110; the next time nothing new is told.
    assert reading.heed(Told(100, 130, 100, None), 110, 130) == 110
    assert reading.heed(Told(100, 130, 100, None), 120, 130) == 130


# --- against a table whose ids become visible in any order ---------------------------------------


@dataclass
class Follower:
    """An instance as `daemon.sync.incremental` reads: the same decisions, and sets for tables."""

    position: int
    settled: int
    copied: set[int] = field(default_factory=set)
    reading: Reading = field(default_factory=Reading)
    pending: int | None = None
    """As `watch.Member` keeps it."""

    def tell(self, suspect: int) -> None:
        self.pending = suspect if self.pending is None else min(self.pending, suspect)


class World:
    """Transactions draw ids and commit or roll back in any order; the scans look, settle, and begin
    anew; the instance takes its steps, cut short at times, or fails and begins again.

    What must hold: a settled id of the instance never stands above a row of its own that is visible
    for good and not copied; and when all is quiet, two looks and a step bring everything.
    """

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.next_id = 1
        self.flying: dict[int, str] = {}
        self.visible: dict[int, str] = {}
        self.ledger: Ledger | None = None
        self.follower = Follower(0, 0)
        self.happened: set[str] = set()

    def act(self) -> None:
        """Something happens; what goes wrong does so less often."""
        acts = {
            self.insert: 8, self.end: 6, self.look: 5, self.look_again: 3, self.settle: 3,
            self.step: 6, self.compact: 1, self.rest: 1, self.fail: 0.3, self.trouble: 0.1,
        }  # fmt: skip
        (act,) = self.chance.choices(list(acts), list(acts.values()))
        act()
        self.nothing_is_missing_below_the_settled_id()

    # --- the table

    def insert(self) -> None:
        table = self.chance.choice([self.visible, self.flying])
        table[self.next_id] = self.chance.choice([ME, OTHER, OTHER])
        self.next_id += 1

    def end(self) -> None:
        if not self.flying:
            return
        id_ = self.chance.choice(sorted(self.flying))
        owner = self.flying.pop(id_)
        if self.chance.random() < 0.8:
            self.visible[id_] = owner

    @property
    def head(self) -> int:
        return max(self.visible, default=0)

    def _rows(self, after: int, upto: int) -> dict[str, tuple[int, int]]:
        return sums((id_, who) for id_, who in self.visible.items() if after < id_ <= upto)

    def _sure(self) -> int:
        return min([*self.flying, self.head + 1]) - 1

    # --- the scans, as `watch.Watch` makes them

    def look(self) -> None:
        if self.ledger is None:
            self.ledger = Ledger(self.head)
        if self.ledger.upto < self.head:
            after = self.ledger.upto
            self._tell(self.ledger.first(self.head, self._rows(after, self.head)), after)

    def look_again(self) -> None:
        for stretch in self.ledger.stretches if self.ledger else ():
            assert self.ledger is not None
            seen = self._rows(stretch.after, stretch.upto)
            self._tell(self.ledger.again(stretch, seen), stretch.after)

    def settle(self) -> None:
        for stretch in self.ledger.settled(self._sure()) if self.ledger else ():
            assert self.ledger is not None
            seen = self._rows(stretch.after, stretch.upto)
            self._tell(self.ledger.again(stretch, seen), stretch.after)
            self.ledger.vouch(stretch)

    def compact(self) -> None:
        if self.ledger is not None:
            self.ledger._compact()

    def trouble(self) -> None:
        self.ledger = None

    def _tell(self, names: Iterable[str], suspect: int) -> None:
        if ME in names:
            self.follower.tell(suspect)

    # --- the instance

    def fail(self) -> None:
        """Begin again from what is stored; join the scans anew."""
        me = self.follower
        pending = None if self.ledger is None else self.ledger.base
        self.follower = Follower(me.settled, me.settled, me.copied, pending=pending)

    def rest(self) -> None:
        """End the motion and keep the place in the scans, where that may be."""
        me = self.follower
        watched = self.ledger is not None and me.settled >= self.ledger.base
        done = me.position >= self.head and not me.reading.unread(me.position)
        if watched and done and me.reading.suspect is None:
            self.follower = Follower(me.settled, me.settled, me.copied, pending=me.pending)
            self.happened.add("rested")

    def step(self, most: int | None = None) -> None:
        """One step, that reads at most so many ids before it is cut short."""
        most = most or self.chance.choice([1, 3, 100])
        me, head, told = self.follower, self.head, None
        if self.ledger is not None:
            suspect, me.pending = me.pending, None
            told = Told(self.ledger.base, self.ledger.upto, self.ledger.vouched, suspect)
            before = me.position
            me.position = me.reading.heed(told, me.position, head)
            if me.position > before:
                self.happened.add("passed over ids")
        sure = self._sure()
        upto = min(head, me.position + most)
        if upto > me.position:
            self._copy(me.position, upto)
            if me.settled == me.position:
                me.settled = max(me.settled, min(sure, upto))
            me.position = upto
        if me.reading.suspect is not None and self.chance.random() < 0.7:
            self._copy(max(me.settled, me.reading.suspect), me.position)
            me.reading.suspect = None
            self.happened.add("looked at suspects")
        if told is not None and me.settled >= told.base:
            if me.reading.suspect is None:
                me.settled = max(me.settled, min(told.vouched, me.position))
        else:
            sure = min(self._sure(), me.position)
            self._copy(me.settled, sure)
            me.settled = max(me.settled, sure)

    def _copy(self, after: int, upto: int) -> None:
        mine = {i for i, who in self.visible.items() if who == ME and after < i <= upto}
        self.follower.copied |= mine

    # --- what must hold

    def nothing_is_missing_below_the_settled_id(self) -> None:
        me = self.follower
        mine = {i for i, who in self.visible.items() if who == ME and i <= me.settled}
        assert mine <= me.copied
        assert not any(i <= me.settled and who == ME for i, who in self.flying.items())

    def come_to_rest(self) -> None:
        """All transactions end, and all is quiet: a look and a few steps bring everything."""
        self.visible |= self.flying
        self.flying = {}
        self.look()
        self.settle()
        for _ in range(20):
            self.step(1 << 30)
        mine = {i for i, who in self.visible.items() if who == ME}
        assert self.follower.copied == mine


def test_nothing_is_passed_over_whatever_becomes_visible_when() -> None:
    happened: set[str] = set()
    for seed in range(1500):
        world = World(random.Random(seed))
        try:
            for _ in range(60):
                world.act()
            world.come_to_rest()
        except AssertionError as error:
            raise AssertionError(f"with seed {seed}") from error
        happened |= world.happened
    assert happened == {"rested", "passed over ids", "looked at suspects"}
