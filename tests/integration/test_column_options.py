"""What an entity's settings do to its columns and rows, for built-in entities and new ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon import operations
from daemon.checksum import Compared, encode_uri_component, row_sum
from daemon.instance import Instance
from daemon.sync.reconcile import Reconcile
from daemon.values import Column
from tests import mirror
from tests.in_process import a_pass, one, settle

if TYPE_CHECKING:
    from tests.conftest import Databases

WriteConfig = Callable[..., Path]

ONLY = {name: {"enabled": False} for name in ("chats", "contacts", "contact_sectors", "schedules")}
AWKWARD = (
    "", " ", "plain-text_0.9!~*'()", "100 % & more", "a+b=c?d#e", "it's \"q\" \\ back", "é 漢 😀",
    "%41 already", "lines\r\n\tand \x00 and \x7f", "x" * 3000, "ç" * 1500,
)  # fmt: skip


async def differences(instance: Instance, entity: str, *, dry_run: bool) -> tuple[int, int, int]:
    tally = (await operations.reconcile(instance, entity, dry_run=dry_run))[entity]
    return tally.missing, tally.differing, tally.extra


def insert_bodies(databases: Databases, first: int, texts: list[str]) -> None:
    for number, text in enumerate(texts):
        mirror.insert_message(
            databases.central, first + number,
            body=f"CONVERT(X'{text.encode().hex()}' USING utf8mb4)" if text else "''",
        )  # fmt: skip


def bodies(databases: Databases) -> dict[str, str]:
    return {
        id_: bytes.fromhex(body).decode() if body != "NULL" else body
        for id_, body in mirror.rows(databases.local, "SELECT id, HEX(body) FROM wpp_messages")
    }


async def test_an_encoded_column_holds_what_javascript_would_write(
    databases: Databases, write_config: WriteConfig
) -> None:
    encoded = {**ONLY, "messages": {"encode": {"body": "uri_component"}}}
    config = write_config(
        databases.central, {"nunes": databases.local}, entities=encoded, sync={"settle": "1s"}
    )
    insert_bodies(databases, 1, list(AWKWARD))
    async with one(config) as i:
        await settle(i)
        stands = bodies(databases)
        for number, text in enumerate(AWKWARD):
            assert stands[str(1 + number)] == quote(text, safe="!~*'()")
        assert await differences(i, "messages", dry_run=True) == (0, 0, 0)
        mirror.run(databases.central, "UPDATE messages SET body = 'a b' WHERE id = 2")
        mirror.run(databases.local, "UPDATE wpp_messages SET body = 'é' WHERE id = 3")
        assert await differences(i, "messages", dry_run=False) == (0, 2, 0)
        stands = bodies(databases)
        assert (stands["2"], stands["3"]) == ("a%20b", AWKWARD[2])


async def test_central_encodes_any_text_as_we_do(
    databases: Databases, write_config: WriteConfig
) -> None:
    """The servers compare it, so SQL has to give the same as Python, byte for byte."""
    encoded = {**ONLY, "messages": {"encode": {"body": "uri_component"}}}
    config = write_config(
        databases.central, {"nunes": databases.local}, entities=encoded, sync={"settle": "1s"}
    )
    texts: list[str] = []

    @settings(
        max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
    def draw(text: str) -> None:
        texts.append(text)

    await asyncio.to_thread(draw)
    insert_bodies(databases, 1, texts)
    async with one(config) as i:
        await settle(i)
        assert await differences(i, "messages", dry_run=True) == (0, 0, 0)
        # And not because the column has no part in it.
        mirror.run(databases.local, "UPDATE wpp_messages SET body = CONCAT(body, 'x')")
        assert await differences(i, "messages", dry_run=True) == (0, len(texts), 0)


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("", ""), ("aZ09-_.!~*'()", "aZ09-_.!~*'()"), (" ", "%20"), ("%", "%25"), ("+", "%2B"),
        ("é", "%C3%A9"), ("😀", "%F0%9F%98%80"), ("\0", "%00"), ("/?#[]@", "%2F%3F%23%5B%5D%40"),
        ('"<>\\^`{|}', "%22%3C%3E%5C%5E%60%7B%7C%7D"), ("$&,:;=", "%24%26%2C%3A%3B%3D"),
    ],
)  # fmt: skip
def test_encode_uri_component(text: str, encoded: str) -> None:
    """As a JavaScript engine prints them."""
    assert encode_uri_component(text.encode()).decode() == encoded


async def test_a_row_that_leaves_the_filter_leaves_the_local_table(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    filtered = {**ONLY, "messages": {"where": "type <> 'secret'"}}
    mirror.insert_messages(central, range(1, 11))
    mirror.run(central, "UPDATE messages SET type = 'secret' WHERE id IN (3, 4)")
    async with one(
        write_config(central, {"nunes": local}, entities=filtered, sync={"settle": "1s"})
    ) as i:
        await settle(i)
        assert mirror.local_ids(local) == [1, 2, 5, 6, 7, 8, 9, 10]
        mirror.run(
            central,
            "UPDATE messages SET type = 'secret' WHERE id IN (5, 9);"
            "UPDATE messages SET type = 'chat' WHERE id = 4",
        )
        assert await differences(i, "messages", dry_run=False) == (1, 0, 2)
        assert mirror.local_ids(local) == [1, 2, 4, 6, 7, 8, 10]


async def test_a_hot_row_that_leaves_the_filter_goes_at_once(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    filtered = {**ONLY, "messages": {"where": "type <> 'secret'"}}
    mirror.insert_messages(central, range(1, 4))
    sync = {"settle": "1s", "hot_interval": "1s"}
    async with one(write_config(central, {"nunes": local}, entities=filtered, sync=sync)) as i:
        await settle(i)
        mirror.run(central, "UPDATE messages SET type = 'secret' WHERE id = 2")
        await asyncio.sleep(1.1)
        await a_pass(i)
        assert mirror.local_ids(local) == [1, 3]


async def test_a_column_that_is_left_out_is_neither_written_nor_compared(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    less = {**ONLY, "messages": {"leave_out": ["body", "user_id"]}}
    mirror.insert_messages(central, range(1, 6))
    async with one(
        write_config(central, {"nunes": local}, entities=less, sync={"settle": "1s"})
    ) as i:
        await settle(i)
        mirror.run(local, "UPDATE wpp_messages SET body = 'ours' WHERE id = 2")
        assert await differences(i, "messages", dry_run=False) == (0, 0, 0)
        mirror.run(central, "UPDATE messages SET type = 'changed' WHERE id = 2")
        assert await differences(i, "messages", dry_run=False) == (0, 1, 0)
        assert mirror.rows(local, "SELECT id, body FROM wpp_messages WHERE id < 3") == [
            ["1", "NULL"],
            ["2", "ours"],
        ]


async def test_a_table_of_ones_own_whose_rows_follow_others_with_a_key_of_two_columns(
    databases: Databases, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More rows of one first key column than are listed at once; keys of any sign and size."""
    monkeypatch.setattr(Reconcile, "_LIST", 10)
    central, local = databases
    mirror.run(
        central,
        "CREATE TABLE notes (nid BIGINT PRIMARY KEY, instance VARCHAR(191) NOT NULL, t TEXT);"
        "CREATE TABLE tags (tag BIGINT NOT NULL, note BIGINT NOT NULL, word VARCHAR(20),"
        " PRIMARY KEY (note, tag));"
        "INSERT INTO notes VALUES (-5, 'nunes', 'a'), (0, 'nunes', ''), (7, 'Nunes', 'not his'),"
        " (4611686018427387904, 'nunes', NULL);"
        "INSERT INTO tags VALUES (1, -5, 'x'), (2, 0, 'y'), (3, 7, 'no'),"
        " (-9, 4611686018427387904, NULL)",
    )
    many = ", ".join(f"({tag}, 0, 'w{tag}')" for tag in range(100, 145))
    mirror.run(central, f"INSERT INTO tags VALUES {many}")
    mirror.run(
        local,
        "CREATE TABLE my_notes (id BIGINT PRIMARY KEY, t TEXT);"
        # The key's columns in another order.
        "CREATE TABLE my_tags (tag_id BIGINT, note_id BIGINT, word VARCHAR(20),"
        " PRIMARY KEY (tag_id, note_id))",
    )
    own: dict[str, object] = {
        **ONLY,
        "messages": {"enabled": False},
        "notes": {
            "central": "notes", "local": "my_notes", "motion": "whole", "key": "nid",
            "columns": {"id": "nid"}, "interval": "5m",
        },
        "tags": {
            "central": "tags", "local": "my_tags", "motion": "whole", "key": ["note", "tag"],
            "columns": {"note_id": "note", "tag_id": "tag"},
            "through": {"table": "notes", "key": "nid", "column": "note"},
        },
    }  # fmt: skip
    query = "SELECT note_id, tag_id, word FROM my_tags ORDER BY 1, 2"
    wanted = (
        "SELECT note, tag, word FROM tags WHERE note IN (SELECT nid FROM notes"
        " WHERE CAST(instance AS BINARY) = 'nunes') ORDER BY 1, 2"
    )
    async with one(write_config(central, {"nunes": local}, entities=own)) as i:
        rows = await a_pass(i)
        assert rows == {"notes": 3, "tags": 48}
        assert mirror.rows(local, query) == mirror.rows(central, wanted)
        mirror.run(
            central,
            "UPDATE tags SET word = 'new' WHERE tag IN (-9, 1, 120);"
            "DELETE FROM tags WHERE tag IN (2, 144); INSERT INTO tags VALUES (500, 0, 'late')",
        )
        mirror.run(local, "INSERT INTO my_tags VALUES (77, 7, 'stray'), (77, -77, 'stray')")
        assert await differences(i, "tags", dry_run=True) == (1, 3, 4)
        assert await differences(i, "tags", dry_run=False) == (1, 3, 4)
        assert mirror.rows(local, query) == mirror.rows(central, wanted)
        mirror.run(central, "UPDATE notes SET instance = 'karsten' WHERE nid = 0")
        await operations.reconcile(i)
        assert mirror.rows(local, query) == mirror.rows(central, wanted)
        assert len(mirror.rows(local, "SELECT * FROM my_notes")) == 2


