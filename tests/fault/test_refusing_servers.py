"""Servers that answer, and refuse: read-only, locked, full, too busy, hung up after idling.

Each is real trouble of a real server. It is told as what passes, no watermark moves over a row that
is not there, no connection is left, and when the trouble is over the next pass goes on.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon.demo.central import schema, seed_bulk
from daemon.demo.server import MariaDB, PrivateServer
from daemon.errors import TransientError
from daemon.instance import Instance
from daemon.sql import Statement
from tests import mirror
from tests.daemon_process import DaemonProcess
from tests.in_process import a_pass, one
from tests.mirror import Session

if TYPE_CHECKING:
    from tests.conftest import Databases, ServerConfig, Servers

WriteConfig = Callable[..., Path]

QUICK: dict[str, object] = {
    "defaults": {"poll_interval": "100ms"},
    "sync": {"backoff_max": "1s", "batch_rows": 100},
}


def _create_central(server: PrivateServer) -> ServerConfig:
    config = server.create_database("central")
    server.execute(schema(), "central")
    return config


def _plain_account(server: PrivateServer, database: ServerConfig) -> ServerConfig:
    """The database as an account sees it that has no privilege on the server as a whole."""
    name = f"plain_{database['database']}"
    server.execute(
        f"CREATE USER {name}@'%' IDENTIFIED BY 'plain';"
        f"GRANT ALL ON {database['database']}.* TO {name}@'%'"
    )
    return {**database, "user": name, "password": "plain"}


def _clients(server: ServerConfig) -> int:
    """Connections to the database but for the one that asks."""
    return mirror.number(
        server,
        "SELECT COUNT(*) FROM information_schema.PROCESSLIST"
        f" WHERE ID <> CONNECTION_ID() AND DB = '{server['database']}'",
    )


async def _refused(instance: Instance, *numbers: int) -> None:
    """A pass that ends with one of these errors."""
    with pytest.raises(TransientError) as caught:
        await instance.sync_pass(asyncio.Event())
    assert caught.value.errno in numbers, caught.value


async def _set(instance: Instance, variable: str, value: int) -> None:
    """A setting of the session that writes."""
    assert instance.hold.connection is not None
    await instance.hold.connection.execute(
        Statement(f"SET SESSION {variable} = {value}", (), "test")
    )


async def test_a_read_only_local_server_is_waited_for(
    servers: Servers, databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 20))
    plain = _plain_account(servers.local, local)
    try:
        async with one(write_config(central, {"nunes": plain})) as instance:
            await a_pass(instance)
            mirror.insert_messages(central, range(20, 40))
            servers.local.execute("SET GLOBAL read_only = 1")
            for _ in range(3):
                await _refused(instance, 1290)
            assert mirror.watermarks(local)["messages"] == 19
            assert _clients(local) == 1
            servers.local.execute("SET GLOBAL read_only = 0")
            await a_pass(instance)
    finally:
        servers.local.execute("SET GLOBAL read_only = 0")
    assert mirror.differences(central, local) == ""


async def test_a_database_that_is_read_only_at_the_first_start_is_waited_for(
    servers: Servers, databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 20))
    plain = _plain_account(servers.local, local)
    try:
        servers.local.execute("SET GLOBAL read_only = 1")
        async with one(write_config(central, {"nunes": plain})) as instance:
            await _refused(instance, 1290)
            servers.local.execute("SET GLOBAL read_only = 0")
            await a_pass(instance)
    finally:
        servers.local.execute("SET GLOBAL read_only = 0")
    assert mirror.differences(central, local) == ""


@pytest.mark.parametrize(
    "held",
    [
        "SELECT * FROM wpp_sync_state WHERE entity = 'messages' FOR UPDATE",
        "INSERT INTO wpp_messages SELECT 25, instance, NULL, NULL, NULL, NULL, NULL, `from`, `to`,"
        " type, NULL, NULL, NULL, 0, 0, 'theirs', timestamp, NULL, sent_at, status, NULL, NULL,"
        " NULL, NULL, NULL, NULL, NULL, NULL FROM wpp_messages WHERE id = 1",
    ],
    ids=["the state row", "a row of the batch"],
)
async def test_a_session_that_holds_a_lock_for_too_long_is_waited_for(
    databases: Databases, write_config: WriteConfig, held: str
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 20))
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        mirror.insert_messages(central, range(20, 40))
        with Session(local) as session:
            session.execute(f"BEGIN; {held}")
            await _set(instance, "innodb_lock_wait_timeout", 1)
            await _refused(instance, 1205)
            assert mirror.watermarks(local)["messages"] == 19
            assert max(mirror.local_ids(local)) == 19
            session.execute("COMMIT")
        await a_pass(instance)
        assert _clients(local) == 1
    assert mirror.differences(central, local) == ""


async def test_a_batch_that_loses_a_deadlock_is_written_again(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 500))
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        mirror.insert_messages(central, range(500, 520))
        with Session(local) as session:
            # Many rows of its own: the server gives up the transaction that has written less.
            session.execute(
                "BEGIN; UPDATE wpp_messages SET agent_id = 1;"
                "INSERT INTO wpp_messages SELECT 510, instance, NULL, NULL, NULL, NULL, NULL,"
                " `from`, `to`, type, NULL, NULL, NULL, 0, 0, 'theirs', timestamp, NULL, sent_at,"
                " status, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL"
                " FROM wpp_messages WHERE id = 1"
            )
            passing = asyncio.create_task(instance.sync_pass(asyncio.Event()))
            await _waits_for_a_lock(local)
            # It holds the state row and waits for row 510, which this session has.
            await asyncio.to_thread(
                session.execute, "UPDATE wpp_sync_state SET entity = entity; ROLLBACK"
            )
            with pytest.raises(TransientError) as caught:
                await passing
            assert caught.value.errno == 1213
        assert mirror.watermarks(local)["messages"] == 499
        await a_pass(instance)
        assert _clients(local) == 1
    assert mirror.differences(central, local) == ""


async def _waits_for_a_lock(server: ServerConfig) -> None:
    """Until a transaction waits for a lock."""
    question = "SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'"
    for _ in range(100):
        if await asyncio.to_thread(mirror.number, server, question):
            return
        await asyncio.sleep(0.15)  # the list is made anew when nobody has read it for 0.1 s
    raise AssertionError("nobody waits")


async def test_a_local_server_that_hung_up_after_idling_is_connected_to_again(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 20))
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        await _set(instance, "wait_timeout", 1)
        mirror.insert_messages(central, range(20, 40))
        await asyncio.sleep(1.5)
        await _refused(instance, 2006, 2013, 4031)
        await a_pass(instance)
        assert _clients(local) == 1
    assert mirror.differences(central, local) == ""


async def test_a_central_server_with_a_short_wait_timeout_costs_no_pass(
    servers: Servers, databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    try:
        servers.central.execute("SET GLOBAL wait_timeout = 1")
        mirror.insert_messages(central, range(1, 20))
        async with one(write_config(central, {"nunes": local})) as instance:
            await a_pass(instance)
            mirror.insert_messages(central, range(20, 40))
            await asyncio.sleep(1.6)
            await a_pass(instance)
    finally:
        servers.central.execute("SET GLOBAL wait_timeout = DEFAULT")
    assert mirror.differences(central, local) == ""


def _wait_for_the_crowd_to_leave(server: ServerConfig) -> None:
    while _clients(server) > 1:
        time.sleep(0.01)


@pytest.mark.parametrize("side", ["central", "local"])
async def test_a_server_with_too_many_connections_is_waited_for(
    servers: Servers, databases: Databases, write_config: WriteConfig, side: str
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 20))
    server = servers.central if side == "central" else servers.local
    plain = {
        "central": _plain_account(servers.central, central),
        "local": _plain_account(servers.local, local),
    }
    try:
        server.execute("SET GLOBAL max_connections = 10")
        async with one(write_config(plain["central"], {"nunes": plain["local"]})) as instance:
            with ExitStack() as crowd:
                for _ in range(10):
                    session = crowd.enter_context(Session(plain[side]))
                    session.execute("SELECT 1")
                await _refused(instance, 1040)
                await _refused(instance, 1040)
            await asyncio.to_thread(_wait_for_the_crowd_to_leave, plain[side])
            await a_pass(instance)
            assert _clients(local) == 1
    finally:
        server.execute("SET GLOBAL max_connections = DEFAULT")
    assert mirror.differences(central, local) == ""


class _SmallDisk:
    """A file system of its own, which can grow."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="wpp-small-"))

    def mount(self, size: str) -> bool:
        """Mount it with this size, or give it this size from now on."""
        option = f"{'remount,' if self.directory.is_mount() else ''}size={size}"
        command = ["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(self.directory)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.fixture
def small_disk() -> Iterator[_SmallDisk]:
    """A file system of 16 MB."""
    disk = _SmallDisk()
    if not disk.mount("16m"):
        disk.directory.rmdir()
        pytest.skip("a small disk needs a file system of its own, and this account may not mount")
    yield disk
    subprocess.run(["umount", str(disk.directory)], check=True)
    disk.directory.rmdir()


def test_a_full_disk_of_the_local_server_is_waited_for(
    central: PrivateServer, mariadb_template: Path, small_disk: _SmallDisk,
    write_config: WriteConfig, tmp_path: Path,
) -> None:  # fmt: skip
    """The tables lie on the small disk. (Where the server's own logs cannot grow either, it dies:
    that is a server that is killed.)"""
    source, other = _create_central(central), central.create_database("karsten")
    with MariaDB(tmp_path / "full", name="full", template=mariadb_template) as server:
        target = server.create_database("nunes")
        tables = small_disk.directory / "nunes"
        shutil.copytree(server.datadir / "nunes", tables)
        shutil.rmtree(server.datadir / "nunes")
        (server.datadir / "nunes").symlink_to(tables)
        mirror.insert_messages(source, range(1, 10))
        config = write_config(source, {"nunes": target, "karsten": other}, **QUICK)
        with DaemonProcess(config) as daemon:
            daemon.wait_until(lambda: daemon.watermark() == 9)
            mirror.seed(source, [seed_bulk("nunes", 500, 60_000, first_id=100)])
            daemon.wait_until(lambda: daemon.state() == "backoff", 30)
            mirror.insert_message(source, None, "karsten")
            daemon.wait_until(lambda: mirror.differences(source, other, "karsten") == "", 5)
            reached = mirror.watermarks(target)["messages"]
            assert reached < 599
            assert mirror.local_ids(target) == mirror.central_ids(source, upto=reached)
            assert daemon.entity()["quarantined"] == 0, "the rows are not to blame"
            error = daemon.status()["error"]
            assert error["code"] == "unreachable", error
            assert "(error 1114)" in error["message"]
            assert small_disk.mount("200m")
            daemon.wait_until(lambda: daemon.watermark() == 599, 30)
            daemon.wait_until(lambda: daemon.state() == "idle")
            assert mirror.differences(source, target) == ""
            assert _clients(target) == 1
        server.stop()
        assert server.crashes() == []


def test_a_local_server_hangs_in_the_middle_of_a_batch(
    central: PrivateServer, local: PrivateServer, write_config: WriteConfig
) -> None:
    source, target = _create_central(central), local.create_database("nunes")
    other = central.create_database("karsten")
    mirror.seed(source, [seed_bulk("nunes", 10_000, 200)])
    # The daemon gives a server 5 s more than the statement may take.
    slow = {**target, "statement_timeout": "1s", "connect_timeout": "1s"}
    config = write_config(source, {"nunes": slow, "karsten": other}, **QUICK)
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.watermark() > 500)
        local.pause()
        daemon.wait_until(lambda: daemon.state() == "backoff", 12)
        for _ in range(5):
            mirror.insert_message(source, None, "karsten")
            daemon.wait_until(lambda: mirror.differences(source, other, "karsten") == "", 2)
        local.resume()
        daemon.wait_until(lambda: daemon.watermark() == 10_000, 20)
        daemon.wait_until(lambda: daemon.state() == "idle")
        assert mirror.differences(source, target) == ""
        assert _clients(target) == 1
        assert daemon.metric("wpp_sync_errors_total", wpp_instance="karsten") == 0


@pytest.mark.parametrize("side", ["central", "local"])
def test_a_server_is_restarted_in_the_middle_of_a_first_sync(
    central: PrivateServer, local: PrivateServer, write_config: WriteConfig, side: str
) -> None:
    source, target = _create_central(central), local.create_database("nunes")
    mirror.seed(source, [seed_bulk("nunes", 10_000, 200)])
    with DaemonProcess(write_config(source, {"nunes": target}, **QUICK)) as daemon:
        for _ in range(2):
            reached = daemon.watermark()
            daemon.wait_until(lambda least=reached: daemon.watermark() > least)  # type: ignore[misc]
            (central if side == "central" else local).restart()
            mark = mirror.watermarks(target)["messages"]
            ids = mirror.local_ids(target)
            assert ids[: mark + 1] == list(range(1, len(ids[: mark + 1]) + 1))
        daemon.wait_until(lambda: daemon.watermark() == 10_000)
        daemon.wait_until(lambda: daemon.state() == "idle")
        assert mirror.differences(source, target) == ""
        time.sleep(0.3)
        assert _clients(target) == 1
