"""The one-shot verbs of the command line, with and without a daemon."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daemon.demo.central import seed_bulk, seed_varied
from daemon.migrations import files
from tests import mirror
from tests.daemon_process import COMMAND, DaemonProcess, environment, run_cli

if TYPE_CHECKING:
    from tests.conftest import Databases, ServerConfig, Servers

WriteConfig = Callable[..., Path]

STATUS_KEYS = {"instance", "state", "migrations", "sync_state", "error"}
MIGRATION_KEYS = {"id", "description", "executed_at"}
ENTITY_KEYS = {
    "entity", "last_synced_id", "last_synced_at", "settled_id", "position", "head", "lag_rows",
    "lag_seconds", "rewound", "quarantined",
}  # fmt: skip
ISO_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
QUICK = {"defaults": {"poll_interval": "100ms"}}


@pytest.fixture
def seeded(databases: Databases) -> Databases:
    mirror.seed(databases.central, seed_varied(["nunes", "karsten"], messages=600))
    return databases


def test_sync_copies_everything_once_and_then_nothing(
    seeded: Databases, write_config: WriteConfig
) -> None:
    central, local = seeded
    config = write_config(central, {"nunes": local})

    first = run_cli("sync", "nunes", "-c", config)

    assert first.returncode == 0, first.stderr
    messages, chats = (len(mirror.central_ids(central, entity=e)) for e in mirror.INCREMENTAL)
    assert f"messages {messages:,}, chats {chats:,} rows" in first.stdout
    assert first.stderr == ""
    assert mirror.differences(central, local) == ""
    second = run_cli("sync", "nunes", "-c", config)
    assert second.returncode == 0
    assert "messages 0, chats 0 rows" in second.stdout


def test_what_runs_once_imports_nothing_that_only_a_daemon_or_a_terminal_needs(
    seeded: Databases, write_config: WriteConfig
) -> None:
    central, local = seeded
    config = write_config(central, {"nunes": local})
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMAND[1:], "sync", "nunes", "-c", str(config)],
        check=False, capture_output=True, text=True, env=environment(), timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "daemon.app" in imported
    assert not imported & {"aiohttp", "structlog", "rich", "jinja2"}


def test_sync_takes_several_instances_or_all_of_them(
    seeded: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    central, nunes = seeded
    karsten, ondas = servers.new_local(), servers.new_local()
    config = write_config(central, {"nunes": nunes, "karsten": karsten, "ondas": ondas})

    two = run_cli("-c", config, "sync", "karsten", "nunes", "karsten")

    assert two.returncode == 0
    assert [line.split()[0] for line in two.stdout.splitlines()] == ["karsten", "nunes"]
    every = run_cli("sync", "--all", "-c", config)
    assert [line.split()[0] for line in every.stdout.splitlines()] == ["nunes", "karsten", "ondas"]
    assert mirror.differences(central, nunes, "nunes") == ""
    assert mirror.differences(central, karsten, "karsten") == ""
    assert mirror.local_ids(ondas) == []


def test_sync_leaves_out_what_is_skipped_and_copies_only_what_is_named(
    seeded: Databases, write_config: WriteConfig
) -> None:
    central, local = seeded
    config = write_config(central, {"nunes": local})

    skipped = run_cli("sync", "--all", "--skip", "messages", "-c", config)

    assert skipped.returncode == 0
    assert "messages" not in skipped.stdout
    assert mirror.local_ids(local, "messages") == []
    assert mirror.differences(central, local, entities=["chats"]) == ""
    only = run_cli("sync", "nunes", "--only", "messages", "-c", config)
    assert only.returncode == 0
    assert "chats" not in only.stdout
    assert mirror.differences(central, local) == ""


def test_what_is_switched_off_does_not_keep_the_others(
    seeded: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    central, local = seeded
    off = {**servers.new_local(), "enabled": False}
    config = write_config(central, {"nunes": local, "karsten": off})
    for verb in (["sync"], ["throttle"], ["pause"], ["resume"]):
        pace = ["off"] if verb == ["throttle"] else []
        done = run_cli(*verb, "--all", *pace, "-c", config)
        assert done.returncode == 0, done.stderr
        assert [line.split()[0] for line in done.stdout.splitlines()] == ["nunes"]
    with DaemonProcess(config) as daemon:
        for _ in range(2):  # through the daemon, and without
            for word in ("sync", "status", "pause"):
                named = run_cli(word, "karsten", "-c", config)
                assert named.returncode == 2
                assert "'karsten' is disabled in the configuration" in named.stderr
            daemon.stop()


@pytest.mark.parametrize("with_daemon", [True, False])
def test_every_verb_has_one_document_for_machines(
    databases: Databases, write_config: WriteConfig, with_daemon: bool
) -> None:
    central, local = databases
    mirror.insert_message(central, 1, body="'good'")
    config = write_config(central, {"nunes": local}, sync={"settle": "1s"}, **QUICK)
    assert run_cli("sync", "nunes", "-c", config).returncode == 0
    mirror.run(local, "ALTER TABLE wpp_messages MODIFY body VARCHAR(20)")
    mirror.insert_message(central, 70_001, body="REPEAT('x', 21)")
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")
        if not with_daemon:
            daemon.stop()

        def told(*verb: str, code: int = 0) -> Any:
            done = run_cli(*verb, "--json", "-c", config)
            assert done.returncode == code, done.stdout + done.stderr
            return json.loads(done.stdout)

        (synced,) = told("sync", "--all", "--skip", "chats")["instances"]
        assert synced["instance"] == "nunes"
        assert set(synced) >= {"rows", "late", "quarantined", "errors", "interrupted", "seconds"}
        assert (list(synced["rows"]), synced["interrupted"]) == (["messages"], False)
        assert told("quarantine", "nunes", "retry") == {
            "instance": "nunes", "tried": 1, "left": 1, "not_tried": {},
        }  # fmt: skip
        assert told("quarantine", "nunes", "discard") == {"instance": "nunes", "discarded": 1}
        (row,) = told("quarantine", "nunes")
        assert row["id"] == 70_001
        for at in ("first_tried_at", "last_tried_at", "discarded_at"):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", row[at]), at
        assert told("reset", "nunes", "chats") == {"instance": "nunes", "reset": ["chats"]}
        resynced = told("resync", "nunes", "--wait", code=0 if with_daemon else 130)
        assert resynced.items() >= {
            "instance": "nunes", "resync": ["messages", "chats"], "finished": with_daemon,
        }.items()  # fmt: skip
        (ordered,) = told("throttle", "nunes", "900")["instances"]
        assert (ordered["rows_per_second"], ordered["at_once"]) == (900, with_daemon)
        (ordered,) = told("pause", "--all", "--reason", "—")["instances"]
        assert ordered["paused"]["reason"] == "—"
        (refused,) = told("sync", "nunes", code=1)["instances"]
        assert (refused["instance"], refused["error"]["code"]) == ("nunes", "paused")
        assert refused["error"]["hint"] == "wpp-sync resume nunes"
        assert told("resume", "nunes")["instances"][0]["paused"] is None
        error = told("reset", "nobody", "all", code=2)["error"]
        assert error == {
            "code": "usage", "message": "there is no instance 'nobody'", "hint": "instances: nunes",
        }  # fmt: skip
        checked = told("check")
        assert checked["failed"] == 0
        assert checked["findings"][0].keys() >= {"level", "where", "text", "hint"}
        if with_daemon:
            assert told("reload")["unchanged"] == 1


def test_sync_goes_on_with_the_other_instances_when_one_fails(
    seeded: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    central, local = seeded
    absent: ServerConfig = {**servers.new_local(), "port": 1}
    config = write_config(central, {"karsten": absent, "nunes": local})

    done = run_cli("sync", "--all", "-c", config)

    assert done.returncode == 3
    assert "local karsten: cannot connect to 127.0.0.1:1" in done.stderr
    assert mirror.differences(central, local) == ""


def test_sync_asks_the_daemon_that_holds_the_lock(
    seeded: Databases, write_config: WriteConfig
) -> None:
    central, local = seeded
    config = write_config(central, {"nunes": local}, defaults={"poll_interval": "1h"})
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")
        mirror.insert_messages(central, range(90_000, 90_050))

        done = run_cli("sync", "nunes", "--skip", "chats", "-c", config)

        assert done.returncode == 0, done.stderr
        assert "messages 50 rows" in done.stdout
        assert mirror.differences(central, local) == ""
        assert daemon.metric("wpp_sync_rows_total", entity="messages") == len(
            mirror.local_ids(local)
        ), "the daemon has copied them"


def test_sync_says_who_holds_the_lock_when_it_is_another_daemon(
    seeded: Databases, write_config: WriteConfig, tmp_path: Path
) -> None:
    central, local = seeded
    config = write_config(central, {"nunes": local})
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_text(config.read_text().replace("control.sock", "elsewhere.sock"))
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")

        done = run_cli("sync", "nunes", "-c", elsewhere)

    assert done.returncode == 1
    assert "another wpp-sync holds the lock" in done.stderr
    who = f"; the last to copy it: pid {daemon.pid} on host {socket.gethostname()}, version "
    assert who in done.stderr
    assert "hint:" in done.stderr


def _expect_status(found: dict[str, Any]) -> None:
    assert set(found) >= STATUS_KEYS
    assert len(found["migrations"]) >= 10
    for migration in found["migrations"]:
        assert set(migration) >= MIGRATION_KEYS
        assert ISO_UTC.fullmatch(migration["executed_at"])
    assert [entity["entity"] for entity in found["sync_state"]] == ["messages", "chats"]
    for entity in found["sync_state"]:
        assert set(entity) >= ENTITY_KEYS
        assert ISO_UTC.fullmatch(entity["last_synced_at"])
        assert entity["rewound"] is False
        assert entity["quarantined"] == 0


def test_status_with_and_without_a_daemon(
    seeded: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    central, nunes = seeded
    config = write_config(central, {"nunes": nunes, "karsten": servers.new_local()}, **QUICK)
    highest = max(mirror.central_ids(central))
    with DaemonProcess(config) as daemon:
        for name in ("nunes", "karsten"):
            daemon.wait_until(lambda name=name: daemon.state(name) == "idle")  # type: ignore[misc]

        one = run_cli("status", "nunes", "--json", "-c", config)

        assert one.returncode == 0, one.stderr
        live = json.loads(one.stdout)
        _expect_status(live)
        assert live["state"] == "idle"
        assert live["error"] is None
        assert live["sync_state"][0]["last_synced_id"] == highest
        assert live["sync_state"][0]["head"] == live["sync_state"][0]["position"] >= highest
        assert live["sync_state"][0]["lag_rows"] == 0
        every = run_cli("status", "--json", "-c", config)
        assert [each["instance"] for each in json.loads(every.stdout)["instances"]] == [
            "nunes",
            "karsten",
        ]
        table = run_cli("status", "-c", config)
        assert f"{highest:,}" in table.stdout
        assert "read from the databases" not in table.stdout
        detail = run_cli("status", "nunes", "-c", config)
        assert "2026-02-03-001-add-bot-id-column" in detail.stdout
        assert "Add bot_id column to wpp_chats table" in detail.stdout
        daemon.stop()

    stored = run_cli("status", "nunes", "--json", "-c", config)
    assert stored.returncode == 0
    without = json.loads(stored.stdout)
    _expect_status(without)
    assert without["sync_state"][0]["last_synced_id"] == highest
    assert without["migrations"] == live["migrations"]
    assert without["error"]["code"] == "no_copier"
    assert set(without["error"]) == {"code", "message", "hint", "since"}
    assert without["state"] == "standby"
    table = run_cli("status", "-c", config)
    assert table.returncode == 0
    assert "read from the databases" in table.stdout
    assert re.search(r"^nunes +no copier ", table.stdout, re.MULTILINE)
    assert "standby" not in table.stdout
    assert f"{highest:,}" in table.stdout


def test_status_of_a_database_that_was_never_synced(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})

    done = run_cli("status", "nunes", "--json", "-c", config)

    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found["migrations"] == []
    assert [entity["last_synced_at"] for entity in found["sync_state"]] == [None, None]
    assert mirror.rows(databases.local, "SHOW TABLES") == [], "a status changes nothing"


@pytest.mark.parametrize("with_daemon", [True, False])
def test_reset_has_the_entity_copied_again(
    seeded: Databases, write_config: WriteConfig, with_daemon: bool
) -> None:
    central, local = seeded
    config = write_config(central, {"nunes": local}, defaults={"poll_interval": "1h"})
    assert run_cli("sync", "nunes", "-c", config).returncode == 0
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")
        if not with_daemon:
            daemon.stop()
        chats_before = mirror.watermarks(local)["chats"]
        mirror.run(local, "UPDATE wpp_messages SET body = 'spoilt'; UPDATE wpp_chats SET type = ''")

        done = run_cli("reset", "nunes", "messages", "-c", config)

        assert done.returncode == 0, done.stderr
        assert "messages" in done.stdout
        if with_daemon:
            daemon.wait_until(
                lambda: mirror.differences(central, local, entities=["messages"]) == ""
            )
            assert daemon.metric("wpp_sync_resets_total", trigger="control") == 1
        else:
            assert mirror.watermarks(local) == {"messages": 0, "chats": chats_before}
            assert run_cli("sync", "nunes", "-c", config).returncode == 0
            assert mirror.differences(central, local, entities=["messages"]) == ""
    assert mirror.differences(central, local, entities=["chats"]) != "", "chats were not reset"
    assert run_cli("reset", "nunes", "all", "-c", config).returncode == 0
    assert run_cli("sync", "nunes", "-c", config).returncode == 0
    assert mirror.differences(central, local) == ""


@pytest.mark.parametrize("with_daemon", [True, False])
def test_resync_removes_what_central_does_not_have(
    seeded: Databases, write_config: WriteConfig, with_daemon: bool
) -> None:
    central, local = seeded
    config = write_config(central, {"nunes": local}, sync={"settle": "1s"}, **QUICK)
    assert run_cli("sync", "nunes", "-c", config).returncode == 0
    gone = mirror.local_ids(local)[50]
    mirror.run(central, f"DELETE FROM messages WHERE id = {gone}")
    mirror.run(local, "UPDATE wpp_chats SET type = ''")
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")
        if not with_daemon:
            daemon.stop()
        done = run_cli("resync", "nunes", "-c", config)
        assert done.returncode == 0, done.stderr
        if not with_daemon:
            daemon.start()
        daemon.wait_until(lambda: mirror.differences(central, local) == "")
        assert gone not in mirror.local_ids(local)
        daemon.wait_until(lambda: not any(e["resync"] for e in daemon.status()["sync_state"]))


def test_check_tells_what_it_has_looked_at(seeded: Databases, write_config: WriteConfig) -> None:
    central, local = seeded
    config = write_config(central, {"nunes": local})

    before = run_cli("check", "-c", config)

    assert before.returncode == 0, before.stdout
    assert f"ok    config  {config}: 1 instances" in before.stdout
    assert "migrations will run at the next start" in before.stdout
    assert mirror.rows(local, "SHOW TABLES") == [], "a check changes nothing"
    assert run_cli("sync", "nunes", "-c", config).returncode == 0
    after = run_cli("check", "-c", config)
    assert after.returncode == 0, after.stdout
    for words in (
        r"ok +central  connected, 10\.11",
        r"note +central  the account may do more than SELECT",
        r"ok +central messages  28 columns, highest id",
        rf"ok +local nunes  {len(files.discover([files.SHIPPED]))} migrations in effect",
        r"ok +local nunes  messages: 28 columns copied",
        r"messages: a batch walks along PRIMARY \(EXPLAIN: range\)",
        r"note +local nunes  chats: wallet_id, schedule_id, priority of central chats not copied",
        r"0 failed",
    ):
        assert re.search(words, after.stdout), f"{words}\n{after.stdout}"


def test_version_and_help_need_no_configuration(tmp_path: Path) -> None:
    told = run_cli("version", cwd=tmp_path)
    assert (told.returncode, told.stdout) == (0, f"wpp-sync {version('wpp-sync')}\n")
    for arguments in (["--help"], ["-h"]):
        overview = run_cli(*arguments, cwd=tmp_path)
        assert overview.returncode == 0
        for verb in ("run", "sync", "status", "reset", "resync", "check", "demo", "version"):
            assert re.search(rf"^  {verb} ", overview.stdout, re.MULTILINE)
        assert "Exit codes: 0 done, 1 failed" in " ".join(overview.stdout.split())
    for verb in ("run", "sync", "status", "reset", "resync", "check", "demo", "version"):
        page = run_cli(verb, "--help", cwd=tmp_path)
        assert page.returncode == 0
        assert page.stdout.startswith("Usage:")


def test_the_configuration_is_found_in_the_environment_and_beside_us(
    seeded: Databases, write_config: WriteConfig, tmp_path: Path
) -> None:
    config = write_config(seeded.central, {"nunes": seeded.local})
    by_variable = run_cli("status", environ={"WPP_SYNC_CONFIG": str(config)}, cwd=Path("/"))
    assert by_variable.returncode == 0, by_variable.stderr
    assert run_cli("status", cwd=tmp_path).returncode == 0, "./config.yaml"


def _interrupted_sync(central: ServerConfig, local: ServerConfig, config: Path) -> tuple[int, str]:
    """A one-shot sync that gets Ctrl-C after its first batches; its exit code and output."""
    mirror.seed(central, [seed_bulk("nunes", 20_000, 200)])
    assert run_cli("sync", "nunes", "--only", "chats", "-c", config).returncode == 0
    mirror.run(local, "UPDATE wpp_sync_state SET last_synced_id = 0")
    child = subprocess.Popen(
        [*COMMAND, "sync", "nunes", "-c", str(config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    )
    try:
        deadline = time.monotonic() + 20
        while mirror.watermarks(local)["messages"] == 0:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        said, _ = child.communicate(timeout=20)
    finally:
        child.kill()
        child.communicate()
    return child.returncode, said


def test_a_sync_that_is_interrupted_ends_after_its_batch_and_goes_on_next_time(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    config = write_config(central, {"nunes": local}, sync={"batch_rows": 20})

    _, said = _interrupted_sync(central, local, config)

    reached = mirror.watermarks(local)["messages"]
    assert 0 < reached < 20_000
    assert mirror.local_ids(local) == list(range(1, reached + 1))
    assert "interrupted, goes on next time" in said
    assert "Traceback" not in said
    assert run_cli("sync", "nunes", "-c", config).returncode == 0
    assert mirror.differences(central, local) == ""


def test_a_sync_that_is_interrupted_does_not_say_that_it_is_done(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    config = write_config(central, {"nunes": local}, sync={"batch_rows": 20})

    code, _ = _interrupted_sync(central, local, config)

    assert mirror.watermarks(local)["messages"] < 20_000
    assert code == 130


def test_a_sync_says_that_rows_went_to_quarantine(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    config = write_config(central, {"nunes": local})
    assert run_cli("sync", "nunes", "-c", config).returncode == 0
    mirror.run(local, "ALTER TABLE wpp_messages MODIFY body VARCHAR(20)")
    mirror.insert_message(central, 1, body="REPEAT('x', 21)")
    mirror.insert_message(central, 2, body="'good'")
    said = run_cli("sync", "nunes", "-c", config)
    assert said.returncode == 0
    assert "1 rows are in quarantine, not in the local tables" in said.stderr
    listed = run_cli("quarantine", "nunes", "-c", config)
    assert "Data too long" in listed.stdout


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_comparison_that_is_interrupted_does_not_say_that_both_sides_are_equal(
    databases: Databases, write_config: WriteConfig, dry_run: bool
) -> None:
    central, local = databases
    mirror.seed(central, seed_varied(["nunes"], messages=50))
    config = write_config(central, {"nunes": local}, entities={})
    assert run_cli("sync", "nunes", "-c", config).returncode == 0
    waiting = (
        "SELECT COUNT(*) FROM information_schema.PROCESSLIST"
        f" WHERE STATE LIKE 'Waiting for table%' AND DB = '{central['database']}'"
    )
    with mirror.Session(central) as application:
        application.execute("LOCK TABLES contacts WRITE")
        option = ["--dry-run"] if dry_run else []
        child = subprocess.Popen(
            [*COMMAND, "reconcile", "nunes", *option, "-c", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
        )
        try:
            deadline = time.monotonic() + 20
            while mirror.rows(central, waiting) == [["0"]]:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            child.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            application.execute("UNLOCK TABLES")
            said, _ = child.communicate(timeout=20)
        finally:
            child.kill()
            child.communicate()
    assert "stopped before all was compared" in said
    assert "equal" not in said
    assert child.returncode == 130
