"""Pages of several instances that are read in one statement: each is what its instance would have
read alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon import db
from daemon.app import Parts
from daemon.demo.central import lookalikes, seed_varied
from daemon.errors import DatabaseError
from daemon.reads import Page, Reads, Wanted
from daemon.sql import Statement
from tests import mirror
from tests.in_process import a_pass, parts

if TYPE_CHECKING:
    from tests.conftest import Databases, Servers

WriteConfig = Callable[..., Path]

NAMES = ("nunes", "karsten", "ondas", *lookalikes("nunes")[:2])


@asynccontextmanager
async def instances(
    databases: Databases,
    servers: Servers,
    write_config: WriteConfig,
    *,
    names: Collection[str] = NAMES,
    **options: object,
) -> AsyncIterator[Parts]:
    """These instances, which know of nothing yet, and 400 messages of theirs and others'."""
    mirror.seed(databases.central, seed_varied(["nunes", "karsten", "ondas"], messages=400))
    locals_ = {name: servers.new_local() for name in names}
    async with parts(write_config(databases.central, locals_, **options)) as built:
        for instance in built.instances.values():
            await a_pass(instance, skip=("chats", "contacts", "contact_sectors", "schedules"))
        yield built


def wanted(built: Parts, name: str, **other: int) -> Wanted:
    plan = built.instances[name].motions["messages"].committer.plan
    of = {"after": 0, "upto": 1_000_000, "rows": 5_000, "max_bytes": 4 << 20} | other
    return Wanted(plan, name, **of)


def filtered(each: Wanted, where: str) -> Wanted:
    entity = each.plan.entity.model_copy(update={"where": where})
    return replace(each, plan=replace(each.plan, entity=entity))


async def alone(built: Parts, each: Wanted) -> Page:
    return await built.central.page(each, live=False)


async def together(built: Parts, some: Collection[Wanted]) -> list[Page]:
    return await asyncio.gather(*(built.central.page(each, live=True) for each in some))


def statements(built: Parts) -> float:
    name = "wpp_sync_central_queries_total"
    return built.metrics.registry.get_sample_value(name, {"kind": "batch"}) or 0.0


def same(one: Page, other: Page) -> bool:
    """But for what is measured."""
    return (one.rows, one.after, one.end, one.full) == (
        other.rows, other.after, other.end, other.full,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reads, "NEAR_IDS", 10_000_000)


