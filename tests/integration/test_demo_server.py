"""The private MariaDB, its seeded data, its traffic and the comparison, on real servers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from asyncmy.errors import ProgrammingError

from daemon.demo import server as server_module
from daemon.demo.central import (
    AWKWARD_TEXTS,
    AWKWARD_TIMES,
    LONGEST_BODY,
    lookalikes,
    schema,
    seed_bulk,
    seed_bulk_contacts,
    seed_varied,
)
from daemon.demo.compare import Subject, compare, report, subject
from daemon.demo.server import MariaDB, client, template
from daemon.demo.traffic import Traffic
from daemon.errors import WppSyncError

if TYPE_CHECKING:
    from tests.conftest import Databases, ServerConfig, Servers


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def column(server: MariaDB, sql: str, database: str = "") -> list[str]:
    """The first column of a query's rows."""
    return [line.split("\t")[0] for line in server.execute(sql, database).splitlines()[1:]]


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty directory whose path leaves no room for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="wpp-" + "long-" * 30) as name:
        yield Path(name)


# --- the server


def test_a_restart_keeps_port_socket_and_data(central: MariaDB) -> None:
    central.create_database("kept")
    before = (central.port, central.socket, central.pid)

    central.restart()

    assert (central.port, central.socket) == before[:2]
    assert central.pid != before[2]
    assert "kept" in column(central, "SHOW DATABASES")


def test_what_was_committed_survives_a_kill(central: MariaDB) -> None:
    central.create_database("d")
    central.execute("CREATE TABLE t (n INT PRIMARY KEY) ENGINE=InnoDB", "d")
    for number in range(20):
        central.execute(f"INSERT INTO t VALUES ({number})", "d")

    central.kill()
    assert not central.running
    central.start()

    assert len(column(central, "SELECT n FROM t", "d")) == 20
    assert central.crashes() == []


def test_a_paused_server_accepts_and_says_nothing_until_it_is_resumed(central: MariaDB) -> None:
    central.pause()
    with socket.create_connection((server_module.HOST, central.port)) as connection:
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert central.running

        central.resume()

        connection.settimeout(10)
        assert connection.recv(1) != b""


def test_a_paused_server_can_be_stopped_and_killed(central: MariaDB) -> None:
    central.pause()
    central.stop()
    central.start()
    central.pause()
    central.kill()
    assert not central.running


def test_root_enters_over_tcp_and_socket_without_a_password(central: MariaDB) -> None:
    assert b"root@127.0.0.1" in client(central.config(""), "SELECT CURRENT_USER()")
    assert "root@localhost" in central.execute("SELECT CURRENT_USER()")


def test_another_account_enters_with_its_password(central: MariaDB) -> None:
    central.execute("CREATE USER reader@'%' IDENTIFIED BY 'sec ret'; GRANT SELECT ON *.* TO reader")

    assert b"reader@%" in client(
        central.config("mysql", "reader", "sec ret"), "SELECT CURRENT_USER()"
    )
    with pytest.raises(WppSyncError, match="Access denied") as caught:
        client(central.config("mysql", "reader", "wrong secret"), "SELECT 1")
    assert "wrong secret" not in caught.value.message


def test_the_two_servers_differ_in_what_must_not_matter(central: MariaDB, local: MariaDB) -> None:
    settings = "SELECT @@character_set_server, @@time_zone, @@sql_mode"

    assert central.execute(settings).splitlines()[1] == "utf8mb4\t-03:00\t"
    assert local.execute(settings).splitlines()[1] == (
        "latin1\t+05:30\tANSI_QUOTES,NO_BACKSLASH_ESCAPES,STRICT_ALL_TABLES"
    )
    assert central.port != local.port
    assert central.execute("SELECT @@innodb_flush_log_at_trx_commit").splitlines()[1] == "1"


def test_the_socket_path_is_short_however_long_the_directory_is(
    directory: Path, mariadb_template: Path
) -> None:
    with MariaDB(directory / "server", name="deep", template=mariadb_template) as server:
        assert len(str(server.socket)) < 100
        pid, sockets = server.pid, server.socket.parent
        assert alive(pid)
    assert not alive(pid)
    assert not sockets.exists()


