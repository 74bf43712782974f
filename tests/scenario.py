"""A small but complete life of one instance, for sweeps that break it at each of its points.

`live` is that life, with the real parts: connect, lock, migrate, several batches of two entities, a
unique-key collision, rows that are refused, quarantined rows that are tried again, a late row, a
full resync that deletes, a heartbeat, the settled id written, leaving. `Scenario` puts the local
database back to its beginning, says what is wrong with it at any moment, and whether the end was
reached. What the end looks like was seen once, in a run that nobody broke.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from daemon import app, config, local
from daemon.app import Parts
from daemon.errors import StandbyError, TransientError
from daemon.instance import Instance
from daemon.lock import lock_name
from daemon.settle import Rule
from daemon.sync.incremental import Incremental
from tests import mirror
from tests.mirror import Server, Session

SYNC: dict[str, object] = {"batch_rows": 4}
"""What the `sync` section of the configuration has to say: several batches."""

# What a life leaves behind, in an order in which it may be put back.
_TABLES = ("wpp_messages", "wpp_chats", "wpp_sync_state", "wpp_sync_quarantine")

# The messages that stand behind the position and are not copied: one is late, two are quarantined.
_LATE = {7}
_QUARANTINED = {2, 3}


class _AtOnce(Rule):
    """All kinds of evidence are asked for, and an id settles as soon as it was seen."""

    def above(self, _lock_wait: float | None) -> Rule:
        """However long central lets an INSERT wait."""
        return self


@contextmanager
def hurried() -> Iterator[None]:
    """All that a life does now and then, it does at once: settle, look, save, count; and rows go by
    the bulk protocol where there are some of them, so that it is broken, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rule, "of", lambda _setting: _AtOnce(0.000_001, exact=True))
        for name in ("_LOOK_SECONDS", "_SAVE_SECONDS", "_COUNT_SECONDS", "_COUNT_IDS"):
            patch.setattr(Incremental, name, 0)
        patch.setattr(local, "BULK_ROWS", 3)
        patch.setattr(local, "INSERT_ROWS", 2)
        yield


@asynccontextmanager
async def parts(path: Path) -> AsyncIterator[Parts]:
    """The daemon's parts, hurried."""
    with hurried():
        async with app.parts(config.load(path)) as built:
            built.central.HEAD_AGE = built.central.LOOK_AGE = 0.0
            yield built


async def live(instance: Instance) -> None:
    """Two passes; before the second one it looks as if somebody had changed the state."""
    await instance.sync_pass(asyncio.Event())
    instance.start_over()
    await instance.sync_pass(asyncio.Event())


async def live_once(path: Path) -> None:
    """A whole life, to its orderly end."""
    async with parts(path) as built:
        await live(built.instances["nunes"])


@dataclass(frozen=True, slots=True)
class Look:
    """What stands in the local database: every value of every table that a life writes, but times
    of writing. Empty where the tables are not there yet."""

    state: dict[str, tuple[int, ...]]
    """entity -> last_synced_id, settled_id, settled_for, resync, rewound."""

    messages: dict[int, list[str]]
    chats: dict[int, list[str]]
    quarantine: dict[tuple[str, int], int]
    """(entity, key) -> error number."""

    migrations: list[str]


_NOTHING = Look({}, {}, {}, {}, [])


