"""How long a daemon takes until many instances that are up to date are idle."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

from bench import servers, stats
from bench.place import Place
from bench.processes import Daemon
from bench.results import Goal, Line, Outcome

# Messages of one instance.
_EACH = 20


def thousand(place: Place) -> AbstractContextManager[servers.Fleet]:
    """A thousand instances that are up to date."""
    count = place.size(1_000, 40)
    return servers.fleet(place.fresh("thousand"), count, count * _EACH)


def take(place: Place) -> Outcome:
    fleet = place.shared("thousand", thousand)
    count = len(fleet.locals)
    idle: list[float] = []
    left: list[float] = []
    for round_ in range(place.rounds):
        place.say(f"start {round_ + 1}")
        began = time.monotonic()
        with Daemon(fleet.config(count)) as daemon:
            daemon.wait_until_idle()
            idle.append(time.monotonic() - began)
            began = time.monotonic()
        left.append(time.monotonic() - began)
    return Outcome(
        lines=(
            Line("from the start of the process until all are idle", "s", tuple(idle)),
            Line("from TERM until it has left", "s", tuple(left)),
        ),
        goals=(
            Goal(
                f"start of {count:,} instances that are up to date",
                20,
                "s",
                stats.median(idle),
                in_the_way="each opens a connection, takes its lock, and has its migrations and"
                " tables looked at: a fixed number of local statements an instance",
            ),
        ),
        settings={"instances": f"{count:,}"},
    )
