"""`wpp-sync migrate`, and a daemon that migrates: as an operator meets them."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon.migrations import files
from tests import fields, mirror
from tests.daemon_process import COMMAND, DaemonProcess, environment, run_cli

if TYPE_CHECKING:
    from tests.conftest import Databases, Servers

WriteConfig = Callable[..., Path]

IDS = [migration.id for migration in files.discover([files.SHIPPED])]
PRIORITY = "2099-12-04-001-add-priority-column"
ADD_PRIORITY = (
    "-- Add priority column to wpp_chats\n"
    "ALTER TABLE wpp_chats ADD COLUMN priority VARCHAR(20) NULL DEFAULT 'NORMAL';\n"
)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The operator's directory of migrations."""
    directory = tmp_path / "own"
    directory.mkdir()
    return directory


def test_a_dry_run_then_the_run_then_the_list(
    databases: Databases, write_config: WriteConfig, own: Path
) -> None:
    central, local = databases
    mirror.run(local, fields.STATES["everything"])
    (own / f"{PRIORITY}.sql").write_text(ADD_PRIORITY)
    config = write_config(central, {"nunes": local}, migrations={"directory": str(own)})
    tables = mirror.rows(local, "SHOW TABLES")
    dry = run_cli("migrate", "nunes", "--dry-run", "-c", config)
    assert dry.returncode == 0, dry.stderr
    assert mirror.rows(local, "SHOW TABLES") == tables
    assert f"{len(IDS) + 1} would run" in dry.stdout
    assert "stands already: CREATE TABLE IF NOT EXISTS wpp_messages" in dry.stdout
    assert "would run (instant): ALTER TABLE wpp_chats ADD COLUMN bot_id INT NULL" in dry.stdout
    assert "copies the table: writers wait, about 3 rows" in dry.stdout
    assert mirror.rows(local, "SELECT COUNT(*) FROM wpp_sync_migrations") == [["1"]]

    done = run_cli("migrate", "-c", config)
    assert done.returncode == 0, done.stderr
    assert PRIORITY in done.stdout
    again = run_cli("migrate", "nunes", "-c", config)
    assert (again.returncode, again.stdout) == (0, "nunes  nothing to do\n")
    dry = run_cli("migrate", "nunes", "--dry-run", "-c", config)
    assert (dry.returncode, dry.stdout) == (0, "nunes  nothing to do\n")

    listed = run_cli("migrate", "nunes", "--list", "--json", "-c", config)
    (found,) = json.loads(listed.stdout)
    states = {row["id"]: row["state"] for row in found["migrations"]}
    assert states.pop("2025-06-01-001-create-everything") == "not ours"
    assert states == dict.fromkeys([*IDS, PRIORITY], "applied")
    shown = run_cli("migrate", "nunes", "--list", "-c", config)
    assert shown.stdout.startswith("nunes "), "whose they are is what `head -1` shows"
    assert "Add priority column to wpp_chats" in shown.stdout
    status = run_cli("status", "nunes", "-c", config)
    assert "Add priority column to wpp_chats" in status.stdout


