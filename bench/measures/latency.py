"""From a commit in central until the row can be read in the local database.

One writer plays the application; one prober reads the local databases of some instances, again and
again, for the ids that it has not seen. Both are coroutines of one process, so there is one clock.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
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
PROBE_SECONDS = 0.01

# What comes first does not count.
WARM_SECONDS = 3.0

# How long a row may take before it counts as lost.
_LOST_SECONDS = 60.0


@dataclass
class Flow:
    """What was seen of a stream of rows."""

    rate: int
    instances: int
    probed: int
    lags: list[float] = field(default_factory=list)
    """Seconds from the commit until a probe saw the row."""

    written: float = 0.0
    """Rows a second that the writer came to."""

    shares: Mapping[str, float] = field(default_factory=dict)
    """Of a core, by who used it: nobody can be quicker than what the machine has left."""

    def settings(self) -> dict[str, str]:
        return {
            "rows/s": f"{self.rate:,}",
            "instances": f"{self.instances:,}",
            "commits/s": str(COMMITS_PER_SECOND),
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
            seconds = place.seconds(20.0 if instances <= PROBED else 60.0, 4.0)
            found = asyncio.run(flow(fleet, daemon, instances, rate, seconds))
        name = "1 instance" if instances == 1 else f"{instances:,} instances"
        lines += describe(name, found)
    settings = found.settings() | {"instances": "see there", "instances looked at": f"≤ {PROBED}"}
    return Outcome(lines=tuple(lines), settings=settings)


def describe(who: str, found: Flow) -> list[Line]:
    note = f"{len(found.lags):,} rows; {found.written:,.0f} rows/s were written"
    return [
        Line(f"{who}: p{share}", "ms", (stats.quantile(found.lags, share / 100) * 1000,), note)
        for share in (50, 99)
    ]


async def flow(
    fleet: servers.Fleet, daemon: Daemon, instances: int, rate: int, seconds: float
) -> Flow:
    """Write to the first so many instances, and see when it arrives. Raises WppSyncError when a
    row does not."""
    step = max(instances // PROBED, 1)
    probed = [seed.instance_name(number) for number in range(0, instances, step)][:PROBED]
    found = Flow(rate, instances, len(probed))
    async with _connect(fleet.pair.central) as there, _connect(fleet.pair.form) as here:
        head = await _one(there, "SELECT MAX(id) FROM messages")
        committed: dict[int, float] = {}
        probing = asyncio.create_task(_probe(here, probed, head, committed, found))
        await _write(there, instances, head, rate, WARM_SECONDS, {}, set())
        head = await _one(there, "SELECT MAX(id) FROM messages")
        used, began = _used(fleet, daemon), time.monotonic()
        rows = await _write(there, instances, head, rate, seconds, committed, set(probed))
        took = time.monotonic() - began
        found.written = rows / took
        found.shares = {who: (now - used[who]) / took for who, now in _used(fleet, daemon).items()}
        await _arrived(probing, committed)
    for name in probed:
        seed.must_equal(
            fleet.pair.central, fleet.locals[name], "wpp_messages", f"instance = '{name}'"
        )
    return found


def _used(fleet: servers.Fleet, daemon: Daemon) -> dict[str, float]:
    """Seconds of the processors, by who used them."""
    pids = {
        "daemon": daemon.pid,
        "central server": fleet.pair.central_server.pid,
        "local server": fleet.pair.local_server.pid,
        "writer and prober": os.getpid(),
    }
    return {who: processes.cpu_seconds(pid) for who, pid in pids.items()}


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
    connection: Any, probed: list[str], head: int, committed: dict[int, float], found: Flow
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
                found.lags.append(max(now - committed.pop(id_), 0.0))
        await asyncio.sleep(PROBE_SECONDS)


async def _arrived(probing: asyncio.Task[None], committed: Mapping[int, float]) -> None:
    """Wait for the last rows, and end the probe."""
    began = time.monotonic()
    while committed and not probing.done():
        if time.monotonic() - began > _LOST_SECONDS:
            raise WppSyncError(f"{len(committed)} rows have not arrived: {sorted(committed)[:5]}")
        await asyncio.sleep(0.05)
    probing.cancel()
    await asyncio.wait([probing])
    if not probing.cancelled():
        probing.result()


def _connect(server: seed.Server) -> Any:
    return asyncmy.connect(
        host=server["host"],
        port=server["port"],
        user=server["user"],
        password=server["password"],
        db=server["database"],
        autocommit=True,
    )


async def _one(connection: Any, sql: str) -> int:
    async with connection.cursor() as cursor:
        await cursor.execute(sql)
        ((value,),) = await cursor.fetchall()
    return int(value)
