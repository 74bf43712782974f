"""Rows a second of a first sync, beside every rival. All find their local table there and empty."""

from __future__ import annotations

from collections.abc import Callable

from bench import seed, servers
from bench.place import Contender, Place
from bench.results import Goal, Line, Outcome
from bench.rivals import RIVALS, DumpPipe, Job, Rival
from daemon.demo.server import client

OURS = "wpp-sync sync"
ONE = "wpp-sync sync, one writer"
INSTANCE = seed.instance_name(0)


def take(place: Place) -> Outcome:
    rows, few = _rows(place), place.size(100_000, 5_000)
    missing = {rival.name: why for rival in RIVALS if (why := rival.why_not())}
    peaks: list[float] = []
    with servers.pair(place.fresh("first-sync")) as pair:
        client(pair.central, seed.messages("messages", rows))
        contenders = [
            Contender(OURS, ours(pair, rows, peaks)),
            Contender(ONE, ours(pair, rows, [], sync={"writers_per_server": 1})),
        ]
        for rival in RIVALS:
            if rival.name not in missing:
                contenders.append(_contender(place, pair, rival, few if rival.slow else rows))
        rounds = place.compete(contenders)
    lines = [
        Line(each.name, "rows/s", rounds.took[each.name], each.note)
        for each in contenders
        if each.name in rounds.took
    ]
    return Outcome(
        lines=(*lines, Line(f"{OURS}, peak memory", "MB", tuple(peaks[-place.rounds :]))),
        goals=goals(place, *(rounds.ratio(each, DumpPipe.name) for each in (ONE, OURS))),
        settings={"rows": f"{rows:,}", "columns": "28", "unique keys": "5"},
        beside=DumpPipe.name,
        missing=missing | rounds.failed,
    )


def _rows(place: Place) -> int:
    return place.size(500_000, 20_000)


def goals(place: Place, one: float | None = None, two: float | None = None) -> tuple[Goal, ...]:
    return (_goal(place, "one writer", 1.7, one), _goal(place, "two writers", 2.5, two))


def ours(pair: servers.Pair, rows: int, peaks: list[float], **more: object) -> Callable[[], float]:
    """A turn of wpp-sync, with more settings; it leaves its peak of memory, too."""

    def turn() -> float:
        local = pair.migrated()
        ran = pair.sync(local, INSTANCE, "--only", "messages", **more)
        seed.must_equal(pair.central, local, "wpp_messages")
        pair.drop(local)
        peaks.append(ran.peak_mb)
        return rows / ran.seconds

    return turn


def _contender(place: Place, pair: servers.Pair, rival: Rival, rows: int) -> Contender:
    work = place.fresh("work")

    def turn() -> float:
        local = pair.like_messages()
        job = Job(pair.central, local, INSTANCE, rows)
        rival.prepare(job, work)
        ran = rival.run(job, work)
        seed.must_equal(pair.central, local, "messages", job.where)
        pair.drop(local)
        return rows / ran.seconds

    if rival.slow:
        note = f"{rows:,} rows, not warmed up"
        return Contender(rival.name, turn, required=False, rounds=1, note=note)
    return Contender(rival.name, turn, required=False)


def _goal(place: Place, writers: str, least: float, measured: float | None) -> Goal:
    return Goal(
        f"first sync of {_rows(place):,} messages, rows/s, {writers}",
        least,
        "× the mariadb-dump pipe",
        measured,
        at_least=True,
        in_the_way="two cores for two servers and this process: with two writers they take 25 µs of"
        " CPU a row in all, the local server 15 of them, central 2.5, this process 7",
    )
