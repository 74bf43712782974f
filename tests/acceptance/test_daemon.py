"""The running daemon as others see it: its socket, its signals, its metrics."""

from __future__ import annotations

import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from daemon.demo.central import seed_bulk, seed_varied
from daemon.metrics import Metrics
from daemon.migrations import files
from tests import mirror
from tests.daemon_process import Answer, DaemonProcess, ask, run_cli

if TYPE_CHECKING:
    from tests.conftest import Databases, Servers

WriteConfig = Callable[..., Path]

QUICK = {"defaults": {"poll_interval": "100ms"}}

# As Prometheus' parser names them, counters without their ending. tests/unit/test_metrics.py says
# which names and labels there must be.
METRICS = {each.name.removesuffix("_total"): each.kind for each in Metrics("x").declared}


def error_of(answer: Answer) -> dict[str, str]:
    """The error object of an answer, whose form every error has."""
    assert answer.content_type.startswith("application/json")
    assert set(answer.body) == {"error"}
    error: dict[str, str] = answer.body["error"]
    assert set(error) == {"code", "message", "hint"}
    assert error["message"]
    return error


def _idle(daemon: DaemonProcess, *instances: str) -> None:
    for name in instances or ("nunes",):
        daemon.wait_until(lambda name=name: daemon.state(name) == "idle")  # type: ignore[misc]


# --- the control socket --------------------------------------------------------------------------


def test_the_socket_answers_with_status_and_carries_out_verbs(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.seed(central, seed_varied(["nunes", "karsten"], messages=300))
    config = write_config(
        central,
        {"nunes": local, "karsten": servers.new_local()},
        defaults={"poll_interval": "1h"},
    )
    with DaemonProcess(config) as daemon:
        _idle(daemon, "nunes", "karsten")
        status = daemon.request("GET", "/v1/status")
        assert status.status == 200
        assert status.content_type.startswith("application/json")
        assert [each["instance"] for each in status.body["instances"]] == ["nunes", "karsten"]
        one = daemon.request("GET", "/v1/instances/karsten")
        assert one.body["instance"] == "karsten"

        mirror.insert_messages(central, range(70_000, 70_030))
        time.sleep(0.15)  # a head that is 0.1 s old counts as new
        synced = daemon.request("POST", "/v1/instances/nunes/sync", {"skip": ["chats"]})
        assert synced.status == 200
        assert synced.body == {
            "rows": {"messages": 30}, "late": 0, "errors": {}, "quarantined": 0, "paused": [],
            "interrupted": False,
        }  # fmt: skip
        assert mirror.watermarks(local)["messages"] == 70_029
        bare = daemon.request("POST", "/v1/instances/nunes/sync")
        assert bare.body["rows"] == {"messages": 0, "chats": 0}

        reset = daemon.request("POST", "/v1/instances/nunes/reset", {"entity": "messages"})
        assert (reset.status, reset.body) == (200, {"reset": ["messages"]})
        every = daemon.request("POST", "/v1/instances/nunes/reset", {"entity": "all"})
        assert every.body == {"reset": ["messages", "chats"]}
        resync = daemon.request("POST", "/v1/instances/nunes/resync")
        assert (resync.status, resync.body) == (200, {"resync": ["messages", "chats"]})
        daemon.wait_until(lambda: mirror.watermarks(local)["messages"] == 70_029)
        assert mirror.differences(central, local) == ""


def test_wrong_requests_are_answered_with_an_error_object(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local}, **QUICK)
    with DaemonProcess(config) as daemon:
        _idle(daemon)
        nunes = "/v1/instances/nunes"
        wrong: list[tuple[str, str, bytes | None, int, str]] = [
            ("GET", "/v1/instances/nunez", None, 404, "no instance 'nunez'"),
            ("GET", "/v1/instances/NUNES", None, 404, "no instance"),
            ("POST", "/v1/instances/nunez/sync", b"{}", 404, "no instance"),
            ("POST", "/v1/instances/a%2Fb%00%0A/resync", b"{}", 404, "no instance"),
            ("POST", f"{nunes}/sync", b"{", 400, "not JSON"),
            ("POST", f"{nunes}/sync", b"\xff\xfe", 400, "not JSON"),
            ("POST", f"{nunes}/sync", b"[" * 50_000, 400, "not JSON"),
            ("POST", f"{nunes}/sync", b"[]", 400, "not a JSON object"),
            ("POST", f"{nunes}/sync", b'{"skipp": []}', 400, "unknown key skipp"),
            ("POST", f"{nunes}/sync", b'{"skip": "chats"}', 400, "not a list"),
            ("POST", f"{nunes}/sync", b'{"skip": [1]}', 400, "not a list"),
            ("POST", f"{nunes}/sync", b'{"skip": ["chat"]}', 400, "no entity chat"),
            ("POST", f"{nunes}/reset", None, 400, "which entity"),
            ("POST", f"{nunes}/reset", b'{"entity": null}', 400, "which entity"),
            ("POST", f"{nunes}/reset", b'{"entity": "contacts"}', 400, "no entity"),
            ("POST", f"{nunes}/resync", b'{"entity": "all"}', 400, "unknown key entity"),
            ("POST", f"{nunes}/sync", b" " * 70_000, 413, "413"),
            ("POST", f"{nunes}/pause?entity=messages", None, 400, "the query is not read"),
            ("POST", "/v1/reload?now", b"{}", 400, "the query is not read"),
            ("POST", f"{nunes}/explode", b"{}", 404, "404"),
            ("GET", "/v2/status", None, 404, "404"),
            ("GET", "/metrics", None, 404, "404"),
            ("GET", f"{nunes}/reset", None, 405, "405"),
            ("POST", "/v1/status", b"{}", 405, "405"),
            ("DELETE", nunes, None, 405, "405"),
        ]
        for method, target, body, status, words in wrong:
            answer = ask(daemon.socket, method, target, body)
            assert answer.status == status, (method, target, answer)
            assert words in error_of(answer)["message"], (method, target, answer)
        assert daemon.state() == "idle"
        assert mirror.watermarks(databases.local) == {"messages": 0, "chats": 0}


