"""Whatever stands in the field ends in the schema that an empty database gets, with its rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import fields, mirror
from tests.in_process import one

if TYPE_CHECKING:
    from tests.conftest import Databases, ServerConfig

WriteConfig = Callable[..., Path]

COLUMNS = """SELECT TABLE_NAME, ORDINAL_POSITION, COLUMN_NAME, COLUMN_TYPE, IS_NULLABLE,
    COLUMN_DEFAULT, CHARACTER_SET_NAME, COLLATION_NAME, EXTRA, COLUMN_COMMENT
    FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() ORDER BY 1, 2"""
INDEXES = """SELECT TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX, COLUMN_NAME, NON_UNIQUE, SUB_PART,
    INDEX_TYPE FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE()
    ORDER BY 1, 2, 3"""
TABLES = """SELECT TABLE_NAME, ENGINE, ROW_FORMAT, TABLE_COLLATION, CREATE_OPTIONS
    FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() ORDER BY 1"""


def schema_of(local: ServerConfig) -> list[list[str]]:
    """Every table, column and index."""
    return [row for query in (TABLES, COLUMNS, INDEXES) for row in mirror.rows(local, query)]


async def migrate(central: ServerConfig, local: ServerConfig, write_config: WriteConfig) -> None:
    async with one(write_config(central, {"nunes": local})) as instance:
        await instance.migrate(asyncio.Event())


@pytest.mark.parametrize("state", fields.STATES)
async def test_every_state_of_the_field_ends_in_the_same_schema(
    databases: Databases, write_config: WriteConfig, state: str
) -> None:
    central, local = databases
    await migrate(central, local, write_config)
    expected = schema_of(local)
    assert len(expected) > 100
    name = local["database"]
    mirror.run(
        {**local, "database": "mysql"},
        f"DROP DATABASE `{name}`; CREATE DATABASE `{name}` CHARACTER SET latin1",
    )
    mirror.run(local, fields.STATES[state])
    filled = fields.ROWS.split("VALUES")[0] in fields.STATES[state]
    tables = ("wpp_messages", "wpp_chats", "wpp_contacts") if filled else ()
    ids = {t: mirror.rows(local, f"SELECT id FROM {t} ORDER BY id") for t in tables}
    await migrate(central, local, write_config)
    found = schema_of(local)
    assert [row for row in found if row not in expected] == []
    assert [row for row in expected if row not in found] == []
    for table, before in ids.items():
        assert mirror.rows(local, f"SELECT id FROM {table} ORDER BY id") == before
    if ids:
        kept = mirror.rows(local, "SELECT body, sent_at, timestamp FROM wpp_messages WHERE id = 1")
        assert kept == [["ação", "2026-01-01 08:00:00.000", "3"]]
        chats = mirror.rows(local, "SELECT id, original_id FROM wpp_chats ORDER BY id")
        assert chats == [["1", "1"], ["2", "2"]]
