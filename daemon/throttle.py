"""How fast rows are copied: what an operator has ordered, what the process may write, and what
central can bear. Pure but for a clock.

Two kinds of copying are told apart. Whoever follows the head of a table gets what is new with one
page: that is *live*, and goes first. Whoever needs more pages than one, in a first sync or after an
outage, copies in *bulk*, and gets what is left, in equal parts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from math import inf
from typing import Literal

from daemon.aio import Clock

Reason = Literal["order", "limit", "central_load", "replica_lag"]

NO_BOUND = 1 << 62
"""Rows."""


class Bucket:
    """A bucket that fills with so many rows a second, and holds those of one second. What is taken
    beyond what it holds is owed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._level = 0.0
        self._at = 0.0
        self.rate: int | None = None

    def set(self, rows_per_second: int | None) -> None:
        """No more than so many (at least 1); None: no bound. What is owed stays owed."""
        if rows_per_second == self.rate:
            return
        level = self._now() if self.rate else 0.0
        self.rate, self._level, self._at = rows_per_second, level, self._clock()

    def spend(self, rows: int) -> None:
        """So many were written."""
        if self.rate is not None:
            self._level, self._at = self._now() - rows, self._clock()

    @property
    def most(self) -> int:
        """So many rows may be written at once; 0: none."""
        return NO_BOUND if self.rate is None else max(0, int(self._now()))

    @property
    def seconds(self) -> float:
        """How long nothing may be written now; 0 when something may."""
        if self.rate is None:
            return 0.0
        missing = 1.0 - self._now()
        # Not for a single row each time: half of what a second may bring.
        return 0.0 if missing <= 0 else (missing + self.rate / 2 - 0.5) / self.rate

    def _now(self) -> float:
        assert self.rate is not None  # noqa: S101 - the callers ask
        filled = self._level + (self._clock() - self._at) * self.rate
        return min(float(max(1, self.rate)), filled)


@dataclass(slots=True)
class _Account:
    level: float
    used_at: float


