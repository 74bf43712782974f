"""wpp_last_messages is at any time what one query over wpp_messages gives.

Rows are changed directly in a local database, by statements of this file, and `update` runs in the
same transaction. What should stand is worked out here from all rows, or asked by the command-line
client.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from daemon import db, schema
from daemon.config import Server
from daemon.db import Connection
from daemon.demo.compare import compare_derived
from daemon.entities import CATALOGUE
from daemon.errors import SchemaError
from daemon.migrations import runner
from daemon.migrations.files import SHIPPED, discover
from daemon.sql import Row, Statement, Value
from daemon.sync import derived
from daemon.sync.derived import DerivedTable, Told
from tests import mirror

if TYPE_CHECKING:
    from tests.conftest import Databases

Local = dict[str, object]
Values = tuple[Value, ...]

MESSAGES = CATALOGUE["messages"]
(LAST,) = MESSAGES.derived
NOTE = "nunes messages"

COLUMNS = (
    "id", "instance", "wwebjs_id", "wwebjs_id_stanza", "waba_id", "gupshup_id",
    "gupshup_request_id", "from", "to", "type", "quoted_id", "chat_id", "contact_id",
    "is_forwarded", "is_edited", "body", "timestamp", "status_timestamp", "sent_at", "status",
    "file_id", "file_name", "file_type", "file_size", "user_id", "agent_id", "billing_category",
    "client_id",
)  # fmt: skip
CONTACT, SENT_AT = COLUMNS.index("contact_id"), COLUMNS.index("sent_at")

# What a field database may look like: no index of ours, and a collation that servers refuse to
# compare with the other table's.
AS_FOUND = (
    "ALTER TABLE wpp_last_messages DROP KEY idx_id, DROP KEY idx_contact_id;"
    "ALTER TABLE wpp_last_messages CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci;"
)


@asynccontextmanager
async def connected(local: Local) -> AsyncIterator[Connection]:
    connection = await db.connect(Server.model_validate(local), "local nunes", "local")
    try:
        yield connection
    finally:
        await connection.close()


async def migrate(local: Local) -> None:
    async with connected(local) as connection:
        await runner.apply(
            connection,
            await runner.look(connection, discover([SHIPPED]), "nunes"),
            version="test",
            lock_wait_timeout=5,
            note="nunes",
            stop=asyncio.Event(),
            told=lambda _doing: None,
        )


@pytest.fixture
def local(databases: Databases) -> Local:
    """A local database as the migrations make it."""
    asyncio.run(migrate(databases.local))
    return databases.local


async def table_of(connection: Connection) -> DerivedTable:
    """wpp_last_messages as both tables stand now."""
    source = await schema.read(connection, MESSAGES.local, NOTE)
    target = await schema.read(connection, LAST.local, NOTE)
    # The plan wants a central table; wpp_messages is like it.
    return DerivedTable.plan(LAST, _known(source), target, schema.plan(MESSAGES, source, source))


def _known(table: schema.Table | None) -> schema.Table:
    assert table is not None
    return table


def message(id_: int, contact: int | None, sent_at: str, body: str = "", **other: Value) -> Values:
    """A message's values, in the order of COLUMNS."""
    values: dict[str, Value] = {
        "id": id_, "instance": "nunes", "from": body, "to": "2", "type": "chat",
        "contact_id": contact, "is_forwarded": 0, "is_edited": 1, "body": body, "timestamp": body,
        "sent_at": sent_at, "status": "SENT", "file_name": body, "wwebjs_id": f"w{id_}",
        **other,
    }  # fmt: skip
    return tuple(values.get(column) for column in COLUMNS)


async def put(connection: Connection, rows: Iterable[Values]) -> None:
    marks = ", ".join(["%s"] * len(COLUMNS))
    names = ", ".join(f"`{column}`" for column in COLUMNS)
    for row in rows:
        await connection.execute(
            Statement(f"REPLACE INTO wpp_messages ({names}) VALUES ({marks})", row, "test")
        )


async def remove(connection: Connection, ids: Iterable[int]) -> None:
    for id_ in ids:
        await connection.execute(
            Statement("DELETE FROM wpp_messages WHERE id = %s", (id_,), "test")
        )


async def rows_of(connection: Connection, table: str) -> list[Row]:
    names = ", ".join(f"`{column}`" for column in COLUMNS)
    return await connection.fetch(Statement(f"SELECT {names} FROM {table}", (), "test"))


