"""Servers that die, hang or hang up: the daemon waits, comes back by itself, and others go on."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon.demo.central import schema, seed_bulk, seed_varied
from daemon.demo.server import PrivateServer
from tests import mirror
from tests.conftest import FAMILIES, Pair
from tests.daemon_process import DaemonProcess

if TYPE_CHECKING:
    from tests.conftest import ServerConfig

WriteConfig = Callable[..., Path]

QUICK: dict[str, object] = {
    "defaults": {"poll_interval": "100ms"},
    "sync": {"backoff_max": "1s", "batch_rows": 100},
}


@pytest.fixture
def other_local(pair: Pair, templates: Callable[[str], Path]) -> Iterator[PrivateServer]:
    """A second local server."""
    directory = Path(tempfile.mkdtemp(prefix="wpp-other-"))
    family = FAMILIES[pair.local]
    server = family(directory, name="other local", template=templates(pair.local))
    server.start()
    yield server
    server.close()
    shutil.rmtree(directory, ignore_errors=True)


def _create_central(server: PrivateServer) -> ServerConfig:
    config = server.create_database("central")
    server.execute(schema(), "central")
    return config


def _equal(central: ServerConfig, local: ServerConfig, instance: str) -> bool:
    return mirror.differences(central, local, instance) == ""


class _Writer:
    """Inserts a message of an instance every 50 ms and notes how long each took to arrive."""

    def __init__(self, central: ServerConfig, local: ServerConfig, instance: str) -> None:
        self.waits: list[float] = []
        self._central, self._local, self._instance = central, local, instance
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> _Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _write(self) -> None:
        while not self._stop.wait(0.05):
            id_ = mirror.insert_message(self._central, None, self._instance)
            began = time.monotonic()
            question = f"SELECT COUNT(*) FROM wpp_messages WHERE id = {id_}"
            while mirror.number(self._local, question) == 0 and not self._stop.is_set():
                time.sleep(0.01)
            self.waits.append(time.monotonic() - began)


def test_one_instances_server_is_killed_and_the_other_keeps_its_pace(
    central: PrivateServer,
    local: PrivateServer,
    other_local: PrivateServer,
    write_config: WriteConfig,
) -> None:
    source = _create_central(central)
    mirror.seed(source, seed_varied(["nunes", "karsten"], messages=500))
    mirror.seed(source, [seed_bulk("nunes", 30_000, 200, first_id=10_000)])
    nunes, karsten = local.create_database("nunes"), other_local.create_database("karsten")
    config = write_config(source, {"nunes": nunes, "karsten": karsten}, **QUICK)
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.watermark() > 10_000)
        local.kill()
        daemon.wait_until(lambda: daemon.state() == "backoff")
        error = daemon.status()["error"]
        assert error["code"] == "unreachable"
        assert "local nunes" in error["message"]
        daemon.wait_until(lambda: daemon.state("karsten") == "idle")
        with _Writer(source, karsten, "karsten") as writer:
            time.sleep(2.5)
            assert daemon.state("karsten") in {"idle", "syncing"}
            assert daemon.status("karsten")["error"] is None
        assert len(writer.waits) > 5
        assert max(writer.waits) < 1.0, "the other instance keeps its pace"
        assert daemon.state() == "backoff"
        mirror.insert_message(source, None, "nunes")
        local.start()
        daemon.wait_until(lambda: mirror.differences(source, nunes) == "", 30)
        daemon.wait_until(lambda: daemon.state() == "idle")
        assert daemon.status()["error"] is None
        assert daemon.logged("recovered"), "the end of the trouble is told"
        assert mirror.differences(source, karsten, "karsten") == ""
        assert daemon.metric("wpp_sync_errors_total", wpp_instance="karsten") == 0
        failures = [line for line in daemon.logged("pass failed") if line["instance"] == "nunes"]
        assert 1 <= len(failures) < 6, "the first error at once, then rarely"


def test_the_lag_metric_of_an_instance_grows_while_its_server_is_down(
    central: PrivateServer, local: PrivateServer, write_config: WriteConfig
) -> None:
    """An alert on wpp_sync_lag_seconds is how an operator hears of it."""
    source, target = _create_central(central), local.create_database("nunes")
    mirror.insert_messages(source, range(1, 10))
    with DaemonProcess(write_config(source, {"nunes": target}, **QUICK)) as daemon:
        daemon.wait_until(lambda: daemon.watermark() == 9)
        local.kill()
        mirror.insert_messages(source, range(10, 20))
        daemon.wait_until(lambda: daemon.state() == "backoff")
        daemon.wait_until(lambda: daemon.metric("wpp_sync_lag_seconds", entity="messages") > 1.5, 5)
        local.start()
        daemon.wait_until(lambda: daemon.watermark() == 19)
        daemon.wait_until(lambda: daemon.metric("wpp_sync_lag_seconds", entity="messages") == 0)


def test_the_lag_in_the_status_of_an_instance_grows_while_its_server_is_down(
    central: PrivateServer, local: PrivateServer, write_config: WriteConfig
) -> None:
    source, target = _create_central(central), local.create_database("nunes")
    with DaemonProcess(write_config(source, {"nunes": target}, **QUICK)) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")
        local.kill()
        mirror.insert_message(source, 1)
        daemon.wait_until(lambda: daemon.state() == "backoff")
        time.sleep(0.5)
        assert (daemon.entity()["lag_seconds"] or 0) > 0.4


def test_the_central_server_is_killed_in_the_middle_of_a_first_sync(
    central: PrivateServer, local: PrivateServer, write_config: WriteConfig
) -> None:
    source, target = _create_central(central), local.create_database("nunes")
    mirror.seed(source, [seed_bulk("nunes", 20_000, 200)])
    with DaemonProcess(write_config(source, {"nunes": target}, **QUICK)) as daemon:
        daemon.wait_until(lambda: daemon.watermark() > 500)
        central.kill()
        daemon.wait_until(lambda: daemon.state() == "backoff")
        reached = mirror.watermarks(target)["messages"]
        assert reached < 20_000
        assert mirror.local_ids(target) == list(range(1, reached + 1))
        assert "central" in daemon.status()["error"]["message"]
        central.start()
        daemon.wait_until(lambda: daemon.watermark() == 20_000, 15)
        daemon.wait_until(lambda: daemon.state() == "idle")
        assert mirror.differences(source, target) == ""
        mirror.insert_message(source, 30_000)
        daemon.wait_until(lambda: daemon.watermark() == 30_000, 3)


def test_the_central_server_is_restarted_while_several_instances_idle(
    central: PrivateServer, local: PrivateServer, write_config: WriteConfig
) -> None:
    """Each of the pool's idle connections is dead then; they must not cost a back-off each."""
    source = _create_central(central)
    names = [f"instance{number}" for number in range(6)]
    targets = {name: local.create_database(name) for name in names}
    for number, name in enumerate(names):
        mirror.insert_messages(source, range(1 + 2_000 * number, 2_000 * (number + 1)), name)
    with DaemonProcess(write_config(source, targets, **QUICK)) as daemon:
        for name in names:
            daemon.wait_until(lambda name=name: daemon.state(name) == "idle")  # type: ignore[misc]
        central.restart()
        for name in names:
            mirror.insert_message(source, None, name)
        for name, target in targets.items():
            daemon.wait_until(partial(_equal, source, target, name), 6)