async def test_all_are_given_what_they_would_have_read_alone(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    """Each its own rows byte for byte, lookalikes' names told apart; two statements for all."""
    async with instances(databases, servers, write_config) as built:
        some = [wanted(built, name) for name in NAMES]
        # Ranges of their own: what others want beside is nobody else's.
        some += [
            wanted(built, "nunes", after=100),
            wanted(built, "karsten", upto=150),
            wanted(built, "ondas", after=100, upto=150),
            wanted(built, "nunes", rows=7),
        ]
        expected = [await alone(built, each) for each in some]
        before = statements(built)
        found = await together(built, some)
        assert statements(built) == before + 2, "the first one at once, the others with the second"
        assert all(len(page.rows) for page in expected)
        for page, other in zip(found, expected, strict=True):
            assert same(page, other)
        assert found[1].size > 0


async def test_other_columns_or_filters_are_other_statements(
    databases: Databases, servers: Servers, write_config: WriteConfig
) -> None:
    async with instances(databases, servers, write_config) as built:
        some = [wanted(built, name) for name in NAMES]
        odd = filtered(some[2], "id % 2 = 0")
        expected = [await alone(built, each) for each in (*some[:2], odd)]
        assert {int(row[0] or 0) % 2 for row in expected[2].rows} == {0}
        found = await together(built, [*some[:2], odd, odd])
        for page, other in zip(found, [*expected, expected[2]], strict=True):
            assert same(page, other)


@pytest.mark.parametrize("limit", ["rows", "bytes"])
async def test_a_read_that_ends_at_a_limit_claims_no_more(
    databases: Databases,
    servers: Servers,
    write_config: WriteConfig,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
) -> None:
    """Page after page of all together: every row once, in order, and nothing passed over."""
    async with instances(databases, servers, write_config) as built:
        if limit == "rows":
            monkeypatch.setattr(Reads, "ROWS", 11)
        most = 5_000 if limit == "bytes" else 4 << 20
        left = dict.fromkeys(NAMES, 0)
        seen: dict[str, list[object]] = {name: [] for name in NAMES}
        while left:
            some = [wanted(built, name, after=at, max_bytes=most) for name, at in left.items()]
            for each, page in zip(some, await together(built, some), strict=True):
                assert each.after < page.end <= each.upto
                seen[each.instance] += page.rows
                if page.end == each.upto:
                    del left[each.instance]
                else:
                    left[each.instance] = page.end
        for name in NAMES:
            assert seen[name] == list((await alone(built, wanted(built, name))).rows)


async def test_who_lies_behind_the_end_of_a_read_is_read_with_the_next_one(
    databases: Databases,
    servers: Servers,
    write_config: WriteConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Were it alone, each would go past all that the others have there. And what a read takes that
    is for all makes none of them a bulk copier."""
    fetch = db.Connection.fetch_bounded

    async def slow(connection: db.Connection, statement: Statement, *limits: int) -> object:
        await asyncio.sleep(0.3 if "new rows" in statement.note else 0.0)
        return await fetch(connection, statement, *limits)

    async with instances(databases, servers, write_config) as built:
        monkeypatch.setattr(Reads, "ROWS", 11)
        monkeypatch.setattr(db.Connection, "fetch_bounded", slow)
        lower = [wanted(built, name) for name in NAMES[:3]]
        upper = [wanted(built, name, after=200) for name in NAMES[:3]]
        before = statements(built)
        pages = await together(built, [*lower, *upper])
        assert statements(built) == before + 3, (
            "the first one alone, the lower two, the upper three"
        )
        for each, page in zip((*lower, *upper), pages, strict=True):
            expected = (await alone(built, each)).rows
            assert page.rows == expected[: len(page.rows)]
            assert page.seconds < 0.2
        assert all(page.end < 1_000_000 for page in pages[1:])


async def test_where_a_read_for_several_fails_each_reads_alone(
    databases: Databases,
    servers: Servers,
    write_config: WriteConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who has sent it meets its failure; the others do not."""
    fetch = db.Connection.fetch_bounded
    failed = 0

    async def killed(connection: db.Connection, statement: Statement, *limits: int) -> object:
        nonlocal failed
        if b"new rows" in statement.note.encode():
            failed += 1
            mirror.run(databases.central, f"KILL {connection.thread_id}")
        return await fetch(connection, statement, *limits)

    async with instances(databases, servers, write_config) as built:
        some = [wanted(built, name) for name in NAMES]
        expected = [await alone(built, each) for each in some]
        monkeypatch.setattr(db.Connection, "fetch_bounded", killed)
        found = await asyncio.gather(
            *(built.central.page(each, live=True) for each in some), return_exceptions=True
        )
        assert failed == 1
        errors = [each for each in found if isinstance(each, BaseException)]
        assert len(errors) == 1
        assert isinstance(errors[0], DatabaseError)
        for page, other in zip(found, expected, strict=True):
            assert isinstance(page, DatabaseError) or (isinstance(page, Page) and same(page, other))


@pytest.mark.parametrize("who", ["reads", "waits"])
async def test_who_leaves_keeps_nobody_waiting(
    databases: Databases,
    servers: Servers,
    write_config: WriteConfig,
    who: str,
) -> None:
    async with instances(databases, servers, write_config) as built, AsyncExitStack() as stack:
        some = [wanted(built, name) for name in NAMES]
        expected = [await alone(built, each) for each in some]
        if who == "reads":  # all places are taken: it waits for one
            for _ in range(built.central.connections):
                await stack.enter_async_context(built.central._asking("batch"))
        tasks = [asyncio.ensure_future(built.central.page(each, live=True)) for each in some]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        leaves = 0 if who == "reads" else 2
        tasks[leaves].cancel()
        await stack.aclose()
        done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        for number, (page, other) in enumerate(zip(done, expected, strict=True)):
            if number == leaves:
                assert isinstance(page, asyncio.CancelledError)
            else:
                assert isinstance(page, Page)
                assert same(page, other)


async def test_what_lies_far_off_is_read_alone(
    databases: Databases,
    servers: Servers,
    write_config: WriteConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with instances(databases, servers, write_config) as built:
        some = [wanted(built, name) for name in NAMES]
        expected = [await alone(built, each) for each in some]
        monkeypatch.setattr(Reads, "NEAR_IDS", 100)
        before = statements(built)
        for page, other in zip(await together(built, some), expected, strict=True):
            assert same(page, other)
        assert statements(built) == before + len(some)


async def test_who_asks_while_others_are_read_sees_what_was_committed_before(
    databases: Databases,
    servers: Servers,
    write_config: WriteConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What an instance is given was read after it had asked."""
    fetch = db.Connection.fetch_bounded
    read, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(connection: db.Connection, statement: Statement, *limits: int) -> object:
        found = await fetch(connection, statement, *limits)
        if "new rows" in statement.note and not read.is_set():
            read.set()
            await goes_on.wait()
        return found

    async with instances(databases, servers, write_config) as built:
        monkeypatch.setattr(db.Connection, "fetch_bounded", slow)
        some = [wanted(built, name) for name in NAMES]
        others = asyncio.ensure_future(together(built, some))
        await read.wait()
        mirror.insert_message(databases.central, 900_000, "ondas")
        asked = asyncio.ensure_future(together(built, [some[2], some[0]]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        goes_on.set()
        before, (after, _) = await others, await asked
        assert int(before[2].rows[-1][0] or 0) < 900_000
        assert int(after.rows[-1][0] or 0) == 900_000
