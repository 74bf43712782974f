"""What the shared scans have seen of one central table's newest ids, by instance. Pure.

A scan counts the rows of each instance in a stretch of ids. A stretch is scanned when its ids are
new, again while something may still appear in it, and a last time when nothing can any more (it has
settled). So one walk over new ids tells of all instances which of them has something to copy, and
which can move its position and its settled id without a question of its own:

- an instance that has no rows in a new stretch has nothing to read there;
- one whose sum in an old stretch has changed has a row there that came late (or lost one);
- when a settled stretch was scanned once more, after the evidence, all of it is vouched for.

Who joins late, or has read ahead of the scans, is told of all that may concern him: he looks at too
much, never at too little.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Sum = tuple[int, int]
"""How many rows, and the XOR of their keys' hashes."""

_NONE: Sum = (0, 0)


@dataclass(frozen=True, slots=True)
class Told:
    """What the scans say to one instance about one table, up to now."""

    base: int
    """They know nothing of ids up to here."""

    upto: int
    """All ids up to here were scanned."""

    vouched: int
    """Up to here nothing can appear any more, and what has, was told of."""

    suspect: int | None
    """Above this id stand rows of the instance that nobody has told it of before, or that have
    changed owner; None: none do."""


@dataclass(slots=True)
class Reading:
    """What one instance still has to read by itself, by what it was told."""

    suspect: int | None = None
    """Above this id, and not above the position, may stand rows that came late."""

    read_to: int | None = None
    """Up to here ids have to be read: something was told of there, and it is told once."""

    def heed(self, told: Told, position: int, head: int) -> int:
        """The position from which on to read, not above `head`."""
        suspect = told.suspect
        if suspect is not None and suspect < position:
            self.suspect = suspect if self.suspect is None else min(suspect, self.suspect)
        if position >= told.base and not self.unread(position):
            nothing_to = told.upto if suspect is None else suspect
            position = max(position, min(nothing_to, head))
        if suspect is not None:
            self.read_to = told.upto
        return position

    def unread(self, position: int) -> bool:
        """Ids above the position have been told of and not read yet."""
        return self.read_to is not None and position < self.read_to


@dataclass(slots=True)
class Stretch:
    """Ids in (after, upto], and each owner's rows in them as last scanned."""

    after: int
    upto: int
    sums: Mapping[str, Sum]

    @property
    def rows(self) -> int:
        """How many rows there were."""
        return sum(count for count, _ in self.sums.values())

    def join(self, following: Stretch) -> None:
        """Take in the stretch that begins where this one ends."""
        sums = dict(self.sums)
        for owner, (count, total) in following.sums.items():
            before = sums.get(owner, _NONE)
            sums[owner] = (before[0] + count, before[1] ^ total)
        self.upto, self.sums = following.upto, sums


class Ledger:
    """The unsettled stretches of one table, in order and without a gap."""

    MOST_STRETCHES = 32
    """More are joined, so that scanning them again takes few statements."""

    MOST_ROWS = 50_000
    """No stretch gets more by joining: a statement looks at so many in a moment. However wide it is
    does not matter, where ids lie thin."""

    def __init__(self, head: int) -> None:
        self.base = head
        """The scans began here: they tell nothing of ids up to this one."""

        self.upto = head
        """All ids in (base, upto] were scanned."""

        self.vouched = head
        """Ids in (base, vouched] have settled, and were scanned after that."""

        self.stretches: list[Stretch] = []
        """What lies between `vouched` and `upto`."""

    def first(self, upto: int, sums: Mapping[str, Sum]) -> Iterable[str]:
        """Note the first scan of the ids from `self.upto` to `upto`; those who have rows there."""
        self.stretches.append(Stretch(self.upto, upto, sums))
        self.upto = upto
        if len(self.stretches) > self.MOST_STRETCHES:
            self._compact()
        return sums.keys()

    def again(self, stretch: Stretch, sums: Mapping[str, Sum]) -> Iterable[str]:
        """Note another scan of a stretch; those whose rows there are not the same as before."""
        before, stretch.sums = stretch.sums, sums
        return {
            owner
            for owner in before.keys() | sums.keys()
            if before.get(owner, _NONE) != sums.get(owner, _NONE)
        }

    def settled(self, sure: int) -> list[Stretch]:
        """The stretches in which nothing can appear any more, when all up to `sure` has settled:
        scanned once more, they can be vouched for."""
        return [stretch for stretch in self.stretches if stretch.upto <= sure]

    def vouch(self, stretch: Stretch) -> None:
        """The lowest stretch had settled before it was scanned last."""
        if not self.stretches or self.stretches[0] is not stretch:
            raise ValueError("not the lowest stretch")
        self.stretches.pop(0)
        self.vouched = stretch.upto

    def _compact(self) -> None:
        """Join neighbours, the oldest first: the newest settle one after the other."""
        kept = self.stretches[:1]
        for stretch in self.stretches[1 : -self.MOST_STRETCHES // 2]:
            if kept[-1].rows + stretch.rows <= self.MOST_ROWS:
                kept[-1].join(stretch)
            else:
                kept.append(stretch)
        self.stretches[:] = kept + self.stretches[-self.MOST_STRETCHES // 2 :]