def expected(messages: Iterable[Row]) -> dict[bytes, Row]:
    """Of each contact the latest message; this is what is promised, in five lines."""
    found: dict[bytes, Row] = {}
    for row in sorted(messages, key=lambda row: (row[SENT_AT] or b"", int(row[0] or 0))):
        if row[CONTACT] is not None:
            found[row[CONTACT] or b""] = row
    return found


async def is_right(connection: Connection) -> None:
    stands = await rows_of(connection, "wpp_last_messages")
    assert len({row[CONTACT] for row in stands}) == len(stands)
    assert {row[CONTACT]: row for row in stands} == expected(
        await rows_of(connection, "wpp_messages")
    )


# --- whatever happens ------------------------------------------------------------------------

TEXTS = st.sampled_from(("", " ", "it's", "100%s \\", "é\u0301😀", "a\0b", "NULL", "x" * 150))
MOMENTS = st.integers(0, 5).map(lambda n: f"2026-01-0{1 + n // 3} 00:00:00.00{n % 3}")
CHANGES = st.tuples(
    st.integers(1, 8),
    st.none()  # the row is deleted
    | st.tuples(st.none() | st.integers(1, 3), MOMENTS, TEXTS, st.sampled_from(("SENT", "READ"))),
)
# The derived table is asked afterwards; or with the rows, about their contacts, about all contacts,
# or about none.
ASKED = ("afterwards", "theirs", "all", "none")
BATCHES = st.lists(
    st.tuples(
        st.lists(CHANGES, min_size=1, max_size=8),
        st.sampled_from(ASKED),
    ),
    min_size=2,
    max_size=6,
)
Batch = tuple[
    list[tuple[int, tuple[int | None, str, str, str] | None]],
    str,
]


async def told(
    connection: Connection, table: DerivedTable, keys: Iterable[int], contacts: Iterable[int]
) -> Told:
    """The answers to the questions that go with rows of these contacts."""
    groups = frozenset((b"nunes", b"%d" % contact) for contact in contacts)
    questions = table.questions(set(keys), NOTE, groups)
    highest, between, *standing = await connection.fetch_each(questions)
    return Told(highest, between, standing[0] if standing else (), groups)


async def play(connection: Connection, table: DerivedTable, changes: Batch) -> None:
    """One transaction of the daemon, and whether all is right afterwards."""
    batch, asked = changes
    async with connection.transaction() as transaction:
        contacts: set[int] = {1, 2, 3} if asked == "all" else set()
        for id_, values in batch:
            if values is None:
                await remove(connection, [id_])
            else:
                contact, sent_at, text, status = values
                await put(connection, [message(id_, contact, sent_at, text, status=status)])
                contacts |= {contact} if contact is not None and asked == "theirs" else set()
        keys = {id_ for id_, _ in batch}
        if asked == "afterwards" or len(keys) > derived._KEYS:
            await table.update(connection, keys, NOTE)
        else:
            answers = await told(connection, table, keys, contacts)
            await table.update(connection, keys, NOTE, answers, transaction.last)
    await is_right(connection)