class Shares:
    """A flow of so many units a second (rows, or seconds of a server's time), which all instances
    take from.

    What is live takes from a reserve, which is filled first. What is bulk takes from its instance's
    account: what the reserve leaves is divided among these in equal parts, and where one is full,
    among the others. Both together hold what `2 * SAVED_SECONDS` bring. What is taken beyond what
    is there is owed: by an account, or by the reserve, as far as all who are live can bear that.
    """

    SAVED_SECONDS = 0.5
    """The reserve holds what so much time brings, and owes no more; all accounts together hold as
    much."""

    GRAIN_SECONDS = 0.02
    """So often what has flowed in is divided, however often somebody asks."""

    IDLE_SECONDS = 2.0
    """An account that nobody has asked for so long gets no more, and keeps what it has: its
    instance has caught up, or left, or has had other things to do for so long."""

    FORGET_SECONDS = 120.0
    """And after so long it is closed."""

    def __init__(
        self,
        clock: Clock,
        rate: float | None,
        *,
        unit: float = 1.0,
        reserve: bool = True,
        owed_seconds: float = inf,
    ) -> None:
        """`rate` None: no bound. `unit`: the least that it is worth to begin with. `reserve` False:
        only what is bulk takes from it. An account owes no more than it gets in `owed_seconds`."""
        self._clock = clock
        self._unit = unit
        self._reserved = reserve
        self._owed_seconds = owed_seconds
        self._accounts: dict[Hashable, _Account] = {}
        self._getting = 0
        """How many accounts get something."""

        self._parts = 0.0
        """The same, but one that is nearly full, and so leaves most to the others, is less than
        one."""

        self._at = clock()
        self.rate = rate
        self._reserve = self._most_saved if reserve and rate is not None else 0.0

    def set(self, rate: float | None) -> None:
        """From here on so many units a second. What is owed stays owed, unless the bound ends."""
        if self.rate is not None:
            self._flow()
        self.rate, self._at = rate, self._clock()
        if rate is None:
            self._accounts.clear()
            self._getting, self._parts = 0, 0.0

    def level(self, account: Hashable | None) -> float:
        """What may be taken now from an account, None: from the reserve; negative: owed."""
        if self.rate is None:
            return inf
        if account in self._accounts:
            self._account(account)  # it is there for what has flowed in until now
        self._flow()
        return self._reserve if account is None else self._account(account).level

    def owes(self, account: Hashable) -> bool:
        """Whether this account, if there is one, is still to be paid for; it is closed if not."""
        if self.rate is None or account not in self._accounts:
            return False
        if self.level(account) < 0:
            return True
        del self._accounts[account]
        return False

    def spend(self, account: Hashable | None, units: float) -> float:
        """So much was taken. Returns how much of that the reserve cannot owe: that is for whoever
        took it, because nobody else's new rows are to wait for it."""
        if self.rate is None:
            return 0.0
        if account is not None:
            self._account(account).level -= units
            return 0.0
        least = -self._most_saved
        self._reserve, over = max(least, self._reserve - units), least - (self._reserve - units)
        return max(0.0, over)

    def seconds(self, account: Hashable | None) -> float:
        """How long nothing may be taken now; 0 when something may. For an account a guess: others
        may leave more or less."""
        level = self.level(account)
        if self.rate is None or level >= self._unit:
            return 0.0
        wanted, parts = self._unit, 1.0
        if account is not None:
            # Not for a single row each time; and what the reserve owes comes first.
            wanted, parts = max(self._unit, self._most_held / 2), max(1.0, self._parts)
            level += min(0.0, self._reserve) / parts
        return max(self.GRAIN_SECONDS, (wanted - level) * parts / self.rate)

    @property
    def accounts(self) -> int:
        """How many copy in bulk."""
        return self._getting

    @property
    def _most_saved(self) -> float:
        assert self.rate is not None  # noqa: S101 - the callers ask
        return max(self._unit, self.rate * self.SAVED_SECONDS)

    @property
    def _most_held(self) -> float:
        """By one account."""
        return max(self._unit, self._most_saved / max(1, self._getting))

    def _account(self, name: Hashable) -> _Account:
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = _Account(0.0, 0.0)
            self._getting += 1
            self._parts += 1.0
        account.used_at = self._clock()
        return account

    def _flow(self) -> None:
        """Divide what has flowed in since the last time."""
        now = self._clock()
        passed = now - self._at
        if passed < self.GRAIN_SECONDS or self.rate is None:
            return
        self._at = now
        getting = []
        for name, account in list(self._accounts.items()):
            unused = now - account.used_at
            if account.level < 0 or unused <= self.IDLE_SECONDS:
                getting.append(account)
            elif unused > self.FORGET_SECONDS:
                del self._accounts[name]
        self._getting = len(getting)
        left = passed * self.rate
        if self._reserved:
            given = max(0.0, min(left, self._most_saved - self._reserve))
            self._reserve += given
            left -= given
        most = self._most_held
        least = -self._owed_seconds * self.rate / max(1, len(getting))
        # The fullest first: what does not fit there is for the others.
        fullest = sorted(getting, key=lambda each: -each.level)
        for number, account in enumerate(fullest):
            before = max(least, account.level)
            account.level = min(most, before + left / (len(fullest) - number))
            left -= max(0.0, account.level - before)
        self._parts = sum(min(1.0, 2 * (most - account.level) / most) for account in getting)


@dataclass(frozen=True, slots=True)
class Load:
    """How busy central is."""

    threads_running: int
    replica_lag: float | None = None
    """Seconds behind the server that it follows; `inf`: it stands still; None: it follows nobody,
    or does not say."""


@dataclass(frozen=True, slots=True)
class Bearable:
    """What central bears, as configured."""

    threads_running: int = 25
    replica_lag: float | None = 30.0
    """Seconds; None: whatever it is."""

    def exceeded(self, load: Load) -> tuple[Reason, str] | None:
        """Which of them is, and that in words."""
        if load.threads_running > self.threads_running:
            return "central_load", (
                f"{load.threads_running:,} threads are at work in central, more than"
                f" {self.threads_running:,} (sync.max_threads_running)"
            )
        lag, most = load.replica_lag, self.replica_lag
        if lag is None or most is None or lag <= most:
            return None
        behind = "stands still" if lag == inf else f"is {lag:,.0f} s behind its primary"
        return "replica_lag", (
            f"central is a replica and {behind}, more than {most:g} s (sync.max_replica_lag)"
        )


