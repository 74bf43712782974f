"""Central's tables, its seeded rows, and the comparison that says whether a copy is one.

On all pairs of servers: the tests of the daemon believe in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

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
from daemon.demo.server import PrivateServer, client
from daemon.errors import WppSyncError

if TYPE_CHECKING:
    from tests.conftest import Databases, Servers


def column(server: PrivateServer, sql: str, database: str = "") -> list[str]:
    """The first column of a query's rows."""
    return [line.split("\t")[0] for line in server.execute(sql, database).splitlines()[1:]]


# --- central's tables and rows


def test_the_tables_have_the_columns_that_the_application_gives_them(servers: Servers) -> None:
    name = str(servers.new_central()["database"])

    def columns(table: str) -> dict[str, str]:
        lines = servers.central.execute(f"SHOW COLUMNS FROM {table}", name).splitlines()[1:]
        # MySQL prints no width of an integer.
        plain = (line.replace("int(11)", "int").split("\t") for line in lines)
        return {name: " ".join(rest[:3]) for name, *rest in plain}

    messages = columns("messages")
    assert messages["id"] == "int NO PRI"
    assert messages["waba_id"] == "varchar(191) YES UNI"
    assert messages["body"] == "text NO "
    assert messages["sent_at"] == "datetime(3) NO "
    assert "'DOWNLOADED'" in messages["status"]
    assert len(messages) == 28
    chats = columns("chats")
    assert chats["schedule_id"] == "int YES UNI"
    assert "'VERY_HIGH'" in chats["priority"]
    assert columns("contacts_sectors") == {
        "contactId": "int NO PRI",
        "sectorId": "int NO PRI",
    }
    assert columns("schedules")["chat_id"] == "int YES UNI"
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
    "t": ("TIME(6)", "'-838:59:58.123456'", "'-838:59:58.123457'"),
    "s": ("TIMESTAMP(3)", "FROM_UNIXTIME(1767254400.123)", "FROM_UNIXTIME(1767254400.124)"),
    "z": ("DATE", "'0000-00-00'", "NULL"),
    "e": ("ENUM('a','b')", "'a'", "'b'"),
    "m": ("SET('a','b')", "'a,b'", "'a'"),
    "j": ("JSON", "'{\"a\": 1}'", "'{\"a\": 2}'"),
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
