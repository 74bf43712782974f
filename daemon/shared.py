"""What all instances of a process have in common."""

from __future__ import annotations

from dataclasses import dataclass

from daemon.aio import Clock, Courtesy
from daemon.central import Central
from daemon.hosts import Seats
from daemon.metrics import Metrics
from daemon.migrator import Migrating
from daemon.sync.ahead import Writers
from daemon.sync.reach import Limits
from daemon.throttle import Shares
from daemon.watch import Watch


@dataclass(frozen=True, slots=True)
class Intervals:
    """How often tables are compared, in seconds."""

    reconcile: float = 3600.0
    whole: float = 60.0
    hot: float = 5.0


@dataclass(frozen=True, slots=True)
class Shared:
    """What all instances of a process have in common."""

    central: Central
    watch: Watch
    seats: Seats
    migrating: Migrating
    beginning: Courtesy
    """For an instance's first turn, which asks much of everybody: those that are there already are
    not to notice how many others begin."""

    limits: Limits
    limit: Shares
    """Rows that may be written in a second, for all instances together."""

    writers: Writers
    intervals: Intervals
    rest_after: float
    """Seconds with nothing to do, after which an instance rests."""

    backoff_max: float
    """Seconds."""

    clock: Clock
    metrics: Metrics
