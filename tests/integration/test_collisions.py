"""Unique keys that wander from row to row in central never overwrite the wrong row locally."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon import operations
from daemon.sql import Key, Row
from daemon.sync.write import Writer
from tests import gate, mirror
from tests.in_process import a_pass, listen, one

if TYPE_CHECKING:
    from tests.conftest import Databases, Pair

WriteConfig = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("way")


async def test_a_message_deleted_and_inserted_again_under_a_new_id(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 51))
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        mirror.run(central, "DELETE FROM messages WHERE id = 7")
        mirror.insert_message(central, 60, wwebjs_id="'key 7'", body="'again'")
        mirror.insert_messages(central, range(61, 200))
        await a_pass(instance)
        assert 7 not in mirror.local_ids(local)
    assert mirror.differences(central, local) == ""


@pytest.mark.parametrize("batch_rows", [1, 2_000])
async def test_keys_swapped_between_two_rows(
    databases: Databases, write_config: WriteConfig, batch_rows: int
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 51))
    config = write_config(central, {"nunes": local}, sync={"batch_rows": batch_rows})
    async with one(config) as instance:
        await a_pass(instance)
        mirror.run(
            central,
            "UPDATE messages SET wwebjs_id = NULL WHERE id = 10;"
            "UPDATE messages SET wwebjs_id = 'key 10' WHERE id = 20;"
            "UPDATE messages SET wwebjs_id = 'key 20' WHERE id = 10;",
        )
        await operations.reset_sync_state(instance, "messages")
        await a_pass(instance)
    assert mirror.differences(central, local) == ""


def _shift_keys(length: int) -> str:
    """Each of the rows 1 … length takes its successor's key; the last one's is a new one."""
    return (
        f"UPDATE messages SET wwebjs_id = CONCAT('moved ', id) WHERE id <= {length};"
        f"UPDATE messages SET wwebjs_id = CONCAT('key ', id + 1) WHERE id <= {length}"
    )


@pytest.mark.parametrize("batch_rows", [1, 10, 2_000])
async def test_a_chain_of_forty_keys_that_moved_on_by_one(
    databases: Databases, write_config: WriteConfig, batch_rows: int
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 41))
    config = write_config(central, {"nunes": local}, sync={"batch_rows": batch_rows})
    async with one(config) as instance:
        await a_pass(instance)
        mirror.run(central, _shift_keys(40))
        await operations.reset_sync_state(instance, "messages")
        await a_pass(instance)
    assert mirror.differences(central, local) == ""


async def test_a_new_row_at_the_end_of_a_chain_of_forty_keys(
    databases: Databases, write_config: WriteConfig
) -> None:
    """The new row has row 1's key, which has row 2's: none of the old ones is in the batch."""
    central, local = databases
    mirror.insert_messages(central, range(1, 41))
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        mirror.run(central, _shift_keys(40))
        mirror.insert_message(central, 100, wwebjs_id="'key 1'")
        await a_pass(instance)
    assert mirror.differences(central, local) == ""


async def test_keys_that_moved_within_every_unique_column_at_once(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 201))
    mirror.run(
        central,
        "UPDATE messages SET wwebjs_id_stanza = CONCAT('s', id), waba_id = CONCAT('w', id),"
        " gupshup_id = CONCAT('g', id)",
    )
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        mirror.run(
            central,
            "DELETE FROM messages WHERE id IN (3, 30, 33, 130);"
            "UPDATE messages SET waba_id = NULL WHERE id = 40",
        )
        for id_, key in ((301, "wwebjs_id"), (302, "waba_id"), (303, "gupshup_id")):
            value = {"wwebjs_id": "'key 3'", "waba_id": "'w30'", "gupshup_id": "'g33'"}[key]
            mirror.insert_message(central, id_, **{"wwebjs_id": "NULL", key: value})
        # One new row that meets two old ones, one of which is gone and one changed.
        mirror.insert_message(central, 304, wwebjs_id="'key 130'", waba_id="'w40'")
        commits = listen(instance)
        await a_pass(instance)
        assert len([c for c in commits if c.entity == "messages"]) == 1, "one transaction"
    assert mirror.differences(central, local) == ""


async def test_keys_that_differ_only_by_case_or_trailing_space_are_two(
    databases: Databases, pair: Pair, write_config: WriteConfig
) -> None:
    """Central's collation is looser than bytes, so what it holds apart, local must hold apart."""
    central, local = databases
    bytewise = "utf8mb4_0900_bin" if pair.central == "mysql" else "utf8mb4_nopad_bin"
    mirror.run(
        central, f"ALTER TABLE messages MODIFY wwebjs_id VARCHAR(191) COLLATE {bytewise} NULL"
    )
    for id_, key in enumerate(("ABC", "abc", "ábc"), 1):
        mirror.insert_message(central, id_, wwebjs_id=f"'{key}'")
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
    assert mirror.local_ids(local) == [1, 2, 3]
    assert mirror.differences(central, local) == ""


async def test_a_local_row_of_the_applications_own_with_a_new_rows_key_gives_way(
    databases: Databases, write_config: WriteConfig
) -> None:
    """The application writes rows ahead of the daemon: same id, or a stale id with the same key."""
    central, local = databases
    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        for id_, key in ((5, "key 5"), (900, "key 6")):
            mirror.run(
                local,
                "INSERT INTO wpp_messages (id, instance, wwebjs_id, `from`, `to`, type, body,"
                f" timestamp, sent_at, status) VALUES ({id_}, 'nunes', '{key}', '', '', '', '',"
                " '', NOW(), '')",
            )
        mirror.insert_messages(central, range(1, 11))
        await a_pass(instance)
    assert mirror.differences(central, local) == ""


