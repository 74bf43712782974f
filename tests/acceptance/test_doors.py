"""The doors of a running daemon while the configuration, the files and other daemons change."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.daemon_process import DaemonProcess, run_cli

if TYPE_CHECKING:
    from tests.conftest import Databases

WriteConfig = Callable[..., Path]


def change(config: Path, **sections: Any) -> None:
    document = yaml.safe_load(config.read_text())
    for name, settings in sections.items():
        document[name] = {**document.get(name, {}), **settings}
    config.write_text(yaml.safe_dump(document, sort_keys=False))


def port_answers(daemon: DaemonProcess) -> bool:
    host, port = daemon.logged("started")[-1]["http"].split(":")
    connection = HTTPConnection(host, int(port), timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@pytest.mark.parametrize(
    "listen", ["a..b:{port}", f"{'a' * 70}.example:{{port}}", "192.0.2.1:{port}"]
)
def test_an_address_that_cannot_be_listened_on_changes_nothing(
    databases: Databases, write_config: WriteConfig, listen: str
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")
        port = daemon.logged("started")[-1]["http"].split(":")[1]
        change(config, http={"listen": listen.format(port=port)}, signals={"sighup_reset": "none"})
        assert daemon.request("POST", "/v1/reload").status == 409
        assert port_answers(daemon)
        daemon.hup()
        daemon.wait_until(lambda: len(daemon.logged("nothing was reset")) == 1)
        assert port_answers(daemon)
        assert daemon.state() == "idle"
        change(config, http={"listen": f"127.0.0.1:{port}"})
        assert daemon.request("POST", "/v1/reload").status == 200
        assert port_answers(daemon)


def test_a_socket_that_somebody_removed_is_made_again_by_a_reload(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    change(config, signals={"sighup_reset": "none"})
    with DaemonProcess(config) as daemon:
        daemon.socket.unlink()
        daemon.hup()
        daemon.wait_until(daemon.socket.exists)
        daemon.wait_until(lambda: daemon.request("GET", "/v1/alive").status == 200)


def test_a_daemon_that_leaves_does_not_take_another_ones_socket_with_it(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    with DaemonProcess(config) as first:
        first.socket.unlink()
        second = DaemonProcess(config)
        second.log_file = first.log_file.with_suffix(".second.log")
        with second:
            assert first.stop() == 0
            assert second.request("GET", "/v1/alive").status == 200


def test_a_second_daemon_says_that_there_is_one_and_not_that_its_port_is_taken(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    with DaemonProcess(config) as daemon:
        change(config, http={"listen": daemon.logged("started")[-1]["http"]})
        refused = run_cli("run", "-c", config)
        assert refused.returncode == 1
        assert "another daemon answers" in refused.stderr


def test_a_stop_during_a_reload_leaves_no_socket_and_starts_nobody(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")
        # Reading so many takes more than a second.
        document = yaml.safe_load(config.read_text())
        for number in range(1500):
            document["instances"][f"off{number}"] = {
                **databases.local, "database": f"off{number}", "enabled": False,
            }  # fmt: skip
        document["instances"]["extra"] = {**databases.local, "database": "extra"}
        config.write_text(yaml.safe_dump(document))
        daemon.hup()
        time.sleep(0.3)
        assert daemon.logged("reloaded") == []
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 10.0
        assert not daemon.socket.exists()
        assert daemon.logged("reloaded") == []


def test_hundreds_of_idle_connections_keep_it_neither_from_answering_nor_from_leaving(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    with DaemonProcess(config) as daemon, ExitStack() as idle:
        daemon.wait_until(lambda: daemon.state() == "idle")
        host, port = daemon.logged("started")[-1]["http"].split(":")
        for number in range(300):
            for family, address in (
                (socket.AF_INET, (host, int(port))),
                (socket.AF_UNIX, str(daemon.socket)),
            ):
                client = idle.enter_context(socket.socket(family))
                client.connect(address)
                client.sendall(b"GET /v1" if number % 2 else b"")
        assert port_answers(daemon)
        assert daemon.request("GET", "/v1/alive").status == 200
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 10.0


@pytest.mark.parametrize("reason", ["\ud800", "line\nend", "\x1b[31mred"])
def test_a_reason_that_cannot_be_shown_is_refused(
    databases: Databases, write_config: WriteConfig, reason: str
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")
        answer = daemon.request("POST", "/v1/instances/nunes/pause", {"reason": reason})
        assert (answer.status, answer.body["error"]["code"]) == (400, "usage")
        assert daemon.status()["paused"] is None
