"""The daemon's log as the service manager, and a full disk, meet it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest

from tests import mirror
from tests.daemon_process import COMMAND, DaemonProcess, ask, environment

if TYPE_CHECKING:
    from daemon.demo.server import PrivateServer
    from tests.conftest import Databases

WriteConfig = Callable[..., Path]

QUICK = {"defaults": {"poll_interval": "100ms"}}
LEVELS = {"<3>": "error", "<4>": "warning", "<6>": "info", "<7>": "debug"}


@contextmanager
def running(config: Path, stderr: IO[bytes] | socket.socket, journal: str) -> Iterator[Path]:
    """A daemon whose standard error and $JOURNAL_STREAM are these; its control socket."""
    control = DaemonProcess(config).socket
    process = subprocess.Popen(
        [*COMMAND, "run", "-c", str(config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr.fileno(),
        env=environment({"JOURNAL_STREAM": journal}),
    )
    try:
        wait(lambda: bool(_instances(control)))
        yield control
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
    finally:
        process.kill()
        process.wait()


def _instances(control: Path) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = ask(control, "GET", "/v1/status").body["instances"]
    except OSError:
        return []
    return found


def wait(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def place(of: IO[bytes] | socket.socket) -> str:
    """What systemd puts into $JOURNAL_STREAM."""
    there = os.fstat(of.fileno())
    return f"{there.st_dev}:{there.st_ino}"


def idle(control: Path, count: int = 1) -> Callable[[], bool]:
    return lambda: [each["state"] for each in _instances(control)].count("idle") == count


def expect_priorities(text: str, *levels: str) -> list[dict[str, Any]]:
    """Every line is JSON behind the priority of its level."""
    lines = text.split("\n")
    assert lines.pop() == ""
    events = [json.loads(line[3:]) for line in lines]
    assert [LEVELS[line[:3]] for line in lines] == [event["level"] for event in events]
    assert {event["level"] for event in events} == set(levels)
    return events


def test_the_journal_gets_a_priority_with_each_line(
    databases: Databases, write_config: WriteConfig
) -> None:
    dead = {**databases.local, "database": "other", "port": 1}
    config = write_config(
        databases.central, {"nunes": databases.local, "dead": dead}, log={"level": "debug"}, **QUICK
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        heard: list[bytes] = []
        with running(config, theirs, place(theirs)) as control:
            wait(idle(control))
            wait(lambda: any(each["state"] == "backoff" for each in _instances(control)))
        theirs.close()
        while piece := ours.recv(1 << 20):
            heard.append(piece)
    events = expect_priorities(b"".join(heard).decode(), "debug", "info", "error")
    assert [event["event"] for event in events][-1] == "stopped"


def test_a_file_that_systemd_appends_to_is_the_journal_as_well_and_no_other_is(
    databases: Databases, write_config: WriteConfig, tmp_path: Path
) -> None:
    config = write_config(databases.central, {"nunes": databases.local}, **QUICK)
    written = tmp_path / "stderr"
    for there in (True, False):
        with (
            written.open("wb") as file,
            (tmp_path / "other").open("wb") as other,
            running(config, file, place(file if there else other)) as control,
        ):
            wait(idle(control))
        if there:
            expect_priorities(written.read_text(), "info")
        else:
            lines = written.read_text().splitlines()
            assert json.loads(lines[-1])["event"] == "stopped", "redirected: no prefix"


def test_what_keeps_it_from_starting_is_an_event_for_the_journal(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("central: {port: x}\n")
    written = tmp_path / "stderr"
    with written.open("wb") as file:
        done = subprocess.run(
            [*COMMAND, "run", "-c", str(config)],
            check=False,
            stderr=file,
            env=environment({"JOURNAL_STREAM": place(file)}),
            timeout=30,
        )
    assert done.returncode == 2
    (event,) = expect_priorities(written.read_text(), "error")
    assert (event["event"], event["code"]) == ("ended", "config")
    assert "central.port" in event["error"]


def test_a_full_disk_under_the_log_does_not_stop_the_copy(
    databases: Databases, write_config: WriteConfig
) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    central, local = databases
    config = write_config(central, {"nunes": local}, log={"level": "debug"}, **QUICK)
    with open("/dev/full", "wb") as full, running(config, full, "") as control:
        wait(idle(control))
        mirror.insert_messages(central, range(1, 20))
        wait(lambda: mirror.local_ids(local) == list(range(1, 20)))


def test_a_trouble_is_told_at_once_then_rarely_and_its_end_once(
    databases: Databases, local: PrivateServer, write_config: WriteConfig
) -> None:
    nunes = local.create_database("nunes")
    config = write_config(
        databases.central, {"nunes": nunes}, sync={"backoff_max": "100ms"}, **QUICK
    )
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")
        for again in (1, 2):
            failed = daemon.metric("wpp_sync_errors_total", wpp_instance="nunes")
            local.kill()
            daemon.wait_until(
                lambda n=failed: daemon.metric("wpp_sync_errors_total") > n + 20  # type: ignore[misc]
            )
            # Its connection is lost, and then there is no server: two kinds at most.
            assert len(daemon.logged("pass failed")) <= 3 * again
            told = daemon.log()[-1]
            assert told["event"] == "pass failed", "the second time it is told at once again"
            local.start()
            daemon.wait_until(lambda n=again: len(daemon.logged("recovered")) == n)  # type: ignore[misc]
            end = daemon.logged("recovered")[-1]
            assert end["after_errors"] > 20
            assert end["repeated"] >= end["after_errors"] - 3
        assert len(daemon.logged("recovered")) == 2


def test_also_what_does_not_mend_by_itself_has_its_end(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    config = write_config(central, {"nunes": local}, **QUICK)
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")
        mirror.run(local, "RENAME TABLE wpp_sync_state TO hidden")
        mirror.insert_messages(central, [1])
        daemon.wait_until(lambda: daemon.state() == "failed")
        assert daemon.logged("recovered") == []
        mirror.run(local, "RENAME TABLE hidden TO wpp_sync_state")
        daemon.request("POST", "/v1/instances/nunes/reset", {"entity": "all"})
        daemon.wait_until(lambda: len(daemon.logged("recovered")) == 1)
        assert daemon.logged("recovered")[0]["after_errors"] >= 1
