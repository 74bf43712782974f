"""A local connection takes little memory while it is open, and none once it is closed."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from daemon import db, driver
from daemon.config import Server
from daemon.sql import Statement

if TYPE_CHECKING:
    from tests.conftest import Databases

NOTE = "nunes"


async def test_a_slim_connection_hears_answers_of_any_length(databases: Databases) -> None:
    server = Server.model_validate(databases.local)
    connection = await db.connect(server, "local nunes", "local")
    try:
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
    finally:
        await connection.close()


async def test_a_closed_connection_leaves_no_buffers_whoever_still_knows_it(
    databases: Databases,
) -> None:
    connection = await db.connect(Server.model_validate(databases.local), "local nunes", "local")
    drivers = weakref.ref(connection._raw)
    await connection.close()
    assert drivers() is None
    assert not connection.usable
