"""How far a replica is behind, as each server tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from typing import cast

import pytest

from daemon.db import Connection
from daemon.errors import AccessError, DatabaseError, TransientError
from daemon.evidence import Validity
from daemon.load import Lookout, Named, replica_lag
from daemon.sql import Statement
from daemon.throttle import Bearable, Guard

MARIADB = {"Slave_IO_Running": b"Yes", "Slave_SQL_Running": b"Yes", "SQL_Delay": b"0"}
OLD_MYSQL = MARIADB
MYSQL = {"Replica_IO_Running": b"Yes", "Replica_SQL_Running": b"Yes", "SQL_Delay": b"0"}


@pytest.mark.parametrize(
    ("threads", "name"),
    [
        (MARIADB, "Seconds_Behind_Master"),
        (OLD_MYSQL, "Seconds_Behind_Master"),
        (MYSQL, "Seconds_Behind_Source"),
    ],
    ids=["SHOW ALL SLAVES STATUS", "SHOW SLAVE STATUS", "SHOW REPLICA STATUS"],
)
class TestNames:
    def test_the_seconds_behind(self, threads: dict[str, bytes], name: str) -> None:
        assert replica_lag([{**threads, name: b"0"}]) == 0.0
        assert replica_lag([{**threads, name: b"95"}]) == 95.0

    @pytest.mark.parametrize("which", ["IO", "SQL"])
    def test_one_thread_off_is_standing_still(
        self, threads: dict[str, bytes], name: str, which: str
    ) -> None:
        off = {key: b"No" for key in threads if key.endswith(f"_{which}_Running")}
        assert replica_lag([{**threads, **off, name: None}]) == inf

    def test_a_source_out_of_reach_is_standing_still(
        self, threads: dict[str, bytes], name: str
    ) -> None:
        connecting = {key: b"Connecting" for key in threads if "_IO_" in key}
        assert replica_lag([{**threads, **connecting, name: None}]) == inf

    def test_both_threads_off_follow_nobody(self, threads: dict[str, bytes], name: str) -> None:
        """A replica that was promoted keeps its settings."""
        off = {key: b"No" for key in threads if key.endswith("_Running")}
        assert replica_lag([{**threads, **off, name: None}]) is None

    def test_an_ordered_delay_is_no_lag(self, threads: dict[str, bytes], name: str) -> None:
        delayed = {**threads, "SQL_Delay": b"3600"}
        assert replica_lag([{**delayed, name: b"3605"}]) == 5.0
        assert replica_lag([{**delayed, name: b"12"}]) == 0.0

    def test_the_farthest_of_several_sources(self, threads: dict[str, bytes], name: str) -> None:
        sources: list[Named] = [{**threads, name: seconds} for seconds in (b"3", b"70", b"0")]
        assert replica_lag(sources) == 70.0
        assert replica_lag([*sources, {**threads, name: None}]) == inf


@pytest.mark.parametrize("io", [b"No", b"Yes"])
def test_the_channels_of_a_group_are_no_sources(io: bytes) -> None:
    """They say NULL while all is well."""
    group = {**MYSQL, "Replica_IO_Running": io, "Seconds_Behind_Source": None}
    channels = [{**group, "Channel_Name": b"group_replication_applier"}]
    assert replica_lag(channels) is None
    channels.append({**MYSQL, "Channel_Name": b"elsewhere", "Seconds_Behind_Source": b"7"})
    assert replica_lag(channels) == 7.0


def test_who_follows_nobody_is_not_behind() -> None:
    assert replica_lag([]) is None


# --- asking ---------------------------------------------------------------------------------------


class Server:
    """A central server as `Lookout` asks it."""

    def __init__(self, *, mariadb: bool = True, knows: str = "") -> None:
        self.mariadb = mariadb
        self.knows = knows
        """The one statement about replicas that is not refused; empty: all are known."""

        self.running = 5
        self.replicating: dict[str, int] = {}
        self.silent = False
        self.sources: list[Named] = []
        self.refusal: DatabaseError | None = None
        self.asked: list[str] = []

    async def fetch(self, statement: Statement) -> list[tuple[bytes, bytes]]:
        self.asked.append(statement.sql)
        if self.silent:
            await asyncio.Event().wait()
        found = {"Threads_running": self.running} | self.replicating
        _, _, pattern = statement.sql.partition(" LIKE ")
        prefix = pattern.strip("'%").replace("\\", "")
        return [
            (name.encode(), str(number).encode())
            for name, number in found.items()
            if name.startswith(prefix)
        ]

    async def fetch_named(self, statement: Statement) -> list[Named]:
        self.asked.append(statement.sql)
        if self.knows and statement.sql != self.knows:
            raise DatabaseError("central", 1064, "You have an error in your SQL syntax")
        if self.refusal is not None:
            raise self.refusal
        return self.sources

    @property
    def replica_questions(self) -> int:
        return sum(each.endswith(" STATUS") for each in self.asked)


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def lookout(
    server: Server, time: Time, *, exact: bool = False, replica_lag: float | None = 30.0
) -> tuple[Lookout, Guard]:
    guard = Guard(time, Bearable(25, replica_lag), 2000)

    @asynccontextmanager
    async def asking(kind: str) -> AsyncIterator[Connection]:
        assert kind == "load"
        yield cast(Connection, server)

    async def validity() -> Validity:
        return Validity(exact, "")

    return Lookout(guard, time, asking, validity), guard


@pytest.mark.parametrize(
    ("server", "asked"),
    [
        (Server(), ["SHOW ALL SLAVES STATUS"]),
        (Server(mariadb=False), ["SHOW REPLICA STATUS"]),
        (
            Server(mariadb=False, knows="SHOW SLAVE STATUS"),
            ["SHOW REPLICA STATUS", "SHOW SLAVE STATUS"],
        ),
    ],
)
async def test_each_server_is_asked_in_its_own_words(server: Server, asked: list[str]) -> None:
    assert await lookout(server, Time())[0].lag() is None
    assert server.asked == asked


async def test_only_what_the_server_does_not_know_is_asked_otherwise() -> None:
    server = Server(mariadb=False)
    server.refusal = TransientError("central", 2013, "lost")
    with pytest.raises(TransientError):
        await lookout(server, Time())[0].lag()
    assert len(server.asked) == 1


async def test_all_share_one_answer_for_a_second() -> None:
    server, time = Server(), Time()
    server.sources = [{**MARIADB, "Seconds_Behind_Master": b"31"}]
    looking, guard = lookout(server, time)
    for _ in range(3):
        await looking.look()
    assert len(server.asked) == 2
    reasons = [guard.trouble and guard.trouble[0]]
    busy = [looking.busy]
    server.running = 26
    time.now += Lookout.LOAD_AGE
    await looking.look()
    assert [*busy, looking.busy] == [False, True]
    reasons.append(guard.trouble and guard.trouble[0])
    assert reasons == ["replica_lag", "central_load"]


@pytest.mark.parametrize("switched_off", [True, False])
async def test_a_primary_is_not_asked_how_far_it_is_behind(switched_off: bool) -> None:
    server = Server()
    looking, _ = (
        lookout(server, Time(), replica_lag=None)
        if switched_off
        else lookout(server, Time(), exact=True)
    )
    await looking.look()
    assert server.replica_questions == 0


@pytest.mark.parametrize("refused", [True, False])
async def test_who_follows_nobody_or_does_not_tell_is_asked_again_after_a_minute(
    refused: bool,
) -> None:
    server, time = Server(), Time()
    if refused:
        server.refusal = AccessError("central", 1227, "Access denied")
    looking, guard = lookout(server, time)
    for _ in range(int(Lookout.FOLLOWS_AGE)):
        await looking.look()
        time.now += 1.0
    assert server.replica_questions == 1
    assert (looking.unknown is not None) == refused
    assert guard.trouble is None
    server.refusal, server.sources = None, [{**MARIADB, "Seconds_Behind_Master": None}]
    await looking.look()
    assert server.replica_questions == 2
    assert looking.unknown is None
    assert guard.trouble is not None


async def test_threads_of_replication_are_not_at_work() -> None:
    """MariaDB counts each of them, though all of them wait."""
    server, time = Server(), Time()
    server.running = 38
    server.replicating = {
        "Slaves_connected": 4,
        "Slaves_running": 1,
        "slave_parallel_threads": 30,
    }
    looking, guard = lookout(server, time)
    seen = []
    for running, applying in ((38, 1), (63, 1), (28, 0)):  # no workers without an applier
        server.running, server.replicating["Slaves_running"] = running, applying
        await looking.look()
        seen.append(guard.trouble and guard.trouble[1][:27] if looking.busy else None)
        time.now += Lookout.LOAD_AGE
    assert seen == [None, "27 threads are at work in c", None]


@pytest.mark.parametrize(
    "refusal",
    [
        TransientError("central", 2013, "lost"),
        AccessError("central", 1227, "Access denied"),
        DatabaseError("central", 1235, "this proxy does not know that"),
    ],
)
async def test_who_copies_goes_on_where_there_is_no_answer(refusal: DatabaseError) -> None:
    server = Server()
    server.refusal = refusal
    looking, guard = lookout(server, Time())
    await looking.look()
    assert guard.trouble is None
    assert (looking.unknown is None) == isinstance(refusal, TransientError)


async def test_one_asks_however_long_it_takes() -> None:
    """All the others would wait, each on a connection of its own."""
    server, time = Server(), Time()
    server.silent = True
    looking, _ = lookout(server, time)
    looking.PATIENCE = 0.05
    first = asyncio.create_task(looking.look())
    await asyncio.sleep(0)
    time.now += 30.0
    await looking.look()
    assert len(server.asked) == 1
    await first
    server.silent = False
    time.now += Lookout.LOAD_AGE
    await looking.look()
    assert len(server.asked) == 3