def test_a_failing_statement_names_server_and_error(central: MariaDB) -> None:
    with pytest.raises(WppSyncError, match=r"^central: .* failed: 1146 .*'nowhere.at_all'"):
        central.execute("SELECT * FROM nowhere.at_all")
    central.stop()
    with pytest.raises(WppSyncError, match=r"^central: .* failed: 2002 "):
        central.execute("SELECT 1")


def test_a_server_that_cannot_start_shows_the_end_of_its_log(
    directory: Path, mariadb_template: Path
) -> None:
    server = MariaDB(
        directory, name="broken", options=["--no-such-option=1"], template=mariadb_template
    )

    with pytest.raises(WppSyncError, match=r"broken does not start:\n(.*\n)*.*no-such-option") as e:
        server.start()

    assert str(server.error_log) in e.value.hint
    assert not server.running


def test_operations_on_a_server_that_does_not_run_say_so(directory: Path) -> None:
    server = MariaDB(directory, name="absent")

    for operation in (server.kill, server.pause, server.resume):
        with pytest.raises(WppSyncError, match="absent does not run"):
            operation()
    server.stop()
    assert server.crashes() == []


def test_a_machine_without_mariadb_is_told_what_to_install(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path: None)

    with pytest.raises(WppSyncError, match="mariadb-install-db is not installed") as caught:
        MariaDB(directory / "server", name="central").start()
    assert "apt-get install mariadb-server-core mariadb-client-core" in caught.value.hint


