"""Day to day: pause, resume, throttle, reload, and what the service manager hears."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from daemon.systemd import EXTEND
from tests import mirror
from tests.daemon_process import DaemonProcess, environment, run_cli
from tests.hung_child import HEALTHY_PASSES
from tests.notify import NotifySocket

if TYPE_CHECKING:
    from tests.conftest import Databases, Servers

WriteConfig = Callable[..., Path]

QUICK = {"defaults": {"poll_interval": "100ms"}}


def _idle(daemon: DaemonProcess, *instances: str) -> None:
    for name in instances or ("nunes",):
        daemon.wait_until(lambda name=name: daemon.state(name) == "idle")  # type: ignore[misc]


def change(config: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit a configuration in place."""
    document = yaml.safe_load(config.read_text())
    edit(document)
    config.write_text(yaml.safe_dump(document, sort_keys=False))


def cli(config: Path, *arguments: str) -> str:
    """Run a verb that must succeed; what it printed."""
    done = run_cli(*arguments, "-c", config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


# --- pause and resume -----------------------------------------------------------------------------


def test_a_pause_holds_over_a_restart_until_it_is_resumed(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    config = write_config(central, {"nunes": local}, **QUICK)
    with DaemonProcess(config) as daemon:
        _idle(daemon)
        assert cli(config, "pause", "nunes", "--reason", "restoring a backup") == "nunes  paused\n"
        mirror.insert_messages(central, range(11, 21))
        daemon.wait_until(lambda: daemon.state() == "paused")
        told = daemon.status()["paused"]
        assert told["reason"] == "restoring a backup"
        assert told["since"].endswith("Z")
        time.sleep(0.5)
        assert mirror.watermarks(local)["messages"] == 10
        shown = cli(config, "status")
        assert "nunes: paused since" in shown
        assert "restoring a backup" in shown
        for verb in ("sync", "reconcile", "migrate"):
            refused = daemon.request("POST", f"/v1/instances/nunes/{verb}", {})
            assert refused.status == 409, verb
            assert refused.body["error"]["code"] == "paused"
            assert refused.body["error"]["hint"] == "wpp-sync resume nunes"
        dry = daemon.request("POST", "/v1/instances/nunes/reconcile", {"dry_run": True})
        assert dry.status == 200
        assert daemon.stop() == 0
        assert cli(config, "status", "nunes", "--json").find('"paused": {') > 0
        refused_here = run_cli("sync", "nunes", "-c", config)
        assert refused_here.returncode == 1
        assert "nunes is paused since" in refused_here.stderr
        daemon.start()
        daemon.wait_until(lambda: daemon.state() == "paused")
        time.sleep(0.5)
        assert mirror.watermarks(local)["messages"] == 10
        assert cli(config, "resume", "nunes") == "nunes  resumed\n"
        daemon.wait_until(lambda: mirror.watermarks(local)["messages"] == 20)
        _idle(daemon)
        assert daemon.status()["paused"] is None
    assert mirror.differences(central, local) == ""


def test_one_entity_is_paused_and_the_others_go_on(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    config = write_config(central, {"nunes": local}, **QUICK)
    with DaemonProcess(config) as daemon:
        _idle(daemon)
        said = cli(config, "pause", "nunes", "--entity", "messages")
        assert said == "nunes  messages paused\n"
        mirror.insert_messages(central, range(11, 21))
        mirror.run(central, "INSERT INTO chats (id, instance) VALUES (1, 'nunes')")
        daemon.wait_until(lambda: daemon.watermark("chats") == 1)
        assert daemon.state() == "idle"
        assert daemon.entity("messages")["paused"]["reason"] == ""
        assert mirror.watermarks(local)["messages"] == 10
        synced = daemon.request("POST", "/v1/instances/nunes/sync", {})
        assert (synced.status, synced.body["paused"]) == (200, ["messages"])
        compared = daemon.request("POST", "/v1/instances/nunes/reconcile", {"entity": "messages"})
        assert (compared.status, compared.body["error"]["code"]) == (409, "paused")
        assert compared.body["error"]["hint"] == "wpp-sync resume nunes --entity messages"
        for only, code in (("messages", 1), ("chats", 0)):
            said_of = run_cli("sync", "nunes", "--only", only, "-c", config)
            assert said_of.returncode == code
            assert ("messages is paused" in said_of.stderr) == (only == "messages")
            assert "nothing to do" not in said_of.stdout
        # Said again, the time stays and the reason is the new one.
        since = daemon.entity("messages")["paused"]["since"]
        cli(config, "pause", "nunes", "--entity", "messages", "--reason", "schema change")
        assert daemon.entity("messages")["paused"] == {"since": since, "reason": "schema change"}
        cli(config, "pause", "nunes", "--reason", "backup")
        said = cli(config, "resume", "nunes", "--entity", "messages")
        assert "messages resumed, but all of it is still paused since" in said
        cli(config, "pause", "nunes", "--entity", "messages")
        cli(config, "resume", "nunes")
        daemon.wait_until(lambda: mirror.watermarks(local)["messages"] == 20)
    assert mirror.differences(central, local) == ""


def test_orders_without_a_daemon_hold_for_the_next_one(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    config = write_config(central, {"nunes": local}, **QUICK)
    cli(config, "pause", "nunes")
    refused = run_cli("sync", "nunes", "-c", config)
    assert "nunes is paused since" in refused.stderr
    assert mirror.rows(local, "SHOW TABLES") == [["wpp_sync_orders"]], "nothing is migrated"
    cli(config, "resume", "nunes")
    cli(config, "sync", "nunes")
    assert json.loads(cli(config, "status", "nunes", "--json"))["pending_migrations"] == []
    assert cli(config, "pause", "nunes").startswith("nunes  paused; a daemon that copies it on")
    mirror.insert_messages(central, range(11, 21))
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state() == "paused")
        time.sleep(0.3)
        assert mirror.watermarks(local)["messages"] == 10
        cli(config, "resume", "--all")
        daemon.wait_until(lambda: mirror.watermarks(local)["messages"] == 20)


# --- throttle -------------------------------------------------------------------------------------


def test_who_is_refused_for_his_tables_can_be_paused(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.run(local, "CREATE TABLE wpp_sync_quarantine (x INT)")
    config = write_config(central, {"nunes": local}, **QUICK)
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state() == "failed")
        assert daemon.status()["error"]["code"] == "migration"
        assert cli(config, "pause", "--all").startswith("nunes  paused")
        daemon.wait_until(lambda: daemon.state() == "paused")
        mirror.run(local, "DROP TABLE wpp_sync_quarantine")
        cli(config, "resume", "nunes")
        _idle(daemon)
        assert daemon.status()["pending_migrations"] == []


def test_a_throttle_keeps_its_pace(databases: Databases, write_config: WriteConfig) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    config = write_config(central, {"nunes": local}, **QUICK)
    with DaemonProcess(config) as daemon:
        _idle(daemon)
        assert cli(config, "throttle", "nunes", "200") == ("nunes  at most 200 rows per second\n")
        daemon.wait_until(lambda: daemon.status()["rows_per_second"] == 200)
        mirror.insert_messages(central, range(11, 1_411))
        began = time.monotonic()
        daemon.wait_until(lambda: mirror.watermarks(local)["messages"] == 1_410)
        # 1,400 rows: one second's worth at once, the rest at 200 a second.
        assert time.monotonic() - began >= 5.0
        daemon.stop()
        daemon.start()
        _idle(daemon)
        assert daemon.status()["rows_per_second"] == 200, "it is remembered"
        assert cli(config, "throttle", "--all", "off") == "nunes  not throttled\n"
        mirror.insert_messages(central, range(1_411, 3_411))
        waited = daemon.wait_until(lambda: mirror.watermarks(local)["messages"] == 3_410)
        assert waited < 9.0, "200 a second would have taken 10 s"
    assert mirror.differences(central, local) == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pause"], "name the instances, or say --all"),
        (["pause", "nunes", "--all"], "name the instances, or say --all"),
        (["pause", "nobody"], "there is no instance 'nobody'"),
        (["pause", "nunes", "--entity", "nothing"], "nunes has no entity nothing"),
        (["pause", "nunes", "--reason", "x" * 501], "longer than 500"),
        (["throttle", "nunes"], "a whole number or off, not 'nunes'"),
        (["throttle", "200"], "name the instances"),
        (["throttle", "nunes", "0"], "0 rows per second is not between"),
        (["throttle", "nunes", "fast"], "a whole number or off"),
        (["throttle", "nunes", "9" * 5_000], "ROWS_PER_SECOND is too large"),
        (["throttle", "nunes", "0" * 5_000], "0 rows per second is not between"),
        (["throttle", "nunes", "-5"], "No such option"),
        (["throttle"], "Missing argument"),
        (["resume", "nunes", "--entity", "nothing"], "nunes has no entity nothing"),
        (["completion", "tcsh"], "is not one of"),
        (["status", "--watch", "--interval", "0"], "0.1"),
    ],
)
def test_wrong_orders(
    databases: Databases, write_config: WriteConfig, arguments: list[str], said: str
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    last = arguments if arguments[0] == "completion" else [*arguments, "-c", str(config)]
    done = run_cli(*last)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr


# --- reload ---------------------------------------------------------------------------------------


def test_a_reload_touches_only_what_differs(
    servers: Servers, databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    locals_ = {name: servers.new_local() for name in ("karsten", "gone", "new")}
    for name in ("nunes", *locals_):
        mirror.insert_messages(central, [hash(name) % 1000 * 10 + 5], instance=name)
    config = write_config(
        central, {"nunes": local, "karsten": locals_["karsten"], "gone": locals_["gone"]}, **QUICK
    )
    with DaemonProcess(config) as daemon:
        _idle(daemon, "nunes", "karsten", "gone")
        assert {"wpp_sync_instance_state", "wpp_sync_rows_total"} <= _series(daemon, "gone")

        def edit(document: dict[str, Any]) -> None:
            instances = document["instances"]
            del instances["gone"]
            instances["new"] = dict(locals_["new"])
            instances["karsten"]["poll_interval"] = "200ms"
            document["log"] = {"level": "debug"}

        change(config, edit)
        assert cli(config, "reload").splitlines() == [
            "added      new", "changed    karsten", "removed    gone", "untouched  1",
        ]  # fmt: skip
        _idle(daemon, "nunes", "karsten", "new")
        opened = [event["instance"] for event in daemon.logged("opened")]
        assert sorted(opened) == ["gone", "karsten", "karsten", "new", "nunes"]
        assert daemon.request("GET", "/v1/instances/gone").status == 404
        daemon.wait_until(lambda: _series(daemon, "gone") == set())
        time.sleep(0.5)
        assert _series(daemon, "gone") == set(), "and nobody counts for it any more"
        lock = f"wpp-sync.{locals_['gone']['database']}"
        assert mirror.rows(locals_["gone"], f"SELECT IS_FREE_LOCK('{lock}')") == [["1"]]
        mirror.insert_messages(central, [99_999], instance="new")
        daemon.wait_until(lambda: mirror.local_ids(locals_["new"])[-1:] == [99_999])
        assert daemon.logged("batch"), "debug events are logged from here on"
        assert daemon.stop() == 0


def _series(daemon: DaemonProcess, instance: str) -> set[str]:
    """The metrics that /metrics has of an instance."""
    return {
        name
        for name, samples in daemon.metrics().items()
        if any(sample.labels.get("wpp_instance") == instance for sample in samples)
    }


def test_a_broken_configuration_is_refused_and_the_old_one_goes_on(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    config = write_config(central, {"nunes": local}, **QUICK)
    good = config.read_text()
    with DaemonProcess(config) as daemon:
        _idle(daemon)
        broken = [
            (good.replace("nunes:", "nunes:\n    colour: red"), "colour"),
            ("central: [", "config"),
            (good + "migrations: {directory: /nowhere/at/all}\n", "/nowhere/at/all"),
            (good.replace("127.0.0.1:0", "192.0.2.1:80"), "cannot listen on 192.0.2.1:80"),
            (good.replace("control.sock", "no/such/control.sock"), "cannot be made"),
        ]
        for text, word in broken:
            config.write_text(text)
            answer = daemon.request("POST", "/v1/reload", {})
            assert answer.status == 409, word
            assert word in answer.body["error"]["message"], answer.body
            daemon.hup()
            refusals = 2 * (broken.index((text, word)) + 1)
            daemon.wait_until(
                lambda n=refusals: len(daemon.logged("reload refused")) >= n  # type: ignore[misc]
            )
        assert len(daemon.logged("nothing was reset")) == len(broken)
        assert daemon.logged("reset") == []
        config.unlink()
        assert daemon.request("POST", "/v1/reload").status == 409
        config.write_text(good)
        assert daemon.request("POST", "/v1/reload").body["unchanged"] == 1
        mirror.insert_messages(central, range(11, 21))
        daemon.wait_until(lambda: mirror.watermarks(local)["messages"] == 20)
        assert len(daemon.logged("opened")) == 1, "its loop was never interrupted"
        assert daemon.metric("wpp_sync_instance_state", state="idle") == 1, (
            "the port is still there"
        )


def test_what_all_rest_on_and_the_doors_move_with_a_reload(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    config = write_config(central, {"nunes": local}, **QUICK)
    with DaemonProcess(config) as daemon:
        _idle(daemon)
        old = daemon.socket
        change(config, lambda document: document["control"].update(mode="0600"))
        cli(config, "reload")
        assert stat.S_IMODE(old.stat().st_mode) == 0o600
        moved = old.with_name("moved.sock")

        def edit(document: dict[str, Any]) -> None:
            document["control"]["socket"] = str(moved)
            document["central"]["max_connections"] = 3
            document["sync"] = {"batch_rows": 7}
            document["http"] = {"listen": None}

        change(config, edit)
        answer = daemon.request("POST", "/v1/reload", {})
        assert (answer.status, answer.body["changed"]) == (200, ["nunes"])
        daemon.socket = moved
        daemon.wait_until(lambda: not old.exists())
        # The file says a new place again: only who knows the old one can tell the daemon.
        change(config, lambda document: document["control"].update(socket=str(old)))
        nobody = run_cli("reload", "-c", config)
        assert nobody.returncode == 3
        assert "wpp-sync reload --socket OLD_PATH" in nobody.stderr
        assert cli(config, "reload", "--socket", str(moved)) == "untouched  1\n"
        daemon.wait_until(lambda: old.exists() and not moved.exists())
        change(config, lambda document: document["control"].update(socket=str(moved)))
        told = json.loads(cli(config, "reload", "--json", "--socket", str(old)))
        assert told == {"added": [], "changed": [], "removed": [], "unchanged": 1}
        daemon.wait_until(lambda: not old.exists())
        daemon.wait_until(lambda: len(daemon.logged("opened")) == 2)
        mirror.insert_messages(central, range(11, 61))
        daemon.wait_until(lambda: mirror.watermarks(local)["messages"] == 60)
        database = central["database"]
        # Whoever left has closed its connections to central.
        daemon.wait_until(
            lambda: (
                mirror.number(
                    central,
                    f"SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE DB='{database}'",
                )
                <= 3 + 1
            )
        )
        assert daemon.stop() == 0
        assert not moved.exists()
    assert mirror.differences(central, local) == ""


def test_files_that_hang_keep_neither_a_later_reload_nor_the_process(
    databases: Databases, write_config: WriteConfig, tmp_path: Path
) -> None:
    """Pipes that nobody writes to, in the place of a file system that does not answer."""
    config = write_config(databases.central, {"nunes": databases.local}, **QUICK)
    good = config.read_text()
    directory = tmp_path / "own"
    directory.mkdir()
    with DaemonProcess(config) as daemon:
        _idle(daemon)
        config.unlink()
        os.mkfifo(config)
        done = run_cli("reload", "--socket", daemon.socket, seconds=20)
        assert done.returncode == 2
        assert f"{config}: cannot be read: it is no regular file" in done.stderr
        config.unlink()
        config.write_text(good)
        cli(config, "reload")
        # What no check sees beforehand: it is under way when the process is to leave.
        os.mkfifo(directory / "2024-01-01-001-hangs.sql")
        change(config, lambda document: document.update(migrations={"directory": str(directory)}))
        hanging = subprocess.Popen(
            [sys.executable, "-m", "daemon.cli", "reload", "-c", str(config)],
            stderr=subprocess.DEVNULL, env=environment(),
        )  # fmt: skip
        daemon.wait_until(lambda: len(daemon.logged("asked")) == 3)
        assert daemon.state() == "idle"
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 10
        assert hanging.wait(10) != 0


def test_hup_reads_the_configuration_first(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    config = write_config(central, {"nunes": local}, signals={"sighup_reset": "none"}, **QUICK)
    with DaemonProcess(config) as daemon:
        _idle(daemon)

        def edit(document: dict[str, Any]) -> None:
            document["instances"]["new"] = dict(servers.new_local())
            document["signals"] = {"sighup_reset": ["chats"]}

        change(config, edit)
        daemon.hup()
        daemon.wait_until(
            lambda: ["chats"] in [event["entities"] for event in daemon.logged("reset")]
        )
        assert daemon.logged("reloaded")[-1]["added"] == ["new"]
        _idle(daemon, "nunes", "new")


# --- the socket -----------------------------------------------------------------------------------


def stream(path: Path, target: str, body: object) -> list[dict[str, Any]]:
    """The lines that a verb answers with."""
    content = json.dumps(body).encode()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.settimeout(60)
        client.sendall(
            f"POST {target} HTTP/1.0\r\nHost: d\r\nAccept: application/x-ndjson\r\n"
            f"Content-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    head, _, lines = answer.partition(b"\r\n\r\n")
    assert b"application/x-ndjson" in head, answer
    return [json.loads(line) for line in lines.splitlines()]


def test_long_work_tells_its_progress_as_lines(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    config = write_config(central, {"nunes": local}, **QUICK)
    with DaemonProcess(config) as daemon:
        _idle(daemon)
        cli(config, "throttle", "nunes", "100")
        mirror.insert_messages(central, range(11, 311))
        target = "/v1/instances/nunes"
        *progress, last = stream(daemon.socket, f"{target}/sync", {})
        assert last["done"]["rows"]["messages"] > 0
        assert progress, "it took seconds, at 100 rows a second"
        assert {each["progress"]["instance"] for each in progress} == {"nunes"}
        written = [each["progress"]["rows_written"] for each in progress]
        assert all(one <= two for one, two in pairwise(written))
        *_, last = stream(daemon.socket, f"{target}/reconcile", {"entity": "messages"})
        assert last["done"]["differences"] == 0
        *_, last = stream(daemon.socket, f"{target}/resync", {})
        assert last == {
            "done": {"resync": ["messages", "chats"], "finished": True, "unfinished": None}
        }
        assert not any(each["resync"] for each in daemon.status()["sync_state"])
        *_, last = stream(daemon.socket, f"{target}/reconcile", {"entity": "nothing"})
        assert (last["status"], last["error"]["code"]) == (400, "usage")


def test_who_goes_away_ends_the_work(databases: Databases, write_config: WriteConfig) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    config = write_config(central, {"nunes": local}, defaults={"poll_interval": "1h"})
    with DaemonProcess(config) as daemon:
        _idle(daemon)
        cli(config, "throttle", "nunes", "50")
        mirror.insert_messages(central, range(11, 5_011))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(daemon.socket))
            client.sendall(
                b"POST /v1/instances/nunes/sync HTTP/1.1\r\nHost: d\r\n"
                b"Accept: application/x-ndjson\r\n\r\n"
            )
            client.recv(10)
            daemon.wait_until(lambda: mirror.watermarks(local)["messages"] > 60)
        # 5,000 rows would take 100 s: the pass ends long before, and others get their turn.
        began = time.monotonic()
        cli(config, "pause", "nunes")
        assert time.monotonic() - began < 9
        assert 10 < mirror.watermarks(local)["messages"] < 2_000


def test_changing_requests_are_logged_with_who_asked(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local}, **QUICK)
    with DaemonProcess(config) as daemon:
        _idle(daemon)
        daemon.request("POST", "/v1/instances/nunes/reset", {"entity": "messages"})
        (asked,) = daemon.logged("asked")
        assert asked["path"] == "/v1/instances/nunes/reset"
        assert (asked["pid"], asked["uid"], asked["gid"]) == (
            os.getpid(), os.getuid(), os.getgid(),
        )  # fmt: skip


# --- the service manager --------------------------------------------------------------------------


def test_the_service_manager_hears_all_of_it_in_order(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(databases.central, {"nunes": databases.local}, **QUICK)
    document = yaml.safe_load(config.read_text())
    path = Path(document["control"]["socket"]).with_name("notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    monkeypatch.setenv("WATCHDOG_USEC", "1500000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    with NotifySocket(path) as manager, DaemonProcess(config) as daemon:
        at = manager.wait_for(lambda line: line == "READY=1")
        assert [line for line in manager.lines[: at - 1] if "WATCHDOG" not in line] == []
        at = manager.wait_for(lambda line: line.startswith("STATUS=1 instance"), after=at)
        at = manager.wait_for(lambda line: line == "WATCHDOG=1", after=at)
        at = manager.wait_for(lambda line: line == "WATCHDOG=1", after=at)
        _idle(daemon)
        cli(config, "reload")
        at = manager.wait_for(lambda line: line == "RELOADING=1", after=at)
        at = manager.wait_for(lambda line: line.startswith("MONOTONIC_USEC="), after=at)
        at = manager.wait_for(lambda line: line == "READY=1", after=at)
        # A process that hangs is silent, longer than the watchdog waits.
        daemon.pause()
        time.sleep(0.2)
        before = len(manager.received)
        time.sleep(1.7)
        assert len(manager.received) == before
        daemon.resume()
        at = manager.wait_for(lambda line: line == "WATCHDOG=1", after=before)
        assert daemon.stop() == 0
        manager.wait_for(lambda line: line == "STOPPING=1", after=at)
    beats = [moment for moment, line in manager.received if line == "WATCHDOG=1"]
    assert len(beats) >= 3


def test_a_loop_that_hangs_starves_the_watchdog(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    fast = {"poll_interval": "100ms", "statement_timeout": "50ms"}
    instances = {"nunes": databases.local, "hung": servers.new_local()}
    config = write_config(databases.central, instances, defaults=fast)
    path = Path(yaml.safe_load(config.read_text())["control"]["socket"]).with_name("notify")
    environ = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "1000000"}
    with NotifySocket(path) as manager:
        hung = subprocess.Popen(
            [sys.executable, "-m", "tests.hung_child", str(config)],
            env=environment(environ), stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            fed = manager.wait_for(lambda line: line == "WATCHDOG=1")
            for _ in range(HEALTHY_PASSES):  # whoever has nothing to do takes no turn
                mirror.insert_message(databases.central, None, "hung")
                time.sleep(0.5)
            at = manager.wait_for(lambda line: line == "STATUS=stalled: hung", after=fed)
            time.sleep(2.0)
            assert "WATCHDOG=1" not in manager.lines[at:], "longer than the watchdog waits"
            assert len(manager.lines) > at + 2, "the process itself lives"
        finally:
            hung.kill()
            hung.wait()


def test_the_service_manager_gives_the_last_batch_its_time(
    databases: Databases, write_config: WriteConfig
) -> None:
    """However long sync.shutdown_timeout is: TimeoutStopSec= is not what ends it."""
    central, local = databases
    config = write_config(central, {"nunes": local}, **QUICK)
    path = Path(yaml.safe_load(config.read_text())["control"]["socket"]).with_name("notify")
    environ = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "1500000"}
    through = ("env", *(f"{name}={value}" for name, value in environ.items()))
    with NotifySocket(path) as manager, DaemonProcess(config, through) as daemon:
        _idle(daemon)
        mirror.insert_message(central, 1)
        daemon.wait_until(lambda: mirror.local_ids(local) == [1])
        with mirror.Session(local) as holder:
            holder.execute("BEGIN")
            holder.execute("SELECT * FROM wpp_sync_state WHERE entity = 'messages' FOR UPDATE")
            mirror.insert_messages(central, range(2, 11))
            waits = (
                "SELECT COUNT(*) FROM information_schema.processlist WHERE command = 'Query'"
                " AND info LIKE '%FOR UPDATE%' AND id <> CONNECTION_ID()"
            )
            daemon.wait_until(lambda: mirror.number(local, waits) > 0)
            daemon.terminate()
            at = manager.wait_for(lambda line: line == "STOPPING=1")
            for _ in range(4):
                at = manager.wait_for(lambda line: line == EXTEND, after=at)
            assert daemon.running
            holder.execute("COMMIT")
        assert daemon.wait() == 0
    assert mirror.local_ids(local) == list(range(1, 11))


# --- the shell ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("wpp-sync re", ["reset", "resync", "reconcile", "resume", "reload"]),
        ("wpp-sync sync n", ["natal", "nunes"]),
        ("wpp-sync quarantine karsten d", ["discard"]),
        ("wpp-sync pause x", []),
        ("wpp-sync throttle n", ["natal", "nunes"]),
        ("wpp-sync pause nunes --entity c", ["chats", "contacts", "contact_sectors"]),
        ("wpp-sync reset nunes m", ["messages"]),
    ],
)
def test_the_shell_completes_verbs_and_instances(
    databases: Databases, write_config: WriteConfig, words: str, expected: list[str]
) -> None:
    local = databases.local
    names = {name: {**local, "database": name} for name in ("natal", "nunes", "karsten")}
    config = write_config(databases.central, names)
    done = run_cli(environ={
        "_WPP_SYNC_COMPLETE": "bash_complete", "WPP_SYNC_CONFIG": str(config),
        "COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")),
    })  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.split() == [f"plain,{word}" for word in expected]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(shell: str) -> None:
    done = run_cli("completion", shell)
    assert done.returncode == 0
    assert "_WPP_SYNC_COMPLETE" in done.stdout


def test_operators_need_no_password_where_a_daemon_runs(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local}, **QUICK)
    with DaemonProcess(config) as daemon:
        _idle(daemon)
        # Whoever reads this file may not read the passwords, and has no such variable.
        change(config, lambda document: document["central"].update(password="${NOT_SET_HERE}"))
        for verb in (["status"], ["status", "nunes", "--json"], ["sync", "nunes"],
                     ["reset", "nunes", "all"], ["pause", "--all"], ["resume", "--all"],
                     ["reconcile", "nunes", "--dry-run"], ["quarantine", "nunes"],
                     ["throttle", "nunes", "off"]):  # fmt: skip
            cli(config, *verb)
        refused = run_cli("reload", "-c", config)
        assert refused.returncode == 2
        assert "NOT_SET_HERE" in refused.stderr
    assert run_cli("status", "-c", config).returncode == 2, "now it has to be read itself"
