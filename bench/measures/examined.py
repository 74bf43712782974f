"""Central rows that an idle instance makes central look at, against the size of its table.

Two witnesses: the rows that the server has read for the daemon's account (USER_STATISTICS), and
what EXPLAIN says of every statement that the daemon has sent meanwhile (the general log).
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from bench import seed, servers
from bench.place import Place
from bench.processes import Daemon, write_config
from bench.results import Goal, Line, Outcome
from daemon.demo.server import client
from daemon.errors import WppSyncError

# Enough to tell what one of them adds.
_MANY = 11

_ACCOUNT = "bench_daemon"

# What the general log puts before an entry: the moment, where it is a new one, and the connection.
_ENTRY = re.compile(r"^(?:\d{6}\s+[\d:]+)?\s+\d+ (?=[A-Z])", re.M)


def take(place: Place) -> Outcome:
    sizes = [place.size(100_000, 2_000), place.size(1_000_000, 20_000)]
    seconds = place.seconds(10.0, 4.0)
    read: list[Line] = []
    explained: list[Line] = []
    with servers.fleet(place.fresh("examined"), _MANY, sizes[0]) as fleet:
        _prepare(fleet)
        for size, instances in ((sizes[0], 1), (sizes[1], 1), (sizes[1], _MANY)):
            name = f"{instances} idle, {size:,} messages in central"
            place.say(name)
            _others(fleet, size)
            rows, plans = _idle(fleet, instances, size, seconds, place.rounds)
            read.append(Line(f"rows read: {name}", "rows/s", rows))
            explained.append(Line(f"by EXPLAIN: {name}", "rows", (plans,)))
    own = (read[-1].median - read[-2].median) / (_MANY - 1)
    return Outcome(
        lines=(*read, *explained),
        # No finer than a window tells: how probes meet its ends is a matter of chance.
        goals=goals(place, max(round(own, 1), 0.0), max(line.high for line in explained)),
        settings={"seconds each": f"{seconds:g}"},
    )


def goals(
    place: Place, own: float | None = None, explained: float | None = None
) -> tuple[Goal, ...]:
    return (
        Goal(
            "central rows examined for one more idle instance",
            0,
            "rows/s",
            own,
            in_the_way="the probe of each table's head reads one row, and is asked more often for"
            " more instances, up to ten times a second in all",
        ),
        Goal(
            "central rows by EXPLAIN of all that is asked of messages, any size of the table",
            0,
            "rows",
            explained,
            in_the_way="a statement that reads more where there is more",
        ),
    )


def _others(fleet: servers.Fleet, size: int) -> None:
    """Fill central up to so many messages, with those of an instance that nobody mirrors."""
    ((head,),) = seed.rows(fleet.pair.central, "SELECT MAX(id) FROM messages")
    if int(head) < size:
        more = seed.messages("messages", size, first=int(head) + 1, owner="other")
        client(fleet.pair.central, more)


def _prepare(fleet: servers.Fleet) -> None:
    fleet.pair.central_server.execute(
        f"SET GLOBAL userstat = 1; CREATE USER {_ACCOUNT}@'%';"
        f" GRANT SELECT ON *.* TO {_ACCOUNT}@'%'; GRANT PROCESS ON *.* TO {_ACCOUNT}@'%';"
        " SET GLOBAL log_output = 'FILE'"
    )


def _idle(
    fleet: servers.Fleet, instances: int, size: int, seconds: float, windows: int
) -> tuple[tuple[float, ...], float]:
    """Rows read a second in each window, and rows that the statements of all look at by EXPLAIN."""
    central = {**fleet.pair.central, "user": _ACCOUNT}
    path = fleet.pair.directory / f"examined-{size}-{instances}.yaml"
    log = path.with_suffix(".general")
    chosen = dict(list(fleet.locals.items())[:instances])
    config = write_config(path, central, chosen)
    with Daemon(config) as daemon:
        daemon.wait_until_idle()
        daemon.wait_until(lambda: _settled(daemon, size), 120)
        time.sleep(2.0)
        root = fleet.pair.central_server
        root.execute(f"SET GLOBAL general_log_file = '{log}', GLOBAL general_log = 1")
        rows = tuple(_window(fleet, seconds) for _ in range(windows))
        root.execute("SET GLOBAL general_log = 0")
    return rows, _explained(fleet, log)


def _window(fleet: servers.Fleet, seconds: float) -> float:
    before = _rows_read(fleet)
    time.sleep(seconds)
    return (_rows_read(fleet) - before) / seconds


def _settled(daemon: Daemon, head: int) -> bool:
    entities = [each for found in daemon.instances() for each in found["sync_state"]]
    return all(each["settled_id"] == head for each in entities if each["entity"] == "messages")


def _rows_read(fleet: servers.Fleet) -> int:
    ask = f"SELECT rows_read FROM information_schema.user_statistics WHERE user = '{_ACCOUNT}'"
    ((rows,),) = seed.rows(fleet.pair.central, ask)
    return int(rows)


def _explained(fleet: servers.Fleet, log: Path) -> float:
    """The rows of all plans of the daemon's different statements on the table that grows."""
    entries = [entry.split("\t", 1) for entry in _ENTRY.split(log.read_text(errors="replace"))]
    found = {entry[1].strip() for entry in entries if entry[0] == "Query"}
    ours = {each for each in found if "wpp-sync" in each and "`messages`" in each}
    if not ours:
        raise WppSyncError("the general log has no statement of the daemon on messages")
    plans = [seed.rows(fleet.pair.central, f"EXPLAIN {statement}") for statement in sorted(ours)]
    # id, select_type, table, type, possible_keys, key, key_len, ref, rows, Extra
    return sum(float(row[8]) for plan in plans for row in plan if row[8] != "NULL")
