"""What a review has broken once; each test is named after what must hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from daemon import operations
from daemon.errors import RewoundError
from daemon.instance import Instance
from tests import mirror
from tests.in_process import a_pass, one, passes_until, settle

if TYPE_CHECKING:
    from tests.conftest import Databases

WriteConfig = Callable[..., Path]
SOON: dict[str, object] = {"sync": {"settle": "1s"}}


async def rewound(instance: Instance) -> None:
    instance.start_over()
    result = await instance.sync_pass(asyncio.Event())
    assert isinstance(result.errors["messages"], RewoundError)
    status = await operations.get_sync_status(instance)
    assert status["sync_state"][0]["rewound"]


async def test_a_rewound_entity_waits_for_a_reset_however_far_central_has_come_since(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    config = write_config(central, {"nunes": local}, **SOON)
    async with one(config) as instance:
        await settle(instance)
        mirror.run(central, "TRUNCATE messages")
        mirror.insert_messages(central, range(1, 51))
        await rewound(instance)
        mirror.insert_messages(central, range(51, 121))
        await rewound(instance)
    async with one(config) as instance:
        await rewound(instance)
        mirror.run(central, "UPDATE messages SET body = 'new'")
        await operations.force_full_resync(instance)
        await passes_until(
            instance, lambda: not any(s.resync for s in instance.motions.states.values())
        )
    assert mirror.differences(central, local) == ""


async def test_an_idle_instance_that_was_rewound_waits_too(
    databases: Databases, write_config: WriteConfig
) -> None:
    """What is stored of it lies far below its position: central need not come far to pass it."""
    central, local = databases
    mirror.insert_messages(central, range(1, 6))
    mirror.insert_messages(central, range(900, 1001), "karsten")
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        mirror.run(central, "TRUNCATE messages")
        mirror.insert_messages(central, [1, 2, 9])
        await rewound(instance)
        await rewound(instance)


async def test_a_watermark_set_above_the_head_by_hand_is_called_that(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 61))
    config = write_config(central, {"nunes": local}, **SOON)
    async with one(config) as instance:
        await a_pass(instance)
    mirror.run(local, "UPDATE wpp_sync_state SET last_synced_id = 500 WHERE entity = 'messages'")
    async with one(config) as instance:
        result = await instance.sync_pass(asyncio.Event())
        assert "the watermark 500 was set above the newest id" in str(result.errors["messages"])
        mirror.insert_messages(central, range(61, 70))
        mirror.insert_messages(central, range(501, 510))
        instance.start_over()
        await settle(instance)
    assert mirror.differences(central, local) == ""


async def test_a_state_row_of_another_case_is_the_entitys(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 11))
    mirror.run(
        local,
        "CREATE TABLE wpp_sync_state (entity VARCHAR(50) PRIMARY KEY, last_synced_id INT NOT NULL"
        " DEFAULT 0, last_synced_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP ON UPDATE"
        " CURRENT_TIMESTAMP) CHARSET utf8mb4; INSERT INTO wpp_sync_state (entity, last_synced_id)"
        " VALUES ('Messages', 4)",
    )
    async with one(write_config(central, {"nunes": local}, **SOON)) as instance:
        assert await a_pass(instance) == {"messages": 6, "chats": 0}
        await settle(instance)
    assert mirror.differences(central, local) == ""


async def test_rows_whose_parent_comes_a_moment_later_do_not_wait_for_long(
    databases: Databases, write_config: WriteConfig
) -> None:
    """A foreign key on the local table: messages are copied before their chats."""
    central, local = databases
    config = write_config(central, {"nunes": local})
    async with one(config) as instance:
        await a_pass(instance)
        mirror.run(
            local,
            "ALTER TABLE wpp_messages ADD FOREIGN KEY (chat_id) REFERENCES wpp_chats (id)",
        )
        mirror.run(
            central,
            "INSERT INTO chats (id, instance, type, priority, is_finished, is_schedule)"
            " VALUES (5, 'nunes', 'ACTIVE', 'LOW', 0, 0)",
        )
        mirror.insert_message(central, 1, chat_id="5")
        await a_pass(instance)
        assert instance.motions.quarantined["messages"] == 1
        await passes_until(instance, lambda: instance.motions.quarantined["messages"] == 0)
    assert mirror.differences(central, local) == ""


async def test_somebody_elses_id_beyond_every_signed_one_is_nobodys_trouble(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.run(central, "ALTER TABLE messages MODIFY id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT")
    mirror.insert_message(central, 5)
    mirror.insert_message(central, 2**63 + 5, "karsten")
    async with one(write_config(central, {"nunes": local}, **SOON)) as instance:
        await settle(instance)
    assert mirror.local_ids(local) == [5]
