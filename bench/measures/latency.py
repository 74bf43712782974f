"""From a commit in central until the row can be read in the local database.

One writer plays the application; one prober reads the local databases of some instances, again and
again, for the ids that it has not seen. Both are coroutines of one process, so there is one clock.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count as numbers
from typing import Any

import asyncmy

from bench import processes, seed, servers, stats
from bench.measures.start import thousand
from bench.place import Place
from bench.processes import Daemon
from bench.results import Line, Outcome
from daemon.errors import WppSyncError

RATE = 200
COMMITS_PER_SECOND = 100
PROBED = 20
PROBE_SECONDS = 0.025

# What comes first does not count.
WARM_SECONDS = 3.0

# How long a row may take before it counts as lost.
_LOST_SECONDS = 60.0


WHO = ("daemon", "central server", "local server", "writer and prober")


@dataclass(frozen=True, slots=True)
class Window:
    """What was seen of a stream of rows for a while: one sample."""

    lags: tuple[float, ...]
    """Seconds from the commit until a probe saw the row."""

    written: float
    """Rows a second that the writer came to."""

    shares: Mapping[str, float]
    """Of a core, by who used it: nobody can be quicker than what the machine has left."""


@dataclass(frozen=True, slots=True)
class Flow:
    """A stream of rows, and what was seen of it."""

    rate: int
    instances: int
    probed: int
    seconds: float
    windows: tuple[Window, ...]

    def quantiles(self, share: float) -> tuple[float, ...]:
        """Milliseconds, of each window."""
        return tuple(stats.quantile(each.lags, share) * 1000 for each in self.windows)

    def share(self, who: str) -> tuple[float, ...]:
        """Percent of a core, of each window."""
        return tuple(each.shares[who] * 100 for each in self.windows)

    def settings(self) -> dict[str, str]:
        return {
            "rows/s": f"{self.rate:,}",
            "instances": f"{self.instances:,}",
            "commits/s": str(COMMITS_PER_SECOND),
            "seconds each": f"{self.seconds:g}",
            "instances looked at": str(self.probed),
            "a look every": f"{PROBE_SECONDS * 1000:.0f} ms",
            "poll_interval": "250 ms",
        }


def take(place: Place) -> Outcome:
    fleet = place.shared("thousand", thousand)
    rate = place.size(RATE, 100)
    lines: list[Line] = []
    for instances in (1, 10, len(fleet.locals)):
        place.say(f"{rate} rows/s to {instances:,} instances")
        with Daemon(fleet.config(instances)) as daemon:
            daemon.wait_until_idle()
            # The more instances, the fewer of their rows are looked at.
            seconds = place.seconds(10.0 if instances <= PROBED else 30.0, 4.0)
            found = asyncio.run(flow(fleet, daemon, instances, rate, seconds, place.rounds))
        name = "1 instance" if instances == 1 else f"{instances:,} instances"
        lines += describe(name, found)
    differs = {"instances": "see there", "seconds each": "10, of many instances 30"}
    settings = found.settings() | differs | {"instances looked at": f"≤ {PROBED}"}
    return Outcome(lines=tuple(lines), settings=settings)


def describe(who: str, found: Flow) -> list[Line]:
    rows = sum(len(each.lags) for each in found.windows)
    written = stats.median(each.written for each in found.windows)
    note = f"{rows:,} rows in all; {written:,.0f} rows/s were written"
    return [
        Line(f"{who}: p{share}", "ms", found.quantiles(share / 100), note) for share in (50, 99)
    ]


async def flow(
    fleet: servers.Fleet,
    daemon: Daemon,
    instances: int,
    rate: int,
    seconds: float,
    windows: int,
) -> Flow:
    """Write to the first so many instances, and see when it arrives, so many times for so long.
    Raises WppSyncError when a row does not."""
    step = max(instances // PROBED, 1)
    probed = [seed.instance_name(number) for number in range(0, instances, step)][:PROBED]
    found: list[Window] = []
    async with _connect(fleet.pair.central) as there, _connect(fleet.pair.form) as here:
        committed: dict[int, float] = {}
        lags: list[float] = []
        head = await _head(there)
        probing = asyncio.create_task(_probe(here, probed, head, committed, lags))
        try:
            for _ in range(windows):
                # The last window's rows have arrived: each begins with nobody behind.
                await _write(there, instances, await _head(there), rate, WARM_SECONDS, {}, set())
                head = await _head(there)
                used, began = _used(fleet, daemon), time.monotonic()
                rows = await _write(there, instances, head, rate, seconds, committed, set(probed))
                took = time.monotonic() - began
                now = _used(fleet, daemon)
                await _arrived(probing, committed)
                shares = {who: (now[who] - used[who]) / took for who in WHO}
                found.append(Window(tuple(lags), rows / took, shares))
                lags.clear()
        finally:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)
    _all_arrived(fleet)
    return Flow(rate, instances, len(probed), seconds, tuple(found))


def _used(fleet: servers.Fleet, daemon: Daemon) -> dict[str, float]:
    """Seconds of the processors, by who used them."""
    pair = fleet.pair
    pids = (daemon.pid, pair.central_server.pid, pair.local_server.pid, os.getpid())
    return {who: processes.cpu_seconds(pid) for who, pid in zip(WHO, pids, strict=True)}


async def _write(
    connection: Any,
    instances: int,
    head: int,
    rate: int,
    seconds: float,
    committed: dict[int, float],
    noted: set[str],
) -> int:
    """Commit rows at that rate, and return how many; the noted instances' ones with the moment of
    their commit."""
    rows = max(rate // COMMITS_PER_SECOND, 1)
    following = numbers(head + 1)
    began = time.monotonic()
    turns = int(seconds * rate / rows)
    for turn in range(turns):
        await asyncio.sleep(began + turn * rows / rate - time.monotonic())
        ids = [next(following) for _ in range(rows)]
        await connection.query(
            seed.messages("messages", ids[-1], first=ids[0], instances=instances)
        )
        now = time.monotonic()
        owners = {id_: seed.instance_name((id_ - 1) % instances) for id_ in ids}
        committed.update({id_: now for id_, owner in owners.items() if owner in noted})
    return turns * rows


async def _probe(
    connection: Any, probed: list[str], head: int, committed: dict[int, float], lags: list[float]
) -> None:
    """Look for new rows until it is cancelled."""
    newest = dict.fromkeys(probed, head)
    while True:
        sql = " UNION ALL ".join(
            f"SELECT '{name}', id FROM {name}.wpp_messages WHERE id > {last}"
            for name, last in newest.items()
        )
        async with connection.cursor() as cursor:
            await cursor.execute(sql)
            rows = await cursor.fetchall()
        now = time.monotonic()
        for name, id_ in rows:
            newest[name] = max(newest[name], id_)
            if id_ in committed:
                # A row may be seen before its writer has heard of its own commit.
                lags.append(max(now - committed.pop(id_), 0.0))
        await asyncio.sleep(PROBE_SECONDS)


async def _arrived(probing: asyncio.Task[None], committed: Mapping[int, float]) -> None:
    """Wait for the last rows of those that are looked at."""
    began = time.monotonic()
    while committed:
        if probing.done():
            probing.result()
        if time.monotonic() - began > _LOST_SECONDS:
            raise WppSyncError(f"{len(committed)} rows have not arrived: {sorted(committed)[:5]}")
        await asyncio.sleep(0.05)


def _all_arrived(fleet: servers.Fleet) -> None:
    """Wait until all instances, also those that nobody looked at, are copies."""
    began = time.monotonic()
    while fleet.unequal() and time.monotonic() - began < _LOST_SECONDS:
        time.sleep(1.0)
    fleet.must_be_equal()


def _connect(server: seed.Server) -> Any:
    return asyncmy.connect(
        host=server["host"],
        port=server["port"],
        user=server["user"],
        password=server["password"],
        db=server["database"],
        autocommit=True,
    )


async def _head(connection: Any) -> int:
    async with connection.cursor() as cursor:
        await cursor.execute("SELECT MAX(id) FROM messages")
        ((value,),) = await cursor.fetchall()
    return int(value)