class Guard:
    """How much of central's time bulk copying takes while central is busy.

    As TCP does with a busy line: each look that finds central busy halves it, each other one adds a
    tenth of what was taken before, until that is reached and there is no bound any more. It never
    stops altogether: a first sync has to come to its end. Its unit is a second of a statement's
    time in a second, so it is as good for rows that lie thin as for dense ones, and a page that
    takes longer because central is busy counts for more.
    """

    LEAST = 0.01
    """It is never less: one connection, one hundredth of the time."""

    LEAST_EACH = 0.001
    """And never less for each of many instances."""

    LONGEST_SECONDS = 10.0
    """However long a page took, an instance may read the next one after so long."""

    LEAST_BEFORE = 0.25
    """Taken as what was taken before, where that was less or is not known: one instance's."""

    LEAST_ROWS = 100
    """A page is never smaller for its sake."""

    _UNIT = 0.001
    """Seconds of central's time that it is worth to begin with: what is owed then is paid."""

    FORGET_SECONDS = 30.0
    """What was seen so long ago says nothing any more."""

    def __init__(self, clock: Clock, bearable: Bearable, page_rows: int) -> None:
        self.bearable = bearable
        self.trouble: tuple[Reason, str] | None = None
        """Why it brakes, also while it speeds up again; None: it does not."""

        self._clock = clock
        self._page_rows = page_rows
        self._shares = Shares(
            clock, None, unit=self._UNIT, reserve=False, owed_seconds=self.LONGEST_SECONDS
        )
        self._before = self.LEAST_BEFORE
        self._spent = 0.0
        self._seen_at = float("-inf")

    @property
    def share(self) -> float:
        """How much of what was taken before may be taken now, from 0 to 1."""
        rate = self._shares.rate
        return 1.0 if rate is None else rate / self._before

    def saw(self, load: Load) -> None:
        """How busy central is now. To be told about once a second, while anything is copied in
        bulk."""
        passed = self._clock() - self._seen_at
        taken = self._spent / passed if 0 < passed < self.FORGET_SECONDS else 0.0
        if passed >= self.FORGET_SECONDS:
            self._set(None)
        self._seen_at, self._spent = self._clock(), 0.0
        exceeded = self.bearable.exceeded(load)
        if exceeded is not None:
            self.trouble = exceeded
            self._slow_down(taken)
        elif self._shares.rate is not None:
            self._set(self._shares.rate + self._before / 10)

    def _slow_down(self, taken: float) -> None:
        rate = self._shares.rate
        if rate is None:
            self._before = max(self.LEAST_BEFORE, taken)
            # Whoever begins while central is busy begins slowly.
            rate = min(self._before, taken) if taken else self._before / 4
        rate = max(self.LEAST, self.LEAST_EACH * self._shares.accounts, rate / 2)
        # What so many are left may be more than was known to be taken: it is a bound all the same.
        self._before = max(self._before, 2 * rate)
        self._set(rate)

    def _set(self, rate: float | None) -> None:
        if rate is None or rate >= self._before:
            self.trouble = rate = None
        self._shares.set(rate)

    def spend(self, instance: str, seconds: float) -> None:
        """A page that is read in bulk took so long."""
        self._spent += seconds
        self._shares.spend(instance, seconds)

    def rows(self, instance: str) -> int:
        """So many rows may be read in bulk with the next page; 0: none yet."""
        if self._shares.rate is None:
            return NO_BOUND
        if self._shares.level(instance) < self._UNIT:
            return 0
        return max(self.LEAST_ROWS, int(self._page_rows * self.share))

    def seconds(self, instance: str) -> float:
        """How long nothing may be read in bulk now."""
        return self._shares.seconds(instance)


@dataclass(frozen=True, slots=True)
class _Hold:
    """Nothing is written for a while."""

    reason: Reason
    words: str
    at: float
    seconds: float


