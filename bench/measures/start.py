"""How long a daemon takes until many instances that are up to date are idle."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

from bench import servers, stats
from bench.place import Place
from bench.processes import Daemon
from bench.results import Goal, Line, Outcome

# Messages of one instance.
_EACH = 1_000


def thousand(place: Place) -> AbstractContextManager[servers.Fleet]:
    """A thousand instances that are up to date."""
    count = instances(place)
    return servers.fleet(place.fresh("thousand"), count, count * _EACH)


def instances(place: Place) -> int:
    return place.size(1_000, 40)


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
        goals=goals(place, stats.median(idle)),
        settings={"instances": f"{count:,}"},
    )


def goals(place: Place, seconds: float | None = None) -> tuple[Goal, ...]:
    goal = Goal(
        f"start of {instances(place):,} instances that are up to date",
        20,
        "s",
        seconds,
        in_the_way="each opens a connection, takes its lock, and has its migrations and tables"
        " looked at: a fixed number of local statements an instance",
    )
    return (goal,)