def test_one_instance_that_fails_does_not_keep_the_others(
    servers: Servers, databases: Databases, write_config: WriteConfig, own: Path
) -> None:
    central, local = databases
    bad, gone = servers.new_local(), {**local, "database": "no_such_database"}
    mirror.run(bad, "CREATE TABLE wpp_mine (a INT); INSERT INTO wpp_mine VALUES (1)")
    (own / "2099-01-01-001-mine.sql").write_text("-- Mine\nCREATE TABLE wpp_mine (a BIGINT)")
    instances = {"bad": bad, "gone": gone, "nunes": local}
    config = write_config(central, instances, migrations={"directory": str(own)})
    dry = run_cli("migrate", "--dry-run", "-c", config)
    assert dry.returncode == 3
    assert "would be refused: table wpp_mine stands already, but differs: column a" in dry.stdout
    done = run_cli("migrate", "-c", config)
    assert done.returncode == 3, "gone cannot be reached"
    assert "column a is int(11)" in done.stderr or "column a is int " in done.stderr
    assert "Traceback" not in done.stderr
    assert (
        f"nunes  {len(IDS) + 1} applied: {', '.join([*IDS, '2099-01-01-001-mine'])}\n"
        in done.stdout
    )
    assert mirror.rows(bad, "SELECT a FROM wpp_mine") == [["1"]]
    assert run_cli("migrate", "bad", "-c", config).returncode == 1
    listed = json.loads(run_cli("migrate", "bad", "--list", "--json", "-c", config).stdout)
    mine = listed[0]["migrations"][-1]
    assert (mine["state"], mine["statement"], mine["statements"]) == ("half applied", 0, 1)
    assert "wpp_mine stands already" in mine["error"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nobody"], "there is no instance 'nobody'"),
        (["--list", "--dry-run"], "exclude each other"),
        (["--what"], "No such option"),
    ],
)
def test_what_cannot_be(
    databases: Databases, write_config: WriteConfig, arguments: list[str], said: str
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    done = run_cli("migrate", *arguments, "-c", config)
    assert done.returncode == 2
    assert said in done.stderr


def test_wrong_files_stop_everything_before_anything_is_touched(
    databases: Databases, write_config: WriteConfig, own: Path
) -> None:
    (own / "add-priority.sql").write_text(ADD_PRIORITY)
    (own / f"{IDS[3]}.sql").write_text(ADD_PRIORITY)
    (own / "2099-12-01-001-empty.sql").write_text("")
    (own / "2099-12-01-002-commit.sql").write_text("-- x\nCOMMIT")
    sections = {"migrations": {"directory": str(own)}}
    config = write_config(databases.central, {"nunes": databases.local}, **sections)
    for verb in (["migrate"], ["run"], ["sync", "nunes"]):
        done = run_cli(*verb, "-c", config)
        assert done.returncode == 2
        assert done.stderr.count("error: ") == 4
        assert "is taken by" in done.stderr
    assert mirror.rows(databases.local, "SHOW TABLES") == []


def test_a_running_daemon_takes_up_a_new_file_when_asked(
    databases: Databases, write_config: WriteConfig, own: Path
) -> None:
    central, local = databases
    config = write_config(central, {"nunes": local}, migrations={"directory": str(own)})
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")
        (own / f"{PRIORITY}.sql").write_text(ADD_PRIORITY)
        done = run_cli("migrate", "-c", config)
        assert (done.returncode, done.stdout) == (0, f"nunes  1 applied: {PRIORITY}\n"), done.stderr
        assert mirror.rows(local, "SHOW COLUMNS FROM wpp_chats LIKE 'priority'")
        (own / "2099-12-05-001-wrong.sql").write_text("")
        assert run_cli("migrate", "-c", config).returncode == 2
        answer = daemon.request("POST", "/v1/instances/nunes/migrate", {})
        assert answer.status == 409
        assert "contains no statement" in answer.body["error"]["message"]
        (status,) = daemon.request("GET", "/v1/status").body["instances"]
    assert status["pending_migrations"] == []
    assert status["migrations"][-1]["id"] == PRIORITY


def test_another_daemon_that_holds_the_lock_is_named(
    databases: Databases, write_config: WriteConfig, own: Path, tmp_path: Path
) -> None:
    central, local = databases
    config = write_config(central, {"nunes": local})
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")
        (own / f"{PRIORITY}.sql").write_text(ADD_PRIORITY)
        other = tmp_path / "other.yaml"
        text = config.read_text().replace("control.sock", "other.sock")
        other.write_text(f"{text}\nmigrations: {{directory: {own}}}\n")
        done = run_cli("migrate", "-c", other)
    assert done.returncode == 1
    assert "another wpp-sync holds the lock" in done.stderr
    assert mirror.rows(local, "SHOW COLUMNS FROM wpp_chats LIKE 'priority'") == []


def _ready(daemon: DaemonProcess, count: int) -> bool:
    """Whether each of its instances either copies or stands by."""
    try:
        found = daemon.request("GET", "/v1/status").body["instances"]
    except OSError:
        return False  # not listening yet
    return [each["state"] in {"idle", "standby"} for each in found] == [True] * count


@pytest.mark.timeout(3600)
def test_two_daemons_that_start_at_once_apply_each_migration_once(
    servers: Servers, databases: Databases, write_config: WriteConfig,
    pytestconfig: pytest.Config,
) -> None:  # fmt: skip
    times, count = (50, 20) if pytestconfig.getoption("--long") else (2, 6)
    central = databases.central
    for _ in range(times):
        locals_ = {f"i{number}": servers.new_local() for number in range(count)}
        config = write_config(central, locals_)
        second = config.with_name("second.yaml")
        second.write_text(config.read_text().replace("control.sock", "second.sock"))
        daemons = [DaemonProcess(config), DaemonProcess(second)]
        logs = [path.with_suffix(".log").open("w+") for path in (config, second)]
        children = [
            subprocess.Popen(
                [*COMMAND, "run", "-c", str(path)], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=log, text=True, env=environment(),
            )
            for path, log in zip((config, second), logs, strict=True)
        ]  # fmt: skip
        try:
            deadline = time.monotonic() + 180
            while not all(_ready(each, len(locals_)) for each in daemons):
                assert time.monotonic() < deadline
                time.sleep(0.1)
        finally:
            for child in children:
                child.terminate()
            codes = [child.wait(timeout=60) for child in children]
        assert codes == [0, 0]
        for log in logs:
            log.seek(0)
            events = [json.loads(line) for line in log]
            log.close()
            assert [e for e in events if e["level"] in {"error", "warning", "critical"}] == []
        for local in locals_.values():
            record = mirror.rows(local, "SELECT id FROM wpp_sync_migrations ORDER BY id")
            assert [row[0] for row in record] == IDS
            states = mirror.rows(
                local,
                "SELECT DISTINCT state, statement - statements FROM wpp_sync_migration_journal",
            )
            assert states == [["done", "0"]]
            mirror.run({**local, "database": "mysql"}, f"DROP DATABASE {local['database']}")


def test_the_service_manager_is_told_and_asked_for_time(
    databases: Databases, write_config: WriteConfig, own: Path, tmp_path: Path
) -> None:
    """A statement that takes its time: the daemon says so, and finishes it before it leaves."""
    central, local = databases
    (own / "2099-12-06-001-slow.sql").write_text("-- Slow\nDO SLEEP(8);\nCREATE TABLE b (a INT);")
    config = write_config(
        central, {"nunes": local}, migrations={"directory": str(own)},
        sync={"shutdown_timeout": "1s"},
    )  # fmt: skip
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind(str(tmp_path / "n"))
    listening.settimeout(15)
    told: list[str] = []
    with (
        listening,
        subprocess.Popen(
            [*COMMAND, "run", "-c", str(config)], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=environment({"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "3000000"}),
        ) as child,
    ):  # fmt: skip
        # For this statement, not for one of those before it on a busy machine.
        while not any("EXTEND_TIMEOUT_USEC=" in each and "001-slow" in each for each in told):
            told.append(listening.recv(4096).decode())
        began = time.monotonic()
        child.terminate()
        while not any("STOPPING=1" in each.split("\n") for each in told):
            told.append(listening.recv(4096).decode())
        assert child.wait(timeout=30) == 0
        assert time.monotonic() - began > 2, "the statement was finished first"
    assert told[0].startswith("READY=1")
    assert any("WATCHDOG=1" in each for each in told)
    assert any("STATUS=migrating 2099-12-06-001-slow: statement 1 of 2" in each for each in told)
    assert mirror.rows(local, "SHOW TABLES LIKE 'b'") == []
    assert run_cli("sync", "nunes", "-c", config).returncode == 0
    assert mirror.rows(local, "SHOW TABLES LIKE 'b'") == [["b"]]
