"""What many instances cost that have nothing to do, beside what one costs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench import processes, seed, servers, stats
from bench.measures.start import instances, thousand
from bench.place import Place
from bench.processes import Daemon
from bench.results import Goal, Line, Outcome
from daemon.errors import WppSyncError

# After the last instance is idle, so that what comes with a start is over.
_CALM_SECONDS = 12.0

# The default of poll_interval.
_POLL_SECONDS = 0.25

# The default of sync.rest_after would have the bench wait for minutes before anybody rests.
_REST_AFTER = "10s"
_UNTIL_AT_REST_SECONDS = 300.0

# What is beside the goals has no more windows than these: each takes a minute.
_MOST_ASIDE = 3

# Statements of the look itself: what the client says at its beginning, and the question.
_OF_A_LOOK = 2


@dataclass(frozen=True, slots=True)
class _Idle:
    """What was used while nothing happened; but for the memory, a second."""

    resident_mb: float
    daemon: float
    central: float
    local: float
    central_statements: float
    local_statements: float


def take(place: Place) -> Outcome:
    fleet = place.shared("thousand", thousand)
    count = len(fleet.locals)
    # The default of whole_interval: each thing that is done now and then is in each window.
    seconds = place.seconds(60.0, 5.0)
    half = count // 2
    few = min(place.rounds, _MOST_ASIDE)
    one = _idle(place, fleet, 1, seconds, few)
    some = _idle(place, fleet, half, seconds, few)
    all_ = _idle(place, fleet, count, seconds, place.rounds)
    open_ = _idle(place, fleet, count, place.seconds(30.0, 5.0), place.rounds, rest=False)
    # Half of them ask already as often as is asked for all; more would be what an instance adds.
    asked, asked_by_half = (
        stats.median(each.central_statements for each in found) for found in (all_, some)
    )
    own = max((asked - asked_by_half) / (count - half) * _POLL_SECONDS, 0.0)
    return Outcome(
        lines=(
            *_lines(f"{count:,} instances", all_),
            *_lines(f"{half:,} instances", some),
            *_lines("1 instance", one),
            *_lines(f"{count:,} instances that never rest", open_),
            Line("statements to central, one more instance's pass", "", (own,)),
        ),
        goals=goals(place, all_, own),
        settings={
            "seconds each": f"{seconds:g}, where none rests half of that",
            "messages": f"{fleet.messages:,}",
            "sync.rest_after": _REST_AFTER,
        },
    )


def _idle(
    place: Place,
    fleet: servers.Fleet,
    number: int,
    seconds: float,
    windows: int,
    *,
    rest: bool = True,
) -> list[_Idle]:
    """So many windows of so many seconds in one daemon's life."""
    place.say(f"{number:,} {'at rest' if rest else 'idle'}")
    sync = {"rest_after": _REST_AFTER if rest else "1000h"}
    with Daemon(fleet.config(number, sync=sync)) as daemon:
        daemon.wait_until_idle()
        if rest:
            _wait_until_at_rest(daemon)
        time.sleep(place.seconds(_CALM_SECONDS, 2.0))
        return [_window(fleet.pair, daemon, seconds) for _ in range(windows)]


def _window(pair: servers.Pair, daemon: Daemon, seconds: float) -> _Idle:
    pids = (daemon.pid, pair.central_server.pid, pair.local_server.pid)
    servers_ = (pair.central, pair.form)
    cpu = [processes.cpu_seconds(pid) for pid in pids]
    asked = [_statements(server) for server in servers_]
    time.sleep(seconds)
    cpu = [processes.cpu_seconds(pid) - was for pid, was in zip(pids, cpu, strict=True)]
    asked = [
        _statements(server) - was - _OF_A_LOOK for server, was in zip(servers_, asked, strict=True)
    ]
    rates = [each / seconds for each in (*cpu, *asked)]
    return _Idle(daemon.resident_mb(), *rates)


def _wait_until_at_rest(daemon: Daemon) -> None:
    """Wait until no local connection is open. Raises WppSyncError."""
    began = time.monotonic()
    while left := daemon.metric("wpp_sync_connections", 'server="local"'):
        if time.monotonic() - began > _UNTIL_AT_REST_SECONDS:
            raise WppSyncError(f"{left:.0f} instances do not rest")
        time.sleep(1.0)


def _statements(server: seed.Server) -> int:
    ((_, value),) = seed.rows(server, "SHOW GLOBAL STATUS LIKE 'Questions'")
    return int(value)


def _lines(who: str, found: Sequence[_Idle]) -> list[Line]:
    kinds = (
        ("daemon", "% of a core", [each.daemon * 100 for each in found]),
        ("central server", "% of a core", [each.central * 100 for each in found]),
        ("local server", "% of a core", [each.local * 100 for each in found]),
        ("statements to central", "/s", [each.central_statements for each in found]),
        ("statements to local", "/s", [each.local_statements for each in found]),
        ("resident memory", "MB", [each.resident_mb for each in found]),
    )
    return [Line(f"{who}: {what}", unit, tuple(samples)) for what, unit, samples in kinds]


def goals(place: Place, found: Sequence[_Idle] = (), own: float | None = None) -> tuple[Goal, ...]:
    count = instances(place)
    return (
        Goal(
            f"{count:,} idle instances, the daemon",
            1,
            "% of a core",
            _median([each.daemon * 100 for each in found]),
            in_the_way="the looks at what is new, and at what those who rest are to hear of",
        ),
        Goal(
            f"{count:,} idle instances, statements to central",
            10,
            "/s in all",
            _median([each.central_statements for each in found]),
            in_the_way="a look at each of the two incremental tables every poll_interval, and sums"
            " for those who rest",
        ),
        Goal(
            f"{count:,} idle instances, resident memory",
            120,
            "MB",
            _median([each.resident_mb for each in found]),
            in_the_way="what is known of an instance while it rests, its metrics and its status",
        ),
        Goal(
            "a pass with nothing new, statements to central of its own",
            0,
            "a pass",
            # No finer: what is done now and then for all falls into one window or the other.
            None if own is None else round(own, 2),
            in_the_way="something that an idle instance asks alone",
        ),
    )


def _median(samples: Sequence[float]) -> float | None:
    return stats.median(samples) if samples else None