async def test_a_long_body_has_a_sum_and_a_change_at_its_end_is_seen(
    databases: Databases, write_config: WriteConfig
) -> None:
    """What a function builds beyond max_allowed_packet is NULL, and would be equal to anything."""
    central, local = databases
    mirror.run(central, "ALTER TABLE messages MODIFY body LONGTEXT NOT NULL")
    async with one(
        write_config(central, {"nunes": local}, entities=ONLY, sync={"settle": "1s"})
    ) as i:
        await a_pass(i)
        mirror.insert_message(central, 1, body="REPEAT('é', 5000000)")
        mirror.insert_message(central, 2, body="'short'")
        await settle(i)
        assert await differences(i, "messages", dry_run=True) == (0, 0, 0)
        mirror.run(
            local, "UPDATE wpp_messages SET body = CONCAT(LEFT(body, 4999999), 'e') WHERE id = 1"
        )
        assert await differences(i, "messages", dry_run=False) == (0, 1, 0)


async def test_neighbours_do_not_run_into_one_another_and_null_is_not_empty(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    async with one(
        write_config(central, {"nunes": local}, entities=ONLY, sync={"settle": "1s"})
    ) as i:
        for id_ in range(1, 6):
            mirror.insert_message(central, id_, gupshup_request_id="''", user_id="NULL")
        await settle(i)
        for change in (
            "gupshup_request_id = NULL",
            "gupshup_request_id = ' '",
            "gupshup_request_id = 'NULL'",
            "user_id = 0",
            "`from` = '1#', `to` = '2'",
            "`from` = '2', `to` = '1'",
            "type = 'chat '",
            "type = 'CHAT'",
            "sent_at = sent_at + INTERVAL 1000 MICROSECOND",
            "is_edited = 1",
        ):
            mirror.run(local, f"UPDATE wpp_messages SET {change} WHERE id = 3")
            assert await differences(i, "messages", dry_run=False) == (0, 1, 0), change
            assert await differences(i, "messages", dry_run=False) == (0, 0, 0), change


async def test_a_column_of_few_characters_but_many_bytes_equals_a_text_column(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.run(central, "ALTER TABLE messages MODIFY body VARCHAR(1000) NOT NULL")
    async with one(
        write_config(central, {"nunes": local}, entities=ONLY, sync={"settle": "1s"})
    ) as i:
        mirror.insert_message(central, 1, body="REPEAT('é', 1000)")
        await settle(i)
        assert await differences(i, "messages", dry_run=True) == (0, 0, 0)


def test_no_two_rows_that_differ_have_the_same_sum(databases: Databases) -> None:
    """NULL, nothing, digits, a long text and its hash; and the marks that stand between columns,
    where a column can hold them. Neighbours do not run into one another."""
    long = "REPEAT('a', 1025)"
    columns: dict[str, tuple[str, str, tuple[str, ...]]] = {
        "t": ("varchar(20)", "utf8mb4", ("NULL", "''", "'0'", "'1'")),
        "b": ("varbinary(20)", "", ("NULL", "''", "X'FE'", "X'FF'", "X'31FF31'", "X'FFFEFF'")),
        "n": ("int", "", ("NULL", "0", "1")),
        "a": ("varchar(20)", "ascii", ("NULL", "''", "X'31FF'")),  # MySQL does not take it
        "e": ("enum('a','')", "utf8mb4", ("NULL", "'a'", "''")),
        "l": ("text", "utf8mb4", ("NULL", "''", long, f"SHA2({long}, 256)")),
        "x": ("blob", "", ("NULL", "X'FE'", long, f"SHA2({long}, 256)")),
        "y": ("varbinary(9)", "", ("''", "X'FF'")),
        "z": ("varbinary(9)", "", ("''", "X'FE'", "X'FF'")),
    }
    each = [
        Column(name, kind.partition("(")[0], kind, name not in "yz", None, "", charset)
        for name, (kind, charset, _) in columns.items()
    ]
    row = row_sum([Compared(column, column) for column in each]).central
    everything = " JOIN ".join(f"of_{name}" for name in columns)
    for server in databases:
        for name, (kind, charset, values) in columns.items():
            words = f"CHARACTER SET {charset}" if charset else ""
            mirror.run(server, f"CREATE TABLE of_{name} ({name} {kind} {words})")
            told = ", ".join(f"({value})" for value in values)
            mirror.run(server, f"INSERT IGNORE INTO of_{name} VALUES {told}")
        ((rows, sums),) = mirror.rows(
            server, f"SELECT COUNT(*), COUNT(DISTINCT {row}) FROM {everything}"
        )
        assert rows == sums == str(prod(len(values) for _, _, values in columns.values()))
