"""The shared look at new ids, on real servers of both families."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon import operations, state
from daemon.app import Parts
from daemon.errors import TransientError
from daemon.sql import Sums
from daemon.throttle import Bearable
from daemon.watch import Member, Watch
from tests import mirror
from tests.in_process import a_pass, parts, watching

if TYPE_CHECKING:
    from tests.conftest import Databases

WriteConfig = Callable[..., Path]

EXACT: dict[str, object] = {"sync": {"settle": "exact"}}
INSERT = (
    "INSERT INTO messages (instance, `from`, `to`, type, is_forwarded, is_edited, body, timestamp,"
    " sent_at, status) VALUES ('nunes', '1', '2', 'chat', 0, 0, 'x', '3', NOW(3), 'READ')"
)


class Joined:
    """A watch over messages, and one who follows them."""

    def __init__(self, built: Parts, sums: Sums, owner: str = "nunes") -> None:
        self.central = built.central
        self.central.HEAD_AGE = self.central.LOOK_AGE = 0.0
        self.watch = Watch(built.central, time.monotonic)
        self.watch.AGAIN_SECONDS = 0.0
        self.news = asyncio.Event()
        self.member: Member = self.watch.join(sums, owner, self.news, 0.1)

    async def look(self) -> tuple[bool, int | None]:
        """Whether it was told of something, and from where on it is suspect."""
        self.news.clear()
        await look(self.watch)
        told = self.member.take()
        assert told is not None
        return self.news.is_set(), told.suspect


async def look(watch: Watch) -> None:
    """At each table once, as `run` does it again and again."""
    for table in list(watch._tables.values()):
        await watch.look(table)


async def compare(watch: Watch) -> None:
    for group in list(watch._groups.values()):
        await watch.compare(group)


async def _sums(built: Parts) -> Sums:
    instance = built.instances["nunes"]
    await a_pass(instance)
    sums = instance.motions["messages"].plan.new_ids
    assert sums is not None
    return sums


async def test_who_has_new_rows_is_told_byte_for_byte(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 6))
    async with parts(write_config(central, {"nunes": local}, **EXACT)) as built:
        joined = Joined(built, await _sums(built))
        assert await joined.look() == (False, None), "the scans begin at the head"
        for other in ("karsten", "Nunes", "núnes", "nunes "):
            mirror.insert_message(central, None, other)
        assert await joined.look() == (False, None), "they are others'"
        before = max(mirror.central_ids(central, "nunes "))
        mirror.insert_message(central, None)
        assert await joined.look() == (True, before)
        assert await joined.look() == (False, None), "told once"


async def test_a_row_that_comes_late_is_told_of_and_then_vouched_for(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 6))
    async with parts(write_config(central, {"nunes": local}, **EXACT)) as built:
        joined = Joined(built, await _sums(built))
        await joined.look()
        with mirror.Session(central) as writer:
            writer.execute(f"BEGIN; {INSERT}")
            mirror.insert_messages(central, range(20, 23), "karsten")
            assert await joined.look() == (False, None)
            for _ in range(8):
                await asyncio.sleep(0.4)
                assert await joined.look() == (False, None)
            told = joined.member.take()
            assert told is not None
            assert told.vouched == 5, "it is in flight"
            writer.execute("COMMIT")
        assert await joined.look() == (True, 5)
        deadline = time.monotonic() + 20
        while (told := joined.member.take()) and told.vouched < 22:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
            await joined.look()


async def test_one_mishap_is_told_to_nobody_and_trouble_to_all(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 6))
    async with parts(write_config(central, {"nunes": local}, **EXACT)) as built:
        joined = Joined(built, await _sums(built))
        await joined.look()
        quiet_at = joined.member.quiet_at
        mirror.run(central, "RENAME TABLE messages TO elsewhere")
        for told in (False, False, True):
            joined.news.clear()
            await look(joined.watch)
            assert joined.news.is_set() == told
        assert joined.member.take() is None, "everybody looks for himself"
        assert joined.member.quiet_at == quiet_at, "and nobody says that all is well"
        mirror.run(central, "RENAME TABLE elsewhere TO messages")
        mirror.insert_message(central, None)
        assert await joined.look() == (True, 5), "what was seen before is still known"
        assert joined.member.quiet_at > quiet_at


async def test_ids_that_jump_far_cost_few_statements_and_many_rows_are_counted_in_parts(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 6))
    async with parts(write_config(central, {"nunes": local}, **EXACT)) as built:
        joined = Joined(built, await _sums(built))
        joined.watch.SCAN_ROWS = 4
        await joined.look()
        before = mirror.statements_sent(central)
        mirror.insert_messages(central, [10**9, 2 * 10**9], "karsten")
        mirror.insert_messages(central, range(2 * 10**9 + 1, 2 * 10**9 + 12))
        # Of these 13 rows each statement counts 4, and the first one has only two of mine.
        assert await joined.look() == (True, 5)
        assert mirror.statements_sent(central) - before < 60
        ledger = next(iter(joined.watch._tables.values())).ledger
        assert ledger is not None
        assert ledger.upto == 2 * 10**9 + 11
        assert sum(stretch.rows for stretch in ledger.stretches) == 13
        assert await joined.look() == (False, None)


async def test_a_table_that_was_taken_back_and_has_grown_again_is_rewound(
    databases: Databases, write_config: WriteConfig
) -> None:
    """Who is told late would find its newest id above all that he has read."""
    central, local = databases
    mirror.insert_messages(central, range(1, 51))
    async with parts(write_config(central, {"nunes": local}, **EXACT)) as built:
        instance = built.instances["nunes"]
        joined = Joined(built, await _sums(built))
        await joined.look()
        mirror.run(central, "DELETE FROM messages WHERE id > 30")
        mirror.run(central, "ALTER TABLE messages AUTO_INCREMENT = 31")
        await look(joined.watch)
        mirror.insert_messages(central, range(31, 71))
        await look(joined.watch)
        motion = instance.motions["messages"].incremental
        assert motion is not None
        motion._watched = joined.member
        result = await instance.sync_pass(asyncio.Event())
        error = result.errors["messages"]
        assert error.code == "rewound"
        assert error.message.startswith("messages: central messages was truncated or restored")
    assert mirror.number(local, "SELECT MAX(rewound) FROM wpp_sync_state") == 1, "until a reset"


async def test_rounds_of_those_who_rest_lie_the_farther_apart_the_more_they_are(
    databases: Databases, write_config: WriteConfig
) -> None:
    """Each of them has to open its connection for it."""
    central, local = databases
    mirror.insert_messages(central, range(1, 6))
    async with parts(write_config(central, {"nunes": local}, **EXACT)) as built:
        sums = await _sums(built)
        joined, motion = Joined(built, sums), built.instances["nunes"].motions["messages"]
        motion._share = 0.5
        for number in range(999):
            joined.watch.join(sums, str(number), joined.news, 1.0)
        assert motion.incremental is not None
        motion.incremental._watched = joined.member
        awake = motion._round_due_at()
        resting = motion.rest(joined.watch, joined.news, 5.0).round_due_at
        assert resting is not None
        assert resting - awake == pytest.approx((1000 / 25 - 10) / 2)
        assert joined.member.rests


@pytest.mark.parametrize("keys", [None, [1, 2, 3]])
async def test_who_rests_is_told_when_the_sums_change(
    databases: Databases, write_config: WriteConfig, keys: list[int] | None
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 6))
    mirror.insert_messages(central, range(6, 9), "karsten")
    async with parts(write_config(central, {"nunes": local}, **EXACT)) as built:
        await a_pass(built.instances["nunes"])
        plan = built.instances["nunes"].motions["messages"].plan
        watch, news = Watch(built.central, time.monotonic), asyncio.Event()
        built.central.HEAD_AGE = 0.0
        sums = plan.central_sums
        found = await (
            built.central.totals(sums) if keys is None else built.central.sums_of_keys(sums, keys)
        )
        assert found["nunes"][0] == (5 if keys is None else 3)
        standing = watch.expect(sums, "nunes", keys, found["nunes"], news, 0.1)
        await compare(watch)
        assert not news.is_set()
        assert standing.held_at is not None
        await asyncio.sleep(0.15)
        mirror.run(central, "UPDATE messages SET body = 'new' WHERE id = 7")  # karsten's
        await compare(watch)
        assert not news.is_set()
        await asyncio.sleep(0.15)
        mirror.run(central, "UPDATE messages SET body = 'new' WHERE id = 2")
        await compare(watch)
        assert news.is_set()
        standing.leave()
        assert not any(group.standings for group in watch._groups.values()), "nobody waits"


async def test_a_locked_table_delays_no_other_and_leaves_connections(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 6))
    async with parts(write_config(central, {"nunes": local}, **EXACT)) as built:
        await a_pass(built.instances["nunes"])
        motions = built.instances["nunes"].motions
        locked, free = (motions[name].plan.central_sums for name in ("messages", "chats"))
        watch, news = Watch(built.central, time.monotonic), asyncio.Event()
        async with watching(watch):
            with mirror.Session(central) as other:
                other.execute("LOCK TABLES messages WRITE")
                watch.expect(locked, "nunes", None, (0, 0), asyncio.Event(), 0.1)
                watch.expect(free, "nunes", None, (1, 1), news, 0.1)
                await asyncio.wait_for(news.wait(), 5)
                asking = [
                    asyncio.ensure_future(built.central.sums_of_keys(locked, [number]))
                    for number in range(20)
                ]
                await asyncio.sleep(0.5)
                waiting = mirror.number(
                    central,
                    "SELECT COUNT(*) FROM information_schema.PROCESSLIST"
                    f" WHERE STATE LIKE '%metadata%' AND DB = '{central['database']}'",
                )
                assert waiting == 3, "of eight"
            for each in asking:
                each.cancel()
            await asyncio.wait(asking)


async def test_a_walk_for_those_who_rest_is_slower_while_central_is_busy(
    databases: Databases, write_config: WriteConfig
) -> None:
    central, local = databases
    mirror.insert_messages(central, [1, 100_000, 200_000, 300_000])
    async with parts(write_config(central, {"nunes": local}, **EXACT)) as built:
        await a_pass(built.instances["nunes"])
        sums = built.instances["nunes"].motions["messages"].plan.central_sums
        built.central._compared_per_second = 10.0

        async def walk() -> float:
            began = time.monotonic()
            assert (await built.central.totals(sums))["nunes"][0] == 4
            return time.monotonic() - began

        quick = await walk()
        built.central.guard.bearable = Bearable(threads_running=0)
        built.central.load.LOAD_AGE = 0.0
        assert await walk() > 3 * quick > 0.5


@pytest.mark.parametrize("why", ["the first try failed", "the entity was paused", "deleted before"])
async def test_a_rewind_is_remembered_until_it_is_written_and_forgotten_after_a_reset(
    databases: Databases,
    write_config: WriteConfig,
    monkeypatch: pytest.MonkeyPatch,
    why: str,
) -> None:
    central, local = databases
    mirror.insert_messages(central, range(1, 51))
    async with parts(write_config(central, {"nunes": local}, **EXACT)) as built:
        instance, watch = built.instances["nunes"], built.watch
        instance.running = True  # so that it has a place in the shared scans
        await a_pass(instance)
        await look(watch)
        if why == "deleted before":
            mirror.run(central, "DELETE FROM messages")
            await look(watch)
        mirror.insert_messages(central, range(51, 101))
        await look(watch)
        await a_pass(instance)
        if why == "the entity was paused":
            await operations.pause(instance, "messages")
            await instance.take_turn(asyncio.Event())
        mirror.run(central, "TRUNCATE messages")
        await look(watch)
        mirror.insert_messages(central, range(1, 151))
        await look(watch)
        if why == "the first try failed":
            with monkeypatch.context() as patched:
                patched.setattr(state, "see", _no_answer)
                with pytest.raises(TransientError):
                    await instance.sync_pass(asyncio.Event())
        await operations.resume(instance, "messages")
        for _ in range(2):
            error = (await instance.sync_pass(asyncio.Event())).errors["messages"]
            assert error.code == "rewound"
        assert mirror.number(local, "SELECT MAX(rewound) FROM wpp_sync_state") == 1
        await operations.reset_sync_state(instance, "messages")
        await look(watch)
        assert (await a_pass(instance))["messages"] == 150
        await look(watch)
        await a_pass(instance)
        assert mirror.differences(central, local) == ""


def _no_answer(*_: object) -> None:
    raise TransientError("local nunes", 1205, "Lock wait timeout exceeded")