def test_the_central_server_hangs_and_the_instance_backs_off_until_it_answers(
    central: PrivateServer, local: PrivateServer, write_config: WriteConfig
) -> None:
    source, target = _create_central(central), local.create_database("nunes")
    mirror.insert_messages(source, range(1, 100))
    # The daemon gives a server 5 s more than the statement may take.
    slow = {**source, "statement_timeout": "1s", "connect_timeout": "1s"}
    with DaemonProcess(write_config(slow, {"nunes": target}, **QUICK)) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")
        central.pause()
        daemon.wait_until(lambda: daemon.state() == "backoff", 10)
        assert "no answer" in daemon.status()["error"]["message"]
        assert daemon.request("GET", "/v1/status").status == 200, "the daemon itself answers"
        central.resume()
        mirror.insert_messages(source, range(100, 200))
        daemon.wait_until(lambda: daemon.watermark() == 199, 10)
        daemon.wait_until(lambda: daemon.state() == "idle")
        assert mirror.differences(source, target) == ""


def test_the_daemon_leaves_in_time_although_the_central_server_hangs(
    central: PrivateServer, local: PrivateServer, write_config: WriteConfig
) -> None:
    source, target = _create_central(central), local.create_database("nunes")
    sections = {**QUICK, "sync": {"shutdown_timeout": "1s"}}
    with DaemonProcess(write_config(source, {"nunes": target}, **sections)) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")
        central.pause()
        time.sleep(0.3)
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 5
        central.resume()