def test_a_taken_port_is_given_up_for_another(
    directory: Path, mariadb_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        free = server_module._free_port()
        ports = iter([other.getsockname()[1], free])
        monkeypatch.setattr(server_module, "_free_port", lambda: next(ports))

        with MariaDB(directory, name="late", template=mariadb_template) as server:
            assert server.port == free


def test_a_crash_is_found_out(directory: Path, mariadb_template: Path) -> None:
    with MariaDB(directory, name="shaky", template=mariadb_template) as server:
        os.kill(server.pid, signal.SIGSEGV)
        assert eventually(lambda: not server.running)
        crashes = server.crashes()
    assert any("got signal 11" in line for line in crashes)
    assert any("shaky ended with status" in line for line in crashes)


def test_the_server_outlives_the_thread_that_started_it(
    directory: Path, mariadb_template: Path
) -> None:
    server = MariaDB(directory, name="threaded", template=mariadb_template)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()

    time.sleep(0.2)

    assert server.running
    server.close()


def test_the_server_dies_with_its_parent_even_if_that_is_killed(
    directory: Path, mariadb_template: Path
) -> None:
    program = f"""
from pathlib import Path
import time
from daemon.demo.server import MariaDB
server = MariaDB(Path({str(directory)!r}), name="orphan", template=Path({str(mariadb_template)!r}))
server.start()
print(server.pid, server.socket.parent, flush=True)
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        cwd=Path(server_module.__file__).parents[2],
    ) as parent:
        assert parent.stdout is not None
        pid, sockets = parent.stdout.readline().split()
        assert alive(int(pid))

        parent.kill()

    assert eventually(lambda: not alive(int(pid)))
    for left in Path(sockets.decode()).iterdir():
        left.unlink()
    Path(sockets.decode()).rmdir()


def test_the_template_is_initialised_once_for_all_who_ask(directory: Path) -> None:
    made: list[Path] = []
    threads = [
        threading.Thread(target=lambda: made.append(template(directory / "t"))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(made)) == 1
    first = (made[0] / "ibdata1").stat().st_ino
    assert (template(directory / "t") / "ibdata1").stat().st_ino == first


# --- central's tables and rows


def test_the_tables_have_the_columns_that_the_application_gives_them(servers: Servers) -> None:
    name = str(servers.new_central()["database"])

    def columns(table: str) -> dict[str, str]:
        lines = servers.central.execute(f"SHOW COLUMNS FROM {table}", name).splitlines()[1:]
        return {line.split("\t")[0]: " ".join(line.split("\t")[1:4]) for line in lines}

    messages = columns("messages")
    assert messages["id"] == "int(11) NO PRI"
    assert messages["waba_id"] == "varchar(191) YES UNI"
    assert messages["body"] == "text NO "
    assert messages["sent_at"] == "datetime(3) NO "
    assert "'DOWNLOADED'" in messages["status"]
    assert len(messages) == 28
    chats = columns("chats")
    assert chats["schedule_id"] == "int(11) YES UNI"
    assert "'VERY_HIGH'" in chats["priority"]
    assert columns("contacts_sectors") == {
        "contactId": "int(11) NO PRI",
        "sectorId": "int(11) NO PRI",
    }
    assert columns("schedules")["chat_id"] == "int(11) YES UNI"
    assert columns("contacts")["instance"] == "varchar(191) NO MUL"
    rules = servers.central.execute(
        "SELECT constraint_name, delete_rule FROM information_schema.referential_constraints"
        f" WHERE constraint_schema = '{name}' ORDER BY 1"
    ).splitlines()[1:]
    assert rules == [
        "messages_chat_id_fkey\tSET NULL",
        "messages_client_id_fkey\tCASCADE",
        "messages_contact_id_fkey\tSET NULL",
    ]


def test_the_same_seed_gives_the_same_rows_and_another_seed_others() -> None:
    def rows(seed: int) -> str:
        return "".join(seed_varied(["nunes", "karsten"], messages=500, seed=seed))

    assert rows(1) == rows(1)
    assert rows(1) != rows(2)


def test_varied_rows_contain_all_that_is_hard_to_copy(servers: Servers) -> None:
    name = str(servers.new_central()["database"])
    servers.central.execute("".join(seed_varied(["nunes", "karsten"], messages=4_000)), name)

    def distinct(what: str, table: str) -> set[str]:
        return set(column(servers.central, f"SELECT DISTINCT {what} FROM {table}", name))

    bodies = distinct("HEX(body)", "messages")
    assert {text.encode().hex().upper() for text in AWKWARD_TEXTS} <= bodies
    assert max(len(body) // 2 for body in bodies) == LONGEST_BODY
    assert len(distinct("status", "messages")) == 7
    assert len(distinct("priority", "chats")) == 5
    assert len(distinct("type", "chats")) == 2
    assert set(AWKWARD_TIMES) <= distinct("sent_at", "messages")
    assert {"NULL", ""} <= distinct("avatar_url", "contacts")
    ids = [int(id_) for id_ in column(servers.central, "SELECT id FROM messages ORDER BY 1", name)]
    assert len(ids) == 4_000
    assert ids[0] == 1
    assert ids[-1] > 6_000
    assert distinct("chat_id IS NULL", "schedules") == {"0", "1"}
    assert int(column(servers.central, "SELECT COUNT(schedule_id) FROM chats", name)[0]) == 200


def test_a_sixth_of_the_rows_belong_to_names_that_only_look_alike(servers: Servers) -> None:
    name = str(servers.new_central()["database"])
    servers.central.execute("".join(seed_varied(["nunes"], messages=2_000)), name)

    assert lookalikes("nunes") == ("Nunes", "Núnes", "nunes ")
    by_collation = column(
        servers.central, "SELECT COUNT(*) FROM messages WHERE instance = 'nunes'", name
    )
    by_bytes = column(
        servers.central,
        "SELECT COUNT(*) FROM messages WHERE CAST(instance AS BINARY) = 'nunes'",
        name,
    )
    assert by_collation == ["2000"]
    assert 0.80 < int(by_bytes[0]) / 2_000 < 0.90


def test_more_varied_rows_can_follow_later(servers: Servers) -> None:
    name = str(servers.new_central()["database"])
    servers.central.execute("".join(seed_varied(["nunes"], messages=300)), name)
    servers.central.execute("".join(seed_varied(["nunes"], messages=1, first_id=5_000)), name)

    assert column(servers.central, "SELECT COUNT(*), MAX(id) FROM messages", name) == ["301"]
    assert column(servers.central, "SELECT MAX(id) FROM messages", name) == ["5000"]


def test_varied_rows_mean_the_same_under_another_sql_mode(databases: Databases) -> None:
    for side in databases:
        client(side, "SET sql_mode = '';" + schema() if side is databases.local else "SELECT 1")
        client(side, "".join(seed_varied(["nunes"], messages=1_000)))

    for table in ("messages", "chats", "contacts", "schedules"):
        same = Subject(instance="nunes", entity=table, central_table=table, local_table=table)
        client(databases.local, f"DELETE FROM {table} WHERE CAST(instance AS BINARY) <> 'nunes'")
        assert compare(databases.central, databases.local, same).equal


def test_bulk_rows_are_made_inside_the_server(servers: Servers) -> None:
    name = str(servers.new_central()["database"])
    servers.central.execute(seed_bulk_contacts("nunes", 50, first_id=10), name)
    statement = seed_bulk("nunes", 5_000, 300, first_id=100, step=3, contact_ids=range(10, 60))
    servers.central.execute(statement, name)

    found = servers.central.execute(
        "SELECT COUNT(*), MIN(id), MAX(id), MIN(LENGTH(body)), MAX(LENGTH(body)),"
        " COUNT(DISTINCT contact_id), COUNT(DISTINCT status), COUNT(DISTINCT waba_id)"
        " FROM messages",
        name,
    )
    assert found.splitlines()[1] == "5000\t100\t15097\t300\t300\t50\t7\t5000"


# --- the comparison


ALL = ("messages", "chats", "contacts", "schedules", "contact_sectors")


@pytest.fixture
def copied(databases: Databases) -> Databases:
    """The same varied rows on both sides, and local's tables as a perfect daemon fills them."""
    rows = "".join(seed_varied(["nunes", "karsten"], messages=800))
    client(databases.central, rows)
    own = "WHERE CAST(instance AS BINARY) = 'nunes'"
    client(
        databases.local,
        schema()
        + rows
        + f"""
        CREATE TABLE wpp_messages LIKE messages;
        INSERT INTO wpp_messages SELECT * FROM messages {own};
        CREATE TABLE wpp_chats LIKE chats;
        ALTER TABLE wpp_chats MODIFY id INT NOT NULL, ADD original_id INT NOT NULL UNIQUE,
            DROP COLUMN wallet_id, DROP COLUMN schedule_id, DROP COLUMN priority;
        INSERT INTO wpp_chats
            SELECT id, instance, contact_id, user_id, bot_id, result_id, sector_id, type,
                avatar_url, is_finished, started_at, finished_at, finished_by, is_schedule, id
            FROM chats {own};
        CREATE TABLE wpp_contacts AS SELECT id, instance, name, phone, customer_id, is_deleted
            FROM contacts {own};
        CREATE TABLE wpp_schedules AS SELECT * FROM schedules {own};
        CREATE TABLE wpp_contact_sectors AS
            SELECT contactId AS contact_id, sectorId AS sector_id FROM contacts_sectors
            WHERE contactId IN (SELECT id FROM contacts {own});
        """,
    )
    return databases


@pytest.mark.parametrize("chunk_rows", [1, 7, 5_000])
def test_a_perfect_copy_is_equal_in_every_entity(copied: Databases, chunk_rows: int) -> None:
    entities = ALL if chunk_rows > 1 else ("schedules", "contact_sectors")
    results = [
        compare(*copied, subject("nunes", entity), chunk_rows=chunk_rows) for entity in entities
    ]

    assert all(result.equal for result in results), report(results)
    assert all(result.rows_central == result.rows_local > 0 for result in results)
    if entities is ALL:
        assert [result.columns for result in results] == [28, 15, 6, 10, 2]


@pytest.mark.parametrize(
    ("change", "counts", "example"),
    [
        ("DELETE FROM wpp_messages ORDER BY id LIMIT 1", (1, 0, 0), "is missing"),
        ("DELETE FROM wpp_messages ORDER BY id DESC LIMIT 2", (2, 0, 0), "is missing"),
        ("DELETE FROM wpp_messages", (None, 0, 0), "is missing"),
        (
            "INSERT INTO wpp_messages SELECT * FROM messages"
            " WHERE CAST(instance AS BINARY) = 'Nunes' LIMIT 1",
            (0, 1, 0),
            "is not in central",
        ),
        (
            "UPDATE wpp_messages SET instance = 'Nunes' ORDER BY id LIMIT 1",
            (0, 0, 1),
            "instance is 'Nunes', in central 'nunes'",
        ),
        (
            "UPDATE wpp_messages SET body = '' WHERE body = ' ' AND LENGTH(body) = 1 LIMIT 1",
            (0, 0, 1),
            "body is '', in central ' '",
        ),
        (
            "UPDATE wpp_messages SET file_name = '' WHERE file_name IS NULL LIMIT 3",
            (0, 0, 3),
            "file_name is '', in central NULL",
        ),
        (
            "UPDATE wpp_messages SET sent_at = sent_at + INTERVAL 1000 MICROSECOND"
            " WHERE sent_at LIKE '2026-01-%' LIMIT 1",
            (0, 0, 1),
            "sent_at is '2026-01-",
        ),
    ],
)
def test_a_flawed_copy_is_found_out(
    copied: Databases, change: str, counts: tuple[int | None, int, int], example: str
) -> None:
    client(copied.local, "SET sql_mode = ''; " + change)

    found = compare(*copied, subject("nunes", "messages"), chunk_rows=100)

    missing, extra, differing = counts
    assert not found.equal
    expected = found.rows_central if missing is None else missing
    assert (found.missing, found.extra, found.differing) == (expected, extra, differing)
    assert example in found.examples[0]


TYPES = {
    "f": ("FLOAT", "1.2345678", "1.2345677"),
    "d": ("DOUBLE", "0.1", "0.10000000000000002"),
    "n": ("DECIMAL(30,10)", "12345678901234567890.0123456789", "12345678901234567890.0123456788"),
    "u": ("BIGINT UNSIGNED", "18446744073709551615", "18446744073709551614"),
    "b": ("BIT(64)", "b'1' << 63", "b'1' << 62"),
    "x": ("BLOB", "X'00FF80'", "X'00FF81'"),
    "y": ("YEAR", "2026", "2027"),
    "t": ("TIME(6)", "'-838:59:59.123456'", "'-838:59:59.123457'"),
    "s": ("TIMESTAMP(3)", "FROM_UNIXTIME(1767254400.123)", "FROM_UNIXTIME(1767254400.124)"),
    "z": ("DATE", "'0000-00-00'", "NULL"),
    "e": ("ENUM('a','b')", "'a'", "'b'"),
    "m": ("SET('a','b')", "'a,b'", "'a'"),
    "j": ("JSON", "'{\"a\": 1}'", "'{\"a\":1}'"),
    "p": ("POINT", "POINT(1, 2)", "POINT(1, 3)"),
}


@pytest.mark.parametrize("name", TYPES)
def test_every_type_is_compared_by_value_whatever_the_servers_settings(
    databases: Databases, name: str
) -> None:
    type_, value, other = TYPES[name]
    make = f"SET sql_mode = ''; CREATE TABLE t (id INT PRIMARY KEY, v {type_} NULL)"
    for side in databases:
        client(side, f"{make}; INSERT INTO t VALUES (1, {value}), (2, {value})")
    what = Subject(
        instance="", entity="t", central_table="t", local_table="t", instance_column=None
    )
    assert compare(*databases, what).equal

    client(databases.local, f"SET sql_mode = ''; UPDATE t SET v = {other} WHERE id = 2")

    found = compare(*databases, what)
    assert (found.missing, found.extra, found.differing) == (0, 0, 1)


def test_text_keys_in_different_collations_meet_in_byte_order(databases: Databases) -> None:
    words = ["a", "B", "b", "Z", "ä", "é", "zz", "10", "9"]
    rows = ", ".join(f"('{word}', 1)" for word in words)
    for side, charset in zip(databases, ("utf8mb4", "latin1"), strict=True):
        client(
            side,
            f"CREATE TABLE t (k VARCHAR(20) COLLATE {charset}_bin PRIMARY KEY, v INT)"
            f" CHARSET {charset}; INSERT INTO t VALUES {rows}",
        )
    what = Subject(
        instance="",
        entity="t",
        central_table="t",
        local_table="t",
        key=("k",),
        instance_column=None,
    )

    found = compare(*databases, what, chunk_rows=2)

    assert found.equal
    assert found.rows_central == len(words)


def test_tables_that_cannot_be_compared_are_refused_in_words(databases: Databases) -> None:
    absent = Subject(instance="n", entity="t", central_table="messages", local_table="absent")
    with pytest.raises(WppSyncError, match="there is no table absent in local_"):
        compare(*databases, absent)

    client(
        databases.local, "CREATE TABLE t (id VARCHAR(10), body TEXT); CREATE TABLE u (body TEXT)"
    )
    for table, message in (("t", "they sort differently"), ("u", "no counterpart of the key")):
        what = Subject(instance="n", entity="t", central_table="messages", local_table=table)
        with pytest.raises(WppSyncError, match=message):
            compare(*databases, what)


# --- the traffic


def count_rows(central: ServerConfig) -> dict[str, int]:
    """Messages and chats together, by instance."""
    answer = client(
        central,
        "SELECT instance, SUM(n) FROM (SELECT instance, COUNT(*) n FROM messages GROUP BY 1"
        " UNION ALL SELECT instance, COUNT(*) FROM chats GROUP BY 1) both_ GROUP BY 1",
        "--skip-column-names",
    )
    lines = [line.split("\t") for line in answer.decode().splitlines()]
    return {instance: int(number) for instance, number in lines}


def visible_ids(central: ServerConfig) -> set[int]:
    answer = client(central, "SELECT id FROM messages", "--skip-column-names")
    return {int(line) for line in answer.split()}


async def test_traffic_commits_what_it_counts_and_leaves_nothing_open(
    servers: Servers, databases: Databases
) -> None:
    client(databases.central, seed_bulk_contacts("nunes", 20))
    traffic = Traffic(databases.central, ["nunes", "karsten"], rows_per_second=400)
    stop = asyncio.Event()
    running = asyncio.create_task(traffic.run(stop))
    began = time.monotonic()
    seen: set[int] = set()
    late: set[int] = set()
    while time.monotonic() - began < 4:
        ids = await asyncio.to_thread(visible_ids, databases.central)
        late |= {id_ for id_ in ids - seen if seen and id_ < max(seen)}
        seen |= ids

    stop.set()
    await asyncio.wait_for(running, 10)

    counters = traffic.counters
    assert count_rows(databases.central) == dict(counters.rows_committed)
    assert set(counters.rows_committed) == {"nunes", "karsten"}
    # Bounds that also a busy machine keeps; the aim is 1,600 rows in these 4 seconds.
    assert 200 < counters.rows_committed.total() < 2_500
    assert 0 < counters.rolled_back < counters.transactions / 3
    assert counters.interrupted == 0
    assert late, "some ids must become visible after higher ones"
    open_ = column(servers.central, "SELECT COUNT(*) FROM information_schema.INNODB_TRX")
    assert open_ == ["0"]
    with_contact = client(
        databases.central,
        "SELECT COUNT(*) FROM messages WHERE contact_id IS NOT NULL AND instance = 'nunes'",
    )
    assert int(with_contact.split()[1]) > 0


async def test_traffic_waits_for_a_server_that_was_killed(central: MariaDB) -> None:
    config = central.create_database("c")
    central.execute(schema(), "c")
    traffic = Traffic(config, ["nunes"])
    stop = asyncio.Event()
    running = asyncio.create_task(traffic.run(stop))

    def wait_for_more_rows() -> bool:
        before = traffic.counters.rows_committed.total()
        return eventually(lambda: traffic.counters.rows_committed.total() > before, 20)

    assert await asyncio.to_thread(wait_for_more_rows)
    await asyncio.to_thread(central.kill)
    await asyncio.sleep(0.5)
    await asyncio.to_thread(central.start)
    assert await asyncio.to_thread(wait_for_more_rows)
    stop.set()
    await asyncio.wait_for(running, 20)

    assert traffic.counters.interrupted > 0
    assert traffic.counters.last_error
    # A COMMIT whose answer was lost may have taken effect without being counted, never the reverse.
    assert count_rows(config)["nunes"] >= traffic.counters.rows_committed["nunes"]


async def test_traffic_that_is_stopped_before_it_starts_writes_nothing(
    databases: Databases,
) -> None:
    traffic = Traffic(databases.central, ["nunes"])
    stop = asyncio.Event()
    stop.set()

    await asyncio.wait_for(traffic.run(stop), 5)

    assert traffic.counters.transactions == 0


async def test_traffic_stops_while_its_server_is_away() -> None:
    nowhere = {"host": "127.0.0.1", "port": server_module._free_port(), "user": "root"}
    traffic = Traffic({**nowhere, "database": "c", "password": ""}, ["nunes"])
    stop = asyncio.Event()
    running = asyncio.create_task(traffic.run(stop))
    await asyncio.sleep(0.4)

    stop.set()
    await asyncio.wait_for(running, 5)

    assert "connect" in traffic.counters.last_error


async def test_traffic_on_a_database_without_tables_fails_aloud(databases: Databases) -> None:
    with pytest.raises(ProgrammingError, match="contacts"):
        await asyncio.wait_for(Traffic(databases.local, ["nunes"]).run(asyncio.Event()), 10)
