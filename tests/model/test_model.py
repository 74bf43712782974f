"""The incremental motion against a model of what it promises, on real servers, rule by rule.

Several writers work on the central database, two daemons with the same configuration copy it, and
connections, daemons and the local server die at any statement. After every step, in the middle of
a pass too, what stands in the local database is held against all that central ever had. At the end
of an example the writers stop, and the daemon has to arrive.

There are two machines. In one the clock is moved by hand and ids settle by time: a statement that
has waited for a lock for 50 s of that clock is given up, as InnoDB does, because the timed rule
rests on that. In the other the clock is the real one, and the server's list of transactions is the
proof.

Updates and deletes of rows that are copied already do not reach the local table by this motion
alone: a local row may be an old version of its central row, but a whole one, never an older one
than stood there before. Ids that an application names itself lie above those that were handed out.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from daemon import app, config, evidence, operations, settle
from daemon import instance as instance_module
from daemon.db import Connection
from daemon.errors import StandbyError, TransientError
from daemon.instance import Instance
from daemon.sync import write
from daemon.sync.commit import Committer
from daemon.sync.incremental import Incremental
from daemon.sync.motion import Motion
from daemon.sync.run import PassResult
from tests import gate
from tests.application import Client, Writer, Writers
from tests.gate import Gate

if TYPE_CHECKING:
    from tests.conftest import Databases, Servers

T = TypeVar("T")
WriteConfig = Callable[..., Path]

WRITERS = 4
BATCH_ROWS = (1, 3, 2000)
SETTLE_SECONDS = 60.0
LOCK_WAIT_SECONDS = 50.0
LONGEST_BODY = 40  # characters that the local table takes, until it is mended
STEP_SECONDS = 60.0

COLUMNS = "id, instance, wwebjs_id, waba_id, `from`, `to`, body, status"
OWNERS = (*["nunes"] * 6, "karsten", "Nunes", "núnes")
WEB_KEYS = (*[None] * 5, "k1", "K1", "k2", "ḱ2", "k3")
WABA_KEYS = (*[None] * 6, "w1", "w2")

HOLDS = (
    "",
    "MAX(",
    "FORCE INDEX",
    "START TRANSACTION",
    "FOR UPDATE",
    "INSERT INTO `wpp_messages`",
    "UPDATE wpp_sync_state",
    "COMMIT",
    "collision",
    "in flight",
    "ids */",
    "INNODB_TRX",
    "quarantine",
)

INTERRUPTIONS = (
    "cancelled",
    "cancelled in a statement",
    "killed",
    "answer lost",
    "local connection killed",
    "central connections killed",
    "asked to stop",
)

Row = tuple[Any, ...]


class NewRow(NamedTuple):
    """What a rule draws for a row; its texts are stamped with a number that no other write has."""

    owner: str
    web: str | None
    waba: str | None
    long: bool


new_rows = st.builds(
    NewRow,
    st.sampled_from(OWNERS),
    st.sampled_from(WEB_KEYS),
    st.sampled_from(WABA_KEYS),
    st.sampled_from((False, False, False, True)),
)
writer_numbers = st.integers(0, WRITERS - 1)
picks = st.integers(0, 7)
ends = st.sampled_from(("", "", "", *["COMMIT"] * 5, "ROLLBACK"))
seldom = st.sampled_from((True, False, False))
holds = st.sampled_from(HOLDS)
daemon_numbers = st.sampled_from((0, 0, 0, 1))


class Clock:
    """Seconds for the daemon. By hand: it stands still but for a tick at each look, so that two
    looks never seem to be the same moment."""

    def __init__(self, by_hand: bool) -> None:
        self.by_hand = by_hand
        self._now = 1000.0

    def __call__(self) -> float:
        if not self.by_hand:
            return time.monotonic()
        self._now += 0.0001
        return self._now

    async def advance(self, seconds: float) -> None:
        if self.by_hand:
            self._now += seconds
        else:
            await asyncio.sleep(seconds)


class Daemon:
    """One daemon under its gate, and the pass that it is in."""

    def __init__(self, built: app.Parts, stack: AsyncExitStack) -> None:
        self.gate = Gate()
        self.task: asyncio.Task[PassResult] | None = None
        self.stop = asyncio.Event()
        self.whole = False
        """Nothing has happened elsewhere since the pass began."""

        self.disturbed = False
        """Something was done to it since its last good pass: an error may be expected."""

        self.killed: list[Connection] = []
        """Connections that the servers have ended; it does not know of all of them yet."""

        self.parts = built
        self.instance: Instance = built.instances["nunes"]
        self._stack = stack
        built.central.HEAD_AGE = 0.0
        built.central.LOOK_AGE = 0.0

    @classmethod
    async def start(cls, loaded: config.Config, clock: Clock) -> Daemon:
        stack = AsyncExitStack()
        return cls(await stack.enter_async_context(app.parts(loaded, clock)), stack)

    @property
    def motion(self) -> Motion | None:
        return self.instance.motions.get("messages")

    def begin_pass(self) -> None:
        self.stop = asyncio.Event()
        self.task = self.gate.start(self.instance.sync_pass(self.stop))
        self.whole = True

    async def outcome(self) -> PassResult | None:
        """How the pass ended that has ended; None where it could not be done."""
        task, self.task = self.task, None
        assert task is not None
        try:
            result = await task
        except StandbyError:
            return None
        except TransientError:
            if not self.disturbed:
                raise
            return None
        if result.errors:
            raise next(iter(result.errors.values()))
        self.disturbed = any(connection.usable for connection in self.killed)
        return result

    async def cancel(self) -> None:
        task, self.task = self.task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self.disturbed = True

    async def die(self) -> None:
        """As by kill -9: the servers see closed connections and hear nothing."""
        self.gate.cut()
        await self.cancel()
        for connection in self.parts.central._pool._idle:
            connection.discard()
        await self._stack.aclose()

    async def leave(self) -> None:
        """In order: what is known is written, the lock released."""
        assert self.task is None
        await self._stack.aclose()


class World:
    """What all examples share: the servers, their databases, the clients, the counters."""

    def __init__(
        self, servers: Servers, databases: Databases, write_config: WriteConfig, *, exact: bool
    ) -> None:
        self.exact = exact
        self.counts: Counter[str] = Counter()
        self.runner = asyncio.Runner()
        self.local_server = servers.local
        self.central = Client(databases.central)
        self.dirty = Client(databases.central)
        self.local = Client(databases.local)
        self.writers = Writers(databases.central, WRITERS, self.central)
        self.configs = {
            rows: config.load(
                write_config(
                    databases.central,
                    {"nunes": databases.local},
                    sync={"batch_rows": rows, "settle": "exact" if exact else "60s"},
                    entities={"chats": {"enabled": False}},
                )
            )
            for rows in BATCH_ROWS
        }
        self.runner.run(self._prepare())

    async def _prepare(self) -> None:
        daemon = await Daemon.start(self.configs[1], Clock(by_hand=False))
        await daemon.instance.sync_pass(asyncio.Event())
        await daemon.leave()
        await self.dirty.fetch("SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")

    async def clear(self) -> None:
        """As at the first start of a migrated instance."""
        for writer in self.writers.all:
            await writer.leave()
            writer.work, writer.thread_id, writer.in_transaction = None, 0, False
        await self.central.fetch("TRUNCATE TABLE messages")
        await self.local.fetch(
            "TRUNCATE TABLE wpp_messages",
            "DELETE FROM wpp_sync_quarantine",
            "DELETE FROM wpp_sync_state",
            f"ALTER TABLE wpp_messages MODIFY body VARCHAR({LONGEST_BODY}) NULL",
        )

    def close(self) -> None:
        async def leave() -> None:
            for writer in self.writers.all:
                await writer.leave()

        self.runner.run(leave())
        for client in (self.central, self.dirty, self.local):
            client.drop()
        self.runner.close()


class Machine(RuleBasedStateMachine):
    """See the module's text."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.clock = Clock(by_hand=not world.exact)
        self.daemons: dict[int, Daemon] = {}
        self.batch_rows = 1
        self.stamp = 0
        self.broken = False
        self.body_limit = LONGEST_BODY
        self.restarts_left = 0
        self.naps_left = 2
        self.versions: dict[int, list[Row]] = {}
        """id -> all that central's row has ever been, as committed, in order."""

        self.now: dict[int, Row] = {}
        """Central's rows as last committed."""

        self.least: dict[int, int] = {}
        """id -> the oldest version that may stand in the local table."""

        self.early: set[int] = set()
        """Ids that were committed before anybody had read past them."""

        self.covered: set[int] = set()
        """Ids that stood in the local table or in quarantine when last looked."""

        self.do(world.clear())
        world.counts["examples"] += 1

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a rule's work; a hang is a failure."""

        async def bounded() -> T:
            async with asyncio.timeout(STEP_SECONDS):
                return await work

        try:
            return self.world.runner.run(bounded())
        except BaseException as error:
            self.broken = True
            self._note_statements(error)
            raise

    def _note_statements(self, error: BaseException) -> None:
        for number, daemon in self.daemons.items():
            last = [text[:160] for text in daemon.gate.recent[-15:]]
            error.add_note("\n  ".join([f"daemon {number}:", *last]))

    def count(self, what: str, number: int = 1) -> None:
        self.world.counts[what] += number

    @initialize(
        batch_rows=st.sampled_from(BATCH_ROWS),
        heartbeat=st.sampled_from((-1.0, 15.0)),
        restarts=st.sampled_from((0, 0, 0, 1)),
    )
    def begin(self, batch_rows: int, heartbeat: float, restarts: int) -> None:
        self.batch_rows = batch_rows
        self.restarts_left = restarts
        instance_module.HEARTBEAT_SECONDS = heartbeat
        self.do(self._start(0))

    # --- the application ------------------------------------------------------------------------

    def _idle(self, number: int) -> Writer:
        idle = self.world.writers.idle
        return idle[number % len(idle)]

    def _text(self, row: NewRow) -> tuple[str, str]:
        """The row's stamp and its body."""
        self.stamp += 1
        return str(self.stamp), f"{self.stamp} {'long ' * 10 if row.long else ''}ü"

    def _values(self, row: NewRow, id_: str = "NULL") -> str:
        stamp, body = self._text(row)
        return (
            f"({id_}, '{row.owner}', {_quoted(row.web)}, {_quoted(row.waba)}, '{stamp}', '{stamp}',"
            f" 'chat', 0, 0, '{body}', '1', '2026-01-01', 'SENT')"
        )

    @staticmethod
    def _insert(values: str, verb: str = "INSERT") -> str:
        return (
            f"{verb} INTO messages (id, instance, wwebjs_id, waba_id, `from`, `to`, type,"
            f" is_forwarded, is_edited, body, timestamp, sent_at, status) VALUES {values}"
        )

    async def _ids(self) -> list[int]:
        """All ids, newest first, those in flight too."""
        found = await self.world.dirty.fetch("SELECT id FROM messages ORDER BY id DESC")
        return [int(row[0]) for row in found]

    async def _pick(self, pick: int) -> int:
        ids = await self._ids()
        return ids[pick % len(ids)] if ids else 0

    async def _write(self, writer: Writer, end: str, *statements: str) -> None:
        await writer.begin(statements, self.clock())
        await self.world.writers.calm()
        if writer.busy:
            self.count("statements that waited for a lock")
        elif end and writer.in_transaction:
            await self._end(writer, end)
        self._something_happened()

    async def _end(self, writer: Writer, how: str) -> None:
        await writer.end(how)
        self.count("transactions committed" if how == "COMMIT" else "transactions rolled back")
        await self.world.writers.calm()
        await self._observe()
        self._something_happened()

    def _something_happened(self) -> None:
        for daemon in self.daemons.values():
            daemon.whole = False

    async def _observe(self) -> None:
        """Note what is committed now."""
        found = {
            int(row[0]): row
            for row in await self.world.central.fetch(f"SELECT {COLUMNS} FROM messages")
        }
        nobody_reads = all(daemon.task is None for daemon in self.daemons.values())
        local, state = await self._local()
        position = max(
            [state.position, *(d.motion.position for d in self.daemons.values() if d.motion)]
        )
        for id_, row in found.items():
            known = self.versions.setdefault(id_, [])
            if not known:
                self.count("rows committed")
                if nobody_reads and id_ > position:
                    self.early.add(id_)
                elif id_ < position:
                    self.count("rows committed below a position")
            if row not in known:
                known.append(row)
                if nobody_reads and id_ not in local:
                    self.least[id_] = len(known) - 1
        self.now = found

    @rule(w=writer_numbers, rows=st.lists(new_rows, min_size=1, max_size=4), end=ends)
    def insert(self, w: int, rows: list[NewRow], end: str) -> None:
        if self.world.writers.idle:
            values = ", ".join(self._values(row) for row in rows)
            self.do(self._write(self._idle(w), end, self._insert(values)))

    @rule(w=writer_numbers, first=new_rows, second=new_rows, reads=st.booleans())
    def overtake(self, w: int, first: NewRow, second: NewRow, reads: bool) -> None:
        """The higher id is committed, and read, before the lower one."""

        async def work() -> None:
            await self._write(self._idle(w), "", self._insert(self._values(first)))
            if self.world.writers.idle:
                other = self._idle(w + 1)
                await self._write(other, "COMMIT", self._insert(self._values(second)))
            if reads:
                await self._run(await self._start(0), None)

        if self.world.writers.idle:
            self.do(work())

    @rule(w=writer_numbers, row=new_rows, gap=st.sampled_from((0, 1, 5, 150_000)), end=ends)
    def insert_an_id_of_ones_own(self, w: int, row: NewRow, gap: int, end: str) -> None:
        async def work() -> None:
            ((following,),) = await self.world.central.fetch(
                "SELECT AUTO_INCREMENT FROM information_schema.TABLES"
                " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'messages'"
            )
            values = self._values(row, str(int(following) + gap))
            await self._write(self._idle(w), end, self._insert(values))

        if self.world.writers.idle:
            self.do(work())

    @rule(w=writer_numbers, row=new_rows, end=ends)
    def replace(self, w: int, row: NewRow, end: str) -> None:
        """Whoever has the keys goes; the keys come again under a new id."""
        if self.world.writers.idle:
            self.do(self._write(self._idle(w), end, self._insert(self._values(row), "REPLACE")))

    @rule(w=writer_numbers, rows=st.lists(new_rows, min_size=2, max_size=3), end=ends)
    def insert_or_update(self, w: int, rows: list[NewRow], end: str) -> None:
        """Where it waits for the row that has the key, its ids are drawn and none is inserted."""
        if self.world.writers.idle:
            values = ", ".join(self._values(row) for row in rows)
            upsert = (
                f"{self._insert(values)} ON DUPLICATE KEY UPDATE `from` = VALUES(`from`),"
                " `to` = VALUES(`to`), body = VALUES(body)"
            )
            self.do(self._write(self._idle(w), end, upsert))

    def _update(self, id_: int, row: NewRow) -> str:
        stamp, body = self._text(row)
        return (
            f"UPDATE messages SET wwebjs_id = {_quoted(row.web)}, waba_id = {_quoted(row.waba)},"
            f" `from` = '{stamp}', `to` = '{stamp}', body = '{body}' WHERE id = {id_}"
        )

    @rule(w=writer_numbers, pick=picks, row=new_rows, end=ends)
    def update(self, w: int, pick: int, row: NewRow, end: str) -> None:
        async def work() -> None:
            await self._write(self._idle(w), end, self._update(await self._pick(pick), row))

        if self.world.writers.idle:
            self.do(work())

    @rule(w=writer_numbers, a=picks, b=picks, end=ends)
    def swap_keys(self, w: int, a: int, b: int, end: str) -> None:
        async def work() -> None:
            first, second = await self._pick(a), await self._pick(b)
            self.stamp += 2
            restamp = "`from` = '{0}', `to` = '{0}', body = '{0}'"
            await self._write(
                self._idle(w), end,
                f"SELECT wwebjs_id INTO @first FROM messages WHERE id = {first} FOR UPDATE",
                f"SELECT wwebjs_id INTO @second FROM messages WHERE id = {second} FOR UPDATE",
                f"UPDATE messages SET wwebjs_id = NULL WHERE id IN ({first}, {second})",
                f"UPDATE messages SET wwebjs_id = @second, {restamp.format(self.stamp - 1)}"
                f" WHERE id = {first}",
                f"UPDATE messages SET wwebjs_id = @first, {restamp.format(self.stamp)}"
                f" WHERE id = {second} AND id <> {first}",
            )  # fmt: skip

        if self.world.writers.idle:
            self.do(work())

    @rule(w=writer_numbers, pick=picks, row=new_rows, end=ends)
    def give_a_key_to_a_new_row(self, w: int, pick: int, row: NewRow, end: str) -> None:
        async def work() -> None:
            id_ = await self._pick(pick)
            await self._write(
                self._idle(w), end,
                self._update(id_, row._replace(web=None, waba=None)),
                self._insert(self._values(row)),
            )  # fmt: skip

        if self.world.writers.idle:
            self.do(work())

    @rule(w=writer_numbers, pick=picks, end=ends)
    def delete(self, w: int, pick: int, end: str) -> None:
        async def work() -> None:
            id_ = await self._pick(pick)
            await self._write(self._idle(w), end, f"DELETE FROM messages WHERE id = {id_}")

        if self.world.writers.idle:
            self.do(work())

    @rule(w=writer_numbers, really=seldom)
    def lock_the_end(self, w: int, really: bool) -> None:
        """Inserts of others wait, and nothing of them can be seen."""

        async def work() -> None:
            newest = await self._pick(0)
            await self._write(
                self._idle(w), "", f"SELECT id FROM messages WHERE id > {newest} FOR UPDATE"
            )

        if really and self.world.writers.idle:
            self.do(work())

    @rule(w=writer_numbers, how=st.sampled_from(("COMMIT", "COMMIT", "COMMIT", "ROLLBACK")))
    def end_a_transaction(self, w: int, how: str) -> None:
        open_ = [writer for writer in self.world.writers.idle if writer.in_transaction]
        if open_:
            self.do(self._end(open_[w % len(open_)], how))

    @rule(w=writer_numbers, really=seldom)
    def kill_a_writer(self, w: int, really: bool) -> None:
        async def work() -> None:
            await self.world.writers.kill(self.world.writers.all[w])
            await self.world.writers.calm()
            self._something_happened()

        if really:
            self.do(work())

    # --- the daemons ----------------------------------------------------------------------------

    async def _start(self, number: int) -> Daemon:
        if number not in self.daemons:
            loaded = self.world.configs[self.batch_rows]
            self.daemons[number] = await Daemon.start(loaded, self.clock)
        return self.daemons[number]

    async def _run(self, daemon: Daemon, hold: Callable[[str], bool] | None) -> PassResult | None:
        """On with the pass, or with a new one, to its end or to where it is held."""
        if daemon.task is None:
            daemon.begin_pass()
        assert daemon.task is not None
        statements = daemon.gate.statements
        ended = await daemon.gate.go(daemon.task, hold)
        self.count("statements of the daemons", daemon.gate.statements - statements)
        if not ended:
            return None
        whole, result = daemon.whole, await daemon.outcome()
        self.count("passes" if result else "passes that failed")
        if result is not None:
            self.count("rows copied late", result.late)
            if whole and not result.moved and not daemon.stop.is_set():
                await self._all_was_read()
        return result

    async def _all_was_read(self) -> None:
        """A pass that nobody disturbed: all that could be read by it is there."""
        await self._check()
        missing = (self.early & self._mine()) - self.covered
        assert not missing, f"not copied by a whole pass: {sorted(missing)}"

    @rule(d=daemon_numbers)
    def run_a_pass(self, d: int) -> None:
        async def work() -> None:
            await self._run(await self._start(d), None)

        self.do(work())

    @rule(d=daemon_numbers, where=holds, nth=st.integers(1, 3), row=new_rows | st.none())
    def hold_a_pass(self, d: int, where: str, nth: int, row: NewRow | None) -> None:
        """Hold it before the nth statement of that kind; a new row gives it something to do."""
        self.do(self._hold(d, where, nth, row))

    async def _hold(self, d: int, where: str, nth: int, row: NewRow | None) -> Daemon:
        left = nth

        def hold(text: str) -> bool:
            nonlocal left
            left -= where in text
            return left <= 0

        if row is not None and self.world.writers.idle:
            await self._write(self._idle(0), "COMMIT", self._insert(self._values(row)))
        daemon = await self._start(d)
        if await self._run(daemon, hold) is None and daemon.task is not None:
            self.count("holds")
        return daemon

    @rule(where=holds, nth=st.integers(1, 2), row=new_rows, how=st.sampled_from(INTERRUPTIONS))
    def interrupt_a_pass(self, where: str, nth: int, row: NewRow, how: str) -> None:
        async def work() -> None:
            daemon = await self._hold(0, where, nth, row)
            if daemon.task is not None:
                await self._interrupt(0, how)

        self.do(work())

    @precondition(lambda self: self._held())
    @rule(how=st.sampled_from(INTERRUPTIONS))
    def interrupt_what_is_held(self, how: str) -> None:
        async def work() -> None:
            for number, daemon in list(self.daemons.items()):
                if daemon.task is not None:
                    await self._interrupt(number, how)

        self.do(work())

    def _held(self) -> list[Daemon]:
        return [daemon for daemon in self.daemons.values() if daemon.task is not None]

    async def _interrupt(self, number: int, how: str) -> None:
        daemon = self.daemons[number]
        match how:
            case "cancelled":
                await daemon.cancel()
            case "killed":
                await self.daemons.pop(number).die()
            case "answer lost":
                # The statement that it is held before is executed, and it never hears of it.
                daemon.gate.lose_next_answer()
                daemon.disturbed = True
                await self._run(daemon, None)
            case "cancelled in a statement":
                # As above, and then it is cancelled instead of being told.
                daemon.gate.lose_next_answer()
                await daemon.gate.go(daemon.task, lambda _: True)  # type: ignore[arg-type]
                await daemon.cancel()
            case "local connection killed" | "central connections killed":
                await self._kill_connections(daemon, how.partition(" ")[0])
            case "asked to stop":
                daemon.stop.set()
                await self._run(daemon, None)
                await self.daemons.pop(number).leave()
        self.count(f"passes: {how}")

    @precondition(lambda self: self.daemons)
    @rule(d=daemon_numbers)
    def kill_a_daemon(self, d: int) -> None:
        if d in self.daemons:
            self.do(self.daemons.pop(d).die())
            self.count("daemons killed")

    async def _kill_connections(self, daemon: Daemon, side: str) -> None:
        client = self.world.central if side == "central" else self.world.local
        for connection in daemon.gate.usable():
            if (connection.name == "central") == (side == "central"):
                await client.kill(connection.thread_id)
                daemon.killed.append(connection)
                daemon.disturbed = True
                self.count("connections killed")

    @precondition(lambda self: self.daemons)
    @rule(d=daemon_numbers, side=st.sampled_from(("central", "local")))
    def kill_its_connections(self, d: int, side: str) -> None:
        if d in self.daemons:
            self.do(self._kill_connections(self.daemons[d], side))

    # --- the operator, time, the local server ---------------------------------------------------

    async def _state_is_locked(self) -> bool:
        """A daemon is held in the middle of a transaction: an operator would wait for it."""
        rows = await self.world.local.fetch(
            "SELECT entity FROM wpp_sync_state WHERE entity = 'messages' FOR UPDATE SKIP LOCKED"
        )
        return not rows

    @rule(d=daemon_numbers, how=st.sampled_from(("reset", "resync", "retry")))
    def operate(self, d: int, how: str) -> None:
        async def work() -> None:
            instance = (await self._start(d)).instance
            if await self._state_is_locked():
                return
            if how == "retry":
                instance.retry_quarantine()
            elif how == "reset":
                await operations.reset_sync_state(instance, "messages")
            else:
                await operations.force_full_resync(instance)
            self.count(f"{how}s by an operator")
            self._something_happened()

        self.do(work())

    @rule(pick=st.sampled_from((None, 0, 0, 1, 2, 3, 5)))
    def write_the_state(self, pick: int | None) -> None:
        """An old tool: it sets the watermark back, or on, or deletes the row."""

        async def work() -> None:
            if await self._state_is_locked():
                return
            if pick is None:
                await self.world.local.fetch("DELETE FROM wpp_sync_state")
            else:
                ids = sorted(self.now)
                mark = ids[-pick] if 0 < pick <= len(ids) else 0
                await self.world.local.fetch(f"UPDATE wpp_sync_state SET last_synced_id = {mark}")
                # What lies below is not claimed to be read, it was said to be.
                self.early = {id_ for id_ in self.early if id_ > mark}
            self.count("states written by others")
            self._something_happened()

        self.do(work())

    @rule(seconds=st.sampled_from((0.6, 6.0, 31.0, 61.0, 61.0)))
    def let_time_pass(self, seconds: float) -> None:
        if self.world.exact:
            if self.naps_left == 0:
                return
            self.naps_left -= 1
            seconds = 1.1
        self.do(self._advance(seconds))

    async def _advance(self, seconds: float) -> None:
        if self.clock.by_hand:
            for writer in self.world.writers.waiting:
                assert writer.waits_since is not None
                if self.clock() + seconds - writer.waits_since >= LOCK_WAIT_SECONDS and writer.busy:
                    await self.world.writers.give_up(writer)
                    await self.world.writers.calm()
                    self.count("lock wait timeouts")
        await self.clock.advance(seconds)

    @precondition(lambda self: self.restarts_left and not self.world.exact)
    @rule()
    def kill_the_local_server(self) -> None:
        self.restarts_left -= 1
        self.world.local_server.kill()
        self.world.local_server.start()
        self.world.local.drop()
        for daemon in self.daemons.values():
            daemon.disturbed = True
        self.count("kills of the local server")

    @precondition(lambda self: not self._held() and self.body_limit == LONGEST_BODY)
    @rule()
    def mend_the_local_table(self) -> None:
        self.body_limit = 1000
        self.do(self.world.local.fetch("ALTER TABLE wpp_messages MODIFY body LONGTEXT NULL"))
        self.count("tables mended")

    # --- what must hold ---------------------------------------------------------------------------

    def _mine(self) -> set[int]:
        return {id_ for id_, row in self.now.items() if row[1] == "nunes"}

    async def _local(self) -> tuple[dict[int, Row], _State]:
        """The local rows and the state, from one moment."""
        fetch = self.world.local.fetch
        await fetch("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        rows = await fetch(f"SELECT {COLUMNS} FROM wpp_messages")
        states = await fetch(
            "SELECT last_synced_id, settled_id, settled_for FROM wpp_sync_state"
            " WHERE entity = 'messages'"
        )
        kept = await fetch("SELECT id, errno FROM wpp_sync_quarantine")
        await fetch("COMMIT")
        last, settled, settled_for = map(int, states[0]) if states else (0, 0, 0)
        refused = {int(id_): int(errno) for id_, errno in kept}
        state = _State(last, settled, settled_for, refused)
        return {int(row[0]): row for row in rows}, state

    @invariant()
    def holds(self) -> None:
        self.count("steps")
        self.do(self._check())

    async def _check(self) -> None:
        local, state = await self._local()
        mine = self._mine()
        covered = set(local) | set(state.refused)
        for id_, row in local.items():
            assert row[1] == "nunes", f"somebody else's row: {row}"
            versions = self.versions.get(id_, [])
            assert row in versions, f"a row that never was: {row}, only {versions}"
            assert versions.index(row) >= self.least.get(id_, 0), (
                f"older than what was there: {row}, of {versions}"
            )
            self.least[id_] = versions.index(row)
        lost = (self.covered & mine) - covered
        assert not lost, f"were there and are lost: {sorted(lost)}"
        claimed = {id_ for id_ in mine if id_ <= state.settled} - covered
        assert not claimed, f"settled at {state.settled} and not copied: {sorted(claimed)}"
        read = {id_ for id_ in self.early & mine if id_ <= state.last} - covered
        assert not read, f"watermark {state.last} above what was not copied: {sorted(read)}"
        self._check_memory(state, mine - covered)
        self.covered = covered

    def _check_memory(self, state: _State, missing: set[int]) -> None:
        """What a daemon holds to be settled, as long as nobody has written the state since."""
        for number, daemon in self.daemons.items():
            motion = daemon.motion
            if motion is None or daemon.task is not None or not daemon.instance.opened:
                continue
            if (motion.state.last_synced_id, motion.state.settled_id) == (state.last, state.id):
                claimed = {id_ for id_ in missing if id_ <= motion.settled}
                assert not claimed, (
                    f"daemon {number} holds {motion.settled} to be settled: {sorted(claimed)}"
                )

    # --- the end ----------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if not self.broken:
                self.do(self._come_to_rest())
        finally:
            self.world.runner.run(self._leave())

    async def _leave(self) -> None:
        for daemon in self.daemons.values():
            await daemon.die()
        self.daemons.clear()

    async def _come_to_rest(self) -> None:
        instance_module.HEARTBEAT_SECONDS = -1.0
        await self._end_all_transactions()
        daemon = await self._only_daemon()
        await self._until(daemon, self._settled)
        await self._check()
        assert self._mine() <= self.covered, f"lost: {sorted(self._mine() - self.covered)}"
        await self._retried(daemon)
        await operations.force_full_resync(daemon.instance)
        await self._until(daemon, self._settled)
        await self._exactly_equal()

    async def _end_all_transactions(self) -> None:
        number = 0
        while True:
            await self.world.writers.calm()
            open_ = [w for w in self.world.writers.idle if w.in_transaction]
            if not open_ and not self.world.writers.waiting:
                break
            for writer in open_:
                number += 1
                await self._end(writer, "ROLLBACK" if number % 3 == 0 else "COMMIT")
        await self._observe()

    async def _only_daemon(self) -> Daemon:
        for number, daemon in list(self.daemons.items()):
            if daemon.task is not None:
                await self._run(daemon, None)
            if number:
                await self.daemons.pop(number).leave()
        return await self._start(0)

    async def _until(self, daemon: Daemon, done: Callable[[Daemon], bool]) -> None:
        """Pass after pass, a little later each time."""
        for _ in range(12):
            result = await self._run(daemon, None)
            await self._check()
            if result is not None and done(daemon):
                return
            await self._advance(SETTLE_SECONDS / 2 if self.clock.by_hand else 0.6)
        raise AssertionError(f"does not come to rest: {daemon.motion and daemon.motion.state}")

    @staticmethod
    def _settled(daemon: Daemon) -> bool:
        motion = daemon.motion
        return motion is not None and motion.settled >= motion.head and not motion.state.resync

    async def _retried(self, daemon: Daemon) -> None:
        """The rows that were mended have left the quarantine, the others have their reason."""
        if self.clock.by_hand:
            await self._advance(601.0)
        else:
            daemon.instance.retry_quarantine()
        await self._run(daemon, None)
        local, state = await self._local()
        for id_, errno in state.refused.items():
            assert len(self.now[id_][6]) > self.body_limit, f"{id_} was mended and is still kept"
            assert errno == 1406, f"kept for the error {errno}: {self.now[id_]}"
        left = self._mine() - set(local) - set(state.refused)
        assert not left, f"lost by trying again: {sorted(left)}"
        self.count("rows in quarantine at the end", len(state.refused))

    async def _exactly_equal(self) -> None:
        """After a full resync: what central has, as it has it, and nothing else. Rows that were
        deleted at central's very end stay until it has a newer one: they could be in flight."""
        local, state = await self._local()
        fits = {id_ for id_ in self._mine() if len(self.now[id_][6]) <= self.body_limit}
        newest = max(self.now, default=0)
        assert set(state.refused) == self._mine() - fits
        assert {id_: row for id_, row in local.items() if id_ <= newest} == {
            id_: self.now[id_] for id_ in fits
        } | {id_: row for id_, row in local.items() if id_ in state.refused}


class _State(NamedTuple):
    """The state row and the quarantine (id -> error number)."""

    last: int
    id: int
    settled_for: int
    refused: dict[int, int]

    @property
    def settled(self) -> int:
        return self.id if self.settled_for == self.last else min(self.id, self.last)

    @property
    def position(self) -> int:
        return max(self.settled, self.last)


def _quoted(text: str | None) -> str:
    return "NULL" if text is None else f"'{text}'"


@pytest.fixture
def world(
    request: pytest.FixtureRequest,
    servers: Servers,
    databases: Databases,
    write_config: WriteConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    """Servers and clients for all examples; bounds so small that few rows pass all of them."""
    gate.install(monkeypatch)
    monkeypatch.setattr(instance_module, "HEARTBEAT_SECONDS", -1.0)
    monkeypatch.setattr(write, "_RESOLVE_ROWS", 2)
    monkeypatch.setattr(evidence, "IDS_AT_ONCE", 3)
    monkeypatch.setattr(Incremental, "_KEYS", 3)
    monkeypatch.setattr(Committer, "MISSING", 2)
    # The server's clock does not follow one that is moved by hand.
    monkeypatch.setattr(settle, "_CLOCK_JUMP", float("inf"))
    logging.getLogger("asyncmy").setLevel(logging.ERROR)  # it logs warnings of the application's
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    made = World(servers, databases, write_config, exact=request.param == "exact")
    yield made
    made.close()
    structlog.reset_defaults()


EXAMPLES = {"timed": (30, 700), "exact": (4, 60)}
STEPS = 50


@pytest.mark.timeout(1_500)
@pytest.mark.parametrize("world", ["timed", "exact"], indirect=True)
def test_whatever_happens_nothing_is_lost_and_nothing_is_blended(
    world: World, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    ordinary, long = EXAMPLES["exact" if world.exact else "timed"]
    examples = long if request.config.getoption("--long") else ordinary
    began = time.monotonic()
    run_state_machine_as_test(
        lambda: Machine(world),  # type: ignore[arg-type]  # any factory will do
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=not request.config.getoption("--long"),
            database=None,
            print_blob=True,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.explicit, Phase.generate, Phase.shrink),
        ),
    )
    with capsys.disabled():
        name = "exact" if world.exact else "timed"
        told = ", ".join(f"{number:,} {what}" for what, number in sorted(world.counts.items()))
        sys.stdout.write(f"\nmodel ({name}) in {time.monotonic() - began:.0f} s: {told}\n")
