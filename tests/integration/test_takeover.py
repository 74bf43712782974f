"""Migrations run once, in order, before any row; databases from the field are taken over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon import operations
from daemon.demo.central import seed_varied
from daemon.errors import MigrationError, StandbyError
from daemon.migrations import files
from tests import mirror
from tests.in_process import a_pass, one, parts, settle

if TYPE_CHECKING:
    from tests.conftest import Databases

WriteConfig = Callable[..., Path]

BOT_ID = "2026-02-03-001-add-bot-id-column"
IDS = [migration.id for migration in files.discover([files.SHIPPED])]
SOON: dict[str, object] = {"sync": {"settle": "1s"}}

# What stands in the field: utf8mb3, an INT watermark, no milliseconds, other VARCHARs.
FIELD = """
CREATE TABLE wpp_sync_migrations (
    id VARCHAR(255) NOT NULL PRIMARY KEY,
    description TEXT NOT NULL,
    executed_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    INDEX idx_executed_at (executed_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb3;
CREATE TABLE wpp_sync_state (
    entity VARCHAR(50) NOT NULL PRIMARY KEY,
    last_synced_id INT NOT NULL DEFAULT 0,
    last_synced_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    INDEX idx_last_synced_at (last_synced_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb3;
CREATE TABLE wpp_messages (
    id INT NOT NULL PRIMARY KEY,
    instance VARCHAR(255) NOT NULL,
    wwebjs_id VARCHAR(255) NULL UNIQUE,
    wwebjs_id_stanza VARCHAR(255) NULL UNIQUE,
    waba_id VARCHAR(255) NULL UNIQUE,
    gupshup_id VARCHAR(255) NULL UNIQUE,
    gupshup_request_id VARCHAR(255) NULL,
    `from` VARCHAR(255) NOT NULL,
    `to` VARCHAR(255) NOT NULL,
    type VARCHAR(50) NOT NULL,
    quoted_id INT NULL,
    chat_id INT NULL,
    contact_id INT NULL,
    is_forwarded BOOLEAN NOT NULL DEFAULT FALSE,
    is_edited BOOLEAN NOT NULL DEFAULT FALSE,
    body LONGTEXT NULL,
    timestamp VARCHAR(50) NOT NULL,
    status_timestamp VARCHAR(50) NULL,
    sent_at DATETIME NOT NULL,
    status VARCHAR(50) NOT NULL,
    file_id INT NULL,
    file_name LONGTEXT NULL,
    file_type VARCHAR(255) NULL,
    file_size VARCHAR(255) NULL,
    user_id INT NULL,
    INDEX idx_contact_id (contact_id),
    INDEX idx_chat_id (chat_id),
    INDEX idx_sent_at (sent_at),
    INDEX idx_status (status)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb3;
CREATE TABLE wpp_chats (
    id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    original_id INT NOT NULL UNIQUE,
    instance VARCHAR(255) NOT NULL,
    contact_id INT NULL,
    user_id INT NULL,
    result_id INT NULL,
    sector_id INT NULL,
    type VARCHAR(50) NOT NULL,
    avatar_url TEXT NULL,
    is_finished BOOLEAN NOT NULL DEFAULT FALSE,
    started_at DATETIME NULL,
    finished_at DATETIME NULL,
    finished_by INT NULL,
    is_schedule BOOLEAN NOT NULL DEFAULT FALSE,
    INDEX idx_contact_id (contact_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb3;
INSERT INTO wpp_sync_migrations VALUES
    ('2025-06-01-001-create-everything', 'Set up by the old system', '2025-06-01 12:00:00');
"""
COPIED_EARLIER = 80


def _columns(local: object, table: str) -> list[str]:
    assert isinstance(local, dict)
    return [row[0] for row in mirror.rows(local, f"SHOW COLUMNS FROM {table}")]


def _schema(local: object) -> list[list[str]]:
    """Every column and index of the database."""
    assert isinstance(local, dict)
    return mirror.rows(
        local,
        "SELECT TABLE_NAME, COLUMN_NAME, ORDINAL_POSITION, COLUMN_TYPE, IS_NULLABLE,"
        " COLUMN_DEFAULT, COLLATION_NAME FROM information_schema.COLUMNS"
        " WHERE TABLE_SCHEMA = DATABASE() ORDER BY 1, 3;"
        "SELECT TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX, COLUMN_NAME, NON_UNIQUE"
        " FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE() ORDER BY 1, 2, 3",
    )


@pytest.fixture
def field(databases: Databases) -> Databases:
    """A local database from the field, in which some rows below the watermark are missing."""
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    for number in range(1, 11):
        mirror.run(
            central,
            "INSERT INTO chats (id, instance, bot_id, type, priority, is_finished, is_schedule)"
            f" VALUES ({number}, 'nunes', {number}, 'ACTIVE', 'LOW', 0, 0)",
        )
    values = ", ".join(
        f"({id_}, 'nunes', 'key {id_}', '1', '2', 'chat', 'body {id_}', '3',"
        " '2026-01-01 08:00:00', 'SENT')"
        for id_ in range(1, COPIED_EARLIER + 1)
    )
    chats = ", ".join(f"({id_}, {id_}, 'nunes', 'ACTIVE')" for id_ in range(1, 6))
    mirror.run(
        local,
        f"{FIELD} INSERT INTO wpp_messages (id, instance, wwebjs_id, `from`, `to`, type, body,"
        f" timestamp, sent_at, status) VALUES {values};"
        f"INSERT INTO wpp_chats (id, original_id, instance, type) VALUES {chats};"
        "DELETE FROM wpp_messages WHERE id IN (1, 33, 34, 79);"
        "UPDATE wpp_messages SET body = 'the old system''s' WHERE id = 40;"
        f"INSERT INTO wpp_sync_state VALUES ('messages', {COPIED_EARLIER}, '2026-01-01 10:00:00'),"
        " ('chats', 5, '2026-01-01 10:00:00'), ('schedules', 3, '2026-01-01 10:00:00')",
    )
    return databases


async def test_a_database_from_the_field_is_taken_over_and_healed(
    field: Databases, write_config: WriteConfig
) -> None:
    central, local = field
    async with one(write_config(central, {"nunes": local}, **SOON)) as instance:
        copied = await a_pass(instance)
        assert copied == {"messages": 20, "chats": 5}, "it goes on where the old system stopped"
        assert mirror.local_ids(local) == [i for i in range(1, 101) if i not in {1, 33, 34, 79}], (
            "what is missing below the watermark is no news yet"
        )
        await settle(instance)
        await settle(instance, "chats")
        status = await operations.get_sync_status(instance)
    assert mirror.local_ids(local) == list(range(1, 101))
    assert mirror.local_ids(local, "chats") == list(range(1, 11))
    assert mirror.watermarks(local) == {"chats": 10, "messages": 100, "schedules": 3}
    bodies = dict(mirror.rows(local, "SELECT id, body FROM wpp_messages"))
    assert bodies.pop("40") == "the old system's", "rows that stand there already are normal"
    assert bodies == {str(i): f"body {i}" for i in range(1, 101) if i != 40}
    history = [row["id"] for row in status["migrations"]]
    assert history == sorted(["2025-06-01-001-create-everything", *IDS])
    old = next(row for row in status["migrations"] if row["id"].startswith("2025"))
    assert old == {
        "id": "2025-06-01-001-create-everything",
        "description": "Set up by the old system",
        "executed_at": "2025-06-01T06:30:00Z",  # the server's 12:00 is at +05:30
    }
    bots = mirror.rows(local, "SELECT id, bot_id FROM wpp_chats WHERE id > 5 ORDER BY id")
    assert bots == [[str(number), str(number)] for number in range(6, 11)]


async def test_the_watermarks_of_the_field_are_widened_and_nothing_is_renamed(
    field: Databases, write_config: WriteConfig
) -> None:
    central, local = field
    mirror.run(local, "UPDATE wpp_sync_state SET last_synced_id = 2147483647")
    before = {table: _columns(local, table) for table in ("wpp_messages", "wpp_sync_state")}
    async with one(write_config(central, {"nunes": local})) as instance:
        result = await instance.sync_pass(asyncio.Event())
        assert set(result.errors) == {"messages", "chats"}, "far above central's ids: rewound"
    assert mirror.watermarks(local)["messages"] == 2_147_483_647
    for table, columns in before.items():
        assert _columns(local, table)[: len(columns)] == columns
    kinds = dict(
        mirror.rows(
            local,
            "SELECT COLUMN_NAME, COLUMN_TYPE FROM information_schema.COLUMNS"
            " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'wpp_sync_state'",
        )
    )
    assert kinds["last_synced_id"].startswith("bigint")
    assert kinds["last_synced_at"] == "timestamp"


async def test_ids_above_an_int_are_watermarks_too(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.run(central, "ALTER TABLE messages MODIFY id BIGINT NOT NULL AUTO_INCREMENT")
    last = 2**40
    mirror.insert_messages(central, [2**31 - 1, 2**31, last])
    config = write_config(central, {"nunes": local})
    async with one(config) as instance:
        await a_pass(instance)
    assert mirror.watermarks(local)["messages"] == last
    mirror.insert_message(central, last + 1)
    async with one(config) as instance:
        assert (await a_pass(instance))["messages"] == 1
    assert mirror.differences(central, local) == ""


@pytest.mark.parametrize("there_already", [False, True])
async def test_the_bot_id_migration(
    field: Databases, write_config: WriteConfig, there_already: bool
) -> None:
    central, local = field
    if there_already:
        mirror.run(local, "ALTER TABLE wpp_chats ADD COLUMN bot_id INT NULL AFTER sector_id")
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
    columns = _columns(local, "wpp_chats")
    assert columns[columns.index("sector_id") + 1] == "bot_id"
    assert columns.count("bot_id") == 1
    assert mirror.rows(
        local, f"SELECT description FROM wpp_sync_migrations WHERE id = '{BOT_ID}'"
    ) == [["Add bot_id column to wpp_chats table"]]


async def test_migrations_run_once(databases: Databases, write_config: WriteConfig) -> None:
    central, local = databases
    config = write_config(central, {"nunes": local})
    async with parts(config) as built:
        await a_pass(built.instances["nunes"])
        counted = built.metrics.registry.get_sample_value
        labels = {"wpp_instance": "nunes"}
        assert counted("wpp_sync_migrations_applied_total", labels) == len(IDS)
    mirror.run(local, "UPDATE wpp_sync_migrations SET executed_at = '2026-01-01 12:00:00'")
    before = _schema(local)
    async with parts(config) as built:
        await a_pass(built.instances["nunes"])
        applied = built.metrics.registry.get_sample_value("wpp_sync_migrations_applied_total")
        assert not applied
    assert _schema(local) == before
    found = mirror.rows(local, "SELECT id, executed_at FROM wpp_sync_migrations ORDER BY id")
    assert found == [[id_, "2026-01-01 12:00:00"] for id_ in IDS]


async def test_a_crash_between_any_migration_and_its_record_is_mended_by_the_next_start(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.seed(central, seed_varied(["nunes"], messages=100))
    config = write_config(central, {"nunes": local})
    async with one(config) as instance:
        await a_pass(instance)
    before = _schema(local)
    for lost in (f"id = '{IDS[0]}'", f"id >= '{IDS[5]}'", "TRUE"):
        mirror.run(local, f"DELETE FROM wpp_sync_migrations WHERE {lost}")
        async with one(config) as instance:
            assert await a_pass(instance) == {"messages": 0, "chats": 0}
        found = mirror.rows(local, "SELECT id FROM wpp_sync_migrations ORDER BY id")
        assert [row[0] for row in found] == IDS
        assert _schema(local) == before
    assert mirror.differences(central, local) == ""


async def test_new_tables_hold_what_central_has(
    databases: Databases, write_config: WriteConfig
) -> None:
    """utf8mb4 and milliseconds, whatever the server's own defaults; the interface as promised."""
    central, local = databases
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
    text = mirror.rows(
        local,
        "SELECT DISTINCT CHARACTER_SET_NAME FROM information_schema.COLUMNS"
        " WHERE TABLE_SCHEMA = DATABASE() AND CHARACTER_SET_NAME IS NOT NULL",
    )
    assert text == [["utf8mb4"]]
    times = mirror.rows(
        local,
        "SELECT DISTINCT COLUMN_TYPE FROM information_schema.COLUMNS"
        " WHERE TABLE_SCHEMA = DATABASE() AND DATA_TYPE = 'datetime'",
    )
    assert times == [["datetime(3)"]]
    tables = {row[0] for row in mirror.rows(local, "SHOW TABLES")}
    assert tables >= {
        "wpp_messages", "wpp_chats", "wpp_contacts", "wpp_schedules", "wpp_contact_sectors",
        "wpp_last_messages", "wpp_sync_migrations", "wpp_sync_state",
    }  # fmt: skip
    indexes = {(row[0], row[1]) for row in mirror.rows(
        local,
        "SELECT TABLE_NAME, INDEX_NAME FROM information_schema.STATISTICS"
        " WHERE TABLE_SCHEMA = DATABASE()",
    )}  # fmt: skip
    assert ("wpp_sync_migrations", "idx_executed_at") in indexes
    assert ("wpp_sync_state", "idx_last_synced_at") in indexes


async def test_no_row_is_copied_before_a_migration_is_in_effect(
    databases: Databases, write_config: WriteConfig, tmp_path: Path
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    more = tmp_path / "more"
    more.mkdir()
    file = more / "2027-01-01-001-wrong.sql"
    file.write_text("-- It cannot be.\nALTER TABLE no_such_table ADD COLUMN a INT;")
    config = write_config(central, {"nunes": local}, migrations={"directory": str(more)})
    async with one(config) as instance:
        with pytest.raises(MigrationError) as refused:
            await instance.sync_pass(asyncio.Event())
        assert "statement 1 of 1" in refused.value.message
        assert "nothing of it is in effect" in refused.value.message
    assert mirror.local_ids(local) == []
    found = [row[0] for row in mirror.rows(local, "SELECT id FROM wpp_sync_migrations ORDER BY id")]
    assert found == IDS
    file.unlink()
    async with one(config) as instance:
        await a_pass(instance)
    assert mirror.differences(central, local) == ""


async def test_the_second_of_two_copiers_stands_by(
    databases: Databases, write_config: WriteConfig
) -> None:
    """Promise P10."""
    central, local = databases
    config = write_config(central, {"nunes": local})
    mirror.insert_messages(central, range(1, 11))
    async with one(config) as second:
        async with one(config) as first:
            await a_pass(first)
            for _ in range(2):
                with pytest.raises(StandbyError) as refused:
                    await second.sync_pass(asyncio.Event())
                assert "another wpp-sync holds the lock" in refused.value.message
            mirror.insert_messages(central, range(11, 21))
            assert (await a_pass(first))["messages"] == 10
        assert (await a_pass(second))["messages"] == 0, "it goes on behind the first one"
        mirror.insert_message(central, 30)
        assert (await a_pass(second))["messages"] == 1
    assert mirror.differences(central, local) == ""


async def test_nobody_migrates_a_database_that_another_one_copies(
    databases: Databases, write_config: WriteConfig, tmp_path: Path
) -> None:
    central, local = databases
    more = tmp_path / "more"
    more.mkdir()
    (more / "2027-01-01-001-add-table.sql").write_text("-- A table.\nCREATE TABLE added (a INT);")
    old = write_config(central, {"nunes": local})
    async with one(old) as first:
        await a_pass(first)
        new = write_config(central, {"nunes": local}, migrations={"directory": str(more)})
        async with one(new) as second:
            with pytest.raises(StandbyError):
                await second.sync_pass(asyncio.Event())
            assert mirror.rows(local, "SHOW TABLES LIKE 'added'") == []
