"""The peak of memory of a first sync, against how much there is, short rows and long ones."""

from __future__ import annotations

from bench import seed, servers
from bench.place import Place
from bench.results import Goal, Line, Outcome
from daemon.demo.server import client

INSTANCE = seed.instance_name(0)
SHORT, LONG = 200, 60_000


def take(place: Place) -> Outcome:
    sizes = [
        (place.size(10_000, 1_000), SHORT),
        (place.size(200_000, 20_000), SHORT),
        (place.size(1_000, 200), LONG),
        (place.size(10_000, 1_000), LONG),
    ]
    lines = []
    with servers.pair(place.fresh("memory")) as pair:
        for rows, body_bytes in sizes:
            place.say(f"{rows:,} rows with bodies of {body_bytes:,} bytes")
            client(pair.central, "TRUNCATE messages")
            client(pair.central, seed.messages("messages", rows, body_bytes=body_bytes))
            name = f"{rows:,} messages, bodies of {body_bytes:,} bytes"
            peaks = tuple(_peak(pair) for _ in range(place.rounds))
            lines.append(Line(name, "MB", peaks))
    return Outcome(
        lines=tuple(lines),
        goals=goals(place, max(line.high for line in lines)),
    )


def goals(place: Place, highest: float | None = None) -> tuple[Goal, ...]:
    goal = Goal(
        "peak memory of a first sync, any size",
        100,
        "MB",
        highest,
        in_the_way="the batches that are read ahead, while one is written",
    )
    return (goal,)


def _peak(pair: servers.Pair) -> float:
    local = pair.migrated()
    ran = pair.sync(local, INSTANCE, "--only", "messages")
    seed.must_equal(pair.central, local, "wpp_messages")
    pair.drop(local)
    return ran.peak_mb