def test_a_database_that_does_not_answer_is_a_503(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": {**databases.local, "port": 1}}, **QUICK)
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state() == "backoff")
        for verb, body in (("sync", {}), ("reset", {"entity": "all"}), ("resync", {})):
            answer = daemon.request("POST", f"/v1/instances/nunes/{verb}", body)
            assert answer.status == 503
            assert error_of(answer)["code"] == "unreachable"
            assert "check host, port" in error_of(answer)["hint"]
        assert daemon.status()["error"]["code"] == "unreachable", "the status is still a 200"
        unknown = ("last_synced_id", "settled_id", "position", "last_synced_at")
        assert [daemon.entity()[key] for key in unknown] == [None] * len(unknown), "not 0"
        assert "wpp_sync_last_synced_id" not in daemon.metrics()


@pytest.mark.parametrize(("setting", "mode"), [({}, 0o660), ({"mode": "0600"}, 0o600)])
def test_the_sockets_mode_decides_who_may_command(
    databases: Databases, write_config: WriteConfig, setting: dict[str, str], mode: int
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    path = DaemonProcess(config).socket
    config = write_config(
        databases.central, {"nunes": databases.local}, control={"socket": str(path), **setting}
    )
    with DaemonProcess(config) as daemon:
        found = daemon.socket.stat().st_mode
        assert stat.S_ISSOCK(found)
        assert stat.S_IMODE(found) == mode
        assert daemon.stop() == 0
    assert not path.exists(), "it takes its socket along"


def test_a_stale_socket_is_replaced(databases: Databases, write_config: WriteConfig) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    with DaemonProcess(config) as daemon:
        daemon.kill()
        assert stat.S_ISSOCK(daemon.socket.stat().st_mode), "kill -9 leaves it behind"
        daemon.start()
        assert daemon.request("GET", "/v1/status").status == 200


def test_a_live_socket_is_not_taken(databases: Databases, write_config: WriteConfig) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    with DaemonProcess(config) as daemon:
        second = run_cli("run", "-c", config)
        assert second.returncode == 1
        assert f"another daemon answers at the control socket {daemon.socket}" in second.stderr
        assert "hint: stop it first" in second.stderr
        assert "Traceback" not in second.stderr
        assert daemon.request("GET", "/v1/status").status == 200, "the first one keeps it"


def test_a_file_in_the_sockets_place_is_not_removed(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    path = DaemonProcess(config).socket
    path.write_text("somebody's data")
    done = run_cli("run", "-c", config)
    assert done.returncode == 1
    assert "is there and is no socket" in done.stderr
    assert path.read_text() == "somebody's data"


def test_a_port_that_is_taken_is_said(databases: Databases, write_config: WriteConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        config = write_config(
            databases.central, {"nunes": databases.local}, http={"listen": listen}
        )
        done = run_cli("run", "-c", config)
    assert done.returncode == 1
    assert f"cannot listen on {listen}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not DaemonProcess(config).socket.exists()


# --- signals -----------------------------------------------------------------------------------


def test_term_finishes_the_batch_and_the_next_start_goes_on(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.seed(central, [seed_bulk("nunes", 20_000, 200)])
    config = write_config(central, {"nunes": local}, sync={"batch_rows": 40}, **QUICK)
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.watermark() > 400)
        began = time.monotonic()

        assert daemon.stop() == 0

        assert time.monotonic() - began < 3
        reached = mirror.watermarks(local)["messages"]
        assert 400 < reached < 20_000
        assert mirror.local_ids(local) == list(range(1, reached + 1))
        events = [line["event"] for line in daemon.log()]
        assert events[-2:] == ["stopping", "stopped"]
        assert not [line for line in daemon.log() if line["level"] in {"warning", "error"}]
        assert _connections(databases) == 0, "no connection is left behind"
        daemon.start()
        daemon.wait_until(lambda: daemon.watermark() == 20_000)
        written = daemon.metric("wpp_sync_rows_total", entity="messages")
        assert written == 20_000 - reached, "it went on where it had stopped"
        daemon.interrupt()
        assert daemon.wait() == 0
    assert mirror.differences(central, local) == ""


def _connections(databases: Databases) -> int:
    """Connections of others to these two databases."""
    return sum(
        mirror.number(
            server,
            "SELECT COUNT(*) FROM information_schema.PROCESSLIST"
            f" WHERE DB = '{server['database']}' AND ID <> CONNECTION_ID()",
        )
        for server in databases
    )


def test_a_stop_right_after_the_start_is_not_lost(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    for _ in range(3):
        with DaemonProcess(config) as daemon:
            assert daemon.stop() == 0


def test_hup_resets_what_the_configuration_names(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.seed(central, seed_varied(["nunes"], messages=300))
    other = servers.new_local()
    config = write_config(
        central,
        {"nunes": local, "karsten": other},
        signals={"sighup_reset": ["messages"]},
        defaults={"poll_interval": "1h"},
    )
    with DaemonProcess(config) as daemon:
        _idle(daemon, "nunes", "karsten")
        mirror.run(local, "UPDATE wpp_messages SET body = 'spoilt'; UPDATE wpp_chats SET type = ''")

        daemon.hup()

        daemon.wait_until(lambda: mirror.differences(central, local, entities=["messages"]) == "")
        assert mirror.differences(central, local, entities=["chats"]) != "", "not named"
        daemon.wait_until(lambda: len(daemon.logged("reset")) == 2)
        assert {line["instance"] for line in daemon.logged("reset")} == {"nunes", "karsten"}
        assert daemon.metric("wpp_sync_resets_total", trigger="sighup") == 2
        assert daemon.running


@pytest.mark.parametrize(("setting", "again"), [("all", ["messages", "chats"]), ("none", [])])
def test_hup_resets_all_or_none(
    databases: Databases, write_config: WriteConfig, setting: str, again: list[str]
) -> None:
    central, local = databases
    mirror.seed(central, seed_varied(["nunes"], messages=300))
    config = write_config(
        central,
        {"nunes": local},
        signals={"sighup_reset": setting},
        defaults={"poll_interval": "100ms"},
    )
    with DaemonProcess(config) as daemon:
        _idle(daemon)
        mirror.run(local, "UPDATE wpp_messages SET body = 'spoilt'; UPDATE wpp_chats SET type = ''")
        daemon.hup()
        if again:
            daemon.wait_until(lambda: mirror.differences(central, local) == "")
        else:
            time.sleep(1.0)
            for entity in mirror.INCREMENTAL:
                assert mirror.differences(central, local, entities=[entity]) != ""
        assert [line["entities"] for line in daemon.logged("reset")] == ([again] if again else [])


def test_usr1_logs_the_status(databases: Databases, write_config: WriteConfig) -> None:
    mirror.insert_messages(databases.central, [7])
    config = write_config(databases.central, {"nunes": databases.local}, **QUICK)
    with DaemonProcess(config) as daemon:
        _idle(daemon)
        daemon.usr1()
        daemon.wait_until(lambda: bool(daemon.logged("status")))
        (line,) = daemon.logged("status")
        assert line["instance"] == "nunes"
        assert line["state"] == "idle"
        assert line["sync_state"][0]["last_synced_id"] == 7


@pytest.mark.parametrize(("rows", "marks"), [(1, {1, 2}), (150, {1})], ids=["one", "many"])
def test_a_second_term_leaves_now(
    databases: Databases, write_config: WriteConfig, rows: int, marks: set[int]
) -> None:
    """The first one waits for the batch, which here waits for a lock. A row or two go with their
    COMMIT, so the server may carry all of that out once it has been told; many do not."""
    central, local = databases
    mirror.insert_messages(central, [1])
    config = write_config(central, {"nunes": local}, **QUICK)
    with DaemonProcess(config) as daemon:
        _idle(daemon)
        daemon.wait_until(lambda: daemon.watermark() == 1)
        with mirror.Session(local) as other:
            other.execute("BEGIN; SELECT * FROM wpp_sync_state FOR UPDATE")
            mirror.insert_messages(central, range(2, 2 + rows))
            time.sleep(0.5)
            daemon.terminate()
            time.sleep(0.5)
            assert daemon.running, "the batch is not finished"
            daemon.terminate()
            began = time.monotonic()
            assert daemon.wait() == 0
            assert time.monotonic() - began < 3
        daemon.wait_until(
            lambda: (
                not mirror.number(
                    local,
                    "SELECT COUNT(*) FROM information_schema.PROCESSLIST"
                    " WHERE DB = DATABASE() AND ID <> CONNECTION_ID()",
                )
            )
        )
        mark = mirror.watermarks(local)["messages"]
        assert mark in marks
        assert mirror.local_ids(local) == list(range(1, mark + 1))


# --- metrics -------------------------------------------------------------------------------------


def test_metrics_have_the_names_types_and_labels_that_dashboards_use(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.seed(central, seed_varied(["nunes"], messages=300))
    config = write_config(central, {"nunes": local}, **QUICK)
    with DaemonProcess(config) as daemon:
        _idle(daemon)
        families = {
            family.name: family for family in text_string_to_metric_families(daemon.metrics_text())
        }
        ours = {name: family.type for name, family in families.items() if "wpp_sync" in name}
        assert ours == METRICS
        assert all(families[name].documentation for name in METRICS)
        labels = {
            name: {key for sample in family.samples for key in sample.labels}
            for name, family in families.items()
        }
        assert labels["wpp_sync_rows"] == {"wpp_instance", "entity", "operation"}
        assert labels["wpp_sync_last_synced_id"] == {"wpp_instance", "entity"}
        assert labels["wpp_sync_instance_state"] == {"wpp_instance", "state"}
        assert not any("instance" in found for found in labels.values()), "Prometheus owns it"
        ids = mirror.central_ids(central)
        named = {"wpp_instance": "nunes", "entity": "messages"}
        assert daemon.metric("wpp_sync_rows_total", operation="upsert", **named) == len(ids)
        assert daemon.metric("wpp_sync_last_synced_id", **named) == max(ids)
        assert daemon.metric("wpp_sync_lag_rows", **named) == 0
        assert daemon.metric("wpp_sync_lag_seconds", **named) == 0
        applied = daemon.metric("wpp_sync_migrations_applied_total", wpp_instance="nunes")
        assert applied == len(files.discover([files.SHIPPED]))
        assert daemon.metric("wpp_sync_instance_state", wpp_instance="nunes") == 1
        assert daemon.metric("wpp_sync_instance_state", wpp_instance="nunes", state="idle") == 1
        succeeded = daemon.metric("wpp_sync_last_success_timestamp_seconds", wpp_instance="nunes")
        assert abs(time.time() - succeeded) < 10
