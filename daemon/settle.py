"""When can no transaction add an id below this one any more? Pure: observations in, an answer out.

AUTO_INCREMENT ids become visible out of order: a transaction that drew id 100 may commit after 101
was copied. What was seen is copied at once, always; settling only bounds what must be looked at
again. The rule here is the timed one: an id <= a head that was seen `settle` seconds ago belongs to
a transaction that has ended. 60 s is above innodb_lock_wait_timeout's default of 50 s.
"""

from __future__ import annotations

from dataclasses import dataclass

TIMED_DEFAULT = 60.0


@dataclass(frozen=True, slots=True)
class Head:
    """The highest id that was visible in a central table, and when it was seen (monotonic s)."""

    id: int
    at: float


class Heads:
    """The heads of one central table, as they were seen.

    Bounded: at most one observation is kept for each 64th of the settle time, so an id settles at
    most a 64th later than it could.
    """

    def __init__(self, settle: float) -> None:
        self._settle = settle
        self._seen: list[Head] = []
        self._settled = 0

    def observe(self, head: Head) -> None:
        """Note a head. One that lies lower than the last begins a new history: ids were taken
        away (rows deleted, a restore), and what was known of them says nothing about new ones."""
        if self._seen and head.id < self._seen[-1].id:
            self._seen.clear()
            self._settled = min(self._settled, head.id)
        self.settled(head.at)
        if not self._seen or (
            head.id > self._seen[-1].id and head.at - self._seen[-1].at >= self._settle / 64
        ):
            self._seen.append(head)

    def settled(self, now: float) -> int:
        """Up to this id no transaction can add an id any more; 0 when nothing is known yet."""
        while self._seen and now - self._seen[0].at >= self._settle:
            self._settled = max(self._settled, self._seen[0].id)
            # The last one stays as the mark against which a fall is recognised.
            if len(self._seen) == 1:
                break
            self._seen.pop(0)
        return self._settled

    def waiting_since(self, position: int) -> float | None:
        """When the first id above `position` was seen; None when none was."""
        return next((head.at for head in self._seen if head.id > position), None)
