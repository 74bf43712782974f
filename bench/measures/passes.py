"""What a pass takes that finds 200 new rows, or 50; beside copying them by mariadb-dump.

The rows are committed in central, and the daemon finds them at its next poll; how long that pass
took is what its own histogram has grown by.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from bench import seed, servers, stats
from bench.place import Contender, Place, Rounds
from bench.processes import Daemon
from bench.results import Goal, Line, Outcome
from bench.rivals import DumpPipe, Job
from daemon.client import instance_path
from daemon.demo.compare import compare_derived
from daemon.demo.server import client
from daemon.errors import WppSyncError

INSTANCE = seed.instance_name(0)
BOUNDS = {200: 9.0, 50: 4.0}
CONTACTS = 1_000
PIPED = f"{DumpPipe.name}, 200 rows"

# A pass takes milliseconds: many are as cheap as five, and show more.
_TIMES_ROUNDS = 4

# How many are tried for one that counts.
_ATTEMPTS = 5

# Long enough for a poll, so that one look at the metrics (which costs the daemon milliseconds, too)
# comes after the pass and none into it.
_POLL = "200ms"
_SETTLE_SECONDS = 0.5

_PASS = "wpp_sync_pass_duration_seconds"  # noqa: S105 - no password


def counted(take: Callable[[], float | None], times: int) -> tuple[float, ...]:
    """Milliseconds of so many passes that count. Raises WppSyncError when too few do.

    None: a poll came before all was there, or something else was to be done, too.
    """
    found: list[float] = []
    most = times * _ATTEMPTS
    for _ in range(most):
        if (seconds := take()) is not None:
            found.append(seconds * 1000)
        if len(found) == times:
            return tuple(found)
    raise WppSyncError(f"only {len(found)} of {most} passes found all their rows and nothing else")


class _Growing:
    """An instance that gets new rows, and its daemon."""

    def __init__(self, fleet: servers.Fleet, daemon: Daemon) -> None:
        self.head = fleet.messages
        self._central = fleet.pair.central
        self._daemon = daemon

    def passes(self, rows: int, times: int, contacts: int = 0) -> tuple[float, ...]:
        """Milliseconds of so many passes that found so many rows, of so many contacts in turn."""
        self._pass(rows, contacts)
        return counted(lambda: self._pass(rows, contacts), times)

    def _pass(self, rows: int, contacts: int) -> float | None:
        count, total = self._so_far()
        first, self.head = self.head + 1, self.head + rows
        client(self._central, seed.messages("messages", self.head, first=first, contacts=contacts))
        time.sleep(_SETTLE_SECONDS)
        self._daemon.wait_until(self._arrived)
        count_now, total_now = self._so_far()
        return total_now - total if count_now == count + 1 else None

    def _arrived(self) -> bool:
        status = self._daemon.client.get(instance_path(INSTANCE))
        watermarks = {each["entity"]: each["last_synced_id"] for each in status["sync_state"]}
        return bool(watermarks["messages"] == self.head)

    def _so_far(self) -> tuple[float, float]:
        return self._daemon.metric(f"{_PASS}_count"), self._daemon.metric(f"{_PASS}_sum")


def take(place: Place) -> Outcome:
    why = DumpPipe().why_not()
    times = place.rounds * _TIMES_ROUNDS
    with servers.fleet(place.fresh("passes"), 1, place.size(100_000, 10_000)) as fleet:
        with Daemon(fleet.config(1, defaults={"poll_interval": _POLL})) as daemon:
            daemon.wait_until_idle()
            growing = _Growing(fleet, daemon)
            place.say("passes")
            took = {rows: growing.passes(rows, times) for rows in BOUNDS}
            client(fleet.pair.central, seed.contacts(CONTACTS))
            derived = {rows: growing.passes(rows, times, CONTACTS) for rows in BOUNDS}
        seed.must_equal(fleet.pair.central, fleet.locals[INSTANCE], "wpp_messages")
        _derived_must_be_right(fleet)
        piped = Rounds({}, {PIPED: why}) if why else _piped(place, fleet, growing.head)
    lines = [Line(f"a pass with {rows} rows", "ms", took[rows]) for rows in BOUNDS]
    lines += [
        Line(f"… of {rows} contacts, wpp_last_messages too", "ms", derived[rows]) for rows in BOUNDS
    ]
    lines += [Line(PIPED, "ms", found, "whole process") for found in piped.took.values()]
    return Outcome(
        lines=tuple(lines),
        goals=goals(place, {rows: stats.median(found) for rows, found in took.items()}),
        settings={"rows there already": f"{fleet.messages:,}", "poll_interval": _POLL},
        missing=piped.failed,
    )


def goals(place: Place, medians: Mapping[int, float] | None = None) -> tuple[Goal, ...]:
    return tuple(
        Goal(
            f"a pass with {rows} new rows",
            bound,
            "ms",
            (medians or {}).get(rows),
            in_the_way="reading, one local transaction with the state and the derived rows, and the"
            " looks at what is in flight",
        )
        for rows, bound in BOUNDS.items()
    )


def _derived_must_be_right(fleet: servers.Fleet) -> None:
    found = compare_derived(fleet.locals[INSTANCE], INSTANCE)
    if not found.equal or found.rows_local != CONTACTS:
        raise WppSyncError(f"wpp_last_messages is wrong: {found}")


def _piped(place: Place, fleet: servers.Fleet, head: int) -> Rounds:
    """The newest 200 rows by the pipe, into a table that does not have them."""
    local = fleet.pair.like_messages()
    job = Job(fleet.pair.central, local, INSTANCE, head, above=head - 200)

    def turn() -> float:
        client(local, "TRUNCATE messages")
        ran = DumpPipe().run(job, place.directory)
        seed.must_equal(fleet.pair.central, local, "messages", job.where)
        return ran.seconds * 1000

    return place.compete([Contender(PIPED, turn, required=False)])
