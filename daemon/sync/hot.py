"""Rows that are known to change soon: compared every few seconds, whatever their age.

The entity says which rows these are, by a condition on the local table. Their cost follows their
number: they are read locally with their checksums, block by block, and central is asked for the sum
of each block's keys, together with the blocks of all instances that ask at that moment.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping
from math import inf

from daemon import local
from daemon.aio import Clock
from daemon.central import NOTHING, Central, Sum
from daemon.entities import reads_the_clock
from daemon.sql import Key, parts
from daemon.sync.commit import Committer
from daemon.sync.reconcile import Bounds, Reconcile, differences

_PLACES = 10
"""In each interval there are so many moments at which instances compare: those of one moment ask
central together, and not all ask the local servers at once."""


def next_moment(now: float, interval: float, instance: str) -> float:
    """When an instance compares next: the same in each interval. In seconds of the clock. Pure."""
    offset = zlib.crc32(instance.encode()) % _PLACES / _PLACES * interval
    moment = ((now - offset) // interval + 1) * interval + offset
    return moment if moment > now else moment + interval  # rounded


class Hot:
    """The hot rows of one entity of one instance."""

    _BLOCK = 2_500
    """Keys whose sum is asked for at once."""

    _FEW = 500
    """No more keys are remembered: for an instance that rests."""

    _PAGE = 5_000
    """Rows read locally at once."""

    def __init__(self, condition: str, *, interval: float, central: Central, clock: Clock) -> None:
        self.due_at = clock()
        """When they are compared next."""

        self.rows = 0
        """How many there were the last time."""

        self.swept_at = float("-inf")
        """When the last comparison of all of them began that came to its end."""

        self.keys: list[Key] | None = None
        """Which they were, where they were few, and central had all of them as they are here."""

        self.total: Sum = NOTHING
        """What these rows add up to."""

        self._found: list[Key] | None = []
        self._sum: Sum = NOTHING

        self._began_at = clock()
        self._condition = condition
        self._sweeping = False
        self._below: int | None = None
        """While they are compared: rows with lower keys are still to be looked at."""

        self._seen = 0
        self._interval = interval
        self._central = central
        self._clock = clock

    @property
    def due(self) -> bool:
        """It is time to compare them, or some are left of the last time."""
        return self._sweeping or self._clock() >= self.due_at

    def due_in(self, written_at: float) -> float:
        """In how many seconds there is something to compare, where rows were written last at
        `written_at`; infinite where none are hot."""
        if self._sweeping:
            return 0.0
        if self.rows or self.swept_at <= written_at:
            return max(0.0, self.due_at - self._clock())
        return inf

    def can_rest(self, written_at: float) -> bool:
        """Which rows are hot is known and stays so, where nothing was written since `written_at`:
        by the clock others may be tomorrow."""
        known = self.keys is not None and self.swept_at > written_at
        return known and not reads_the_clock(self._condition)

    async def step(
        self,
        committer: Committer,
        repairing: Reconcile,
        bounds: Bounds,
        stop: asyncio.Event,
        seconds: float,
    ) -> bool:
        """Compare them for about so long, if it is time; whether some are left. What differs is
        repaired as reconcile does it."""
        if not self.due:
            return False
        if not self._sweeping:
            # From the beginning: the interval holds however long this takes.
            self.due_at = next_moment(self._clock(), self._interval, committer.instance)
            self._sweeping, self._below, self._seen = True, None, 0
            self._began_at = self._clock()
            self._found, self._sum = [], NOTHING
        deadline = self._clock() + seconds
        while self._sweeping and not stop.is_set():
            await self._next_page(committer, repairing, bounds)
            if self._clock() >= deadline:
                break
        return self._sweeping

    async def _next_page(self, committer: Committer, repairing: Reconcile, bounds: Bounds) -> None:
        page = await local.hot_sums(
            committer.connection, committer.plan, self._condition, self._below, self._PAGE,
            committer.note,
        )  # fmt: skip
        keys = list(page)
        for start in range(0, len(keys), self._BLOCK):
            block = {key: page[key] for key in keys[start : start + self._BLOCK]}
            await self._compare(committer, repairing, bounds, block)
        self._seen += len(keys)
        self._sweeping = len(keys) == self._PAGE
        if self._sweeping:
            self._below = parts(keys[-1])[0]
        else:
            self.rows, self.swept_at = self._seen, self._began_at
            self.keys, self.total = self._found, self._sum

    async def _compare(
        self, committer: Committer, repairing: Reconcile, bounds: Bounds, block: Mapping[Key, int]
    ) -> None:
        plan, instance = committer.plan, committer.instance
        ours = (len(block), 0)
        for each in block.values():
            ours = (ours[0], ours[1] ^ each)
        if await self._central.key_sum(plan, instance, list(block)) == ours:
            if self._found is not None and len(self._found) + len(block) <= self._FEW:
                self._found += block
                self._sum = self._sum[0] + ours[0], self._sum[1] ^ ours[1]
            else:
                self._found = None
            return
        self._found = None
        theirs = await self._central.row_sums_of(plan, instance, list(block))
        found = differences(theirs, block, excluded=committer.excluded, settled=bounds.settled)
        await repairing.examine(committer, bounds, found)
