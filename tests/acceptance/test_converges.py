"""The daemon as a process: changes and deletes reach the local database, at once on command."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daemon.demo.central import seed_bulk, seed_bulk_contacts, seed_varied
from daemon.demo.compare import compare_derived
from tests import mirror
from tests.daemon_process import COMMAND, DaemonProcess, environment, run_cli

if TYPE_CHECKING:
    from tests.conftest import Databases

WriteConfig = Callable[..., Path]

ENTITIES = ("messages", "chats", "contacts", "contact_sectors", "schedules")
QUICK: dict[str, Any] = {
    "entities": {},
    "defaults": {"poll_interval": "100ms"},
    "sync": {"settle": "1s", "whole_interval": "1s", "hot_interval": "1s"},
}


@pytest.fixture
def seeded(databases: Databases) -> Databases:
    mirror.seed(databases.central, seed_varied(["nunes", "karsten"], messages=600))
    return databases


def equal(databases: Databases) -> bool:
    central, local = databases
    derived = compare_derived(local, "nunes").equal
    return derived and mirror.differences(central, local, entities=ENTITIES) == ""


def idle(daemon: DaemonProcess) -> None:
    """Wait until everything was copied once."""
    daemon.wait_until(lambda: daemon.state() == "idle", 60)


def test_what_changes_in_central_shows_here_within_the_intervals(
    seeded: Databases, write_config: WriteConfig
) -> None:
    central, local = seeded
    with DaemonProcess(write_config(central, {"nunes": local}, **QUICK)) as daemon:
        idle(daemon)
        daemon.wait_until(lambda: equal(seeded))
        mirror.run(
            central,
            "UPDATE messages SET status = 'READ' WHERE status = 'SENT' AND instance = 'nunes';"
            "UPDATE chats SET is_finished = 1, finished_at = NOW(3)"
            " WHERE is_finished = 0 AND instance = 'nunes';"
            "UPDATE contacts SET name = 'somebody else' WHERE instance = 'nunes' LIMIT 3;"
            "DELETE FROM contacts_sectors LIMIT 2;"
            "DELETE FROM schedules WHERE instance = 'nunes' LIMIT 1",
        )
        daemon.wait_until(lambda: equal(seeded))
        found = daemon.metrics()["wpp_sync_reconcile_differences_total"]
        assert {s.labels["entity"] for s in found if s.value} == set(ENTITIES)
        status = daemon.status()
        assert [each["entity"] for each in status["sync_state"]] == list(ENTITIES)
        assert daemon.entity("contacts")["lag_seconds"] < 60
        assert daemon.stop() == 0


def test_reconcile_tells_and_repairs(seeded: Databases, write_config: WriteConfig) -> None:
    central, local = seeded
    config = write_config(central, {"nunes": local}, entities={}, sync={"settle": "1s"})
    assert run_cli("sync", "nunes", "-c", config).returncode == 0
    mirror.run(local, "UPDATE wpp_contacts SET name = 'x' ORDER BY id LIMIT 2")
    mirror.run(local, "DELETE FROM wpp_messages ORDER BY id LIMIT 1")

    told = run_cli("reconcile", "nunes", "--dry-run", "-c", config)
    assert told.returncode == 4, told.stderr
    assert "3 rows differ" in told.stdout
    assert "differing" in told.stdout
    machine = run_cli("reconcile", "nunes", "contacts", "--dry-run", "--json", "-c", config)
    assert machine.returncode == 4
    (contacts,) = json.loads(machine.stdout)["entities"]
    assert (contacts["entity"], contacts["differing"], contacts["written"]) == ("contacts", 2, 0)
    done = run_cli("reconcile", "nunes", "-c", config)
    assert done.returncode == 0, done.stderr
    assert "3 rows differed" in done.stdout
    again = run_cli("reconcile", "nunes", "--dry-run", "-c", config)
    assert again.returncode == 0, again.stdout
    assert "equal" in again.stdout
    assert equal(seeded)


def test_reconcile_through_a_running_daemon(seeded: Databases, write_config: WriteConfig) -> None:
    central, local = seeded
    slow = {**QUICK, "sync": {"settle": "1s", "whole_interval": "1h", "hot_interval": "1h"}}
    config = write_config(central, {"nunes": local}, **slow)
    with DaemonProcess(config) as daemon:
        idle(daemon)
        daemon.wait_until(lambda: equal(seeded))
        daemon.wait_until(lambda: daemon.entity()["settled_id"] == daemon.entity()["head"])
        mirror.run(central, "DELETE FROM messages WHERE instance = 'nunes' LIMIT 5")
        mirror.run(central, "UPDATE contacts SET name = 'y' WHERE instance = 'nunes' LIMIT 1")
        assert run_cli("reconcile", "nunes", "--dry-run", "-c", config).returncode == 4
        assert not equal(seeded)
        done = run_cli("reconcile", "nunes", "-c", config)
        assert done.returncode == 0, done.stderr
        assert equal(seeded)
        wrong = daemon.request("POST", "/v1/instances/nunes/reconcile", {"entity": "nope"})
        assert (wrong.status, wrong.body["error"]["code"]) == (400, "usage")
        wrong = daemon.request("POST", "/v1/instances/nunes/reconcile", {"dry_run": "yes"})
        assert wrong.status == 400


def test_a_resync_shows_its_progress_and_leaves_nothing_inconsistent(
    seeded: Databases, write_config: WriteConfig
) -> None:
    central, local = seeded
    mirror.seed(central, [seed_bulk("nunes", 20_000, 100, first_id=100_000)])
    config = write_config(central, {"nunes": local}, **QUICK)
    with DaemonProcess(config) as daemon:
        idle(daemon)
        daemon.wait_until(lambda: equal(seeded), 60)
        mirror.run(
            local,
            "UPDATE wpp_messages SET body = 'damaged' WHERE id % 7 = 0;"
            "INSERT INTO wpp_schedules SELECT id + 5000000, instance, description, contact_id,"
            " NULL, scheduled_at, schedule_date, scheduled_by, scheduled_for, sector_id"
            " FROM wpp_schedules LIMIT 2;"
            "DELETE FROM wpp_contacts LIMIT 3",
        )
        least = mirror.number(local, "SELECT COUNT(*) FROM wpp_messages")
        counts: list[int] = []
        ended = threading.Event()

        def read() -> None:
            while not ended.is_set():
                counts.append(mirror.number(local, "SELECT COUNT(*) FROM wpp_messages"))
                time.sleep(0.05)

        reader = threading.Thread(target=read)
        reader.start()
        done = run_cli("resync", "nunes", "--wait", "-c", config, seconds=60)
        ended.set()
        reader.join()
        assert done.returncode == 0, done.stderr
        assert "resync done" in done.stderr
        assert min(counts) >= least, "the table is complete all the time"
        daemon.wait_until(lambda: equal(seeded))
        assert not any(each["resync"] for each in daemon.status()["sync_state"])
        assert (
            daemon.metric("wpp_sync_resync_progress_ratio", wpp_instance="nunes", entity="messages")
            == 1.0
        )


def test_an_interrupted_resync_goes_on(seeded: Databases, write_config: WriteConfig) -> None:
    central, local = seeded
    mirror.seed(central, [seed_bulk("nunes", 5_000, 100, first_id=100_000)])
    config = write_config(central, {"nunes": local}, **QUICK)
    with DaemonProcess(config) as daemon:
        idle(daemon)
        daemon.wait_until(lambda: equal(seeded), 60)
        mirror.run(local, "UPDATE wpp_messages SET body = 'damaged'; DELETE FROM wpp_schedules")
        daemon.request("POST", "/v1/instances/nunes/resync", {})
        time.sleep(0.3)
        daemon.kill()
    with DaemonProcess(config) as daemon:
        daemon.wait_until(
            lambda: not any(each["resync"] for each in daemon.status()["sync_state"]), 60
        )
        daemon.wait_until(lambda: equal(seeded))


def test_a_stop_during_a_long_comparison_does_not_wait_for_its_end(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.seed(central, [seed_bulk_contacts("nunes", 20_000), seed_bulk("nunes", 40_000, 50)])
    config = write_config(central, {"nunes": local}, entities={}, sync={"batch_rows": 100})
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.status()["rows_written"] > 0)
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 10
    process = subprocess.Popen(
        [*COMMAND, "reconcile", "nunes", "-c", str(config)],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert run_cli("sync", "nunes", "-c", config, seconds=90).returncode == 0
    assert mirror.differences(central, local, entities=ENTITIES) == ""
