"""Live traffic on the central database: it plays the application, with all that is awkward in it.

Several writers insert messages and chats in transactions of different lengths, at the same time,
so that a lower id often becomes visible after a higher one; some transactions roll back and leave
holes for good. One more, if asked for, changes and deletes what is there: statuses, chats, contacts
and what follows them. A writer whose server goes away comes back when the server does.

The application is not the daemon: this is the one module besides `daemon.db` that uses the driver.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncmy
from asyncmy.errors import Error

from daemon.aio import wait_first
from daemon.demo.central import AWKWARD_TEXTS, CHAT_PRIORITIES, CHAT_TYPES, MESSAGE_STATUSES

# The share of transactions that are rolled back.
ROLLBACK_SHARE = 0.10

# The share of statements after which a transaction stays open for a while, and the seconds at most;
# one in ten of those stays open SLOW_FACTOR times as long.
PAUSE_SHARE = 0.25
PAUSE_SECONDS = 0.2
SLOW_FACTOR = 8

# Seconds a writer waits before it connects again to a server that went away.
RECONNECT_SECONDS = 0.25

# Seconds without an answer after which a writer takes its server for dead.
ANSWER_TIMEOUT = 30.0

# Seconds a writer may catch up by writing faster; what it missed before that stays unwritten.
MOST_BEHIND = 2.0

# The most contacts of an instance that messages are written to, and the most of its own chats that
# a writer remembers.
CONTACTS_PER_INSTANCE = 1_000
CHATS_PER_INSTANCE = 50

# Error numbers after which an application tries again: too many connections, shutting down, lock
# wait timeout, deadlock, interrupted, killed, a chat or contact that was deleted meanwhile; and the
# client's own: no server, lost server.
TRY_AGAIN = frozenset({1040, 1053, 1205, 1213, 1317, 1452, 1927, 2002, 2003, 2006, 2013, 2014})

MESSAGE_INSERT = (
    "INSERT INTO messages (instance, wwebjs_id, waba_id, `from`, `to`, type, chat_id, contact_id,"
    " is_forwarded, is_edited, body, timestamp, sent_at, status, user_id) VALUES "
)
MESSAGE_VALUES = "(%s, %s, %s, %s, '551140000000', 'chat', %s, %s, 0, 0, %s, %s, NOW(3), %s, %s)"
CHAT_INSERT = (
    "INSERT INTO chats (instance, contact_id, user_id, sector_id, type, priority, is_finished,"
    " started_at, is_schedule) VALUES (%s, %s, %s, %s, %s, %s, 0, NOW(3), 0)"
)


@dataclass
class Counters:
    """What the traffic has done so far.

    `rows_committed` counts messages and chats by instance. `interrupted` transactions ended in a
    lost connection, a deadlock or the like; if that was during their COMMIT, it may still have
    taken effect, and then its rows are not in `rows_committed`.
    """

    rows_committed: Counter[str] = field(default_factory=Counter)
    edits: Counter[str] = field(default_factory=Counter)
    """Rows changed or deleted, by what was done to them; cascades are not counted."""

    transactions: int = 0
    rolled_back: int = 0
    interrupted: int = 0
    last_error: str = ""


class Traffic:
    """Concurrent writers on `central`, together about `rows_per_second` committed rows.

    `central` has the keys host and port (or socket), database, user and password. Messages go to
    contacts that the instances have at the start. The same seed draws the same transactions; how
    the writers interleave is up to the clock.
    """

    def __init__(
        self,
        central: Mapping[str, object],
        instances: Sequence[str],
        rows_per_second: float = 200.0,
        seed: int = 1,
        *,
        writers: int = 8,
        edits_per_second: float = 0.0,
    ) -> None:
        self.counters = Counters()
        self._central = central
        self._instances = tuple(instances)
        # External ids are unique for ever, also over two runs with the same seed.
        run = f"{time.time_ns():x}"
        self._writers = [
            _Writer(
                name=f"{run}.{number}",
                draw=random.Random(f"{seed}/{number}"),
                instances=self._instances,
                seconds_per_row=writers / rows_per_second,
                counters=self.counters,
            )
            for number in range(writers)
        ]
        self._editor = (
            _Editor(
                draw=random.Random(f"{seed}/edits"),
                instances=self._instances,
                seconds=1 / edits_per_second,
                counters=self.counters,
            )
            if edits_per_second
            else None
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Write until `stop` is set; then finish the open transactions and return.

        A server that goes away is waited for. Other errors (a missing table, a missing privilege)
        are raised as the driver's `asyncmy.errors.Error`, in an ExceptionGroup once writing began.
        """
        contacts: dict[str, list[int]] = {}

        async def look_up(connection: Any) -> None:
            for instance in self._instances:
                contacts[instance] = await _contacts_of(connection, instance)

        await self._try_until(stop, look_up, lambda: len(contacts) == len(self._instances))
        async with asyncio.TaskGroup() as group:
            for writer in self._writers:
                writer.contacts = contacts
                group.create_task(self._write(writer, stop), name=f"traffic {writer.name}")
            if self._editor is not None:
                group.create_task(self._write(self._editor, stop), name="traffic edits")

    async def _write(self, writer: _Writer | _Editor, stop: asyncio.Event) -> None:
        async def write(connection: Any) -> None:
            await writer.write(connection, stop)

        await self._try_until(stop, write, stop.is_set)

    async def _try_until(
        self,
        stop: asyncio.Event,
        work: Callable[[Any], Awaitable[None]],
        done: Callable[[], bool],
    ) -> None:
        """Do `work` on a connection, again on a new one while its server is away."""
        while not (done() or stop.is_set()):
            try:
                async with _connection(self._central) as connection:
                    await work(connection)
            except (Error, OSError) as error:
                if isinstance(error, Error) and error.args[0] not in TRY_AGAIN:
                    raise
                self.counters.last_error = str(error)
                await wait_first(RECONNECT_SECONDS, stop)