def test_the_local_connection_is_killed_and_the_lock_is_regained(
    central: PrivateServer, local: PrivateServer, write_config: WriteConfig
) -> None:
    source, target = _create_central(central), local.create_database("nunes")
    mirror.insert_messages(source, range(1, 100))
    holder = "SELECT COALESCE(IS_USED_LOCK('wpp-sync.nunes'), 0)"
    with DaemonProcess(write_config(source, {"nunes": target}, **QUICK)) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")
        before = mirror.number(target, holder)
        assert before > 0
        mirror.run(target, f"KILL {before}")
        mirror.insert_messages(source, range(100, 200))
        daemon.wait_until(lambda: mirror.number(target, holder) not in {0, before}, 6)
        daemon.wait_until(lambda: daemon.watermark() == 199, 6)
        assert mirror.differences(source, target) == ""
        assert daemon.state() in {"idle", "syncing"}


def test_the_local_connection_is_killed_in_the_middle_of_a_first_sync(
    central: PrivateServer, local: PrivateServer, write_config: WriteConfig
) -> None:
    source, target = _create_central(central), local.create_database("nunes")
    mirror.seed(source, [seed_bulk("nunes", 20_000, 200)])
    holder = "SELECT COALESCE(IS_USED_LOCK('wpp-sync.nunes'), 0)"
    with DaemonProcess(write_config(source, {"nunes": target}, **QUICK)) as daemon:
        daemon.wait_until(lambda: daemon.watermark() > 0)
        reached = 0
        for _ in range(3):
            # Rows that move mean that the schema has been read: killed in the middle of a query on
            # information_schema, MariaDB 10.11.19 itself sometimes crashes (ha_maria::drop_table).
            daemon.wait_until(
                lambda least=reached + 300: mirror.watermarks(target)["messages"] > least  # type: ignore[misc]
            )
            before = mirror.number(target, holder)
            mirror.run(target, f"KILL {before}")
            reached = mirror.watermarks(target)["messages"]
            assert mirror.local_ids(target) == list(range(1, reached + 1))
            assert reached < 20_000
            daemon.wait_until(
                lambda dead=before: mirror.number(target, holder) not in {0, dead}  # type: ignore[misc]
            )
        daemon.wait_until(lambda: daemon.watermark() == 20_000)
        assert mirror.differences(source, target) == ""


def test_rows_that_exceed_the_local_servers_packet_go_to_quarantine(
    central: PrivateServer, local: PrivateServer, write_config: WriteConfig
) -> None:
    source, target = _create_central(central), local.create_database("nunes")
    local.execute("SET GLOBAL max_allowed_packet = 32768")
    mirror.seed(source, [seed_bulk("nunes", 5, 60_000)])
    mirror.seed(source, seed_varied(["nunes"], messages=50, first_id=100))
    with DaemonProcess(write_config(source, {"nunes": target}, **QUICK)) as daemon:
        daemon.wait_until(lambda: daemon.entity("messages")["quarantined"] == 8)  # 3 of the varied
        daemon.wait_until(lambda: mirror.differences(source, target, entities=["chats"]) == "", 4)
        assert daemon.entity("messages")["error"] is None
        assert daemon.state() in {"idle", "syncing"}


def test_a_server_that_is_not_there_at_the_start_is_waited_for(
    central: PrivateServer, local: PrivateServer, write_config: WriteConfig
) -> None:
    source, target = _create_central(central), local.create_database("nunes")
    mirror.insert_messages(source, range(1, 10))
    config = write_config(source, {"nunes": target}, **QUICK)
    local.stop()
    central.stop()
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state() == "backoff")
        local.start()
        time.sleep(0.5)
        central.start()
        daemon.wait_until(lambda: daemon.watermark() == 9, 6)
