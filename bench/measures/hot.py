"""When a changed status shows, with many rows that are known to change soon."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from bench import seed, servers
from bench.measures.reconcile import INSTANCE, million
from bench.place import Place
from bench.processes import Daemon
from bench.results import Line, Outcome
from daemon.demo.server import client

_QUERIES = "wpp_sync_central_queries_total"
_LOOK_SECONDS = 0.05
_INTERVAL = 5.0
"""The default of sync.hot_interval."""


def take(place: Place) -> Outcome:
    fleet = place.shared("million", million)
    hot = place.size(100_000, 5_000)
    turns = 2 * place.rounds
    _warm(fleet, hot)
    with Daemon(fleet.config(1)) as daemon:
        daemon.wait_until_idle()
        before, began = daemon.metric(_QUERIES, 'kind="hot"'), time.monotonic()
        delays = tuple(_change(fleet, turn, turns) for turn in range(turns))
        seconds = time.monotonic() - began
        asked = (daemon.metric(_QUERIES, 'kind="hot"') - before) / seconds
    return Outcome(
        lines=(
            Line("until a changed status shows", "s", delays),
            Line("central queries for it", "/s", (asked,)),
        ),
        settings={"hot rows": f"{hot:,}", "hot_interval": "5 s"},
    )


def _warm(fleet: servers.Fleet, hot: int) -> None:
    """Make the newest rows hot, on both sides."""
    sides: list[tuple[Mapping[str, object], str]] = [
        (fleet.pair.central, "messages"),
        (fleet.locals[INSTANCE], "wpp_messages"),
    ]
    with ThreadPoolExecutor() as threads:
        for server, table in sides:
            sql = f"UPDATE {table} SET status = 'SENT' WHERE id > {fleet.messages - hot}"
            threads.submit(client, server, sql)


def _change(fleet: servers.Fleet, turn: int, turns: int) -> float:
    """Seconds until one hot row's change shows."""
    # The last change showed just after a look at the hot rows: this one comes at any time between
    # two looks, and not always at the same.
    time.sleep(_INTERVAL * turn / turns)
    row = fleet.messages - turn * 7
    client(fleet.pair.central, f"UPDATE messages SET status = 'READ' WHERE id = {row}")
    began = time.monotonic()
    look = f"SELECT status FROM wpp_messages WHERE id = {row}"
    while seed.rows(fleet.locals[INSTANCE], look) != [["READ"]]:
        time.sleep(_LOOK_SECONDS)
    return time.monotonic() - began