class _Writer:
    """One of the application's processes: its transactions, one after the other."""

    def __init__(
        self,
        *,
        name: str,
        draw: random.Random,
        instances: Sequence[str],
        seconds_per_row: float,
        counters: Counters,
    ) -> None:
        self.name = name
        self.contacts: Mapping[str, Sequence[int]] = {}
        self._draw = draw
        self._instances = instances
        self._seconds_per_row = seconds_per_row
        self._counters = counters
        self._chats: dict[str, list[int]] = {instance: [] for instance in instances}
        self._next_number = 1
        # What a transaction is made of, each with its weight. An action executes on the cursor
        # and returns how many rows of the instance it wrote.
        self._actions: list[Callable[[Any, str], Awaitable[int]]] = [
            self._insert_message,
            self._insert_messages,
            self._insert_chat,
        ]
        self._weights = [60, 25, 15]

    async def write(self, connection: Any, stop: asyncio.Event) -> None:
        """Run transactions at the writer's rate until `stop` is set."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not stop.is_set():
            try:
                rows = await self._transaction(connection, stop)
            except (Error, OSError):
                self._counters.interrupted += 1
                raise
            due = max(due + rows * self._seconds_per_row, loop.time() - MOST_BEHIND)
            await wait_first(max(0.0, due - loop.time()), stop)

    async def _transaction(self, connection: Any, stop: asyncio.Event) -> int:
        """Run one transaction to its end; return the number of rows it committed."""
        rows: Counter[str] = Counter()
        new_chats: list[tuple[str, int]] = []
        await connection.begin()
        async with connection.cursor() as cursor:
            for action in self._draw.choices(
                self._actions, self._weights, k=self._draw.randint(1, 3)
            ):
                instance = self._draw.choice(self._instances)
                rows[instance] += await action(cursor, instance)
                if action == self._insert_chat:
                    new_chats.append((instance, cursor.lastrowid))
                await self._linger(stop)
        self._counters.transactions += 1
        if self._draw.random() < ROLLBACK_SHARE:
            await connection.rollback()
            self._counters.rolled_back += 1
            return 0
        await connection.commit()
        self._counters.rows_committed.update(rows)
        for instance, chat in new_chats:
            self._chats[instance] = [*self._chats[instance][1 - CHATS_PER_INSTANCE :], chat]
        return rows.total()

    async def _linger(self, stop: asyncio.Event) -> None:
        """Sometimes keep the transaction open, so that later ids become visible before its own."""
        if self._draw.random() < PAUSE_SHARE:
            slow = SLOW_FACTOR if self._draw.random() < 0.1 else 1
            await wait_first(self._draw.uniform(0, PAUSE_SECONDS * slow), stop)

    async def _insert_message(self, cursor: Any, instance: str) -> int:
        return await self._insert_some(cursor, instance, 1)

    async def _insert_messages(self, cursor: Any, instance: str) -> int:
        return await self._insert_some(cursor, instance, self._draw.randint(2, 8))

    async def _insert_some(self, cursor: Any, instance: str, count: int) -> int:
        values = [value for _ in range(count) for value in self._message(instance)]
        await cursor.execute(MESSAGE_INSERT + ", ".join([MESSAGE_VALUES] * count), values)
        return count

    def _message(self, instance: str) -> tuple[object, ...]:
        draw = self._draw
        number, self._next_number = self._next_number, self._next_number + 1
        external = f"{self.name}.{number}"
        by_web = draw.random() < 0.5
        plain = f"message {number} of {self.name}"
        return (
            instance,
            f"true_{external}" if by_web else None,
            None if by_web else f"wamid.{external}",
            f"55119{draw.randint(0, 99_999_999):08}",
            self._one_or_none(self._chats[instance]),
            self._one_or_none(self.contacts[instance]),
            draw.choice(AWKWARD_TEXTS) if draw.random() < 0.2 else plain,
            str(int(time.time())),
            draw.choice(MESSAGE_STATUSES),
            self._one_or_none(range(1, 50)),
        )

    async def _insert_chat(self, cursor: Any, instance: str) -> int:
        values = (
            instance,
            self._one_or_none(self.contacts[instance]),
            self._one_or_none(range(1, 50)),
            self._one_or_none(range(1, 9)),
            self._draw.choice(CHAT_TYPES),
            self._draw.choice(CHAT_PRIORITIES),
        )
        await cursor.execute(CHAT_INSERT, values)
        return 1

    def _one_or_none(self, choices: Sequence[int]) -> int | None:
        return self._draw.choice(choices) if choices and self._draw.random() < 0.8 else None


# What is done to rows that are there already: how often beside others, of which table a row is
# chosen (@id), and the statements of one transaction.
_EDITS: Mapping[str, tuple[int, str, Sequence[str]]] = {
    "statuses": (
        30,
        "messages",
        [
            "UPDATE messages SET status_timestamp = UNIX_TIMESTAMP(), status = CASE status"
            " WHEN 'PENDING' THEN 'SENT' WHEN 'SENT' THEN 'RECEIVED' ELSE 'READ' END"
            " WHERE id BETWEEN @id - 5 AND @id AND status IN ('PENDING', 'SENT', 'RECEIVED')"
        ],
    ),
    "chats finished": (
        15,
        "chats",
        [
            "UPDATE chats SET is_finished = 1, finished_at = NOW(3), finished_by = 7"
            " WHERE id BETWEEN @id - 5 AND @id AND is_finished = 0"
        ],
    ),
    "messages edited": (
        10,
        "messages",
        ["UPDATE messages SET body = CONCAT(body, ' ✏️'), is_edited = 1 WHERE id = @id"],
    ),
    "messages deleted": (10, "messages", ["DELETE FROM messages WHERE id = @id"]),
    "chats deleted": (3, "chats", ["DELETE FROM chats WHERE id = @id"]),
    "contacts edited": (
        10,
        "contacts",
        ["UPDATE contacts SET name = %(text)s, is_deleted = 1 - is_deleted WHERE id = @id"],
    ),
    "phones swapped": (
        5,
        "contacts",
        [
            "SET @other = (SELECT MAX(id) FROM contacts"
            " WHERE id < @id AND instance = %(instance)s)",
            "SET @here = (SELECT phone FROM contacts WHERE id = @id)",
            "SET @there = (SELECT phone FROM contacts WHERE id = @other)",
            "UPDATE contacts SET phone = NULL WHERE id = @id AND @other IS NOT NULL",
            "UPDATE contacts SET phone = @here WHERE id = @other",
            "UPDATE contacts SET phone = @there WHERE id = @id AND @other IS NOT NULL",
        ],
    ),
    "contacts deleted": (2, "contacts", ["DELETE FROM contacts WHERE id = @id"]),
    "sectors added": (
        5,
        "contacts",
        [
            "INSERT IGNORE INTO contacts_sectors (contactId, sectorId)"
            " SELECT id, %(old)s FROM contacts WHERE id = @id"
        ],
    ),
    "sectors removed": (5, "contacts", ["DELETE FROM contacts_sectors WHERE contactId = @id"]),
    "schedules moved": (
        5,
        "schedules",
        ["UPDATE schedules SET schedule_date = schedule_date + INTERVAL 1 HOUR WHERE id = @id"],
    ),
    "schedules deleted": (2, "schedules", ["DELETE FROM schedules WHERE id = @id"]),
}
_MOST_OLD = 400


class _Editor:
    """The application's process that changes and deletes what is there."""

    def __init__(
        self,
        *,
        draw: random.Random,
        instances: Sequence[str],
        seconds: float,
        counters: Counters,
    ) -> None:
        self._draw = draw
        self._instances = instances
        self._seconds = seconds
        self._counters = counters

    async def write(self, connection: Any, stop: asyncio.Event) -> None:
        """Edit at the editor's rate until `stop` is set."""
        names = list(_EDITS)
        weights = [weight for weight, _, _ in _EDITS.values()]
        while not stop.is_set():
            (name,) = self._draw.choices(names, weights)
            try:
                await self._edit(connection, name)
            except Error as error:
                if error.args[0] not in TRY_AGAIN:
                    raise
                self._counters.interrupted += 1
                await connection.rollback()
            await wait_first(self._seconds, stop)

    async def _edit(self, connection: Any, name: str) -> None:
        values = {
            "instance": self._draw.choice(self._instances),
            # Mostly what is new, sometimes what has long been settled.
            "old": int(_MOST_OLD * self._draw.random() ** 3),
            "text": self._draw.choice(AWKWARD_TEXTS),
        }
        rows = 0
        _, table, statements = _EDITS[name]
        choose = (
            f"SET @id = (SELECT id FROM {table} WHERE instance = %(instance)s"
            " ORDER BY id DESC LIMIT 1 OFFSET %(old)s)"
        )
        await connection.begin()
        async with connection.cursor() as cursor:
            for statement in (choose, *statements):
                rows += max(0, await cursor.execute(statement, values))
        await connection.commit()
        self._counters.edits[name] += rows


