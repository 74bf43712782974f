"""An instance that has nothing to do closes its connection; what comes is copied all the same."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon.demo.central import schema, seed_varied
from tests import mirror
from tests.daemon_process import DaemonProcess, run_cli

if TYPE_CHECKING:
    from daemon.demo.server import PrivateServer
    from tests.conftest import Databases, ServerConfig, Servers

WriteConfig = Callable[..., Path]

LOUD = {"warning", "error", "critical"}

SOON: dict[str, object] = {
    "defaults": {"poll_interval": "100ms"},
    "entities": {},  # as they are, hot rows included
    "sync": {
        "settle": "exact", "rest_after": "500ms", "whole_interval": "3s", "hot_interval": "1s",
        "backoff_max": "1s",
    },
}  # fmt: skip

INSERT = (
    "INSERT INTO messages (instance, `from`, `to`, type, is_forwarded, is_edited, body, timestamp,"
    " sent_at, status) VALUES ('nunes', '1', '2', 'chat', 0, 0, 'x', '3', NOW(3), 'READ')"
)


def connections(local: ServerConfig) -> int:
    """How many there are to this database."""
    question = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE DB ="
    return mirror.number(local, f"{question} '{local['database']}' AND ID <> CONNECTION_ID()")


def wait_for_rest(daemon: DaemonProcess, local: ServerConfig) -> None:
    daemon.wait_until(lambda: daemon.state() == "idle" and connections(local) == 0)


@contextmanager
def resting(databases: Databases, write_config: WriteConfig) -> Iterator[DaemonProcess]:
    """A daemon whose one instance has copied something, and rests."""
    central, local = databases
    mirror.seed(central, seed_varied(["nunes", "karsten"], messages=100))
    config = write_config(central, {"nunes": local}, **SOON)
    with DaemonProcess(config) as daemon:
        wait_for_rest(daemon, local)
        assert mirror.differences(central, local) == ""
        yield daemon


def test_new_rows_are_copied_and_those_of_others_cost_nothing(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    with resting(databases, write_config) as daemon:
        before = mirror.watermarks(local)["messages"]
        mirror.insert_messages(central, range(before + 1000, before + 1100), "karsten")
        time.sleep(1.5)
        assert connections(local) == 0, "they are somebody else's"
        assert daemon.entity()["lag_rows"] == 0
        assert daemon.entity()["lag_seconds"] == 0
        assert daemon.metric("wpp_sync_connections", server="local") == 0

        mirror.insert_messages(central, range(before + 2000, before + 2010))
        daemon.wait_until(lambda: mirror.differences(central, local) == "")
        wait_for_rest(daemon, local)
        assert daemon.entity()["last_synced_id"] == before + 2009
        assert daemon.logged("recovered") == []


def test_a_row_that_comes_late_is_copied(databases: Databases, write_config: WriteConfig) -> None:
    central, local = databases
    with resting(databases, write_config) as daemon, mirror.Session(central) as writer:
        writer.execute(f"BEGIN; {INSERT}")
        late = int(writer.execute("SELECT LAST_INSERT_ID()")[0][0])
        mirror.insert_messages(central, range(late + 1, late + 4))
        daemon.wait_until(lambda: set(range(late + 1, late + 4)) <= set(mirror.local_ids(local)))
        wait_for_rest(daemon, local)
        assert daemon.entity()["settled_id"] < late, "it is in flight"
        writer.execute("COMMIT")
        daemon.wait_until(lambda: late in mirror.local_ids(local))
        assert daemon.metric("wpp_sync_late_rows_total", wpp_instance="nunes") == 1
        daemon.wait_until(lambda: daemon.entity()["settled_id"] > late)
        wait_for_rest(daemon, local)
        assert mirror.differences(central, local) == ""


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE contacts SET name = 'new' WHERE instance = 'nunes'",
        "DELETE FROM contacts WHERE instance = 'nunes' ORDER BY id LIMIT 1",
        "UPDATE schedules SET instance = 'karsten' WHERE instance = 'nunes'",
        "DELETE FROM contacts_sectors LIMIT 1",
    ],
)
def test_what_is_compared_whole_is_compared(
    databases: Databases, write_config: WriteConfig, change: str
) -> None:
    central, local = databases
    with resting(databases, write_config) as daemon:
        mirror.run(central, f"SET FOREIGN_KEY_CHECKS = 0; {change}")
        daemon.wait_until(lambda: mirror.differences(central, local) == "")
        wait_for_rest(daemon, local)


def test_hot_rows_are_compared(databases: Databases, write_config: WriteConfig) -> None:
    central, local = databases
    with resting(databases, write_config) as daemon:
        mirror.run(
            central,
            "UPDATE messages SET status = 'READ', body = 'changed' WHERE instance = 'nunes'"
            " AND status IN ('PENDING', 'SENT', 'RECEIVED')",
        )
        daemon.wait_until(lambda: mirror.differences(central, local, entities=["messages"]) == "")
        wait_for_rest(daemon, local)


def test_where_rows_become_hot_as_time_passes_it_does_not_rest(
    databases: Databases, write_config: WriteConfig
) -> None:
    """Which rows they are is known only to the local server."""
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    hot = "status = 'PENDING' AND sent_at < NOW() - INTERVAL 3 SECOND"
    entities = {"messages": {"hot": hot}}
    with DaemonProcess(
        write_config(central, {"nunes": local}, **{**SOON, "entities": entities})
    ) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")
        time.sleep(3.0)
        assert connections(local) > 0


def test_it_rests_again_when_all_that_it_rests_on_was_laid_anew(
    databases: Databases, write_config: WriteConfig
) -> None:
    """A reload brings other looks: where nobody looks, nobody rests."""
    central, local = databases
    with resting(databases, write_config) as daemon:
        text = daemon.config.read_text()
        assert "hot_interval: 1s" in text
        daemon.config.write_text(text.replace("hot_interval: 1s", "hot_interval: 2s"))
        answer = daemon.request("POST", "/v1/reload", {})
        assert (answer.status, answer.body["changed"]) == (200, ["nunes"])
        wait_for_rest(daemon, local)
        time.sleep(1.0)
        wait_for_rest(daemon, local)
        mirror.run(central, INSERT)
        daemon.wait_until(lambda: mirror.differences(central, local) == "")
        wait_for_rest(daemon, local)


def test_orders_and_resets_are_heeded(databases: Databases, write_config: WriteConfig) -> None:
    central, local = databases
    with resting(databases, write_config) as daemon:
        answer = daemon.request("POST", "/v1/instances/nunes/pause")
        assert answer.status == 200
        assert answer.body["copied_here"], "it rests, but it is copied here"
        daemon.wait_until(lambda: daemon.state() == "paused")
        mirror.run(central, INSERT)
        time.sleep(0.5)
        assert daemon.request("POST", "/v1/instances/nunes/resume").status == 200
        daemon.wait_until(lambda: mirror.differences(central, local) == "")
        wait_for_rest(daemon, local)

        mirror.run(local, "DELETE FROM wpp_messages")
        answer = daemon.request("POST", "/v1/instances/nunes/reset", {"entity": "messages"})
        assert answer.status == 200
        daemon.wait_until(lambda: mirror.differences(central, local) == "")
        wait_for_rest(daemon, local)


def test_a_state_row_that_was_changed_meanwhile_counts(
    databases: Databases, write_config: WriteConfig
) -> None:
    """An operator sets the watermark back; what lies above it is read again with the next wake."""
    central, local = databases
    with resting(databases, write_config) as daemon:
        ids = mirror.local_ids(local)
        mirror.run(
            local,
            f"DELETE FROM wpp_messages WHERE id > {ids[10]};"
            f"UPDATE wpp_sync_state SET last_synced_id = {ids[10]} WHERE entity = 'messages'",
        )
        mirror.run(central, INSERT)
        daemon.wait_until(lambda: mirror.differences(central, local) == "")


def test_trouble_with_central_is_seen_and_nothing_is_lost(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    central, local = databases
    with resting(databases, write_config) as daemon:
        mirror.run(central, "RENAME TABLE messages TO elsewhere")
        daemon.wait_until(lambda: daemon.state() == "failed")
        assert daemon.status()["error"]["code"] == "schema"
        mirror.run(central, "RENAME TABLE elsewhere TO messages")
        mirror.run(central, INSERT)
        daemon.request("POST", "/v1/instances/nunes/sync")
        daemon.wait_until(lambda: mirror.differences(central, local) == "", seconds=40)
        wait_for_rest(daemon, local)


def test_it_does_not_rest_while_another_daemon_stands_by(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    with resting(databases, write_config) as first:
        config = first.config
        second_config = config.with_name("second.yaml")
        second_config.write_text(config.read_text().replace("control.sock", "second.sock"))
        with DaemonProcess(second_config) as second:
            # It takes what is free; the first one sees that when it wakes.
            second.wait_until(lambda: second.state() == "idle")
            for _ in range(3):
                mirror.run(central, INSERT)
                first.wait_until(lambda: mirror.differences(central, local) == "")
            first.wait_until(lambda: sorted([first.state(), second.state()]) == ["idle", "standby"])
            time.sleep(2.0)
            states = [first.state(), second.state()]
            assert sorted(states) == ["idle", "standby"], "whoever has it keeps it"
            copier, other = (first, second) if states[0] == "idle" else (second, first)
            copier.kill()
            other.wait_until(lambda: other.state() == "idle")
            mirror.run(central, INSERT)
            other.wait_until(lambda: mirror.differences(central, local) == "")


def test_rows_deleted_at_the_end_wake_nobody(
    databases: Databases, write_config: WriteConfig
) -> None:
    """They lower the head, and their ids do not come again."""
    central, local = databases
    with resting(databases, write_config) as daemon:
        newest = max(mirror.central_ids(central, "karsten"))
        mirror.insert_messages(central, [newest + 50], "karsten")
        time.sleep(1.0)
        mirror.run(central, f"DELETE FROM messages WHERE id = {newest + 50}")
        time.sleep(1.0)
        assert connections(local) == 0
        mirror.run(central, INSERT)
        daemon.wait_until(lambda: mirror.differences(central, local) == "")
        assert daemon.metric("wpp_sync_late_rows_total", wpp_instance="nunes") == 0
        mirror.run(central, "SET FOREIGN_KEY_CHECKS = 0; TRUNCATE messages")
        daemon.wait_until(lambda: daemon.entity()["rewound"])


def test_a_verb_that_finds_it_resting_wakes_its_loop(
    databases: Databases, write_config: WriteConfig
) -> None:
    """Else the loop would wait on, with nobody left who tells it of anything."""
    central, local = databases
    with resting(databases, write_config) as daemon:
        answer = daemon.request("POST", "/v1/instances/nunes/reconcile", {"entity": "chats"})
        assert answer.status == 200
        mirror.run(local, "UPDATE wpp_contacts SET name = 'spoilt'")
        daemon.wait_until(lambda: mirror.differences(central, local, entities=["contacts"]) == "")
        wait_for_rest(daemon, local)


def test_it_rests_and_wakes_without_a_word(databases: Databases, write_config: WriteConfig) -> None:
    """And stays at rest where there is nothing: who wakes too often costs more than it saves."""
    central, local = databases
    mirror.seed(central, seed_varied(["nunes", "karsten"], messages=100))
    config = write_config(central, {"nunes": local}, **SOON, log={"level": "debug"})
    with DaemonProcess(config) as daemon:
        wait_for_rest(daemon, local)
        before = len(daemon.logged("wakes up"))
        time.sleep(5.0)  # many looks at what it rests upon
        assert len(daemon.logged("wakes up")) == before
        told = [event for event in daemon.log() if event["level"] != "debug"]
        mirror.run(central, INSERT)
        daemon.wait_until(lambda: mirror.differences(central, local) == "")
        wait_for_rest(daemon, local)
        assert len(daemon.logged("wakes up")) == before + 1
        assert [event for event in daemon.log() if event["level"] != "debug"] == told


def test_where_all_is_compared_whole_it_tells_when_that_was(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.seed(central, seed_varied(["nunes"], messages=10))
    off = {"messages": {"enabled": False}, "chats": {"enabled": False}}
    config = write_config(central, {"nunes": local}, **{**SOON, "entities": off})
    with DaemonProcess(config) as daemon:
        wait_for_rest(daemon, local)
        time.sleep(6.0)
        at = daemon.metric("wpp_sync_last_success_timestamp_seconds", wpp_instance="nunes")
        assert time.time() - at < 4.5, "sync.whole_interval is 3 s"
        assert connections(local) == 0


def test_who_asks_without_the_daemon_is_not_told_that_nobody_copies(
    databases: Databases, write_config: WriteConfig
) -> None:
    """Nobody holds the lock: who copied the instance last rests, or is gone."""
    central, local = databases
    with resting(databases, write_config) as daemon:
        elsewhere = daemon.config.with_name("elsewhere.yaml")
        elsewhere.write_text(daemon.config.read_text().replace("control.sock", "nobody.sock"))
        told = run_cli("status", "-c", elsewhere).stdout
        assert re.search(r"^nunes +not open ", told, re.MULTILINE), told
        assert f"pid {daemon.pid} on host" in told

        done = run_cli("pause", "nunes", "-c", elsewhere)
        assert done.returncode == 0
        assert "at rest, before it copies again" in done.stdout
        mirror.run(central, INSERT)
        daemon.wait_until(lambda: daemon.state() == "paused")
        assert mirror.differences(central, local) != ""
        assert run_cli("resume", "nunes", "-c", elsewhere).returncode == 0
        daemon.wait_until(lambda: mirror.differences(central, local) == "")
        wait_for_rest(daemon, local)

        assert daemon.stop() == 0
        told = run_cli("status", "-c", elsewhere).stdout
        assert re.search(r"^nunes +no copier ", told, re.MULTILINE), told


def test_a_resync_that_somebody_waits_for_has_its_end(
    databases: Databases, write_config: WriteConfig
) -> None:
    """Also where the instance rests before the end is seen."""
    central, local = databases
    mirror.seed(central, seed_varied(["nunes"], messages=10))
    config = write_config(central, {"nunes": local}, **SOON)
    config.write_text(config.read_text().replace("rest_after: 500ms", "rest_after: 10ms"))
    with DaemonProcess(config) as daemon:
        wait_for_rest(daemon, local)
        done = run_cli("resync", "nunes", "--wait", "-c", daemon.config, seconds=30)
        assert (done.returncode, "resync done" in done.stderr) == (0, True), done


def test_a_local_server_that_went_away_meanwhile_is_met_with_the_news(
    databases: Databases, local: PrivateServer, write_config: WriteConfig
) -> None:
    central, nunes = databases.central, local.create_database("nunes")
    mirror.seed(central, seed_varied(["nunes"], messages=10))
    with DaemonProcess(write_config(central, {"nunes": nunes}, **SOON)) as daemon:
        wait_for_rest(daemon, nunes)
        local.stop()
        time.sleep(1.0)
        assert daemon.state() == "idle", "central has nothing for it"
        mirror.run(central, INSERT)
        daemon.wait_until(lambda: daemon.state() == "backoff")
        assert daemon.status()["error"]["code"] == "unreachable"
        local.start()
        daemon.wait_until(lambda: mirror.differences(central, nunes) == "")
        wait_for_rest(daemon, nunes)
        assert len(daemon.logged("recovered")) == 1


def test_central_that_went_away_is_told_as_by_who_is_awake(
    databases: Databases, central: PrivateServer, write_config: WriteConfig
) -> None:
    theirs, local = central.create_database("central"), databases.local
    central.execute(schema(), "central")
    mirror.seed(theirs, seed_varied(["nunes"], messages=10))
    with DaemonProcess(write_config(theirs, {"nunes": local}, **SOON)) as daemon:
        wait_for_rest(daemon, local)
        central.stop()
        daemon.wait_until(lambda: daemon.state() == "backoff")
        error = daemon.status()["error"]
        assert error["code"] == "unreachable"
        assert error["message"].startswith("central: cannot connect to ")
        assert error["hint"]
        central.start()
        mirror.run(theirs, INSERT)
        daemon.wait_until(lambda: mirror.differences(theirs, local) == "")
        wait_for_rest(daemon, local)
        events = {event["event"] for event in daemon.log() if event["level"] in LOUD}
        assert events == {"pass failed"}


def test_a_migration_is_made_by_the_daemon_whose_lock_is_free(
    databases: Databases, write_config: WriteConfig
) -> None:
    """Else it would not know of it, and an older one would meet a later version's database."""
    with resting(databases, write_config) as daemon:
        done = run_cli("migrate", "-c", daemon.config)
        assert (done.returncode, done.stdout) == (0, "nunes  nothing to do\n"), done.stderr
        assert daemon.logged("asked")[-1]["path"] == "/v1/instances/nunes/migrate"
