"""Very many rows a second, spread over many instances: how late they are, and what that costs."""

from __future__ import annotations

import asyncio

from bench import stats
from bench.measures.latency import describe, flow
from bench.measures.start import thousand
from bench.place import Place
from bench.processes import Daemon
from bench.results import Goal, Line, Outcome


def take(place: Place) -> Outcome:
    fleet = place.shared("thousand", thousand)
    count, rate = len(fleet.locals), place.size(1_000, 200)
    place.say(f"{rate:,} rows/s to {count:,} instances")
    with Daemon(fleet.config(count)) as daemon:
        daemon.wait_until_idle()
        found = asyncio.run(flow(fleet, daemon, count, rate, place.seconds(30.0, 5.0)))
        resident = daemon.resident_mb()
    return Outcome(
        lines=(
            *describe(f"{count:,} instances", found),
            *(Line(who, "% of a core", (share * 100,)) for who, share in found.shares.items()),
            Line("daemon, resident memory", "MB", (resident,)),
        ),
        goals=(
            Goal(
                f"{rate:,} rows/s over {count:,} instances, lag p99",
                1_000,
                "ms",
                stats.quantile(found.lags, 0.99) * 1000,
                in_the_way="daemon, servers and application share two cores",
            ),
            Goal(
                f"{rate:,} rows/s over {count:,} instances, the daemon",
                60,
                "% of a core",
                found.shares["daemon"] * 100,
                in_the_way="a pass for each instance that has something new, with a read and a"
                " transaction of its own",
            ),
        ),
        settings=found.settings(),
    )