@asynccontextmanager
async def _connection(server: Mapping[str, object]) -> AsyncIterator[Any]:
    """A connection of our own, closed at the end whatever happened on it."""
    # The driver's own limit covers only the TCP connect; a frozen server accepts and stays silent.
    async with asyncio.timeout(ANSWER_TIMEOUT):
        connection: Any = await asyncmy.connect(
            host=server.get("host"),
            port=server.get("port") or 0,
            unix_socket=str(server["socket"]) if server.get("socket") else None,
            database=server["database"],
            user=server["user"],
            password=server.get("password", ""),
            charset="utf8mb4",
            # The driver escapes with backslashes, whatever the server's own mode is.
            sql_mode="STRICT_TRANS_TABLES",
            read_timeout=ANSWER_TIMEOUT,
        )
    try:
        yield connection
    except BaseException:
        # Its state is unknown; the server rolls back what was open.
        connection.close()
        raise
    await connection.ensure_closed()


async def _contacts_of(connection: Any, instance: str) -> list[int]:
    """The ids of the instance's first contacts; its name is compared byte for byte."""
    async with connection.cursor() as cursor:
        await cursor.execute(
            "SELECT id FROM contacts WHERE instance = %s AND CAST(instance AS BINARY) = %s"
            f" ORDER BY id LIMIT {CONTACTS_PER_INSTANCE}",
            (instance, instance),
        )
        return [int(row[0]) for row in await cursor.fetchall()]
