"""A local connection takes little memory while it is open, and none once it is closed."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from daemon import driver
from daemon.sql import Statement
from tests.in_process import connected

if TYPE_CHECKING:
    from tests.conftest import Databases

NOTE = "nunes"


async def test_a_slim_connection_hears_answers_of_any_length(databases: Databases) -> None:
    async with connected(databases.local) as connection:
        assert driver.unfit() or len(connection._raw._proto.buffer) < 65_536
        for length in (1, 16_370, 16_384, 65_536, 1_000_001):
            asked = Statement("SELECT REPEAT('x', %s), %s", (length, length), NOTE)
            assert await connection.fetch(asked) == [(b"x" * length, b"%d" % length)]
        many = Statement(
            "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 900)"
            " SELECT i, REPEAT(CHAR(64 + i %% 26), i) FROM n",
            (),
            NOTE,
        )
        assert [len(text or b"") for _, text in await connection.fetch(many)] == [*range(1, 901)]


async def test_a_closed_connection_leaves_no_buffers_whoever_still_knows_it(
    databases: Databases,
) -> None:
    async with connected(databases.local) as connection:
        drivers = weakref.ref(connection._raw)
        # What is prepared on it knows the driver's connection, too.
        prepared = await connection._raw.prepare(b"SELECT 1")
        connection._prepared._statements[b"SELECT 1"] = prepared
        del prepared
    assert drivers() is None
    assert not connection.usable