class Scenario:
    """The databases of one life, and their judge. `config` leads to both, perhaps by detours."""

    def __init__(self, central: Server, local: Server, config: Path, *, empty: bool) -> None:
        """`empty`: the life begins with a local database without tables."""
        self.config = config
        self._central, self._local = central, local
        self._empty = empty
        self._template = f"{local['database']}_template"
        self._asking_local = Session(local)
        self._asking_central = Session(central)
        self._ids: dict[str, set[int]] = {}
        self._begin = _NOTHING
        self.end = _NOTHING

    async def __aenter__(self) -> Self:
        try:
            await self._prepare()
        except BaseException:
            self._hang_up()
            raise
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._run(f"DROP DATABASE IF EXISTS {self._template}")
        self._hang_up()

    def _hang_up(self) -> None:
        self._asking_local.__exit__(None, None, None)
        self._asking_central.__exit__(None, None, None)

    async def _prepare(self) -> None:
        """Both databases as at the beginning, and what they look like at the end."""
        central = self._central
        mirror.insert_messages(central, range(1, 11))
        mirror.insert_messages(central, range(11, 13), "karsten")
        for id_ in range(1, 13):
            mirror.run(central, _chat(id_))
        if not self._empty:
            await live_once(self.config)
            self._age_local()
        # Central goes on: keys wander, rows are deleted, one is too long, new ones come.
        mirror.run(
            central,
            "DELETE FROM messages WHERE id IN (3, 8); DELETE FROM chats WHERE id = 5;"
            "UPDATE messages SET wwebjs_id = 'key 9 moved' WHERE id = 9",
        )
        mirror.insert_messages(central, range(13, 31))
        mirror.run(central, f"UPDATE messages SET body = '{'long ' * 30}' WHERE id = 22")
        for entity in mirror.INCREMENTAL:
            self._ids[entity] = set(mirror.central_ids(central, entity=entity))
        if not self._empty:
            self._keep_as_template()
        self.reset()
        self._begin = self.look()
        await live_once(self.config)
        self.end = self.look()
        self._check_the_end()

    def _age_local(self) -> None:
        """What time and the field do to a local database."""
        self._run(
            "ALTER TABLE wpp_messages MODIFY body VARCHAR(100) CHARACTER SET utf8mb4",
            "DELETE FROM wpp_messages WHERE id IN (2, 3, 7)",
            # Keys that central has given to new rows since.
            "UPDATE wpp_messages SET wwebjs_id = 'key 15' WHERE id = 9",
            "UPDATE wpp_messages SET wwebjs_id = 'key 18' WHERE id = 8",
            "INSERT INTO wpp_sync_quarantine (entity, id, errno, message) VALUES"
            " ('messages', 2, 1406, 'was too long'), ('messages', 3, 1406, 'central deletes it')",
            "UPDATE wpp_sync_state SET last_synced_id = 10, settled_id = 4, settled_for = 10"
            " WHERE entity = 'messages'",
            "DELETE FROM wpp_chats WHERE id IN (7, 8)",
            "UPDATE wpp_chats SET id = 5000, original_id = 5000 WHERE id = 12",
            "UPDATE wpp_sync_state SET last_synced_id = 0, settled_id = 0, settled_for = 0,"
            " resync = 1 WHERE entity = 'chats'",
        )

    def _check_the_end(self) -> None:
        """The end of an unbroken life is right by itself: equal but for the quarantined row."""
        refused = set() if self._empty else {22}
        report = mirror.differences(self._central, self._local)
        assert report == "" or (refused and "1 missing, 0 extra, 0 differing" in report), report
        assert self.end.messages.keys() == self._ids["messages"] - refused
        assert self.end.chats.keys() == self._ids["chats"]
        assert {key for _, key in self.end.quarantine} == refused
        for entity, ids in self._ids.items():
            assert self.end.state[entity] == (max(ids), max(ids), max(ids), 0, 0)

    # --- the beginning ------------------------------------------------------------------------

    def _keep_as_template(self) -> None:
        self._run(f"CREATE DATABASE {self._template}")
        for table in _TABLES:
            self._run(
                f"CREATE TABLE {self._template}.{table} LIKE {table}",
                f"INSERT INTO {self._template}.{table} SELECT * FROM {table}",
            )

    def reset(self) -> None:
        """Put the local database back to the beginning of the life."""
        if self._empty:
            name = self._local["database"]
            self._run(f"DROP DATABASE {name}", f"CREATE DATABASE {name}", f"USE {name}")
            return
        self._run(
            *(
                f"DELETE FROM {table}; INSERT INTO {table} SELECT * FROM {self._template}.{table}"
                for table in _TABLES
            )
        )

    # --- what stands there --------------------------------------------------------------------

    def look(self) -> Look:
        """The local database at one moment: the server may still be at what somebody has told it
        who has left, and whatever he commits moves the state."""
        while True:
            before, found, after = self._state(), self._look(), self._state()
            if before == found.state == after:
                return found

    def _state(self) -> dict[str, tuple[int, ...]]:
        if not self._ask("SHOW TABLES LIKE 'wpp_sync_state'"):
            return {}
        columns = [row[0] for row in self._ask("SHOW COLUMNS FROM wpp_sync_state")]
        wanted = ("entity", "last_synced_id", "settled_id", "settled_for", "resync", "rewound")
        names = ", ".join(name if name in columns else "0" for name in wanted)
        state = self._ask(f"SELECT {names} FROM wpp_sync_state")
        return {entity: tuple(map(int, marks)) for entity, *marks in state}

    def _look(self) -> Look:
        tables = {row[0] for row in self._ask("SHOW TABLES")}
        quarantine = messages = chats = migrations = []
        if "wpp_sync_quarantine" in tables:
            quarantine = self._ask("SELECT entity, id, errno FROM wpp_sync_quarantine")
        if "wpp_messages" in tables:
            messages = self._ask("SELECT * FROM wpp_messages")
        if "wpp_chats" in tables:
            chats = self._ask("SELECT * FROM wpp_chats")
        if "wpp_sync_migrations" in tables:
            migrations = self._ask("SELECT id FROM wpp_sync_migrations ORDER BY id")
        return Look(
            self._state(),
            {int(row[0]): row for row in messages},
            {int(row[0]): row for row in chats},
            {(entity, int(key)): int(errno) for entity, key, errno in quarantine},
            [row[0] for row in migrations],
        )

    def wrong(self) -> str:
        """What must not be at any moment: a watermark ahead of a missing row, rows ahead of their
        watermark, a row that is neither as it was nor as central has it. Empty: nothing."""
        now = self.look()
        found = [
            *self._wrong_marks(now, "messages"),
            *self._wrong_marks(now, "chats"),
            *self._wrong_rows("messages", now.messages),
            *self._wrong_rows("chats", now.chats),
        ]
        return "; ".join(found)

    def _wrong_marks(self, now: Look, entity: str) -> Iterator[str]:
        if entity not in now.state:
            return
        mark, settled, *_ = now.state[entity]
        rows = now.messages if entity == "messages" else now.chats
        before = self._begin.messages if entity == "messages" else self._begin.chats
        kept = {key for name, key in now.quarantine if name == entity}
        late = _LATE if entity == "messages" and not self._empty else set()
        missing = self._ids[entity] - rows.keys() - kept
        if lost := [key for key in missing if key <= settled or (key <= mark and key not in late)]:
            yield f"{entity}: watermark {mark}, settled {settled}, but rows {lost} are missing"
        known = before.keys() | late | (_QUARANTINED if entity == "messages" else set())
        if ahead := [key for key in rows.keys() - known if key > mark]:
            yield f"{entity}: watermark {mark}, but rows {ahead} stand there"
        if hasty := [key for key in kept - _QUARANTINED if key > mark]:
            yield f"{entity}: watermark {mark}, but rows {hasty} lie in quarantine"

    def _wrong_rows(self, entity: str, rows: Mapping[int, list[str]]) -> Iterator[str]:
        """A row has the values that it had at the beginning, or at the end; none of its own."""
        old, new = (
            (self._begin.messages, self.end.messages)
            if entity == "messages"
            else (self._begin.chats, self.end.chats)
        )
        for key, row in rows.items():
            if row not in (old.get(key), new.get(key)):
                yield f"{entity}: row {key} is {row}"

    def connections(self, side: str) -> int:
        """Clients of the server but for those that judge it."""
        session = self._asking_central if side == "central" else self._asking_local
        (row,) = session.execute(
            "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID()"
            " AND COMMAND <> 'Daemon' AND USER NOT IN ('system user', 'event_scheduler')"
        )
        return int(row[0])

    def lock_holder(self) -> int:
        """The local connection that holds the instance's lock; 0 when it is free."""
        name = lock_name(str(self._local["database"]))
        (row,) = self._ask(f"SELECT COALESCE(IS_USED_LOCK('{name}'), 0)")
        return int(row[0])

    def wait_until_free(self, seconds: float = 5.0) -> None:
        """Until nobody holds the instance's lock."""
        deadline = time.monotonic() + seconds
        while holder := self.lock_holder():
            assert time.monotonic() < deadline, f"connection {holder} holds the lock"
            time.sleep(0.002)

    def _ask(self, question: str) -> list[list[str]]:
        return self._asking_local.execute(question)

    def _run(self, *statements: str) -> None:
        for statement in statements:
            self._asking_local.execute(statement)


def _chat(id_: int) -> str:
    return (
        "INSERT INTO chats (id, instance, contact_id, type, priority, is_finished, is_schedule)"
        f" VALUES ({id_}, 'nunes', {id_ * 7}, 'ACTIVE', 'LOW', 0, 0)"
    )


async def go_on(instance: Instance, scenario: Scenario, seconds: float = 10.0) -> list[str]:
    """Pass after pass until the end is reached; the errors on the way, which must be passing ones.

    Fails when an entity failed, or the end does not come.
    """
    errors: list[str] = []
    deadline = time.monotonic() + seconds
    while True:
        try:
            result = await instance.sync_pass(asyncio.Event())
        except (TransientError, StandbyError) as error:
            errors.append(str(error))
            await asyncio.sleep(0.02)
        else:
            assert result.errors == {}, result.errors
            assert not result.moved, result.moved
            if scenario.look() == scenario.end:
                return errors
        assert time.monotonic() < deadline, f"not the end: {scenario.look()}; on the way: {errors}"