@pytest.fixture(params=["whole", "in pieces"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Also with statements so small that a batch takes several of each."""
    if request.param == "in pieces":
        monkeypatch.setattr(derived, "_KEYS", 3)
        monkeypatch.setattr(derived, "_HISTORIES", 1)
        monkeypatch.setattr(derived, "_RANGE_ROWS", 4)
    return iter([None])


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("tables", ["", AS_FOUND], ids=["shipped", "as found"])
def test_after_any_batch_it_is_what_one_query_gives(
    local: Local, tables: str, long_run: bool
) -> None:
    if tables:
        mirror.run(local, tables)

    async def story(batches: list[Batch]) -> None:
        async with connected(local) as connection:
            table = await table_of(connection)
            for name in ("wpp_messages", "wpp_last_messages"):
                await connection.execute(Statement(f"DELETE FROM {name}", (), "test"))
            for batch in batches:
                await play(connection, table, batch)

    @settings(
        max_examples=2_000 if long_run else 100, derandomize=not long_run, database=None,
        deadline=None, phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(BATCHES)
    def any_story(batches: list[Batch]) -> None:
        asyncio.run(story(batches))

    any_story()


# --- case by case ------------------------------------------------------------------------------

EARLY, LATE, LATER = (f"2026-01-0{day} 00:00:00.000" for day in (1, 2, 3))


@pytest.mark.parametrize(
    ("change", "last"),
    [
        (None, {1: 11, 2: 20}),
        (message(12, 1, EARLY), {1: 11, 2: 20}),
        (message(12, 1, LATER), {1: 12, 2: 20}),
        (message(12, 2, LATE), {1: 11, 2: 20}),
        (message(12, 2, LATER), {1: 11, 2: 12}),
        (message(12, None, LATE), {1: 11, 2: 20}),
        (message(11, 1, LATER), {1: 11, 2: 20}),
        (message(11, 2, LATER), {1: 12, 2: 11}),
        (message(5, 1, EARLY), {1: 12, 2: 20}),
        (message(5, 1, LATER), {1: 5, 2: 20}),
        (message(20, 2, EARLY), {1: 12, 2: 20}),
        (message(20, 1, EARLY), {1: 12}),
        (message(20, 3, EARLY), {1: 12, 3: 20}),
        (message(30, 1, EARLY), {1: 12, 2: 20}),
        (message(30, 1, LATE), {1: 30, 2: 20}),
        (message(30, 2, LATER), {1: 12, 2: 30}),
        (message(30, 3, EARLY), {1: 12, 2: 20, 3: 30}),
    ],
)
@pytest.mark.parametrize("asked", ["afterwards", "with it"])
async def test_one_message_comes_goes_moves_or_changes(
    local: Local, change: Values | None, last: dict[int, int], asked: str
) -> None:
    """The last message of the first contact is 12, of the second 20; None deletes 12."""
    async with connected(local) as connection:
        table = await table_of(connection)
        rows = [message(10, 1, EARLY), message(11, 1, LATE), message(12, 1, LATE)]
        await put(connection, [*rows, message(20, 2, LATE)])
        await table.update(connection, [10, 11, 12, 20], NOTE)
        assert await latest(connection) == {1: 12, 2: 20}
        id_ = 12
        if change is None:
            await remove(connection, [id_])
        else:
            id_ = int(change[0] or 0)
            await put(connection, [change])
        contact = change[CONTACT] if change else None
        contacts = [] if contact is None else [int(contact)]
        answers = await told(connection, table, [id_], contacts) if asked == "with it" else None
        await table.update(connection, [id_], NOTE, answers)
        assert await latest(connection) == last
        await is_right(connection)


async def test_keys_that_lie_far_apart_are_all_seen(local: Local) -> None:
    async with connected(local) as connection:
        table = await table_of(connection)
        await put(connection, [message(id_, id_, EARLY) for id_ in range(1, 101)])
        assert await table.update(connection, [1, 50, 100], NOTE) == 3
        assert await latest(connection) == {1: 1, 50: 50, 100: 100}


async def latest(connection: Connection) -> dict[int, int]:
    """contact -> the id of its last message."""
    question = Statement("SELECT contact_id, id FROM wpp_last_messages", (), "test")
    return {int(contact or 0): int(id_ or 0) for contact, id_ in await connection.fetch(question)}


async def test_of_two_messages_of_the_same_moment_the_one_with_the_higher_id_is_the_last(
    local: Local,
) -> None:
    """By number: 9 comes before 10."""
    moment = "2026-01-01 00:00:00.001"
    async with connected(local) as connection:
        table = await table_of(connection)
        for ids in ([9], [10], [8]):
            async with connection.transaction():
                await put(connection, [message(id_, 1, moment) for id_ in ids])
                await table.update(connection, ids, NOTE)
        assert await latest(connection) == {1: 10}
        async with connection.transaction():
            await remove(connection, [10])
            await table.update(connection, [10], NOTE)
        assert await latest(connection) == {1: 9}
        await is_right(connection)


async def test_it_tells_how_many_rows_it_changed(local: Local) -> None:
    async with connected(local) as connection:
        table = await table_of(connection)
        rows = [message(id_, id_ % 3, f"2026-01-01 00:00:{id_:02d}") for id_ in range(1, 31)]
        await put(connection, rows)

        assert await table.update(connection, range(1, 31), NOTE) == 3
        assert await table.update(connection, range(1, 28), NOTE) == 0, "they are not the last ones"
        assert await table.update(connection, [28], NOTE) == 1, "refreshed"
        assert await table.update(connection, [], NOTE) == 0
        await put(connection, [message(30, 0, "2026-01-01 00:00:29.500")])
        assert await table.update(connection, [30], NOTE) == 1, "earlier, and still the last"
        await remove(connection, range(28, 31))
        assert await table.update(connection, range(28, 31), NOTE) == 3, "those before them"
        await remove(connection, range(1, 28))
        assert await table.update(connection, range(1, 28), NOTE) == 3, "none is left"
        await is_right(connection)


async def test_a_batch_reads_what_it_touches_and_not_what_was_written_before(local: Local) -> None:
    """A new message, the same one again, a changed one that is not the last."""
    many = 3_000
    mirror.insert_messages(central_like(local), range(1, many + 1))
    mirror.run(local, "UPDATE wpp_messages SET contact_id = 1, sent_at = '2026-01-01'")
    async with connected(local) as connection:
        table = await table_of(connection)
        assert await table.rebuild(connection, None, NOTE) is None
        await put(connection, [message(many + 1, 1, "2026-01-02")])
        reads = [sum(mirror.table_rows_read(local).values()) for _ in range(2)]
        for id_ in (many + 1, many + 1, 5):
            await table.update(connection, [id_], NOTE)
        reads.append(sum(mirror.table_rows_read(local).values()))
        # The question itself reads some.
        read = reads[2] - reads[1] - (reads[1] - reads[0])
        assert 0 < read < 100, f"{read} rows read for three"
        await is_right(connection)


def central_like(local: Local) -> Local:
    """The local database with a view by which `mirror` can insert messages."""
    mirror.run(local, "CREATE OR REPLACE VIEW messages AS SELECT * FROM wpp_messages")
    return local


async def test_what_was_done_by_hand_is_undone_by_a_rebuild(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(derived, "_RANGE_ROWS", 7)
    async with connected(local) as connection:
        table = await table_of(connection)
        rows = [
            message(id_, id_ % 20 or None, f"2026-01-{1 + id_ * 7 % 28:02d}", "é😀 'x' \\")
            for id_ in range(1, 101)
        ]
        await put(connection, rows)
        await table.update(connection, range(1, 101), NOTE)
        mirror.run(
            local,
            "DELETE FROM wpp_last_messages WHERE contact_id IN (1, 2);"
            "REPLACE INTO wpp_last_messages SELECT * FROM wpp_messages WHERE id = 9;"
            "UPDATE wpp_last_messages SET body = NULL WHERE contact_id = 3;"
            "UPDATE wpp_last_messages SET file_name = 'É😀 ''x'' \\\\' WHERE contact_id = 4;"
            "UPDATE wpp_last_messages SET contact_id = 900 WHERE contact_id = 5;"
            "UPDATE wpp_last_messages SET instance = 'NUNES' WHERE contact_id = 6;"
            "UPDATE wpp_last_messages SET sent_at = sent_at + INTERVAL 9 DAY WHERE contact_id = 7;"
            "INSERT INTO wpp_last_messages SELECT * FROM wpp_last_messages AS l"
            " WHERE contact_id = 8 ON DUPLICATE KEY UPDATE id = 4711",
        )
        beyond = [message(id_, id_, "2026-01-01") for id_ in range(1_001, 1_050)]
        await put(connection, beyond)
        await table.update(connection, range(1_001, 1_050), NOTE)
        await remove(connection, range(1_001, 1_050))
        assert not compare_derived(local, "nunes").equal
        after: tuple[int] | None = None
        steps = 0
        while steps == 0 or after is not None:
            async with connection.transaction():
                after = await table.rebuild(connection, after, NOTE)
            steps += 1
        assert steps > 15, "neither of the tables is read in larger pieces"
        await is_right(connection)
    assert compare_derived(local, "nunes").equal


async def test_a_rebuild_of_an_empty_table_ends(local: Local) -> None:
    async with connected(local) as connection:
        assert await (await table_of(connection)).rebuild(connection, None, NOTE) is None


async def test_without_the_table_it_says_that_it_is_missing(local: Local) -> None:
    mirror.run(local, "DROP TABLE wpp_last_messages")
    async with connected(local) as connection:
        with pytest.raises(SchemaError, match="there is no table wpp_last_messages"):
            await table_of(connection)


# --- the comparison that others rely on --------------------------------------------------------


async def test_the_demos_comparison_sees_each_kind_of_difference(local: Local) -> None:
    async with connected(local) as connection:
        table = await table_of(connection)
        rows = [message(id_, id_ % 5 or None, "2026-01-01", "x") for id_ in range(1, 31)]
        await put(connection, rows)
        await table.update(connection, range(1, 31), NOTE)
    found = compare_derived(local, "nunes", chunk_rows=2)
    assert found.equal
    assert (found.entity, found.rows_central, found.rows_local) == ("last_messages", 4, 4)
    assert found.columns == len(COLUMNS)
    mirror.run(
        local,
        "UPDATE wpp_last_messages SET contact_id = 77 WHERE contact_id = 1;"
        "UPDATE wpp_last_messages SET body = 'X' WHERE contact_id = 2;"
        "UPDATE wpp_last_messages SET id = id - 5 WHERE contact_id = 3",
    )
    found = compare_derived(local, "nunes")
    assert (found.missing, found.extra, found.differing) == (1, 1, 2)
