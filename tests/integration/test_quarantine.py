"""Rows that the local table refuses: kept with the reason, none cut, none lost, the rest copied."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon import operations
from daemon.errors import PausedError, SchemaError
from daemon.instance import Instance
from daemon.status import seen
from daemon.sync import quarantine
from tests import mirror
from tests.in_process import a_pass, one, parts, settle

if TYPE_CHECKING:
    from tests.conftest import Databases, Pair, Servers

WriteConfig = Callable[..., Path]

CHECK = 0
"""Stands for the error number of a CHECK constraint, which each family has of its own."""


async def migrated(config: Path) -> None:
    async with one(config) as instance:
        await a_pass(instance)


def refused(databases: Databases) -> dict[int, tuple[int, int]]:
    """id -> (error number, tries) of what lies in quarantine."""
    found = mirror.rows(
        databases.local, "SELECT id, errno, tries FROM wpp_sync_quarantine WHERE entity='messages'"
    )
    return {int(id_): (int(errno), int(tries)) for id_, errno, tries in found}


@pytest.mark.parametrize(
    ("change", "value", "errno"),
    [
        ("MODIFY body VARCHAR(20)", "REPEAT('x', 21)", 1406),
        ("MODIFY body VARCHAR(20) CHARACTER SET latin1", "'😀'", 1366),
        ("MODIFY body VARCHAR(20) CHARACTER SET utf8mb3", "'😀'", 1366),
        ("ADD CONSTRAINT short CHECK (body <> 'bad')", "'bad'", CHECK),
        ("MODIFY body INT", "'3000000000'", 1264),
        ("MODIFY body INT", "'many'", 1366),
        ("MODIFY body DATETIME", "'2026-13-01'", 1292),
        ("MODIFY body ENUM('text', 'good')", "'bad'", 1265),
    ],
)
async def test_what_does_not_fit_is_kept_with_its_reason_and_the_rest_is_copied(
    databases: Databases,
    pair: Pair,
    write_config: WriteConfig,
    change: str,
    value: str,
    errno: int,
) -> None:
    if errno == CHECK:
        errno = {"mariadb": 4025, "mysql": 3819}[pair.local]
    config = write_config(databases.central, {"nunes": databases.local})
    await migrated(config)
    mirror.run(databases.local, f"ALTER TABLE wpp_messages {change}")
    good = {"INT": "'7'", "DATETIME": "'2026-01-01 00:00:00'"}.get(
        change.rpartition(" ")[2], "'good'"
    )
    for number in range(1, 21):
        mirror.insert_message(
            databases.central, number, body=value if number in {1, 7, 8, 20} else good
        )
    async with one(config) as instance:
        assert await a_pass(instance) == {"messages": 16, "chats": 0}
        assert instance.motions.quarantined["messages"] == 4
        assert instance.motions["messages"].state.last_synced_id == 20
    assert refused(databases) == dict.fromkeys((1, 7, 8, 20), (errno, 1))
    assert mirror.local_ids(databases.local) == [n for n in range(1, 21) if n not in {1, 7, 8, 20}]


async def test_a_null_that_the_local_column_refuses(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    await migrated(config)
    mirror.run(databases.local, "ALTER TABLE wpp_messages MODIFY wwebjs_id VARCHAR(9) NOT NULL")
    mirror.insert_message(databases.central, 1, wwebjs_id="'a'")
    mirror.insert_message(databases.central, 2)
    async with one(config) as instance:
        await a_pass(instance)
    assert refused(databases) == {2: (1048, 1)}


async def test_a_key_that_only_the_local_collation_takes_for_equal(
    databases: Databases, write_config: WriteConfig
) -> None:
    """Both stand in central; the local table has room for one. The other is not lost silently."""
    config = write_config(databases.central, {"nunes": databases.local})
    await migrated(config)
    mirror.run(databases.central, "ALTER TABLE messages MODIFY wwebjs_id VARBINARY(50)")
    mirror.run(
        databases.local,
        "ALTER TABLE wpp_messages MODIFY wwebjs_id VARCHAR(50) COLLATE utf8mb4_general_ci",
    )
    mirror.insert_message(databases.central, 1, wwebjs_id="'key'")
    mirror.insert_message(databases.central, 2, wwebjs_id="'KEY'")
    async with one(config) as instance:
        await a_pass(instance)
    kept, there = set(refused(databases)), set(mirror.local_ids(databases.local))
    assert kept | there == {1, 2}
    assert not kept & there


async def test_a_row_larger_than_the_local_servers_packet(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    await migrated(config)
    mirror.run(databases.central, "ALTER TABLE messages MODIFY body LONGTEXT")
    before = mirror.number(databases.local, "SELECT @@GLOBAL.max_allowed_packet")
    mirror.run(databases.local, "SET GLOBAL max_allowed_packet = 1048576")
    try:
        for number, size in ((1, 10), (2, 2_000_000), (3, 10)):
            mirror.insert_message(databases.central, number, body=f"REPEAT('x', {size})")
        async with one(config) as instance:
            await a_pass(instance)
            assert instance.opened, "the lock was not lost with a connection"
        assert refused(databases) == {2: (1153, 1)}
        assert mirror.local_ids(databases.local) == [1, 3]
    finally:
        mirror.run(databases.local, f"SET GLOBAL max_allowed_packet = {before}")
    async with one(config) as instance:
        await a_pass(instance)
    assert mirror.differences(databases.central, databases.local) == ""


async def poisoned(databases: Databases, config: Path, ids: range = range(3, 5)) -> None:
    await migrated(config)
    mirror.run(databases.local, "ALTER TABLE wpp_messages MODIFY body VARCHAR(20)")
    for number in range(1, 11):
        body = "REPEAT('x', 21)" if number in ids else "'good'"
        mirror.insert_message(databases.central, number, body=body)


async def test_they_are_tried_again_at_the_next_start_and_go_in_when_the_table_was_mended(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    await poisoned(databases, config)
    async with one(config) as instance:
        await a_pass(instance)
    async with one(config) as instance:
        await a_pass(instance)
    assert refused(databases) == {3: (1406, 2), 4: (1406, 2)}
    mirror.run(databases.local, "ALTER TABLE wpp_messages MODIFY body LONGTEXT")
    async with one(config) as instance:
        await a_pass(instance)
        assert instance.motions.quarantined["messages"] == 0
    assert refused(databases) == {}
    assert mirror.differences(databases.central, databases.local) == ""


async def test_they_are_tried_again_on_command(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    await poisoned(databases, config)
    async with one(config) as instance:
        await a_pass(instance)
        assert (await operations.retry_quarantine(instance)).left == 2
        mirror.run(databases.local, "ALTER TABLE wpp_messages MODIFY body LONGTEXT")
        assert (await operations.retry_quarantine(instance)).left == 0
    assert mirror.differences(databases.central, databases.local) == ""


async def test_a_row_that_central_no_longer_has_leaves_the_quarantine(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    await poisoned(databases, config)
    async with one(config) as instance:
        await a_pass(instance)
        mirror.run(databases.central, "DELETE FROM messages WHERE id = 3")
        mirror.run(databases.central, "UPDATE messages SET body = 'short' WHERE id = 4")
        assert (await operations.retry_quarantine(instance)).left == 0
    assert mirror.differences(databases.central, databases.local) == ""


async def test_a_row_that_is_given_up_stays_away_until_a_reset(
    databases: Databases, write_config: WriteConfig
) -> None:
    """Also while it lies in the unsettled tail, which is looked at for missing rows."""
    config = write_config(databases.central, {"nunes": databases.local}, sync={"settle": "1s"})
    await poisoned(databases, config)
    async with one(config) as instance:
        await a_pass(instance)
        listed = await operations.list_quarantine(instance)
        assert [(entry.entity, entry.id, entry.errno) for entry in listed] == [
            ("messages", 3, 1406),
            ("messages", 4, 1406),
        ]
        assert "body" in listed[0].message
        assert await operations.discard_quarantine(instance, "messages", [3]) == 1
        assert await operations.discard_quarantine(instance, "messages", [3]) == 0
        await a_pass(instance)
        assert instance.motions.quarantined["messages"] == 1
        tries = refused(databases)[3]
        await settle(instance)
        assert await operations.discard_quarantine(instance) == 1
        await a_pass(instance)
        assert instance.motions.quarantined["messages"] == 0
        waiting = [e.id for e in await operations.list_quarantine(instance) if not e.discarded_at]
        assert waiting == []
        assert refused(databases)[3] == tries, "it was not tried again"
    async with one(config) as instance:
        await settle(instance)
        assert instance.motions.quarantined["messages"] == 0
        await operations.reset_sync_state(instance, "messages")
        await a_pass(instance)
        assert instance.motions.quarantined["messages"] == 2
        mirror.run(databases.local, "ALTER TABLE wpp_messages MODIFY body LONGTEXT")
        await operations.discard_quarantine(instance)
        await operations.reset_sync_state(instance, "messages")
        await a_pass(instance)
    assert refused(databases) == {}
    assert mirror.differences(databases.central, databases.local) == ""


async def broken(instance: Instance) -> SchemaError:
    result = await instance.sync_pass(asyncio.Event())
    error = result.errors["messages"]
    assert isinstance(error, SchemaError)
    return error


async def test_a_table_that_takes_nothing_is_a_failed_entity_not_a_full_quarantine(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    await migrated(config)
    mirror.run(
        databases.local, "ALTER TABLE wpp_messages ADD CONSTRAINT broken CHECK (body = 'never')"
    )
    mirror.insert_messages(databases.central, range(1, 501))
    async with parts(config) as built:
        instance = built.instances["nunes"]
        error = await broken(instance)
        assert error.code == "table_refuses"
        assert instance.state == "failed"
        instance.start_over()
        assert (await broken(instance)).code == "table_refuses"
        assert refused(databases) == {}
        assert mirror.watermarks(databases.local)["messages"] == 0
        mirror.run(databases.local, "ALTER TABLE wpp_messages DROP CONSTRAINT broken")
        instance.start_over()
        assert await a_pass(instance) == {"messages": 500, "chats": 0}
    assert mirror.differences(databases.central, databases.local) == ""


async def test_the_same_when_the_rows_come_one_by_one(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local}, sync={"batch_rows": 1})
    await migrated(config)
    mirror.run(
        databases.local, "ALTER TABLE wpp_messages ADD CONSTRAINT broken CHECK (body = 'never')"
    )
    mirror.insert_messages(databases.central, range(1, 2 * quarantine.MOST_STRIKES))
    async with one(config) as instance:
        assert (await broken(instance)).code == "table_refuses"
        for _ in range(3):
            instance.start_over()
            await broken(instance)
    assert len(refused(databases)) < quarantine.MOST_STRIKES


async def test_many_quarantined_rows_are_no_broken_table_when_they_are_tried_again(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    await poisoned(databases, config, range(1, 1))
    for number in range(100, 100 + 4 * quarantine.MOST_STRIKES):
        body = "'good'" if number % 2 else "REPEAT('x', 21)"
        mirror.insert_message(databases.central, number, body=body)
    async with one(config) as instance:
        await a_pass(instance)
        assert (await operations.retry_quarantine(instance)).left == 2 * quarantine.MOST_STRIKES
        assert instance.motions.entity_errors == {}


async def test_a_table_that_was_mended_and_refuses_the_first_row_still_takes_the_others(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    await migrated(config)
    mirror.run(
        databases.local,
        "ALTER TABLE wpp_messages ADD CONSTRAINT broken CHECK (body = 'never'),"
        " ADD CONSTRAINT one CHECK (id <> 1)",
    )
    mirror.insert_messages(databases.central, range(1, 301))
    async with one(config) as instance:
        assert (await broken(instance)).code == "table_refuses"
        drop = "ALTER TABLE wpp_messages DROP CONSTRAINT broken"
        mirror.run(databases.local, drop)
        instance.start_over()
        assert await a_pass(instance) == {"messages": 299, "chats": 0}
    assert list(refused(databases)) == [1]


async def test_refusals_that_were_rolled_back_do_not_count_as_refusals_in_a_row(
    databases: Databases, write_config: WriteConfig
) -> None:
    config = write_config(databases.central, {"nunes": databases.local})
    await poisoned(databases, config, range(1, 11))
    async with one(config) as instance:
        strikes = instance.maker._learnt["messages"].strikes
        with suppress(ZeroDivisionError), strikes.batch("messages"):
            for key in range(quarantine.MOST_STRIKES - 1):
                strikes.refused("messages", quarantine.Refusal(key, 1406, "too long"))
            1 / 0  # noqa: B018 - anything that ends the transaction
        await a_pass(instance)
        assert instance.motions.quarantined["messages"] == 10


@pytest.mark.parametrize("why", ["entity paused", "all paused", "cannot be copied"])
async def test_what_is_not_copied_now_keeps_its_quarantine(
    databases: Databases, write_config: WriteConfig, why: str
) -> None:
    config = write_config(databases.central, {"nunes": databases.local}, sync={"settle": "1s"})
    await poisoned(databases, config)
    async with one(config) as instance:
        await a_pass(instance)
        if why == "cannot be copied":
            mirror.run(databases.local, "ALTER TABLE wpp_messages ADD must INT NOT NULL")
        else:
            await operations.pause(instance, "messages" if why == "entity paused" else None)
    async with one(config) as instance:
        if why == "all paused":
            with pytest.raises(PausedError):
                await instance.sync_pass(asyncio.Event())
            with pytest.raises(PausedError):
                await operations.retry_quarantine(instance)
        else:
            await instance.sync_pass(asyncio.Event())
            done = await operations.retry_quarantine(instance)
            assert (done.tried, done.left) == (0, 2)
            expected = PausedError if why == "entity paused" else SchemaError
            assert isinstance(done.not_tried["messages"], expected)
        assert instance.motions.quarantined == {"messages": 2, "chats": 0}
        assert seen(instance).entities["messages"].quarantined_rows == 2
        assert await operations.discard_quarantine(instance, "messages", [3]) == 1
        assert instance.motions.quarantined["messages"] == 1


async def test_a_retry_where_nothing_is_in_quarantine_does_nothing(
    databases: Databases, write_config: WriteConfig
) -> None:
    mirror.insert_messages(databases.central, range(1, 4))
    async with one(write_config(databases.central, {"nunes": databases.local})) as instance:
        done = await operations.retry_quarantine(instance)
        assert (done.tried, done.left, done.not_tried) == (0, 0, {})
    assert mirror.rows(databases.local, "SHOW TABLES") == []