@pytest.mark.parametrize("change", ["UPDATE messages SET body = 'new'", "DELETE FROM messages"])
async def test_a_page_that_was_read_ahead_does_not_undo_what_a_collision_has_brought(
    databases: Databases,
    write_config: WriteConfig,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    """Row 2 is read with the next page while row 1 is written; it changes, and row 1, which has its
    old key, has it read again. The page's older version must not be written over that."""
    central, local = databases
    gate.install(monkeypatch)
    for id_ in (1, 2, 3):
        mirror.insert_message(central, id_, wwebjs_id=f"'key {id_}'")
    async with one(write_config(central, {"nunes": local}, sync={"batch_rows": 1})) as instance:
        await a_pass(instance)
        mirror.run(
            central,
            "UPDATE messages SET wwebjs_id = 'key 4' WHERE id = 2;"
            "UPDATE messages SET wwebjs_id = 'key 2' WHERE id = 1",
        )
        await operations.reset_sync_state(instance, "messages")
        held = gate.Gate()
        task = held.start(instance.sync_pass(asyncio.Event()))
        assert not await held.go(task, lambda text: "collision" in text)
        read_ahead = [text for text in held.recent if "`id` > 1 " in text]
        mirror.run(central, f"{change} WHERE id = 2")
        await held.go(task, None)
        await task
        assert read_ahead


CHAT_KEYS = (
    "id",
    "instance",
    "type",
    "priority",
    "is_finished",
    "is_schedule",
    "started_at",
    "tag",
)


@pytest.mark.parametrize("change", ["update", "delete"])
async def test_a_batch_does_not_undo_what_a_collision_in_it_has_brought(
    databases: Databases,
    write_config: WriteConfig,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    """Central changes row 90 after the batch was read and before the collision of row 5 with it is
    resolved: row 90 of the batch, which is written later, is older."""
    central, local = databases
    mirror.insert_messages(central, range(1, 101))
    statement, expected = {
        "update": ("UPDATE messages SET body = 'new' WHERE id = 90", [["new"]]),
        "delete": ("DELETE FROM messages WHERE id = 90", []),
    }[change]
    real = Writer._read

    async def read(writer: Writer, keys: Collection[Key]) -> list[Row]:
        mirror.run(central, statement)
        return await real(writer, keys)

    async with one(write_config(central, {"nunes": local})) as instance:
        await a_pass(instance)
        mirror.run(
            local,
            "UPDATE wpp_messages SET wwebjs_id = NULL WHERE id = 5;"
            "UPDATE wpp_messages SET wwebjs_id = 'key 5' WHERE id = 90",
        )
        monkeypatch.setattr(Writer, "_read", read)
        await operations.reset_sync_state(instance, "messages")
        await a_pass(instance)
    assert mirror.rows(local, "SELECT body FROM wpp_messages WHERE id = 90") == expected
    assert mirror.differences(central, local) == ""


def insert_chat(central: Mapping[str, object], id_: int, tag: str) -> None:
    mirror.run(
        central,
        f"INSERT INTO chats ({', '.join(CHAT_KEYS)})"
        f" VALUES ({id_}, 'nunes', 'ACTIVE', 'LOW', 0, 0, NOW(3), '{tag}')",
    )


async def chats_with_messages(databases: Databases, config: Path, on_delete: str) -> None:
    """Two tagged chats with a message each; the local table has a foreign key of its own."""
    central, local = databases
    async with one(config) as instance:
        await a_pass(instance)
    mirror.run(central, "ALTER TABLE chats ADD COLUMN tag VARCHAR(20) UNIQUE")
    mirror.run(
        local,
        "ALTER TABLE wpp_chats ADD COLUMN tag VARCHAR(20) UNIQUE;"
        "ALTER TABLE wpp_messages ADD FOREIGN KEY (chat_id) REFERENCES wpp_chats (id)"
        f" ON DELETE {on_delete}",
    )
    for id_ in (1, 2):
        insert_chat(central, id_, f"tag {id_}")
        mirror.insert_message(central, id_, chat_id=str(id_))
    async with one(config) as instance:
        await a_pass(instance)
        await operations.retry_quarantine(instance)  # messages came before their chats


@pytest.mark.parametrize("on_delete", ["CASCADE", "SET NULL", "RESTRICT"])
async def test_a_row_that_makes_way_and_comes_back_takes_no_other_row_with_it(
    databases: Databases, write_config: WriteConfig, on_delete: str
) -> None:
    """Where a local foreign key would: the messages lie below the watermark, lost for good."""
    central, local = databases
    config = write_config(central, {"nunes": local})
    await chats_with_messages(databases, config, on_delete)
    async with one(config) as instance:
        mirror.run(central, "UPDATE chats SET tag = 'another' WHERE id = 1")
        insert_chat(central, 3, "tag 1")
        await a_pass(instance)
    assert mirror.differences(central, local) == ""


async def test_a_row_that_is_gone_and_cannot_make_way_holds_up_only_the_row_that_needs_its_key(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    config = write_config(central, {"nunes": local})
    await chats_with_messages(databases, config, "RESTRICT")
    async with one(config) as instance:
        mirror.run(central, "DELETE FROM chats WHERE id = 1")
        insert_chat(central, 3, "tag 1")
        insert_chat(central, 4, "tag 4")
        await a_pass(instance)
        assert mirror.local_ids(local, "chats") == [1, 2, 4]
        assert mirror.rows(local, "SELECT entity, id, errno FROM wpp_sync_quarantine") == [
            ["chats", "3", "1451"]
        ]
        mirror.run(local, "UPDATE wpp_messages SET chat_id = NULL WHERE id = 1")
        assert (await operations.retry_quarantine(instance)).left == 0
    assert mirror.differences(central, local) == ""
