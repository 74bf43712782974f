"""The lag is honest: none while all is copied; and it grows, whatever keeps rows from being so."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon.demo.central import schema
from tests import mirror
from tests.daemon_process import DaemonProcess

if TYPE_CHECKING:
    from daemon.demo.server import PrivateServer
    from tests.conftest import Databases

WriteConfig = Callable[..., Path]

QUICK = {"defaults": {"poll_interval": "100ms"}, "entities": {"contacts": {"enabled": False}}}

# Longer than what was true at the last turn is taken for true.
LONG = 11.0


def idle(daemon: DaemonProcess) -> None:
    daemon.wait_until(lambda: daemon.state() == "idle")


def seconds(daemon: DaemonProcess) -> float:
    return daemon.metric("wpp_sync_lag_seconds", entity="messages")


def rows(daemon: DaemonProcess) -> list[float]:
    """What is told of the rows behind; nothing where nobody knows."""
    found = daemon.metrics().get("wpp_sync_lag_rows", [])
    return [each.value for each in found if each.labels["entity"] == "messages"]


def grows(daemon: DaemonProcess, since: float) -> None:
    """The lag is the time that has passed since then, and goes on."""
    for _ in range(2):
        daemon.wait_until(lambda: seconds(daemon) > 0, LONG + 5)
        assert seconds(daemon) == pytest.approx(time.monotonic() - since, abs=1.5)
        assert rows(daemon) != [0], "nobody knows"
        assert daemon.entity()["lag_rows"] != 0
        time.sleep(1)


def test_who_has_all_has_no_lag_however_long_nothing_comes(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local}, **QUICK)
    with DaemonProcess(config) as daemon:
        idle(daemon)
        until = time.monotonic() + LONG + 1
        while time.monotonic() < until:
            assert (seconds(daemon), rows(daemon)) == (0, [0])
            time.sleep(0.2)


def test_who_is_behind_says_how_many_rows_and_how_long(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local}, **QUICK)
    with DaemonProcess(config) as daemon:
        idle(daemon)
        asked = {"rows_per_second": 20}
        assert daemon.request("POST", "/v1/instances/nunes/throttle", asked).status == 200
        began = time.monotonic()
        # Far apart: what is near is copied before it could be counted.
        mirror.insert_messages(databases.central, range(1, 200_000, 100))
        daemon.wait_until(lambda: daemon.watermark() > 0)
        daemon.wait_until(lambda: seconds(daemon) > 2)
        assert seconds(daemon) == pytest.approx(time.monotonic() - began, abs=1.5)
        daemon.wait_until(lambda: rows(daemon) != [] and rows(daemon) != [0])
        copied = daemon.metric("wpp_sync_rows_total", entity="messages")
        assert rows(daemon) == [pytest.approx(2_000 - copied, abs=100)]


def test_it_grows_while_central_is_away(
    central: PrivateServer, databases: Databases, write_config: WriteConfig
) -> None:
    source = central.create_database("wpp")
    central.execute(schema(), "wpp")
    config = write_config(source, {"nunes": databases.local}, **QUICK)
    with DaemonProcess(config) as daemon:
        idle(daemon)
        central.kill()
        grows(daemon, time.monotonic())
        central.start()
        daemon.wait_until(lambda: seconds(daemon) == 0 and rows(daemon) == [0])


def test_it_grows_while_central_is_silent(
    central: PrivateServer, databases: Databases, write_config: WriteConfig
) -> None:
    source = central.create_database("wpp")
    central.execute(schema(), "wpp")
    config = write_config(source, {"nunes": databases.local}, **QUICK)
    with DaemonProcess(config) as daemon:
        idle(daemon)
        central.pause()
        grows(daemon, time.monotonic())
        central.resume()
        daemon.wait_until(lambda: seconds(daemon) == 0 and rows(daemon) == [0], 40)


@pytest.mark.parametrize("order", [{}, {"entity": "messages"}])
def test_it_grows_while_somebody_has_paused_it(
    databases: Databases, write_config: WriteConfig, order: dict[str, str]
) -> None:
    config = write_config(databases.central, {"nunes": databases.local}, **QUICK)
    with DaemonProcess(config) as daemon:
        idle(daemon)
        assert daemon.request("POST", "/v1/instances/nunes/pause", order).status == 200
        began = time.monotonic()
        mirror.insert_messages(databases.central, range(1, 11))
        grows(daemon, began)
        assert daemon.request("POST", "/v1/instances/nunes/resume", order).status == 200
        daemon.wait_until(lambda: daemon.watermark() == 10)
        daemon.wait_until(lambda: seconds(daemon) == 0 and rows(daemon) == [0])
