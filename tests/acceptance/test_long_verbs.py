"""What takes its time, and what an operator does meanwhile: pausing it, stopping the daemon, going
away, reading no more."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from daemon.demo.central import schema, seed_bulk
from daemon.demo.server import PrivateServer
from tests import mirror
from tests.daemon_process import Answer, DaemonProcess, run_cli

if TYPE_CHECKING:
    from tests.conftest import Databases, ServerConfig, Servers

WriteConfig = Callable[..., Path]

ROWS = 20_000


@pytest.fixture
def daemon(databases: Databases, write_config: WriteConfig) -> Iterator[DaemonProcess]:
    """One that is throttled to 200 rows a second, with 20,000 rows to copy."""
    central, local = databases
    config = write_config(central, {"nunes": local}, defaults={"poll_interval": "30s"})
    with DaemonProcess(config) as started:
        started.wait_until(lambda: started.state() == "idle")
        answer = started.request("POST", "/v1/instances/nunes/throttle", {"rows_per_second": 200})
        assert answer.status == 200
        mirror.seed(central, [seed_bulk("nunes", ROWS, 10)])
        yield started


@contextmanager
def asked(daemon: DaemonProcess, verb: str, body: object = None) -> Iterator[list[Answer]]:
    """A request that takes its time, and what came back for it, once that has come."""
    found: list[Answer] = []
    asking = threading.Thread(
        target=lambda: found.append(daemon.request("POST", f"/v1/instances/nunes/{verb}", body))
    )
    asking.start()
    yield found
    asking.join(30)
    assert not asking.is_alive()


class Stream:
    """A client of lines: it reads those that it is told to."""

    def __init__(self, daemon: DaemonProcess, verb: str, body: object = None) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        # Small, so that what is not read soon fills it.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect(str(daemon.socket))
        connection = http.client.HTTPConnection("daemon", timeout=30)
        connection.sock = self._socket
        headers = {"Accept": "application/x-ndjson"}
        path = f"/v1/instances/nunes/{verb}"
        connection.request("POST", path, None if body is None else json.dumps(body), headers)
        self._answer = connection.getresponse()

    def line(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._answer.readline())
        return found

    def last(self) -> dict[str, Any]:
        while "progress" in (found := self.line()):
            pass
        return found

    def close(self) -> None:
        self._socket.close()


def begun(daemon: DaemonProcess) -> None:
    """Rows are being copied."""
    daemon.wait_until(lambda: daemon.watermark() > 0)


def copied(local: ServerConfig) -> int:
    return len(mirror.local_ids(local))


def test_a_pause_holds_at_once_also_while_a_pass_that_was_asked_for_runs(
    daemon: DaemonProcess, databases: Databases
) -> None:
    with asked(daemon, "sync") as answers:
        begun(daemon)
        told = daemon.request("POST", "/v1/instances/nunes/pause", {"reason": "stop"})
        assert (told.status, told.body["at_once"]) == (200, True)
        rows = copied(databases.local)
        assert 0 < rows < ROWS
        time.sleep(1.5)
        assert copied(databases.local) == rows
    assert (answers[0].status, answers[0].body["error"]["code"]) == (409, "paused")


def test_a_throttle_that_is_taken_off_holds_within_the_pass(
    daemon: DaemonProcess, databases: Databases
) -> None:
    with asked(daemon, "sync") as answers:
        begun(daemon)
        told = daemon.request("POST", "/v1/instances/nunes/throttle", {"rows_per_second": None})
        assert (told.status, told.body["at_once"]) == (200, True)
    assert answers[0].status == 200
    assert answers[0].body["interrupted"] is False
    assert copied(databases.local) == ROWS


def test_a_pass_that_a_stop_cuts_short_says_so(daemon: DaemonProcess) -> None:
    with asked(daemon, "sync") as answers:
        begun(daemon)
        assert daemon.stop() == 0
    assert answers[0].body["interrupted"] is True


def test_a_second_signal_leaves_now_whatever_was_asked_for(
    daemon: DaemonProcess, databases: Databases
) -> None:
    """A batch waits for a table that somebody has locked."""
    with mirror.Session(databases.local) as reader:
        stream = Stream(daemon, "sync")
        begun(daemon)
        reader.execute("LOCK TABLES wpp_messages WRITE")
        time.sleep(1.5)
        daemon.terminate()
        time.sleep(1.0)
        assert daemon.running, "it waits for the batch"
        daemon.terminate()
        began = time.monotonic()
        assert daemon.wait() == 0
        assert time.monotonic() - began < 6.0
        stream.close()


def test_a_client_that_reads_no_more_keeps_nobody_from_leaving(
    daemon: DaemonProcess, databases: Databases
) -> None:
    stream = Stream(daemon, "sync")
    begun(daemon)
    began = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - began < 6.0
    stream.close()
    assert max(mirror.local_ids(databases.local)) == mirror.watermarks(databases.local)["messages"]


def test_a_removed_instance_is_left_in_peace_whoever_watches_it(
    daemon: DaemonProcess, databases: Databases, servers: Servers
) -> None:
    stream = Stream(daemon, "sync")
    begun(daemon)
    document = yaml.safe_load(daemon.config.read_text())
    document["instances"] = {"other": dict(servers.new_local())}
    daemon.config.write_text(yaml.safe_dump(document))
    assert run_cli("reload", "-c", daemon.config).returncode == 0
    assert stream.last()["done"]["interrupted"] is True
    daemon.wait_until(
        lambda: all(
            sample.labels.get("wpp_instance") != "nunes"
            for samples in daemon.metrics().values()
            for sample in samples
        )
    )
    rows = copied(databases.local)
    time.sleep(1.5)
    assert copied(databases.local) == rows
    stream.close()


def test_a_stream_outlives_its_socket(daemon: DaemonProcess) -> None:
    """control.socket moves; who came through the old one goes on."""
    stream = Stream(daemon, "sync")
    begun(daemon)
    moved = daemon.socket.with_name("moved.sock")
    daemon.config.write_text(daemon.config.read_text().replace(str(daemon.socket), str(moved)))
    old = daemon.socket
    assert daemon.request("POST", "/v1/reload").status == 200
    assert not old.exists()
    daemon.socket = moved
    for _ in range(8):  # longer than a door that is closed lets anybody finish
        assert "progress" in stream.line()
    told = daemon.request("POST", "/v1/instances/nunes/throttle", {"rows_per_second": None})
    assert told.status == 200
    assert "done" in stream.last()
    stream.close()


@pytest.mark.parametrize("what", [{}, {"entity": "messages"}])
def test_a_resync_that_nobody_carries_out_is_not_waited_for(
    daemon: DaemonProcess, what: dict[str, str]
) -> None:
    assert daemon.request("POST", "/v1/instances/nunes/pause", what).status == 200
    stream = Stream(daemon, "resync")
    began = time.monotonic()
    done = stream.last()["done"]
    assert (done["finished"], done["unfinished"]) == (False, "paused")
    assert time.monotonic() - began < 6.0
    stream.close()


def test_what_is_not_done_to_its_end_does_not_end_with_0(daemon: DaemonProcess) -> None:
    found: dict[str, subprocess.CompletedProcess[str]] = {}

    def say(*verb: str) -> threading.Thread:
        def run() -> None:
            found[verb[0]] = run_cli(*verb, "-c", daemon.config)

        asking = threading.Thread(target=run)
        asking.start()
        return asking

    asking = [say("resync", "nunes", "--wait"), say("reconcile", "nunes", "messages")]
    begun(daemon)
    daemon.wait_until(lambda: len(daemon.logged("asked")) >= 3)
    assert daemon.stop() == 0
    for each in asking:
        each.join(30)
    assert found["resync"].returncode == 130
    assert "goes on with its next start" in found["resync"].stderr
    assert found["reconcile"].returncode == 130, found["reconcile"].stderr
    assert "stopped" in found["reconcile"].stderr


def test_what_is_equal_only_as_far_as_it_is_copied_is_told(daemon: DaemonProcess) -> None:
    with asked(daemon, "sync"):
        begun(daemon)
        said = run_cli("reconcile", "nunes", "messages", "--dry-run", "-c", daemon.config)
        assert said.returncode == 4, said.stdout + said.stderr
        assert "nunes  not all is copied yet" in said.stdout
        assert re.search(r"messages: equal up to id \d+; newer ids up to \d+", said.stdout)
        assert daemon.stop() == 0


def test_a_resync_without_a_daemon_here_says_who_does_it(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    document = yaml.safe_load(daemon.config.read_text())
    document["control"]["socket"] = str(tmp_path / "none.sock")
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_text(yaml.safe_dump(document))
    said = run_cli("resync", "nunes", "--wait", "-c", elsewhere)
    assert said.returncode == 130
    assert "the one that copies nunes on another host does it" in said.stderr
    assert daemon.stop() == 0
    said = run_cli("resync", "nunes", "--wait", "-c", elsewhere)
    assert said.returncode == 130
    assert "`wpp-sync sync nunes` does it" in said.stderr


def test_a_paused_instance_is_known_after_a_restart(
    daemon: DaemonProcess, databases: Databases
) -> None:
    with asked(daemon, "sync"):
        begun(daemon)
        assert daemon.request("POST", "/v1/instances/nunes/pause", {}).status == 200
    before = daemon.entity()
    assert daemon.stop() == 0
    daemon.start()
    daemon.wait_until(lambda: daemon.state() == "paused")
    for told in (daemon.status(), daemon.request("GET", "/v1/status").body["instances"][0]):
        assert told["migrations"]
        assert told["pending_migrations"] == []
        (messages,) = (e for e in told["sync_state"] if e["entity"] == "messages")
        assert messages["last_synced_id"] == before["last_synced_id"] > 0
        assert messages["last_synced_at"] is not None


def test_a_stop_does_not_wait_for_a_server_that_is_silent(
    central: PrivateServer, local: PrivateServer, write_config: WriteConfig
) -> None:
    config = write_config(
        central.create_database("central"), {"nunes": local.create_database("nunes")}
    )
    central.execute(schema(), "central")
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")
        central.pause()
        try:
            time.sleep(1.5)
            began = time.monotonic()
            assert daemon.stop() == 0
            assert time.monotonic() - began < 8.0
        finally:
            central.resume()
