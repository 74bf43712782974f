"""The shared reader of the central database. SELECT only, and as little of it as can be.

However many instances ask for the same thing at the same time, it is asked once: a table's head is
probed by whoever comes first, and the answer serves all who come within `HEAD_AGE`. Connections are
bounded by the pool; every statement is bounded in time by the server and in size by the caller.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from daemon import db, evidence, grid, load, schema, sql
from daemon.aio import Clock
from daemon.db import Connection, Pool
from daemon.errors import AccessError, DatabaseError, TransientError
from daemon.evidence import Validity
from daemon.metrics import Metrics
from daemon.reads import Page, Reads, Wanted, key_of
from daemon.schema import Plan, Table
from daemon.settle import Head, Rule, Settling, Writers
from daemon.sql import Key, Range, Row, Statement, Sums
from daemon.throttle import Guard

T = TypeVar("T")

Sum = tuple[int, int]
"""How many rows, and the XOR of their checksums."""

NOTHING: Sum = (0, 0)


@dataclass(slots=True)
class _Chunk:
    """The sums of one chunk, as they are asked for or known."""

    bounds: Range
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    names: frozenset[str] = frozenset()
    asked_at: float = float("-inf")
    sums: dict[bytes, Sum] = field(default_factory=dict)
    too_large_at: float = float("-inf")
    """When its sums took too long."""

    def serves(self, instance: str, since: float) -> bool:
        """What is known was asked for at `since` or later, and for this instance, too."""
        return self.asked_at >= since and instance in self.names


@dataclass(slots=True)
class _Asked:
    """Keys of one instance whose sum is wanted, and the answer; None: it has to be asked again."""

    keys: Collection[Key]
    answer: asyncio.Future[dict[bytes, Sum] | None]


class _Shared:
    """What is known of one central table."""

    def __init__(self, rule: Rule) -> None:
        self.lock = asyncio.Lock()
        self.settling = Settling(rule)
        self.looked_at = float("-inf")
        self.looking = False
        self.unfinished = False
        self.head: Head | None = None
        self.failed: tuple[float, DatabaseError] | None = None
        self.table: Table | None = None
        self.table_at = float("-inf")


class Central:
    """The central database as all instances of this process see it."""

    HEAD_AGE = 0.1
    """A head this many seconds old is as good as a new one: what is newer comes with the next."""

    WATCHED_HEAD_AGE = 0.5
    """The same for who is told of what is newer: he need not ask at each pass for another table's
    rows. The shared scans ask more often as a rule."""

    LOOK_AGE = 1.0
    """So often rows in flight are looked for, while anything is unsettled."""

    LOOK_SECONDS = 0.25
    """So long one such look takes at the most; what is left is looked at with the next."""

    WRITERS_AGE = 0.5
    """So long the list of transactions is shared. What it proves depends on when it was asked."""

    ROLES_AGE = 60.0
    """So long it is believed that the server is (not) a primary."""

    ALIVE_AGE = 5.0
    """So long it is believed that the server answers, or does not."""

    TABLE_AGE = 10.0
    """So long a table's definition is shared; who finds it stale asks again afterwards."""

    CHUNKS = 256
    """So many chunks' sums are kept for the instances that come a moment later."""

    CHUNK_SECONDS = (0.05, 0.2)
    """A chunk is made larger when its sums come quicker than this, and smaller when slower; where
    many compare it, both are longer (`grid.times_as_long`)."""

    CHUNK_MOST_SECONDS = 2.0
    """So long the sums of a chunk may take that can be made smaller: behind ids that lie thin come
    some that lie dense, perhaps, and meanwhile the instance copies nothing."""

    BUSY_FACTOR = 4.0
    """So many times as long comparisons in the background take, and are apart, while central is
    busy. They do not wait until it is not: it may be so for ever, and nobody else sees what
    changes meanwhile."""

    GATHER_SECONDS = 0.005
    """So long keys are gathered from all instances that ask for the sums of theirs."""

    GATHER_KEYS = 5_000
    """At most so many of them in one statement."""

    def __init__(
        self,
        pool: Pool,
        *,
        rule: Rule,
        clock: Clock,
        metrics: Metrics,
        guard: Guard,
        compared_per_second: float,
    ) -> None:
        """`compared_per_second`: rows of each table that comparisons in the background go over."""
        self.database = pool.database
        self.connections = pool.size
        """So many statements it is asked at a time, at the most."""

        self.rule = rule
        self._pool = pool
        self._clock = clock
        self._metrics = metrics
        self._alive_lock = asyncio.Lock()
        self._alive_at = float("-inf")
        self._silent: DatabaseError | None = None
        self._roles_lock = asyncio.Lock()
        self._validity = Validity(False, "not asked yet")
        self._validity_at = float("-inf")
        self._writers_lock = asyncio.Lock()
        self._writers: Writers | None = None
        self._writers_at = float("-inf")
        self._tables: dict[str, _Shared] = defaultdict(lambda: _Shared(self.rule))
        self.guard = guard
        self.load = load.Lookout(guard, clock, self._asking, self.validity)
        self._reads = Reads(self._asking, clock)
        self._compared_per_second = compared_per_second
        self._members: dict[Sums, Counter[str]] = defaultdict(Counter)
        # By where they end: whoever walks down to there takes the same chunk, though the width of
        # new ones has changed since.
        self._chunks: OrderedDict[tuple[Sums, int | None], _Chunk] = OrderedDict()
        self._shifts: dict[str, int] = defaultdict(lambda: grid.FIRST_SHIFT)
        self._asked: dict[Sums, list[_Asked]] = {}
        self._standing = asyncio.Semaphore(max(2, (pool.size - 1) // 2))
        """Places for statements on behalf of those who rest: whatever is locked, others can ask."""

        self._next_chunk_at: dict[str, float] = defaultdict(lambda: float("-inf"))
        self._chunk_pauses: dict[str, float] = defaultdict(float)

    async def head(self, table: str, key: str, *, watched: bool = False) -> Head:
        """The highest visible id of the table (0 when it is empty), at most HEAD_AGE old, for who
        is `watched` WATCHED_HEAD_AGE."""
        shared = self._tables[table]
        age = self.WATCHED_HEAD_AGE if watched else self.HEAD_AGE
        asked_at = self._clock()
        async with shared.lock:
            if shared.failed is not None and shared.failed[0] >= asked_at:
                # It failed while we waited: a thousand instances do not try one after the other.
                raise shared.failed[1]
            if shared.head is None or self._clock() - shared.head.at > age:
                try:
                    ((highest, server_at),) = await self._fetch(
                        "head", sql.head(table, key, f"head {table}")
                    )
                except DatabaseError as error:
                    shared.failed = (self._clock(), error)
                    raise
                shared.head = Head(int(highest or 0), self._clock(), float(server_at or 0))
                shared.settling.saw_head(shared.head)
            return shared.head

    def expire_heads(self) -> None:
        """From here on only heads count that are asked for now: somebody wants to see his rows."""
        for shared in self._tables.values():
            shared.head = None

    async def settled(self, table: str, key: str, floor: int) -> int:
        """Up to this id no transaction can add an id to the table any more, for a caller that knows
        it up to `floor`. Costs a bounded look at the newest ids, shared by all who ask."""
        shared = self._tables[table]
        pause = self.LOOK_SECONDS if shared.unfinished else self.LOOK_AGE
        # Whoever comes while another one looks goes on with what is known: nobody has to wait for
        # the first look at a large table.
        if not shared.looking and self._clock() - shared.looked_at >= pause:
            shared.looking = True
            try:
                await self._look(shared, table, key, floor)
            finally:
                shared.looking = False
                shared.looked_at = self._clock()
        return shared.settling.sure(floor)

    def settled_so_far(self, table: str, floor: int) -> int:
        """As `settled`, from what is known already."""
        return self._tables[table].settling.sure(floor)

    async def _look(self, shared: _Shared, table: str, key: str, floor: int) -> None:
        """Gather evidence: first the transactions, then the rows in flight."""
        settling = shared.settling
        if settling.wants_writers() and (await self.validity()).exact:
            writers = await self._writing(table)
            if writers is not None:
                settling.saw_writers(writers)
        deadline = self._clock() + self.LOOK_SECONDS
        known = await self.table(table) if shared.table is None else shared.table
        index = schema.key_index(known, key) if known is not None else ""
        window = settling.question(floor, self._clock())
        while window is not None and self._clock() < deadline:
            async with self._asking("in_flight") as connection:
                looked_to, found = await evidence.in_flight(
                    connection, table, key, index or "PRIMARY", window
                )
            settling.answer(window, looked_to, found, self._clock())
            window = None if found else settling.question(floor, self._clock())
        shared.unfinished = window is not None

    async def _writing(self, table: str) -> Writers | None:
        """The list of transactions, shared by all tables: asked for each of them, one right after
        the other, the server would give the second one what it gave the first one, or older news.
        """
        async with self._writers_lock:
            if self._clock() - self._writers_at > self.WRITERS_AGE:
                async with self._asking("transactions") as connection:
                    self._writers = await evidence.writers(connection, table, self._clock)
                self._writers_at = self._clock()
            return self._writers

    async def validity(self) -> Validity:
        """Whether the server's list of transactions counts as exact evidence, and why (not);
        asked again now and then, because a failover changes it."""
        async with self._roles_lock:
            if self._clock() - self._validity_at > self.ROLES_AGE:
                async with self._asking("roles") as connection:
                    self._validity = await evidence.validity(connection)
                self._validity_at = self._clock()
                self.rule = self.rule.above(self._validity.lock_wait)
                for shared in self._tables.values():
                    shared.settling.rule = self.rule
            return self._validity

    def in_flight_seconds(self) -> dict[str, float]:
        """For each table how long the lowest id in flight has been so, as last looked; 0: none."""
        now = self._clock()
        return {
            table: now - shared.settling.in_flight[1] if shared.settling.in_flight else 0.0
            for table, shared in self._tables.items()
        }

    async def alive(self) -> None:
        """Raise DatabaseError where central does not answer; asked once for all, now and then."""
        async with self._alive_lock:
            if self._clock() - self._alive_at > self.ALIVE_AGE:
                try:
                    await self._fetch("alive", Statement("SELECT 1", (), "alive"))
                    self._silent = None
                except DatabaseError as error:
                    self._silent = error
                self._alive_at = self._clock()
            if (silent := self._silent) is not None:
                raise silent.again()

    def settle_words(self) -> str:
        """Which rule of settling is in force and why, for people; as last seen."""
        timed = f"an id settles {self.rule.timed:g} s after it was seen" if self.rule.timed else ""
        valid = self._validity
        if not self.rule.exact:
            words = f"timed: {timed} (sync.settle)"
            if valid.lock_wait is not None and valid.lock_wait >= (self.rule.timed or 0.0):
                words += (
                    "; an INSERT that waits longer for a lock may be missed: central's"
                    f" innodb_lock_wait_timeout is {valid.lock_wait:g} s"
                )
            return words
        if valid.exact:
            return f"exact: {valid.reason}" + (f"; at the latest {timed}" if timed else "")
        if timed:
            return f"timed: {timed}; not exact, because {valid.reason}"
        return f"none: sync.settle asks for exact, but {valid.reason}; nothing settles"

    async def table(self, name: str) -> Table | None:
        """What the table looks like; None when there is none that we may see."""
        shared = self._tables[name]
        async with shared.lock:
            if self._clock() - shared.table_at > self.TABLE_AGE:
                async with self._asking("schema") as connection:
                    shared.table = await schema.read(connection, name, f"schema {name}")
                shared.table_at = self._clock()
            return shared.table

    def forget_table(self, name: str) -> None:
        """What is known of the table's definition is stale."""
        self._tables[name].table_at = float("-inf")

    async def lowest(self, table: str, key: str) -> int | None:
        """The lowest visible id; None when the table is empty."""
        ((found,),) = await self._fetch("head", sql.lowest(table, key, f"lowest {table}"))
        return None if found is None else int(found)

    async def next_id(self, table: str) -> int | None:
        """The id that the table would hand out next; None when it hands out none.

        Asking is what lets ids settle that lie above the head: those of rows that were deleted.
        """
        rows = await self._fetch("schema", sql.next_auto_increment(table, f"next id {table}"))
        if not rows or rows[0][0] is None:
            return None
        following = int(rows[0][0])
        last = Head(following - 1, self._clock(), float(rows[0][1] or 0))
        self._tables[table].settling.handed_out(last)
        return following

    async def page(self, wanted: Wanted, *, live: bool) -> Page:
        """The instance's rows in a range of ids. `live`: few, at the end of the table."""
        return await self._reads.page(wanted, live=live)

    async def keys(
        self, plan: Plan, instance: str, *, after: int, upto: int, limit: int
    ) -> list[int]:
        """The keys of the instance's rows in (after, upto], in order."""
        statement = sql.batch(
            plan.entity.central,
            [sql.quote(plan.central_key)],
            plan.central_key,
            plan.central_index,
            sql.mine(plan.entity, instance),
            after=after,
            upto=upto,
            limit=limit,
            note=f"{instance} {plan.entity.name} ids",
        )
        return [key_of(row) for row in await self._fetch("ids", statement)]

    async def rows(
        self, plan: Plan, instance: str, keys: Collection[Key], max_bytes: int
    ) -> tuple[list[Row], bool]:
        """Those of the rows with these keys that are the instance's, in key order, from one moment;
        and whether that is all of them (False: cut off at `max_bytes`)."""
        statement = sql.by_keys(
            plan.entity.central,
            plan.expressions,
            plan.central_keys,
            sql.mine(plan.entity, instance),
            keys,
            f"{instance} {plan.entity.name} rows",
        )
        async with self._asking("rows") as connection:
            found, size = await connection.fetch_bounded(statement, max_bytes, len(keys))
        return plan.told(found), size < max_bytes or len(found) == len(keys)

    async def count(self, plan: Plan, instance: str, *, after: int, upto: int) -> int:
        """How many rows the instance has in (after, upto]."""
        statement = sql.count(
            plan.entity.central,
            plan.central_key,
            sql.mine(plan.entity, instance),
            after=after,
            upto=upto,
            note=f"{instance} {plan.entity.name} count",
        )
        ((number,),) = await self._fetch("count", statement)
        return int(number or 0)

    async def explain(self, plan: Plan, instance: str) -> str:
        """How central would walk a batch: `type` and key of EXPLAIN, for `wpp-sync check`."""
        statement = sql.batch(
            plan.entity.central,
            plan.expressions,
            plan.central_key,
            plan.central_index,
            sql.mine(plan.entity, instance),
            after=0,
            upto=1 << 62,
            limit=1000,
            note=f"{instance} {plan.entity.name} explain",
        )
        statement = statement._replace(sql="EXPLAIN FORMAT=JSON " + statement.sql)
        ((answer,),) = await self._fetch("explain", statement)
        return (answer or b"").decode("utf-8", "replace")

    async def server(self) -> str:
        """The server's version, as it gives it itself."""
        async with self._asking("check") as connection:
            return connection.version

    async def grants(self) -> list[str]:
        """What the account may do, as SHOW GRANTS prints it."""
        async with self._asking("check") as connection:
            return await db.grants(connection)

    async def new_ids(self, sums: Sums, *, after: int, upto: int) -> dict[str, Sum]:
        """Of each owner who has rows in (after, upto]: how many, and the XOR of their hashes."""
        bounds = Range(after + 1, upto + 1)
        statement = sql.chunk_sums(sums, None, bounds, f"new ids {sums.table}")
        return _told(_by_owner(await self._fetch("new_ids", statement)))

    async def first_new_ids(
        self, sums: Sums, *, after: int, upto: int, limit: int
    ) -> tuple[dict[str, Sum], int]:
        """The same of the first `limit` rows there, however wide the range is; and up to where that
        is."""
        note = f"new ids {sums.table}"
        rows = await self._fetch("new_ids", sql.new_sums(sums, after, upto, limit, note))
        found = _by_owner([row[:3] for row in rows])
        full = sum(count for count, _ in found.values()) >= limit
        end = max(int(row[3] or 0) for row in rows) if full else upto
        return _told(found), end

    async def totals(self, sums: Sums) -> dict[str, Sum]:
        """Of each owner who has rows in the table: how many, and the XOR of their checksums. A walk
        at the pace of comparisons in the background."""
        found: dict[bytes, Sum] = {}
        async with self._standing:
            head = await self.head(sums.table, sums.key[0])
        bounds = grid.top_chunk(head.id)
        while True:
            statement = sql.chunk_sums(sums, None, bounds, f"checksums {sums.table}")
            rows, seconds = await self._sums_for_rest("checksum", statement)
            _add(found, rows)
            if bounds.low is None:
                break
            self._learn(sums.table, bounds, sum(count for count, _ in rows.values()), seconds)
            await asyncio.sleep(self._next_chunk_at[sums.table] - self._clock())
            bounds = grid.chunk_below(bounds.low, self._shifts[sums.table])
        return _told(found)

    async def sums_of_keys(self, sums: Sums, keys: Sequence[Key]) -> dict[str, Sum]:
        """Of each owner of the rows with these keys: how many there are, and the XOR of their
        checksums."""
        found: dict[bytes, Sum] = {}
        for start in range(0, len(keys), self.GATHER_KEYS):
            some = keys[start : start + self.GATHER_KEYS]
            statement = sql.key_sums(sums, some, f"hot {sums.table}")
            rows, seconds = await self._sums_for_rest("hot", statement)
            _add(found, rows)
            await asyncio.sleep(seconds * (self.slowness - 1.0))
        return _told(found)

    @property
    def slowness(self) -> float:
        """How many times as long as else comparisons in the background take, as last seen."""
        busy = self.load.busy or self.guard.trouble is not None
        return self.BUSY_FACTOR if busy else 1.0

    async def _sums_for_rest(
        self, kind: str, statement: Statement
    ) -> tuple[dict[bytes, Sum], float]:
        """A statement's answer, and how long it took."""
        await self.load.look()
        async with self._standing:
            began = self._clock()
            rows = await self._fetch(kind, statement)
        return _by_owner(rows), self._clock() - began

    # --- reconcile ------------------------------------------------------------------------------

    def join(self, plan: Plan, instance: str) -> None:
        """From now on a chunk's sums are asked for this instance, too, whoever asks."""
        self._members[plan.central_sums][instance] += 1

    def leave(self, plan: Plan, instance: str) -> None:
        """The opposite of `join`; each counts once."""
        members = self._members[plan.central_sums]
        members[instance] -= 1
        if members[instance] <= 0:
            del members[instance]
        if not members:
            del self._members[plan.central_sums]

    def next_chunk(
        self, plan: Plan, instance: str, high: int | None, highest: int, since: float
    ) -> Range:
        """The chunk below `high`, None: below the end of a whole table whose highest id is this.

        One that is known, if there is one: its sums cost nothing.
        """
        known = self._chunks.get((plan.central_sums, high))
        if known is not None and (known.lock.locked() or known.serves(instance, since)):
            return known.bounds
        if high is None:
            return grid.top_chunk(highest)
        return grid.chunk_below(high, self._shifts[plan.entity.central])

    async def chunk_sum(self, plan: Plan, instance: str, bounds: Range, since: float) -> Sum | None:
        """The instance's rows in a chunk, as they stood at `since` or later; None when that takes
        too long: then the next one is smaller.

        Asked for all instances that have joined with the same plan, and kept for them: there is no
        index on the instance, so one walk over the table has to serve all.
        """
        chunk = self._chunk(plan.central_sums, bounds)
        wanted_at = self._clock()
        async with chunk.lock:
            if chunk.too_large_at >= wanted_at:
                return None  # it was found while we waited
            if not chunk.serves(instance, since):
                names = frozenset(self._members[plan.central_sums]) | {instance}
                asked_at = self._clock()
                statement = sql.chunk_sums(
                    plan.central_sums, names, bounds, f"checksums {plan.entity.central}"
                )
                smaller = grid.smaller_shift(bounds)
                most = None if smaller is None else self.CHUNK_MOST_SECONDS
                try:
                    async with self._asking("checksum") as connection:
                        rows = await connection.fetch(statement, most=most)
                except TransientError as error:
                    if smaller is None or error.errno not in db.TOOK_TOO_LONG:
                        raise
                    chunk.too_large_at = self._clock()
                    self._pause(plan.entity.central, 0, chunk.too_large_at - asked_at)
                    shift = min(smaller, self._shifts[plan.entity.central])
                    self._shifts[plan.entity.central] = shift
                    return None
                chunk.sums = _by_owner(rows)
                chunk.names, chunk.asked_at = names, asked_at
                counted = sum(count for count, _ in chunk.sums.values())
                seconds = self._clock() - asked_at
                self._learn(plan.entity.central, bounds, counted, seconds, len(names))
        whose = instance.encode() if plan.central_sums.owner is not None else b""
        return chunk.sums.get(whose, NOTHING)

    def _chunk(self, sums: Sums, bounds: Range) -> _Chunk:
        chunk = self._chunks.pop((sums, bounds.high), None)
        if chunk is None or chunk.bounds != bounds:
            chunk = _Chunk(bounds)
        self._chunks[sums, bounds.high] = chunk
        while len(self._chunks) > self.CHUNKS:
            self._chunks.popitem(last=False)
        return chunk

    def _learn(
        self, table: str, bounds: Range, rows: int, seconds: float, members: int = 1
    ) -> None:
        """Adapt the chunks' width, and when the next one may be asked for."""
        self._pause(table, rows, seconds)
        quick, slow = (each * grid.times_as_long(members) for each in self.CHUNK_SECONDS)
        width = 1 << self._shifts[table]
        whole = bounds.low is not None and bounds.high == bounds.low + width
        if seconds > slow:
            self._shifts[table] = max(grid.LEAST_SHIFT, self._shifts[table] - 1)
        elif seconds < quick and whole:
            self._shifts[table] = min(grid.MOST_SHIFT, self._shifts[table] + 1)

    def _pause(self, table: str, rows: int, seconds: float) -> None:
        pause = grid.pause_after(rows, seconds, self._compared_per_second, self.slowness)
        self._next_chunk_at[table] = self._clock() + pause
        self._chunk_pauses[table] = pause

    def chunk_pause(self, plan: Plan) -> float:
        """How long the table's next chunk waits behind the last one, in seconds."""
        return self._chunk_pauses[plan.entity.central]

    def next_chunk_at(self, plan: Plan) -> float:
        """When a chunk of the table that nobody has asked for may be summed next in the background,
        in seconds of the clock."""
        return self._next_chunk_at[plan.entity.central]

    async def may_sum(self, plan: Plan, instance: str, bounds: Range, since: float) -> bool:
        """Whether a background comparison may ask for this chunk now: it costs nothing, or it is
        its turn, which comes less often while central is busy."""
        known = self._chunks.get((plan.central_sums, bounds.high))
        if (
            known is not None
            and known.bounds == bounds
            and (known.lock.locked() or known.serves(instance, since))
        ):
            return True
        # Each table has its own pace: a large one, whose round takes an hour, would always be the
        # first to ask when the next chunk may be summed.
        if self._clock() < self._next_chunk_at[plan.entity.central]:
            return False
        await self.load.look()
        return True

    async def key_sum(self, plan: Plan, instance: str, keys: Collection[Key]) -> Sum:
        """The instance's rows with these keys.

        Keys of all instances that ask within a moment are asked for in one statement. Whoever comes
        first waits that moment and asks for the others, too.
        """
        sums = plan.central_sums
        found: dict[bytes, Sum] | None = None
        while found is None:  # whoever asked for us was cancelled
            mine = _Asked(keys, asyncio.get_running_loop().create_future())
            waiting = self._asked.setdefault(sums, [])
            waiting.append(mine)
            if len(waiting) == 1:
                await self._ask_for_all(sums, plan.entity.central)
            found = await mine.answer
        whose = instance.encode() if sums.owner is not None else b""
        return found.get(whose, NOTHING)

    async def _ask_for_all(self, sums: Sums, table: str) -> None:
        asked: list[_Asked] = []
        some: list[_Asked] = []
        try:
            try:
                await asyncio.sleep(self.GATHER_SECONDS)
            finally:
                asked = self._asked.pop(sums)
            while asked:
                some = [asked.pop(0)]
                while asked and sum(len(each.keys) for each in some) < self.GATHER_KEYS:
                    some.append(asked.pop(0))
                keys = {key for each in some for key in each.keys}
                rows = await self._fetch("hot", sql.key_sums(sums, keys, f"hot {table}"))
                found = _by_owner(rows)
                _answer(some, found)
        except DatabaseError as error:
            for each in (*some, *asked):
                if not each.answer.done():
                    each.answer.set_exception(error)
                    each.answer.exception()  # seen: whoever waits may have gone
        finally:
            _answer((*some, *asked), None)

    async def part_sums(
        self, plan: Plan, instance: str, bounds: Range, width: int
    ) -> dict[int, Sum]:
        """The sums of a range's parts of this width, by number; empty ones are left out."""
        note = f"{instance} {plan.entity.name} checksums"
        statement = sql.part_sums(
            plan.central_sums, sql.mine(plan.entity, instance), bounds, width, note
        )
        rows = await self._fetch("checksum", statement)
        return {int(part or 0): (int(n or 0), int(x or 0)) for part, n, x in rows}

    async def row_sums(
        self, plan: Plan, instance: str, bounds: Range, limit: int
    ) -> dict[Key, int]:
        """The checksum of each of the instance's rows in a range, in key order."""
        note = f"{instance} {plan.entity.name} checksums"
        statement = sql.row_sums(
            plan.central_sums, sql.mine(plan.entity, instance), bounds, limit, note
        )
        rows = await self._fetch("checksum", statement)
        return {plan.key(row): int(row[-1] or 0) for row in rows}

    async def row_sums_of(self, plan: Plan, instance: str, keys: Collection[Key]) -> dict[Key, int]:
        """The checksums of those rows with these keys that are the instance's."""
        if not keys:
            return {}
        note = f"{instance} {plan.entity.name} checksums"
        statement = sql.row_sums_of(plan.central_sums, sql.mine(plan.entity, instance), keys, note)
        rows = await self._fetch("checksum", statement)
        return {plan.key(row): int(row[-1] or 0) for row in rows}

    async def in_flight(self, plan: Plan, keys: Collection[Key]) -> set[Key]:
        """Those of the keys whose rows stand in central in an open transaction only, whoever owns
        them."""
        everybody = Statement("1")
        note = f"in flight {plan.entity.central}"
        columns = [sql.quote(column) for column in plan.central_keys]
        async with self._asking("in_flight") as connection:
            try:
                question = sql.by_keys(
                    plan.entity.central, columns, plan.central_keys, everybody, keys, note
                )
                await connection.execute(sql.next_read_uncommitted(note))
                seen = await connection.fetch(question)
                committed = await connection.fetch(question)
            except BaseException:
                connection.discard()  # the level may still stand for the next statement
                raise
        return {plan.key(row) for row in seen} - {plan.key(row) for row in committed}

    async def _fetch(self, kind: str, statement: Statement) -> list[Row]:
        async with self._asking(kind) as connection:
            return await connection.fetch(statement)

    @asynccontextmanager
    async def _asking(self, kind: str) -> AsyncIterator[Connection]:
        try:
            async with self._pool.connection() as connection:
                self._metrics.central_queries.labels(kind).inc()
                began = self._clock()
                try:
                    yield connection
                finally:
                    took = self._clock() - began
                    self._metrics.central_query_duration.labels(kind).observe(took)
        except DatabaseError as error:
            # 2000 to 2999 are the client's own numbers: nobody answered. A refused statement is an
            # answer; a refused account is none.
            if 2000 <= error.errno < 3000 or isinstance(error, AccessError):
                self._metrics.central_reachable.set(0)
            raise
        self._metrics.central_reachable.set(1)


def _answer(asked: Iterable[_Asked], found: dict[bytes, Sum] | None) -> None:
    """Tell those who still wait."""
    for each in asked:
        if not each.answer.done():
            each.answer.set_result(found)


def _by_owner(rows: Sequence[Row]) -> dict[bytes, Sum]:
    return {
        (whose or b".")[:-1]: (int(count or 0), int(total or 0)) for whose, count, total in rows
    }


def _add(total: dict[bytes, Sum], more: Mapping[bytes, Sum]) -> None:
    for owner, (count, xor) in more.items():
        before = total.get(owner, NOTHING)
        total[owner] = (before[0] + count, before[1] ^ xor)


def _told(sums: Mapping[bytes, Sum]) -> dict[str, Sum]:
    # Nobody here has a name that is no utf8mb4: what becomes of it does not matter.
    return {owner.decode("utf-8", "replace"): each for owner, each in sums.items()}
