"""Very many rows a second, spread over many instances: how late they are, and what that costs."""

from __future__ import annotations

import asyncio

from bench import stats
from bench.measures.latency import WHO, describe, flow
from bench.measures.start import instances, thousand
from bench.place import Place
from bench.processes import Daemon
from bench.results import Goal, Line, Outcome


def take(place: Place) -> Outcome:
    fleet = place.shared("thousand", thousand)
    count, rate = len(fleet.locals), _rate(place)
    place.say(f"{rate:,} rows/s to {count:,} instances")
    with Daemon(fleet.config(count)) as daemon:
        daemon.wait_until_idle()
        seconds = place.seconds(30.0, 5.0)
        found = asyncio.run(flow(fleet, daemon, count, rate, seconds, place.rounds))
        resident = daemon.resident_mb()
    used = {who: found.share(who) for who in WHO}
    return Outcome(
        lines=(
            *describe(f"{count:,} instances", found),
            *(Line(who, "% of a core", shares) for who, shares in used.items()),
            Line("daemon, resident memory", "MB", (resident,)),
        ),
        goals=goals(place, stats.median(found.quantiles(0.99)), stats.median(used["daemon"])),
        settings=found.settings(),
    )


def _rate(place: Place) -> int:
    return place.size(1_000, 200)


def goals(place: Place, p99: float | None = None, share: float | None = None) -> tuple[Goal, ...]:
    what = f"{_rate(place):,} rows/s over {instances(place):,} instances"
    return (
        Goal(
            f"{what}, lag p99",
            1_000,
            "ms",
            p99,
            in_the_way="daemon, servers and application share two cores",
        ),
        Goal(
            f"{what}, the daemon",
            60,
            "% of a core",
            share,
            in_the_way="a pass for each instance that has something new, with a"
            " transaction of its own",
        ),
    )
