"""What comparing costs that finds nothing, beside the time the two servers need for a sum over the
same rows: the same hash, written down in a minute, and over CRC32."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

from bench import seed, servers
from bench.place import Contender, Place
from bench.processes import Daemon
from bench.results import Goal, Line, Outcome
from daemon.client import instance_path
from daemon.demo.server import client
from daemon.errors import WppSyncError

OURS = "wpp-sync reconcile --dry-run"
SAME = "both servers' SHA-256 over all columns"
CRC = "both servers' CRC32 over all columns"
INSTANCE = seed.instance_name(0)


def million(place: Place) -> AbstractContextManager[servers.Fleet]:
    """One instance with very many messages in sync."""
    return servers.fleet(place.fresh("million"), 1, _rows(place))


def _rows(place: Place) -> int:
    return place.size(1_000_000, 50_000)


def take(place: Place) -> Outcome:
    fleet = place.shared("million", million)
    crossed: list[float] = []
    with Daemon(fleet.config(1)) as daemon:
        daemon.wait_until_idle()
        rounds = place.compete(
            [
                Contender(OURS, _ours(fleet, daemon, crossed)),
                Contender(SAME, _sums(fleet, seed.sha())),
                Contender(CRC, _sums(fleet, seed.crc())),
            ]
        )
    lines = [Line(name, "s", samples) for name, samples in rounds.took.items()]
    return Outcome(
        lines=(
            *lines,
            Line("bytes between the servers and the daemon", "kB", tuple(crossed[-place.rounds :])),
        ),
        goals=goals(place, rounds.ratio(OURS, SAME)),
        settings={"rows": f"{fleet.messages:,}", "both sides": "at the same time"},
        beside=SAME,
    )


def goals(place: Place, ratio: float | None = None) -> tuple[Goal, ...]:
    goal = Goal(
        f"reconcile of {_rows(place):,} rows in sync",
        1.3,
        "× the two servers' own checksum",
        ratio,
        in_the_way="whose a row is, for central, and one statement a chunk",
    )
    return (goal,)


def _ours(fleet: servers.Fleet, daemon: Daemon, crossed: list[float]) -> Callable[[], float]:
    def turn() -> float:
        before, began = _bytes(fleet), time.monotonic()
        path = instance_path(INSTANCE, "reconcile")
        found = daemon.client.post(path, {"entity": "messages", "dry_run": True}, timeout=600)
        seconds = time.monotonic() - began
        crossed.append((_bytes(fleet) - before) / 1000)
        (messages,) = found["entities"]
        if any(messages[kind] for kind in ("missing", "differing", "extra")):
            raise WppSyncError(f"not in sync: {messages}")
        return seconds

    return turn


def _sums(fleet: servers.Fleet, expression: str) -> Callable[[], float]:
    def turn() -> float:
        began = time.monotonic()
        with ThreadPoolExecutor() as threads:
            sides = [(fleet.pair.central, "messages"), (fleet.locals[INSTANCE], "wpp_messages")]
            statement = f"SELECT COUNT(*), BIT_XOR({expression}) FROM "
            found = [threads.submit(client, server, statement + table) for server, table in sides]
            answers = {each.result() for each in found}
        if len(answers) != 1:
            raise WppSyncError(f"not in sync: {answers}")
        return time.monotonic() - began

    return turn


def _bytes(fleet: servers.Fleet) -> int:
    """What has crossed the connections of both servers."""
    question = "SHOW GLOBAL STATUS WHERE Variable_name IN ('Bytes_sent', 'Bytes_received')"
    both = (fleet.pair.central, fleet.locals[INSTANCE])
    return sum(int(value) for server in both for _, value in seed.rows(server, question))