class Throttle:
    """How much one instance may copy now: the smallest of what its order, the process's limit and
    central's guard allow."""

    LONGEST_SECONDS = 1.0
    """The limit and the guard hold an instance no longer at once: entities of it that follow the
    head have a turn in between. An order is about all of them."""

    LONGEST_ORDER_SECONDS = 15.0
    """An order, no longer: then there is a turn that writes next to nothing, and sees what somebody
    else has changed in the instance's state and orders."""

    TOLD_SECONDS = 3.0
    """So long after the end of a hold it is still true that it is throttled: what may be written
    then is written, and the next one follows."""

    def __init__(
        self,
        instance: str,
        clock: Clock,
        *,
        limit: Shares,
        guard: Guard,
        held: Callable[[Reason, float], None],
    ) -> None:
        """`held` is told how long nothing was written, and why."""
        self._instance = instance
        self._overdrawn = (instance, "live")
        """The account of what was written as live beyond what all that is live may owe together."""

        self._clock = clock
        self._order = Bucket(clock)
        self._limit = limit
        self._guard = guard
        self._held = held
        self._hold: _Hold | None = None
        self._last: _Hold | None = None
        self._kinds: set[bool] = set()
        """What was copied, or was to be, since the last hold: True bulk, False live."""

    def set(self, rows_per_second: int | None) -> None:
        """What an operator has ordered for the instance; None: nothing."""
        self._order.set(rows_per_second)
        if rows_per_second is None and self._last is not None and self._last.reason == "order":
            self._last = None

    def most(self, *, bulk: bool, pending: int = 0) -> int:
        """So many rows may be read now, beside those that are read and not written yet; 0: none."""
        self._kinds.add(bulk)
        level = self._limit.level(self._instance if bulk else None)
        if not bulk and self._limit.owes(self._overdrawn):
            level = 0.0
        most = min(self._order.most, NO_BOUND if level == inf else int(level)) - pending
        if bulk:  # central has read already what is pending
            most = min(most, self._guard.rows(self._instance))
        return max(0, most)

    def spend(self, rows: int, *, bulk: bool) -> None:
        """So many rows were written."""
        if rows:
            self._kinds.add(bulk)
            self._order.spend(rows)
            over = self._limit.spend(self._instance if bulk else None, rows)
            if over:
                self._limit.spend(self._overdrawn, over)

    def read(self, seconds: float) -> None:
        """A page that was read in bulk took central so long."""
        self._guard.spend(self._instance, seconds)

    def hold(self) -> float:
        """How long to wait now; 0: not at all. What was waited since the last time is counted."""
        if (before := self._hold) is not None:
            lasted = min(before.seconds, self._clock() - before.at)
            self._held(before.reason, lasted)
            if self._last is before:
                self._last = replace(before, seconds=lasted)
        self._hold = self._wanted()
        self._last = self._hold or self._last
        self._kinds.clear()
        return 0.0 if self._hold is None else self._hold.seconds

    @property
    def told(self) -> tuple[Reason, str] | None:
        """Why the instance is throttled right now, and that in words."""
        hold = self._last
        if hold is None or self._clock() > hold.at + hold.seconds + self.TOLD_SECONDS:
            return None
        return hold.reason, hold.words

    def _wanted(self) -> _Hold | None:
        """The longest of what order, limit and guard ask for."""
        waits: list[tuple[float, Reason]] = [(self._order.seconds, "order")]
        for bulk in self._kinds:
            waits.append((self._limit.seconds(self._instance if bulk else None), "limit"))
        if False in self._kinds and self._limit.owes(self._overdrawn):
            waits.append((self._limit.seconds(self._overdrawn), "limit"))
        if True in self._kinds and self._guard.trouble is not None:
            waits.append((self._guard.seconds(self._instance), self._guard.trouble[0]))
        seconds, reason = max(waits)
        if seconds <= 0:
            return None
        if reason != "order":
            seconds = max(self._order.seconds, min(seconds, self.LONGEST_SECONDS))
        seconds = min(seconds, self.LONGEST_ORDER_SECONDS)
        return _Hold(reason, self._words(reason), self._clock(), seconds)

    def _words(self, reason: Reason) -> str:
        if reason == "order":
            return f"at most {self._order.rate:,} rows per second (wpp-sync throttle)"
        if reason == "limit":
            return (
                f"all instances together write at most {self._limit.rate:,} rows per second"
                " (sync.max_rows_per_second)"
            )
        return self._guard.trouble[1] if self._guard.trouble else ""
