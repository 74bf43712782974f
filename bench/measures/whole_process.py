"""A small first sync from nothing: start of the process, migrations, all entities, end."""

from __future__ import annotations

from bench import seed, servers
from bench.place import Contender, Place
from bench.results import Goal, Line, Outcome
from bench.rivals import RIVALS, Afternoon, DumpPipe, Job, Rival
from daemon.demo.server import client

OURS = "wpp-sync sync, migrations and all"
INSTANCE = seed.instance_name(0)
ROWS = 10_000
# 0.7 s where the pipe takes 0.4 s.
BOUND = 0.7 / 0.4


def take(place: Place) -> Outcome:
    chosen = [rival for rival in RIVALS if isinstance(rival, DumpPipe | Afternoon)]
    missing = {rival.name: why for rival in chosen if (why := rival.why_not())}
    with servers.pair(place.fresh("whole-process")) as pair:
        client(pair.central, seed.messages("messages", ROWS))
        contenders = [_ours(pair)]
        contenders += [_theirs(place, pair, each) for each in chosen if each.name not in missing]
        rounds = place.compete(contenders)
    return Outcome(
        lines=tuple(Line(name, "s", samples) for name, samples in rounds.took.items()),
        goals=goals(place, rounds.ratio(OURS, DumpPipe.name)),
        settings={"rows": f"{ROWS:,}", "the rivals' table": "is there already"},
        beside=DumpPipe.name,
        missing=missing | rounds.failed,
    )


def goals(place: Place, ratio: float | None = None) -> tuple[Goal, ...]:
    goal = Goal(
        f"{ROWS:,} messages, the whole process from nothing",
        BOUND,
        "× the mariadb-dump pipe",
        ratio,
        in_the_way="starting Python and importing, the migrations of a new database, and the copy"
        " itself",
    )
    return (goal,)


def _ours(pair: servers.Pair) -> Contender:
    def turn() -> float:
        local = pair.empty()
        ran = pair.sync(local, INSTANCE)
        seed.must_equal(pair.central, local, "wpp_messages")
        pair.drop(local)
        return ran.seconds

    return Contender(OURS, turn)


def _theirs(place: Place, pair: servers.Pair, rival: Rival) -> Contender:
    work = place.fresh("work")

    def turn() -> float:
        local = pair.like_messages()
        ran = rival.run(Job(pair.central, local, INSTANCE, ROWS), work)
        seed.must_equal(pair.central, local, "messages")
        pair.drop(local)
        return ran.seconds

    return Contender(rival.name, turn, required=False)
