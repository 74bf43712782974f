"""The limit of the process, and the guard of central, with real servers and running instances."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, get_args

import pytest

from daemon import config as configuration
from daemon import operations, reload
from daemon.app import Parts
from daemon.demo.central import schema, seed_bulk, seed_bulk_contacts
from daemon.demo.server import HOST, MariaDB
from daemon.errors import WppSyncError
from daemon.status import compared_at
from daemon.sync.commit import Committed
from daemon.throttle import Bearable, Guard, Reason, Throttle
from tests import mirror
from tests.daemon_process import run_cli
from tests.in_process import parts, running
from tests.mirror import Session

if TYPE_CHECKING:
    from tests.conftest import Databases, ServerConfig, Servers

WriteConfig = Callable[..., Path]

NAMES = ("nunes", "karsten", "ondas")


class Recorded(list[tuple[float, str, Committed]]):
    """What the instances commit, and when."""

    def rows(self, name: str = "", since: float = 0.0, until: float = float("inf")) -> int:
        return sum(
            each.rows
            for at, whose, each in self
            if (not name or whose == name) and since <= at < until
        )


@asynccontextmanager
async def _running(built: Parts) -> AsyncIterator[Recorded]:
    """The instances' loops, as the daemon runs them."""
    commits = Recorded()
    for name, instance in built.instances.items():

        def note(commit: Committed, name: str = name) -> None:
            commits.append((time.monotonic(), name, commit))

        instance.counts.listener = note
    async with running(*built.instances.values()):
        yield commits


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        await asyncio.sleep(0.05)


async def _insert_live(central: ServerConfig, name: str, seconds: float) -> dict[int, float]:
    """A row every quarter of a second: when each of them was there."""
    there: dict[int, float] = {}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        id_ = await asyncio.to_thread(mirror.insert_message, central, None, name)
        there[id_] = time.monotonic()
        await asyncio.sleep(0.2)
    return there


def _delays(there: dict[int, float], commits: Recorded, name: str) -> list[float]:
    """How long after it was there each row was copied."""
    marks = [(each.last_synced_id, at) for at, whose, each in commits if whose == name]
    return [
        min((when for mark, when in marks if mark >= id_), default=float("inf")) - at
        for id_, at in there.items()
    ]


