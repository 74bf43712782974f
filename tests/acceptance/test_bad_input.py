"""Whatever is wrong: one message says what and where, with a hint and an exit code."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING

import pytest
import yaml

from tests import mirror
from tests.daemon_process import DaemonProcess, run_cli

if TYPE_CHECKING:
    from tests.conftest import Databases, ServerConfig, Servers

WriteConfig = Callable[..., Path]

QUICK = {"defaults": {"poll_interval": "100ms"}}
SECRET = "s3cr3t-pässword"


ONE_CHAT = (
    "INSERT INTO chats (instance, type, priority, is_finished, is_schedule)"
    " VALUES ('nunes', 'ACTIVE', 'LOW', 0, 0)"
)

_accounts = count(1)


def expect(done: CompletedProcess[str], code: int, *words: str) -> None:
    """The exit code, and each of these patterns in what was printed; never a traceback."""
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said
    assert SECRET not in said
    for each in words:
        assert re.search(each, said), f"{each!r} is not in:\n{said}"


def account(servers: Servers, database: ServerConfig, *grants: str) -> ServerConfig:
    """An account on the central server with these privileges (`SELECT ON {db}.chats`) only."""
    name = f"limited{next(_accounts)}"
    servers.central.execute(f"CREATE USER '{name}'@'%' IDENTIFIED BY '{SECRET}'")
    for grant in grants:
        privilege = grant.format(db=database["database"])
        servers.central.execute(f"GRANT {privilege} TO '{name}'@'%'")
    return {**database, "user": name, "password": SECRET}


# --- the configuration ---------------------------------------------------------------------------


def test_an_unknown_key_and_every_other_mistake_at_once(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(
        {**databases.central, "prot": 3306},
        {"nunes": databases.local},
        sync={"batch_row": 10, "settle": "soon"},
    )
    for verb in (["run"], ["status"], ["check"], ["sync", "--all"], ["reset", "nunes", "all"]):
        done = run_cli(*verb, "-c", config)
        name = re.escape(str(config))
        expect(
            done,
            2,
            rf"{name}:\d+: central\.prot: unknown key \(did you mean port\?\)",
            rf"{name}:\d+: sync\.batch_row: unknown key \(did you mean batch_rows\?\)",
            rf"{name}:\d+: sync\.settle: ",
            "hint: correct the configuration",
        )
        assert done.stdout == "", "errors go to standard error"


def test_a_missing_password_variable(databases: Databases, write_config: WriteConfig) -> None:
    config = write_config(
        {**databases.central, "password": "${WPP_CENTRAL_PASSWORD}"},
        {"nunes": {**databases.local, "password": "${WPP_NUNES_PASSWORD}"}},
    )
    expect(
        run_cli("sync", "nunes", "-c", config),
        2,
        r"central\.password: .*WPP_CENTRAL_PASSWORD",
        r"instances\.nunes\.password: .*WPP_NUNES_PASSWORD",
    )
    filled = {"WPP_CENTRAL_PASSWORD": "", "WPP_NUNES_PASSWORD": ""}
    assert run_cli("sync", "nunes", "-c", config, environ=filled).returncode == 0


def test_a_configuration_that_is_not_there_or_is_no_yaml(tmp_path: Path) -> None:
    expect(run_cli("run", "-c", tmp_path / "no.yaml"), 2, r"no\.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("central: {host: [\n")
    expect(run_cli("run", "-c", broken), 2, r"broken\.yaml:\d+")
    expect(run_cli("run", cwd=tmp_path), 2, "no configuration file")


# --- the command line ------------------------------------------------------------------------


@pytest.fixture
def valid(databases: Databases, write_config: WriteConfig) -> Path:
    return write_config(databases.central, {"nunes": databases.local}, **QUICK)


UNKNOWN_NAMES = pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sync", "nunez"], ["there is no instance 'nunez'", "hint: instances: nunes"]),
        (["sync", "Nunes"], ["there is no instance 'Nunes'"]),
        (["status", "nunez"], ["there is no instance 'nunez'", "hint: instances: nunes"]),
        (["reset", "nunez", "all"], ["there is no instance 'nunez'"]),
        (["resync", "nunez"], ["there is no instance 'nunez'"]),
        (["resync", "../nunes"], ["there is no instance"]),
        (["reset", "nunes", "mesages"], ["no entity 'mesages'", "messages, chats"]),
        (["reset", "nunes", "contacts"], ["no entity 'contacts'"]),
        (["sync", "nunes", "--skip", "mesages"], ["no entity mesages", "messages, chats"]),
        (["sync", "nunes", "--only", "mesages"], ["no entity mesages"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)


@UNKNOWN_NAMES
def test_an_unknown_instance_or_entity(valid: Path, arguments: list[str], words: list[str]) -> None:
    expect(run_cli(*arguments, "-c", valid), 2, *words)


@UNKNOWN_NAMES
def test_an_unknown_instance_or_entity_while_a_daemon_runs(
    valid: Path, arguments: list[str], words: list[str], request: pytest.FixtureRequest
) -> None:
    with DaemonProcess(valid) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")
        expect(run_cli(*arguments, "-c", valid), 2, *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sync"], "name the instances, or say --all"),
        (["sync", "nunes", "--all"], "name the instances, or say --all"),
        (["sync", "nunes", "--skip", "chats", "--only", "chats"], "exclude each other"),
        (["snyc"], "No such command"),
        (["sync", "--everything"], "No such option"),
        (["reset", "nunes"], "Missing argument"),
        *(
            (["status", "--watch", f"--interval={seconds}"], "--interval")
            for seconds in ("nan", "-nan", "inf", "-inf", "-1", "0", "1e300", "soon")
        ),
    ],
)
def test_wrong_usage(valid: Path, arguments: list[str], words: str) -> None:
    expect(run_cli(*arguments, "-c", valid), 2, words)


# --- servers and accounts --------------------------------------------------------------------


@pytest.mark.parametrize("side", ["central", "local nunes"])
@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"port": 1}, 3, r"cannot connect to 127\.0\.0\.1:1: .*[Rr]efused|Connect call failed"),
        ({"host": "no.such.host.invalid"}, 3, r"cannot connect to no\.such\.host\.invalid"),
        ({"password": SECRET}, 3, r"Access denied for user 'root'.*\(error 1045\)"),
        ({"user": "nobody"}, 3, r"Access denied for user 'nobody'"),
        ({"database": "no_such_database"}, 3, r"Unknown database 'no_such_database'"),
        ({"socket": "/var/no-such.sock"}, 3, r"/var/no-such\.sock"),
    ],
    ids=["port", "host", "password", "user", "database", "socket"],
)
def test_a_server_that_cannot_be_used(
    databases: Databases,
    write_config: WriteConfig,
    side: str,
    change: Mapping[str, object],
    code: int,
    words: str,
) -> None:
    central, local = databases
    changed = {"connect_timeout": "2s", **change}
    config = (
        write_config({**central, **changed}, {"nunes": local})
        if side == "central"
        else write_config(central, {"nunes": {**local, **changed}})
    )
    expect(run_cli("sync", "nunes", "-c", config), code, f"error: {side}: ", words, "hint: check")
    expect(run_cli("check", "-c", config), code, rf"fail +{side}  ", words, "hint: check")


def test_the_daemon_keeps_a_server_that_refuses_it_in_view(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    """A wrong password does not mend by itself: the instance is failed, the other one goes on."""
    central, local = databases
    config = write_config(
        central,
        {"nunes": {**servers.new_local(), "password": SECRET}, "karsten": local},
        **QUICK,
    )
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state("karsten") == "idle")
        daemon.wait_until(lambda: daemon.state("nunes") == "failed")
        error = daemon.status("nunes")["error"]
        assert error["code"] == "access"
        assert "Access denied" in error["message"]
        assert "password" in error["hint"]
        assert daemon.metric("wpp_sync_errors_total", wpp_instance="nunes", kind="access") >= 1
        shown = run_cli("status", "-c", config)
        assert "Access denied" in shown.stdout
        assert shown.returncode == 0
        assert SECRET not in daemon.log_file.read_text()


def test_no_select_privilege_on_one_table_stops_that_entity_only(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.run(central, ONE_CHAT)
    limited = account(servers, central, "SELECT ON {db}.chats")
    config = write_config(limited, {"nunes": local}, **QUICK)
    run_cli("sync", "nunes", "-c", config)
    assert mirror.local_ids(local, "chats") == [1]
    expect(run_cli("check", "-c", config), 3, "fail +central messages  .*denied", "hint: GRANT")
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state() == "failed")
        assert "may not see it" in daemon.entity("messages")["error"]["message"]
        assert daemon.entity("chats")["error"] is None
        assert daemon.entity("chats")["last_synced_id"] == 1


def test_a_one_shot_sync_says_that_it_may_not_read_a_table(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    limited = account(servers, databases.central, "SELECT ON {db}.chats")
    expect(
        run_cli("sync", "nunes", "-c", write_config(limited, {"nunes": databases.local})),
        1,
        "chats 0 rows",
        "error: messages: there is no table messages in the central database,"
        " or the account may not see it",
        "GRANT SELECT ON messages",
    )


def test_no_privilege_at_all_in_the_central_database(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    limited = account(servers, databases.central)
    config = write_config(limited, {"nunes": databases.local})
    words = r"central: Access denied for user 'limited\d+'.* to database .*\(error 1044\)"
    expect(run_cli("sync", "nunes", "-c", config), 3, words, "hint: check .*GRANT")
    expect(run_cli("check", "-c", config), 3, words, "hint: check .*GRANT")


def test_select_on_the_central_tables_is_enough(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 10))
    limited = account(servers, central, "SELECT ON {db}.*")
    config = write_config(limited, {"nunes": local})
    assert run_cli("sync", "nunes", "-c", config).returncode == 0
    assert mirror.differences(central, local) == ""
    told = run_cli("check", "-c", config)
    assert told.returncode == 0
    assert "more than SELECT" not in told.stdout


# --- the local tables ------------------------------------------------------------------------


def test_a_missing_local_column_is_left_out_and_reported(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    config = write_config(central, {"nunes": local}, **QUICK)
    assert run_cli("sync", "nunes", "-c", config).returncode == 0
    mirror.run(local, "ALTER TABLE wpp_messages DROP COLUMN billing_category")
    mirror.insert_messages(central, range(1, 10))

    done = run_cli("sync", "nunes", "-c", config)

    assert done.returncode == 0
    words = "billing_category of central messages not copied: no such column in wpp_messages"
    expect(run_cli("check", "-c", config), 0, f"note +local nunes  messages: {words}")
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")
        told = [line["columns"] for line in daemon.logged("columns left out")]
        assert words in told
    assert mirror.differences(central, local) == ""


BROKEN_TABLES = pytest.mark.parametrize(
    ("broken", "entity", "other", "words"),
    [
        (
            "ALTER TABLE wpp_chats DROP COLUMN original_id",
            "chats",
            "messages",
            "column original_id is missing in local wpp_chats",
        ),
        (
            "ALTER TABLE wpp_messages DROP COLUMN id",
            "messages",
            "chats",
            "local wpp_messages has no primary key of one column",
        ),
        (
            "ALTER TABLE wpp_messages ADD COLUMN extra INT NOT NULL",
            "messages",
            "chats",
            r"extra of local wpp_messages must be filled \(NOT NULL without a default\)",
        ),
        (
            "DROP TABLE wpp_messages",
            "messages",
            "chats",
            "there is no table wpp_messages in the local database",
        ),
    ],
    ids=["mapped column", "key", "column without counterpart", "table"],
)


@BROKEN_TABLES
def test_a_local_table_that_cannot_be_filled_stops_that_entity_only(
    databases: Databases,
    write_config: WriteConfig,
    broken: str,
    entity: str,
    other: str,
    words: str,
) -> None:
    central, local = databases
    config = write_config(central, {"nunes": local}, **QUICK)
    assert run_cli("sync", "nunes", "-c", config).returncode == 0
    mirror.run(local, broken)
    mirror.insert_messages(central, range(1, 10))
    mirror.run(central, ONE_CHAT)
    expect(run_cli("check", "-c", config), 1, f"fail +local nunes  {entity}: {words}")
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state() == "failed")
        assert re.search(words, daemon.entity(entity)["error"]["message"])
        assert daemon.entity(entity)["error"]["hint"]
        assert daemon.entity(other)["error"] is None
        told = [line for line in daemon.logged("entity failed") if line["entity"] == entity]
        assert len(told) == 1
        assert re.search(words, told[0]["error"])
    assert mirror.differences(central, local, entities=[other]) == ""
    assert mirror.watermarks(local) == {entity: 0, other: 9 if other == "messages" else 1}


@BROKEN_TABLES
def test_a_one_shot_sync_says_that_a_local_table_cannot_be_filled(
    databases: Databases,
    write_config: WriteConfig,
    broken: str,
    entity: str,
    other: str,
    words: str,
) -> None:
    central, local = databases
    config = write_config(central, {"nunes": local})
    assert run_cli("sync", "nunes", "-c", config).returncode == 0
    mirror.run(local, broken)
    expect(
        run_cli("sync", "nunes", "-c", config),
        1,
        f"{other} 0 rows",
        f"error: {entity}: {words}",
        "hint: ",
    )


# --- migrations ------------------------------------------------------------------------------


def test_a_migration_file_with_a_wrong_name_stops_the_start_before_anything_is_touched(
    databases: Databases, write_config: WriteConfig, tmp_path: Path
) -> None:
    directory = tmp_path / "more"
    directory.mkdir()
    (directory / "2026-13-01-001-no-such-month.sql").write_text("-- a month\nSELECT 1;")
    (directory / "add-column.sql").write_text("-- no date\nSELECT 1;")
    config = write_config(
        databases.central, {"nunes": databases.local}, migrations={"directory": str(directory)}
    )
    for verb in (["run"], ["sync", "nunes"], ["check"]):
        expect(
            run_cli(*verb, "-c", config),
            2,
            r"2026-13-01-001-no-such-month\.sql: the name is not YYYY-MM-DD-NNN-short-description",
            r"add-column\.sql: the name is not YYYY-MM-DD-NNN-short-description",
            "hint: correct or remove these files",
        )
    assert mirror.rows(databases.local, "SHOW TABLES") == []


def test_a_migration_that_fails_half_way_is_mended_and_goes_on(
    databases: Databases, servers: Servers, write_config: WriteConfig, tmp_path: Path
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 10))
    directory = tmp_path / "more"
    directory.mkdir()
    file = directory / "2026-02-04-001-add-priority-column.sql"
    first = "ALTER TABLE wpp_chats ADD COLUMN priority VARCHAR(20) NULL DEFAULT 'NORMAL';\n"
    file.write_text(
        f"-- description: Add priority\n{first}"
        "ALTER TABLE wpp_chats ADD INDEX idx_priority (priorty);\n"
        "CREATE TABLE report_days (day DATE PRIMARY KEY);"
    )
    config = write_config(
        central,
        {"nunes": local, "karsten": servers.new_local()},
        migrations={"directory": str(directory)},
        **QUICK,
    )
    expect(
        run_cli("sync", "nunes", "-c", config),
        1,
        r"migration 2026-02-04-001-add-priority-column stopped at statement 2 of 3"
        r" \(statement 1 is in effect\): .*priorty",
        "hint: mend the cause",
    )
    ran = [row[0] for row in mirror.rows(local, "SELECT id FROM wpp_sync_migrations ORDER BY id")]
    assert "2026-02-03-001-add-bot-id-column" in ran
    assert "2026-02-04-001-add-priority-column" not in ran
    assert mirror.rows(local, "SHOW TABLES LIKE 'report_days'") == []
    assert mirror.local_ids(local) == [], "no row is copied before the migrations are in effect"
    with DaemonProcess(config) as daemon:
        daemon.wait_until(lambda: daemon.state() == "failed")
        assert daemon.status()["error"]["code"] == "migration"
        assert "2026-02-04-001" in daemon.status()["error"]["message"]

    file.write_text(file.read_text().replace("priorty", "priority"))
    assert run_cli("sync", "nunes", "-c", config).returncode == 0
    history = mirror.rows(
        local, "SELECT id, description FROM wpp_sync_migrations WHERE id LIKE '2026-02-04%'"
    )
    assert history == [["2026-02-04-001-add-priority-column", "Add priority"]]
    assert mirror.rows(local, "SHOW TABLES LIKE 'report_days'") == [["report_days"]]
    assert mirror.differences(central, local) == ""


# --- hostile requests and closed streams ---------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /v1/instances/nunes/sync HTTP/1.1\r\nHost: d\r\nContent-Type: application/json;"
        b" charset=foo\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/instances/nunes/sync HTTP/1.1\r\nHost: d\r\nContent-Length: 19\r\n\r\n"
        b'{"skip":["\\ud800"]}',
        b"POST /v1/instances/nunes/sync HTTP/1.1\r\nHost: d\r\nContent-Length: 12\r\n\r\n"
        b'{"\\ud800":1}',
        b"POST /v1/instances/nunes/sync HTTP/1.1\r\nHost: d\r\nContent-Length: 4\r\n\r\n"
        b"\xff\xfe\xfd{",
        b"POST /v1/instances/nunes/sync HTTP/1.1\r\nHost: d\r\nContent-Encoding: deflate\r\n"
        b"Content-Length: 4\r\n\r\njunk",
    ],
)
def test_a_hostile_request_gets_an_answer_and_the_log_stays_json(
    valid: Path, request_: bytes
) -> None:
    with DaemonProcess(valid) as daemon:
        daemon.wait_until(lambda: daemon.state() == "idle")
        path = yaml.safe_load(valid.read_text())["control"]["socket"]
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(path)
            connection.sendall(request_)
            answer = connection.recv(65536)
        assert b" 500 " not in answer.splitlines()[0]
        assert b"Traceback" not in answer
        assert daemon.state() == "idle"
        assert daemon.log()


def test_closed_and_full_output_is_no_bug(valid: Path) -> None:
    command = f"{sys.executable} -m daemon.cli"
    closed = subprocess.run(
        ["sh", "-c", f"{command} sync nunes -c {valid} >&-"], capture_output=True, check=False
    )
    assert closed.returncode == 0, closed.stderr
    full = subprocess.run(
        ["sh", "-c", f"{command} check -c {valid} >/dev/full"], capture_output=True, check=False
    )
    assert full.returncode == 1
    assert b"cannot write the output: No space left on device" in full.stderr
    assert b"bug" not in full.stderr
