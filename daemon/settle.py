"""When can no transaction add an id below this one any more? Pure: observations in, an answer out.

AUTO_INCREMENT ids become visible out of order: a transaction that drew id 100 may commit after 101
was copied. What was seen is copied at once, always; settling only bounds what must be looked at
again. A head H, seen at a time t, is settled when two things are known:

- no transaction that drew an id <= H by t can still be about to insert it. *Exact*: a list of the
  server's transactions, read at least 1 s after t, has no writing one that started before t + 1 s
  (trx_started has 1 s resolution, the list is cached for 0.1 s, and an id is drawn a moment before
  its transaction starts). *Timed*: the settle time has passed since t; it is above
  innodb_lock_wait_timeout, the longest that an INSERT waits between the two: 60 s, or 10 s more
  than what central has set.
- no row with an id <= H is inserted and not committed: READ UNCOMMITTED shows none that a later
  READ COMMITTED scan lacks. Such an id is *in flight*, however long its transaction stays open.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

TIMED_DEFAULT = 60.0

_ABOVE_LOCK_WAIT = 10.0

_MARGIN = 1.0
"""Seconds around t: see the module's text."""

_CLOCK_JUMP = 0.5
"""So many seconds may the server's clock drift from ours between two heads before it has jumped."""

_MOST_HEADS = 256


@dataclass(frozen=True, slots=True)
class Rule:
    """`timed`: seconds after which a head is proven by time, None: never. `exact`: whether a list
    of transactions counts as proof."""

    timed: float | None
    exact: bool

    @classmethod
    def of(cls, setting: float | Literal["auto", "exact"]) -> Rule:
        """The rule that sync.settle asks for."""
        if setting == "auto":
            return cls(TIMED_DEFAULT, exact=True)
        if setting == "exact":
            return cls(None, exact=True)
        return cls(setting, exact=False)

    def above(self, lock_wait: float | None) -> Rule:
        """The rule for a server on which an INSERT waits up to `lock_wait` seconds for a lock.

        A settle time that somebody has set is left alone; `auto` follows the server.
        """
        if lock_wait is None or self.timed is None or not self.exact:
            return self
        return Rule(max(self.timed, lock_wait + _ABOVE_LOCK_WAIT), self.exact)


@dataclass(frozen=True, slots=True)
class Head:
    """The highest id that was visible in a central table, and when: on our monotonic clock and on
    the server's own, both in seconds, both taken when the answer was there."""

    id: int
    at: float
    server_at: float


@dataclass(frozen=True, slots=True)
class Writers:
    """The transactions of the central server: `oldest` is when the oldest writing one started
    (server's clock), None when there is none. `at` is when the list was asked for."""

    at: float
    oldest: float | None


@dataclass(frozen=True, slots=True)
class Window:
    """Ids in (after, upto], to be looked at for rows in flight."""

    after: int
    upto: int


class Settling:
    """What is known about the ids of one central table.

    Ids in (clean_from, clean_to] are settled by what this process has seen; a caller whose own
    settled id (its floor) is at least clean_from may go on to clean_to.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._forget()

    def _forget(self) -> None:
        self._heads: list[Head] = []
        self._last: Head | None = None
        self._handed_out = 0
        self._proven = 0
        self._clean_from: int | None = None
        self._clean_to = 0
        self.in_flight: tuple[int, float] | None = None
        """The lowest id that is known to be in flight, and since when it is."""

    # --- heads --------------------------------------------------------------------------------

    def saw_head(self, head: Head) -> None:
        """Note a head. One that lies lower than the last begins a new history: ids were taken away
        (rows deleted, a TRUNCATE, a restore), and what was known says nothing about new ones."""
        last, self._last = self._last, head
        fell = last is not None and head.id < last.id
        # Above the last head, and not new: it came late, or is handed out again.
        came_again = last is not None and last.id < head.id <= self._handed_out
        if fell or came_again:
            self._forget()
            self._last = head
        elif last is not None and self._jumped(last, head):
            # Times of before and after cannot be compared: what is not proven begins again.
            self._heads.clear()
        self._prove_by_time(head.at)
        newest = self._heads[-1] if self._heads else None
        if newest is None or (head.id > newest.id and head.at - newest.at >= self._spacing()):
            self._heads.append(head)
            if len(self._heads) > _MOST_HEADS:
                # Every other one: an id is proven a little later, never too early.
                self._heads = self._heads[::2]

    def handed_out(self, last: Head) -> None:
        """Note the last id that the table has handed out, visible or not: where rows were deleted
        at its end no head shows that those have settled. It is as good as a head, as long as the
        ids go on from there."""
        if last.id < self._handed_out:
            before = self._last
            self._forget()
            self._last = before
        self._handed_out = last.id
        newest = self._heads[-1].id if self._heads else self._proven
        if last.id > newest and len(self._heads) < _MOST_HEADS:
            self._heads.append(last)

    def _spacing(self) -> float:
        return min(_MARGIN / 2, (self.rule.timed or TIMED_DEFAULT) / 64)

    @staticmethod
    def _jumped(last: Head, head: Head) -> bool:
        return abs((head.server_at - last.server_at) - (head.at - last.at)) > _CLOCK_JUMP

    # --- proof that nobody is about to insert ---------------------------------------------------

    def wants_writers(self) -> bool:
        """Whether a list of transactions could prove something now."""
        return self.rule.exact and bool(self._heads)

    def saw_writers(self, writers: Writers) -> None:
        """Note a list of transactions."""
        if not self.rule.exact:
            return
        for head in self._heads:
            late_enough = writers.at - head.at >= _MARGIN
            if late_enough and (
                writers.oldest is None or writers.oldest > head.server_at + _MARGIN
            ):
                self._proven = max(self._proven, head.id)
        self._drop_proven()

    def _prove_by_time(self, now: float) -> None:
        if self.rule.timed is None:
            return
        for head in self._heads:
            if now - head.at >= self.rule.timed:
                self._proven = max(self._proven, head.id)
        self._drop_proven()

    def _drop_proven(self) -> None:
        self._heads = [head for head in self._heads if head.id > self._proven]

    # --- proof that nothing is in flight ----------------------------------------------------------

    def question(self, floor: int, now: float) -> Window | None:
        """Which ids to look at next, so that a caller with this floor can go on; None: none."""
        self._prove_by_time(now)
        if self._clean_from is None:
            if self._proven <= floor:
                return None
            self._clean_from = self._clean_to = floor
        if floor < self._clean_from:
            # Begin again at the lower floor. Callers above it keep what they have and wait.
            self._clean_from = self._clean_to = floor
        if self._clean_to < self._proven:
            return Window(self._clean_to, self._proven)
        return None

    def answer(
        self, window: Window, looked_to: int, in_flight: Collection[int], now: float
    ) -> None:
        """Ids in (window.after, looked_to] were looked at, and these of them are in flight."""
        end = looked_to if not in_flight else min(in_flight) - 1
        if in_flight:
            lowest = min(in_flight)
            if self.in_flight is None or self.in_flight[0] != lowest:
                self.in_flight = (lowest, now)
        elif self.in_flight is not None and window.after < self.in_flight[0] <= looked_to:
            self.in_flight = None
        if self._clean_from is None:
            return  # forgotten meanwhile
        if window.after == self._clean_to:
            self._clean_to = max(self._clean_to, end)

    def sure(self, floor: int) -> int:
        """Up to here no id can be added any more, for a caller that knows it up to `floor`."""
        if self._clean_from is None or floor < self._clean_from:
            return floor
        return max(floor, self._clean_to)