def _prompt(there: dict[int, float], commits: Recorded, name: str) -> bool:
    """New rows do not wait for what is copied in bulk. A machine that has other things to do may
    hold up a few of them, and does not hold up most; what waits as bulk does, waits every time."""
    delays = sorted(_delays(there, commits, name))
    assert len(delays) >= 10
    assert delays[len(delays) * 3 // 4] < 1.0, delays
    assert delays[-1] < 5.0, delays
    return True


def _throttled(built: Parts, name: str, reason: str) -> float:
    value = built.metrics.registry.get_sample_value(
        "wpp_sync_throttled_seconds_total", {"wpp_instance": name, "reason": reason}
    )
    return value or 0.0


def _three(databases: Databases, servers: Servers) -> dict[str, ServerConfig]:
    return dict(
        zip(NAMES, (databases.local, servers.new_local(), servers.new_local()), strict=True)
    )


# --- the limit ------------------------------------------------------------------------------------


async def test_first_syncs_share_the_limit_and_live_rows_stay_prompt(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    """Two first syncs and one that follows the head; all of it within the limit."""
    central, locals_ = databases.central, _three(databases, servers)
    mirror.insert_messages(central, range(1, 3), "ondas")
    config = write_config(
        central,
        locals_,
        sync={"max_rows_per_second": 1000},
        defaults={"poll_interval": "100ms"},
    )
    async with parts(config) as built, _running(built) as commits:
        live = built.instances["ondas"]
        await _until(lambda: all(each.state == "idle" for each in built.instances.values()), 20)
        mirror.seed(
            central,
            [seed_bulk("nunes", 15_000, 50, first_id=100),
             seed_bulk("karsten", 15_000, 50, first_id=50_000)],
        )  # fmt: skip
        began = time.monotonic()
        there = await _insert_live(central, "ondas", 8.0)
        ended = time.monotonic()
        told = [await operations.get_sync_status(each) for each in built.instances.values()]
        await _until(lambda: live.motions["messages"].caught_up, 5)

        whole = commits.rows(since=began, until=ended)
        seconds = ended - began
        assert whole <= 1000 * (seconds + 1) + 100
        assert whole >= 1000 * seconds * 0.8
        first, second = (commits.rows(name, began, ended) for name in ("nunes", "karsten"))
        assert min(first, second) >= 0.8 * max(first, second)
        assert _prompt(there, commits, "ondas")
        assert [each["throttled"] and each["throttled"]["reason"] for each in told] == [
            "limit", "limit", None,
        ]  # fmt: skip
        assert "1,000 rows per second" in told[0]["throttled"]["message"]
        assert _throttled(built, "nunes", "limit") > seconds / 2
        assert _throttled(built, "ondas", "limit") == 0.0


async def test_a_reload_changes_the_bounds_and_no_instance_begins_anew(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.seed(central, [seed_bulk("nunes", 20_000, 50)])

    def read(**sync: object) -> configuration.Config:
        return configuration.load(write_config(central, {"nunes": local}, sync=sync))

    path = write_config(central, {"nunes": local}, sync={"max_rows_per_second": 200})
    async with parts(path) as built, _running(built) as commits:
        nunes = built.instances["nunes"]
        await asyncio.sleep(3)
        assert commits.rows() <= 200 * 5
        for sync in ({}, {"max_rows_per_second": 100_000, "max_replica_lag": "5s"}):
            config = read(**sync)
            built.follow(config, reload.compare(built.config, config), built.catalogue)
        assert built.instances["nunes"] is nunes
        assert built.central.guard.bearable == Bearable(25, 5.0)
        await _until(lambda: commits.rows() == 20_000, 15)


async def test_the_smaller_of_order_and_limit_rules(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    central, locals_ = databases.central, _three(databases, servers)
    for number, name in enumerate(NAMES[:2]):
        mirror.seed(central, [seed_bulk(name, 8_000, 50, first_id=1 + 50_000 * number)])
    config = write_config(central, locals_, sync={"max_rows_per_second": 1000})
    async with parts(config) as built:
        for instance in built.instances.values():
            await instance.migrate(asyncio.Event())
        await operations.throttle(built.instances["nunes"], 100)
        async with _running(built) as commits:
            await _until(lambda: bool(commits), 10)
            began = time.monotonic()
            await asyncio.sleep(5)
            ordered, other = (commits.rows(name, began) for name in NAMES[:2])
            seconds = time.monotonic() - began
        assert ordered <= 100 * (seconds + 1) + 50
        assert 1000 * seconds * 0.7 <= other <= 1000 * (seconds + 1)


async def test_all_that_one_instance_copies_keeps_the_limit_and_comes_forward(
    databases: Databases, write_config: WriteConfig
) -> None:
    """Neither of them takes it all, and neither takes more than there is."""
    central, local = databases
    chats = (
        "INSERT INTO chats (id, instance, type, priority, is_finished, is_schedule) SELECT id,"
        " 'nunes', 'ACTIVE', 'LOW', 0, 0 FROM contacts WHERE id <= 8000"
    )
    mirror.seed(
        central,
        [seed_bulk("nunes", 15_000, 50), seed_bulk_contacts("nunes", 15_000), chats],
    )
    config = write_config(central, {"nunes": local}, sync={"max_rows_per_second": 600})
    async with parts(config) as built, _running(built) as commits:
        began = time.monotonic()
        await asyncio.sleep(12)
        seconds = time.monotonic() - began
        rows = Counter[str]()
        for _, _, commit in commits:
            rows[commit.entity] += commit.rows
        assert rows.total() <= 600 * (seconds + 1) + 500, rows
        assert rows.total() >= 600 * seconds * 0.7, rows
        assert min(rows[name] for name in ("messages", "chats")) > 600, rows
        assert _throttled(built, "nunes", "limit") > seconds / 4


# --- the guard ------------------------------------------------------------------------------------


@contextmanager
def _busy(central: ServerConfig, statements: int) -> Iterator[None]:
    """So many statements that take their time; broken off at the end."""
    sleeping = "SELECT id FROM information_schema.PROCESSLIST WHERE info LIKE 'SELECT SLEEP%'"

    def sleep() -> None:
        with suppress(WppSyncError):  # it is killed
            mirror.run(central, "SELECT SLEEP(60)")

    threads = [threading.Thread(target=sleep) for _ in range(statements)]
    for thread in threads:
        thread.start()
    try:
        deadline = time.monotonic() + 10
        while len(mirror.rows(central, sleeping)) < statements:
            assert time.monotonic() < deadline
        yield
    finally:
        found = mirror.rows(central, sleeping)
        mirror.run(central, "".join(f"KILL QUERY {id_};" for (id_,) in found))
        for thread in threads:
            thread.join()


def _per_second(commits: Recorded, name: str, began: float, ended: float) -> list[int]:
    moments = [began + number for number in range(int(ended - began) + 1)]
    return [commits.rows(name, *each) for each in pairwise(moments)]


async def test_a_busy_central_slows_a_first_sync_down_and_it_recovers(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    central, locals_ = databases.central, _three(databases, servers)
    config = write_config(
        central,
        {name: locals_[name] for name in ("nunes", "ondas")},
        sync={"max_threads_running": 12},
        defaults={"poll_interval": "100ms"},
    )
    async with parts(config) as built, _running(built) as commits:
        await _until(lambda: all(each.state == "idle" for each in built.instances.values()), 20)
        mirror.seed(central, [seed_bulk("nunes", 150_000, 50, first_id=100)])
        with _busy(central, 16):
            began = time.monotonic()
            there = await _insert_live(central, "ondas", Guard.LONGEST_SECONDS + 6)
            told = await operations.get_sync_status(built.instances["nunes"])
            rates = _per_second(commits, "nunes", began, time.monotonic())
            live = await operations.get_sync_status(built.instances["ondas"])
            share = built.central.guard.share
        assert told["throttled"]["reason"] == "central_load", rates
        assert "threads are at work" in told["throttled"]["message"]
        assert live["throttled"] is None
        # A hundredth of central's time, however many rows that are on this machine.
        assert share <= Guard.LEAST / Guard.LEAST_BEFORE, rates
        # However long a page took, the next one follows within the longest hold that there is;
        # and reading and writing it takes its time, too.
        assert sum(rates[-int(Guard.LONGEST_SECONDS + 4) :]) > 0, rates
        slow = max(1, *rates[-3:])
        calm = time.monotonic()
        await _until(lambda: commits.rows("nunes") == 150_000, 60)
        recovered = _per_second(commits, "nunes", calm, time.monotonic() + 1)
        assert max(recovered) > 5 * slow, (rates, recovered)
        assert _prompt(there, commits, "ondas")
        assert _throttled(built, "nunes", "central_load") > 3
        # It has nunes' 150,000 ids before it, too: where central takes long to pass over them, that
        # is bulk, and held a second at a time between its new rows.
        held = {why: _throttled(built, "ondas", why) for why in get_args(Reason)}
        assert held.pop("central_load") < 3 * Throttle.LONGEST_SECONDS, held
        assert not any(held.values()), held


async def test_nobody_asks_how_busy_central_is_while_nothing_is_copied_in_bulk(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    asked: list[float] = []
    async with parts(write_config(central, {"nunes": local})) as built, _running(built) as commits:

        def number() -> float:
            value = built.metrics.registry.get_sample_value(
                "wpp_sync_central_queries_total", {"kind": "load"}
            )
            return value or 0.0

        nunes = built.instances["nunes"]
        await _until(lambda: all(compared_at(nunes, name) for name in nunes.entities), 10)
        asked.append(number())  # the comparisons' own
        await _insert_live(central, "nunes", 2.0)
        await _until(lambda: commits.rows() > 0, 5)
        asked.append(number())
        mirror.seed(central, [seed_bulk("nunes", 30_000, 50, first_id=1000)])
        await _until(lambda: commits.rows() > 30_000, 30)
        asked.append(number())
    assert asked[0] == asked[1] < asked[2] <= asked[1] + 15


# --- a replica ------------------------------------------------------------------------------------


class Replicated(NamedTuple):
    """Two private servers, of which one follows the other."""

    primary: MariaDB
    replica: MariaDB

    def grant(self, *more: str) -> ServerConfig:
        """An account that may read the replica, and what else; how it is used."""
        self.primary.execute(
            "CREATE USER reader@'%'; GRANT SELECT ON wpp.* TO reader@'%';"
            + "".join(f"GRANT {each} ON *.* TO reader@'%';" for each in more)
            + "CREATE TABLE wpp.granted (id INT)"
        )
        self.wait_for(
            "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_NAME='granted'", 1
        )
        return self.replica.config("wpp", "reader")

    def wait_for(self, question: str, answer: int) -> None:
        """Until the replica gives this answer."""
        deadline = time.monotonic() + 20
        while mirror.number(self.replica.config("mysql"), question) != answer:
            assert time.monotonic() < deadline, question
            time.sleep(0.05)


@pytest.fixture
def replicated(mariadb_template: Path, tmp_path: Path) -> Iterator[Replicated]:
    """A primary with central's tables, and a replica that has them, too."""
    with (
        MariaDB(
            tmp_path / "primary", name="primary", template=mariadb_template,
            options=("--server-id=1", "--log-bin=binlog"),
        ) as primary,
        MariaDB(
            tmp_path / "replica", name="replica", template=mariadb_template,
            options=("--server-id=2", "--read-only", "--relay-log=relay",
                     "--slave-parallel-threads=30"),
        ) as replica,
    ):  # fmt: skip
        replica.execute(
            f"CHANGE MASTER TO MASTER_HOST='{HOST}', MASTER_PORT={primary.port},"
            " MASTER_USER='root', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1; START SLAVE"
        )
        primary.create_database("wpp")
        primary.execute(schema(), "wpp")
        yield Replicated(primary, replica)


async def _lag(built: Parts, wanted: Callable[[float | None], bool]) -> None:
    """Wait until the lag is as wanted."""
    deadline = time.monotonic() + 20
    while not wanted(lag := await built.central.load.lag()):
        assert time.monotonic() < deadline, lag
        await asyncio.sleep(0.1)


@pytest.mark.mariadb
async def test_how_far_a_replica_is_behind(
    replicated: Replicated, databases: Databases, write_config: WriteConfig
) -> None:
    primary, replica = replicated
    config = write_config(replicated.grant("REPLICA MONITOR"), {"nunes": databases.local})
    async with parts(config) as built:
        await _lag(built, lambda lag: lag == 0)
        running = "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS"
        running += " WHERE VARIABLE_NAME = 'Threads_running'"
        assert mirror.number(replica.config("mysql"), running) > 30
        await built.central.load.look()
        assert not built.central.load.busy, "the threads of replication wait"
        with Session(replica.config("wpp")) as session:
            session.execute("FLUSH TABLES WITH READ LOCK")
            mirror.insert_message(primary.config("wpp"), 1)
            await _lag(built, lambda lag: lag is not None and 2 <= lag < 20)
            session.execute("UNLOCK TABLES")
        await _lag(built, lambda lag: lag == 0)
        replica.execute("STOP SLAVE SQL_THREAD")
        await _lag(built, lambda lag: lag == inf)
        replica.execute("STOP SLAVE; CHANGE MASTER TO MASTER_DELAY = 60; START SLAVE")
        mirror.insert_message(primary.config("wpp"), 2)
        await asyncio.sleep(2.5)
        assert await built.central.load.lag() == 0, "somebody wants it to be late"
        assert mirror.number(replica.config("wpp"), "SELECT COUNT(*) FROM messages") == 1
        replica.execute("STOP SLAVE")
        assert await built.central.load.lag() is None
        assert built.central.load.unknown is None


@pytest.mark.mariadb
@pytest.mark.parametrize("privileges", [("REPLICA MONITOR",), ("PROCESS", "REPLICA MONITOR")])
async def test_a_first_sync_slows_down_while_the_replica_stands_still(
    privileges: tuple[str, ...],
    replicated: Replicated,
    databases: Databases,
    write_config: WriteConfig,
) -> None:
    primary, replica = replicated
    central = replicated.grant(*privileges)
    primary.execute(seed_bulk("nunes", 100_000, 50), "wpp")
    replicated.wait_for("SELECT COUNT(*) FROM wpp.messages", 100_000)
    replica.execute("STOP SLAVE SQL_THREAD")
    locals_ = {"nunes": databases.local}
    config = write_config(central, locals_, sync={"max_replica_lag": "5s"})
    async with parts(config) as built, _running(built) as commits:
        nunes = built.instances["nunes"]
        await _until(lambda: nunes.throttle.told is not None, 20)
        told = await operations.get_sync_status(nunes)
        assert told["throttled"] == {
            "reason": "replica_lag",
            "message": "central is a replica and stands still, more than 5 s"
            " (sync.max_replica_lag)",
        }
        await asyncio.sleep(5)
        slow = commits.rows()
        await asyncio.sleep(2)
        assert commits.rows() - slow < 5_000
        # It never stops: a page that took central long is paid for with so long at the most.
        await _until(lambda: commits.rows() > slow, Guard.LONGEST_SECONDS)
        replica.execute("START SLAVE SQL_THREAD")
        await _until(lambda: commits.rows() == 100_000, 40)
        assert _throttled(built, "nunes", "replica_lag") > 3


@pytest.mark.mariadb
async def test_without_the_privilege_it_is_said_once_and_all_goes_on(
    replicated: Replicated,
    databases: Databases,
    write_config: WriteConfig,
    capsys: pytest.CaptureFixture[str],
) -> None:
    primary, replica = replicated
    central = replicated.grant("PROCESS")
    primary.execute(seed_bulk("nunes", 20_000, 50), "wpp")
    replicated.wait_for("SELECT COUNT(*) FROM wpp.messages", 20_000)
    replica.execute("STOP SLAVE SQL_THREAD")
    locals_ = {"nunes": databases.local}
    config = write_config(central, locals_)
    async with parts(config) as built, _running(built) as commits:
        await _until(lambda: commits.rows() == 20_000, 30)
        assert built.central.load.unknown is not None
        assert built.central.load.unknown.errno == 1227
    assert capsys.readouterr().out.count("replica lag unknown") == 1
    done = await asyncio.to_thread(run_cli, "check", "-c", config)
    assert "how far it is behind, if it is a replica, is not known" in done.stdout
    assert "GRANT REPLICA MONITOR" in done.stdout
    assert done.returncode == 0
    config = write_config(central, locals_, sync={"max_replica_lag": None})
    done = await asyncio.to_thread(run_cli, "check", "-c", config)
    assert "if it is a replica" not in done.stdout
